"""``torch.compile``: functions and modules that are replayed where they can be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from distgrad.nn.module import Module
from distgrad.replay.compiled import Compiled, compiled

__all__ = ["OptimizedModule", "compile"]


class OptimizedModule(Module):
    """A module whose calls that make no graph are replayed; all others are the module's own.

    Attributes are read from the module and written to it, and the keys of ``state_dict`` begin with
    ``_orig_mod.``, as PyTorch's do.

    Args:
        module: that is called.
        replayed: what calls go to.
    """

    training = property(lambda self: self._orig_mod.training)

    def __init__(self, module: Module, replayed: Callable[..., Any]) -> None:
        super().__init__()
        self._orig_mod = module
        self.__dict__["_replayed"] = replayed

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result."""
        return self._replayed(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_orig_mod"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_orig_mod":
            super().__setattr__(name, value)
        else:
            setattr(self._orig_mod, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._orig_mod, name)


def compile(
    model: Callable[..., Any] | None = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    disable: bool = False,
) -> Any:
    """Replay the calls of a function or module that make no graph, as :func:`distgrad.capture` does.

    A step that calls ``backward`` itself is such a function. Calls of a model in training make a graph, and
    are eager; so are those that cannot be captured, with a warning.

    Args:
        model: a module or function; None makes a decorator.
        fullgraph: raise the error of what cannot be captured in place of the warning.
        dynamic, backend, mode, options: PyTorch's; there is one way here.
        disable: give the model as it is.

    Returns:
        The function's replayed form, or an :class:`OptimizedModule`.

    Raises:
        OptionError: a mode that is none of PyTorch's, or ``mode`` and ``options`` together.
    """
    how: dict[str, Any] = {
        "fullgraph": fullgraph, "dynamic": dynamic, "backend": backend, "mode": mode, "options": options,
        "disable": disable,
    }  # fmt: skip
    if model is None:
        return functools.partial(compile, **how)
    replayed = compiled(model, **how)
    if not isinstance(replayed, Compiled):
        return model
    return OptimizedModule(model, replayed) if isinstance(model, Module) else _function(model, replayed)


def _function(function: Callable[..., Any], replayed: Callable[..., Any]) -> Callable[..., Any]:
    """A function, which is bound where it stands in a class."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return replayed(*args, **kwargs)

    return call
