"""Modes of the engine, a thread each: whether operations are recorded."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["enable_grad", "is_grad_enabled", "modes", "no_grad", "set_grad_enabled"]

_F = TypeVar("_F", bound=Callable[..., Any])


class _Modes(threading.local):
    grad = True


modes = _Modes()


class set_grad_enabled:  # noqa: N801 (PyTorch's name)
    """Record operations for backward, or don't: a context manager and a decorator.

    Args:
        mode: whether to record.
    """

    def __init__(self, mode: bool) -> None:
        self._mode = mode
        self._outer: list[bool] = []

    def __enter__(self) -> None:
        self._outer.append(modes.grad)
        modes.grad = self._mode

    def __exit__(self, *exc: object) -> None:
        modes.grad = self._outer.pop()

    def __call__(self, function: _F) -> _F:
        mode = self._mode

        @functools.wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            with set_grad_enabled(mode):
                return function(*args, **kwargs)

        return decorated  # type: ignore[return-value]


class no_grad(set_grad_enabled):  # noqa: N801
    """Don't record operations: a context manager and a decorator."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(set_grad_enabled):  # noqa: N801
    """Record operations, also inside :class:`no_grad`: a context manager and a decorator."""

    def __init__(self) -> None:
        super().__init__(True)


def is_grad_enabled() -> bool:
    """Whether operations of this thread are recorded."""
    return modes.grad
