"""Modes of the engine, a thread each: whether operations are recorded, and who is told of it."""

from __future__ import annotations

import abc
import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = [
    "Mode",
    "Setting",
    "enable_grad",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "modes",
    "no_grad",
    "set_grad_enabled",
]

_F = TypeVar("_F", bound=Callable[..., Any])


class _Modes(threading.local):
    """What operations look at.

    Attributes:
        grad: whether operations are recorded; instead of True an object whose ``recorded(node, arrays)`` is
            told of each operation and its results.
        recording: what ``grad`` is where recording is on; False in inference mode.
        check: is called in backward with each node and the gradients that it gave; None if there is none.
        casts: what operations' inputs are cast to (:mod:`distgrad.autograd.casting`); None if nothing is.
    """

    grad: Any = True
    recording: Any = True
    check: Callable[..., None] | None = None
    casts: Any = None

    def state(self) -> tuple[Any, ...]:
        """What :meth:`restore` goes back to."""
        return self.grad, self.recording, self.check, self.casts

    def restore(self, state: tuple[Any, ...]) -> None:
        """Set all modes to what they were."""
        self.grad, self.recording, self.check, self.casts = state


modes = _Modes()


class Mode(abc.ABC):
    """A context manager and a decorator, also of generators, that changes the modes and puts them back."""

    def __init__(self) -> None:
        self._outer: list[tuple[Any, ...]] = []

    @abc.abstractmethod
    def _switch(self) -> None:
        """Change the modes."""

    def _again(self) -> Mode:
        """One like it, for a call of a decorated function."""
        return type(self)()

    def __enter__(self) -> None:
        self._outer.append(modes.state())
        self._switch()

    def __exit__(self, *exc: object) -> None:
        modes.restore(self._outer.pop())

    def __call__(self, function: _F) -> _F:
        if inspect.isgeneratorfunction(function):
            return self._generator(function)  # type: ignore[return-value]

        @functools.wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return decorated  # type: ignore[return-value]

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The mode holds while the generator runs, and its caller's own between two values."""

        @functools.wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(next, generator)
            try:
                while True:
                    with self._again():
                        try:
                            value = step()
                        except StopIteration as end:
                            return end.value
                    try:
                        sent = yield value
                        step = functools.partial(generator.send, sent)
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        step = functools.partial(generator.throw, error)
            finally:
                with self._again():
                    generator.close()

        return decorated


class _Bare(Mode):
    """A mode without arguments: ``@no_grad`` does as well as ``@no_grad()``."""

    def __new__(cls, function: Any = None) -> Any:
        mode = super().__new__(cls)
        if function is None:
            return mode
        mode.__init__()  # type: ignore[misc]
        return mode(function)

    def __init__(self, function: Any = None) -> None:
        super().__init__()


class no_grad(_Bare):
    """Don't record operations: a context manager and a decorator."""

    def _switch(self) -> None:
        modes.grad = False


class enable_grad(_Bare):
    """Record operations, also inside :class:`no_grad`: a context manager and a decorator.

    Inside :class:`inference_mode` it changes nothing.
    """

    def _switch(self) -> None:
        modes.grad = modes.recording


class inference_mode(Mode):
    """Don't record operations, not even inside :class:`enable_grad`: a context manager and a decorator.

    Args:
        mode: False records again, also inside another inference mode.
    """

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        self._mode = mode

    def _switch(self) -> None:
        if self._mode:
            modes.grad = modes.recording = False
        elif modes.recording is False:
            modes.grad = modes.recording = True

    def _again(self) -> Mode:
        return inference_mode(self._mode)


class Setting(Mode):
    """A mode that holds from its construction on; as a context manager it ends, as a decorator it waits."""

    def __init__(self) -> None:
        self._before = modes.state()
        self._switch()

    def __enter__(self) -> None:
        self._switch()

    def __exit__(self, *exc: object) -> None:
        modes.restore(self._before)

    def __call__(self, function: _F) -> _F:
        modes.restore(self._before)  # it was meant for the function alone
        return super().__call__(function)


class set_grad_enabled(Setting):
    """Record operations, or don't, from now on; as a context manager until its end, as a decorator inside.

    Args:
        mode: whether to record.
    """

    def __init__(self, mode: bool) -> None:
        self._mode = mode
        super().__init__()

    def _switch(self) -> None:
        modes.grad = modes.recording if self._mode else False

    def _again(self) -> Mode:
        return set_grad_enabled(self._mode)


def is_grad_enabled() -> bool:
    """Whether operations of this thread are recorded."""
    return modes.grad is not False


def is_inference_mode_enabled() -> bool:
    """Whether this thread is inside :class:`inference_mode`."""
    return modes.recording is False
