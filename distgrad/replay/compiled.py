"""Functions and modules that are replayed where they can be, and computed eagerly elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distgrad.backend.kernels.compiler import has_numba
from distgrad.backend.recording import here
from distgrad.errors import CaptureError, OptionError
from distgrad.replay.arguments import AliveGraphError, graphs_alive
from distgrad.replay.capture import Captured, Kind
from distgrad.tracebacks import warn_once

__all__ = ["Compiled", "compile_module", "compiled"]

_MODES = (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_VERIFY_EVERY = 1000


class Compiled(Captured):
    """A captured function, but for calls that make a graph or cannot be captured, which are eager.

    Args:
        function: that is called.
        mode, verify_every: as :func:`distgrad.capture` has them.
        is_strict: whether what cannot be captured is an error.
    """

    def __init__(
        self, function: Callable[..., Any], mode: str, verify_every: int, is_strict: bool = False
    ) -> None:
        super().__init__(function, mode, verify_every)
        self._is_strict = is_strict

    def __reduce__(self) -> Any:
        """As that of a captured step."""
        return Compiled, (self.step, self._mode, self._verify_every, self._is_strict)

    def _met(self, kind: Kind, value: Any) -> Any:
        if graphs_alive(value):
            kind.stay_eager()
        return value

    def _refused(self, kind: Kind | None, error: CaptureError, compute: Callable[[], Any]) -> Any:
        if kind is not None:
            kind.stay_eager()
        if not isinstance(error, AliveGraphError):
            if self._is_strict:
                raise error
            warn_once(
                f"compile {id(self)}",
                f"compile: calls like this one are computed eagerly, which is right but slower: {error}",
            )
        return compute()


def compiled(
    function: Callable[..., Any],
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    disable: bool = False,
) -> Callable[..., Any]:
    """The function, replayed where it makes no graph and can be captured.

    Args:
        function: a module, or a step with all that it does.
        fullgraph: raise the error of what cannot be captured; False warns once and computes eagerly.
        dynamic, backend, mode, options: PyTorch's; there is one way here.
        disable: give the function as it is.

    Raises:
        OptionError: a mode that is none of PyTorch's, or ``mode`` and ``options`` together.
    """
    if mode not in _MODES or (mode is not None and options is not None):
        raise OptionError(
            f"compile: mode must be one of {', '.join(map(str, _MODES[1:]))}, without options beside it, "
            f"got {mode!r} and {options}"
        )
    if disable:
        return function
    return Compiled(function, "loops" if has_numba() else "calls", _VERIFY_EVERY, fullgraph)


class _ModuleCall:
    """A module's own call, past what it is replaced by.

    Args:
        module: that is called.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder: Any = here.listener
        if recorder is not None:
            recorder.surroundings.module(self.module)
        return self.module._hooks.call_eagerly(self.module, args, kwargs)


def compile_module(module: Any, **options: Any) -> Callable[..., Any] | None:
    """What the calls of a module are replaced by; None for nothing.

    Args:
        module: with hooks.
        **options: of :func:`compiled`.
    """
    call = compiled(_ModuleCall(module), **options)
    return call if isinstance(call, Compiled) else None
