"""Anomaly detection: find the operation whose gradient is the first to be NaN."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from distgrad.autograd.graph import Node, describe
from distgrad.autograd.lines import outside
from distgrad.autograd.modes import Mode, Setting, modes
from distgrad.errors import GraphError

__all__ = ["detect_anomaly", "set_detect_anomaly"]


class _Recorder:
    """Keeps the stack of each operation's call with its node."""

    def __init__(self, check_forward: bool) -> None:
        self._check_forward = check_forward

    def recorded(self, node: Node, arrays: Iterable[Any]) -> None:
        """An operation was recorded; ``arrays`` are its results."""
        if self._check_forward and any(_has_nan(array) for array in arrays):
            raise GraphError(f"forward: the result of {describe(node)} is NaN")
        assert node.line is not None
        import traceback  # nobody else needs it

        stack = traceback.extract_stack(outside(sys._getframe(1)))
        node.line = (*node.line[:2], stack)


def _has_nan(x: Any) -> bool:
    return bool(np.isnan(getattr(x, "_data", x)).any())


def _check_gradients(node: Node, gradients: Iterable[Any]) -> None:
    """Refuse a gradient that is NaN.

    Raises:
        GraphError: with the operation, and its call in the forward pass as far as that was watched.
    """
    for place, g in enumerate(gradients):
        if g is None or not _has_nan(g):
            continue
        message = f"backward: {describe(node)} gave NaN as the gradient of its input {place}"
        if node.line is not None and len(node.line) == 3:
            message += "; it was called here:\n" + "".join(node.line[2].format())
        else:
            message += "; run the forward pass inside detect_anomaly too to see its whole stack"
        raise GraphError(message)


def _watch(check_nan: bool, check_forward: bool) -> None:
    if modes.recording is not False:
        modes.recording = _Recorder(check_forward)
    if modes.grad is not False:
        modes.grad = modes.recording
    modes.check = _check_gradients if check_nan else None


def _unwatch() -> None:
    if modes.recording is not False:
        modes.recording = True
    if modes.grad is not False:
        modes.grad = modes.recording
    modes.check = None


class detect_anomaly(Mode):
    """Name the operation whose gradient is the first to be NaN: a context manager and a decorator.

    Put both the forward and the backward pass inside: the error then shows where the operation was called.
    Operations take several times as long inside, and nothing more than usual outside.

    Args:
        check_nan: raise an error where backward meets NaN.
        check_forward: raise one where a recorded operation's result is NaN.
    """

    def __init__(self, check_nan: bool = True, check_forward: bool = False) -> None:
        super().__init__()
        self._checks = check_nan, check_forward

    def _switch(self) -> None:
        _watch(*self._checks)

    def _again(self) -> Mode:
        return detect_anomaly(*self._checks)


class set_detect_anomaly(Setting):
    """Switch anomaly detection on or off from now on, or, as a context manager, until its end.

    Args:
        mode: whether to detect.
        check_nan: as in :class:`detect_anomaly`.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._mode = mode
        self._check_nan = check_nan
        super().__init__()

    def _switch(self) -> None:
        if self._mode:
            _watch(self._check_nan, check_forward=False)
        else:
            _unwatch()

    def _again(self) -> Mode:
        return set_detect_anomaly(self._mode, self._check_nan)
