"""What a step's own code names: the variables of functions around it, globals, attributes of its object."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.errors import CaptureError

__all__ = ["Variable", "check_unchanged", "own_variables"]

#: (name, function that gives it, value).
Variable = tuple[str, Callable[[], Any], Any]

_WATCHED = (bool, int, float, complex, str, type(None), Tensor, np.ndarray)


@functools.cache
def _number(n: int) -> Any:
    """One object a number, to be compared by identity."""
    return types.SimpleNamespace(n=n)


def _length(thing: Any) -> Any:
    return _number(len(thing))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _codes(each)


def _reached(step: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names, and functions that give what they are bound to now."""
    owner = getattr(step, "__self__", None)
    function = getattr(step, "__func__", step)
    while isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, types.FunctionType):
        owner, function = step, None
    if function is not None:
        names = dict.fromkeys(name for code in _codes(function.__code__) for name in code.co_names)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            yield name, functools.partial(getattr, cell, "cell_contents", None)
        for name in names:
            if name in function.__globals__:
                yield name, functools.partial(function.__globals__.get, name)
    if owner is not None and hasattr(owner, "__dict__"):
        for name in list(vars(owner)):
            yield f"self.{name}", functools.partial(vars(owner).get, name)


def own_variables(step: Any) -> list[Variable]:
    """The variables whose value decides what a step computes, and lists that it could let grow."""
    found: list[Variable] = []
    for name, get in _reached(step):
        value = get()
        if isinstance(value, _WATCHED):
            found.append((name, get, value))
        elif value.__class__ in (list, dict, set):
            get = functools.partial(_length, value)
            found.append((f"the length of {name}", get, get()))
    return found


def check_unchanged(variables: list[Variable]) -> None:
    """Refuse a step that changes them itself.

    Raises:
        CaptureError: with the variable's name.
    """
    for name, get, value in variables:
        now = get()
        if now is not value and not (isinstance(value, int | float | str) and now == value):
            raise CaptureError(
                f"capture: the step changes {name} in Python, which a replay does not do again; change it "
                "outside the captured step, or keep it in a tensor and change that in place"
            )
