"""Calls of a tape as functions without arguments, on the planned memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.backend.products import matmul
from distgrad.backend.threads import get_num_threads, run_parts
from distgrad.replay.calls import Call, Live, has_live, mapped
from distgrad.replay.places import Place
from distgrad.replay.plan import ALIGNMENT, allocate

__all__ = ["Arrays", "GuardError", "emit", "emit_unit"]


#: A part's time: it was worth a thread when it was recorded.
_WORTH_NS = 1e9


_matmul: Callable[..., Any] = matmul


class GuardError(Exception):
    """A value that Python was told while the step was recorded is another one now."""


class Arrays:
    """Arrays at places: of the planned block, or where they have been all along.

    Args:
        block: the planned memory.
    """

    def __init__(self, block: np.ndarray) -> None:
        self._block = block
        self._windows: dict[Any, np.ndarray] = {}

    def at(self, place: Place) -> np.ndarray:
        """The array at a place."""
        if place.is_empty:
            return np.ndarray(place.shape, place.dtype)
        storage = place.storage
        if storage.offset is not None:
            start = storage.offset + place.offset
            return np.ndarray(place.shape, place.dtype, self._block, start, place.strides)
        window = self._windows.get(storage)
        if window is None:
            window = self._windows[storage] = storage.view()
        return np.ndarray(place.shape, place.dtype, window, place.offset, place.strides)

    def apart(self, places: Sequence[Place]) -> Arrays:
        """The same places in memory of their own, which begins as this one's."""
        return _Apart(self, places)

    def tree(self, tree: Any) -> Any:
        """A nested structure with arrays for its places."""
        return mapped(tree, lambda x: self.at(x) if isinstance(x, Place) else x)


class _Apart(Arrays):
    """Copies of what lies at some places, of which those that overlap still do."""

    def __init__(self, arrays: Arrays, places: Sequence[Place]) -> None:
        super().__init__(np.zeros(0, np.uint8))
        spans: dict[Any, tuple[int, int]] = {}
        for place in places:
            if not place.is_empty:
                start, stop = place.bounds()
                low, high = spans.get(place.storage, (start, stop))
                spans[place.storage] = min(low, start), max(high, stop)
        self._spans: dict[Any, tuple[int, np.ndarray]] = {}
        for storage, (start, stop) in spans.items():
            space = allocate(stop - start + ALIGNMENT)[start % ALIGNMENT :]
            self._spans[storage] = start, space
        for place in places:
            self.at(place)[...] = arrays.at(place)

    def at(self, place: Place) -> np.ndarray:
        if place.is_empty:
            return super().at(place)
        start, space = self._spans[place.storage]
        return np.ndarray(place.shape, place.dtype, space, place.address - start, place.strides)


def emit(call: Call, arrays: Arrays) -> Callable[[], Any]:
    """What a replay calls in place of a recorded call."""
    args, kwargs = arrays.tree(call.args), arrays.tree(call.kwargs)
    outs = [arrays.at(place) for place in call.outs]
    if call.kind == "ufunc" and call.method != "at":
        return _ufunc(call, args, kwargs, outs)
    if call.kind in ("fill", "change", "live"):
        return functools.partial(call.function, *args, **kwargs)
    if call.kind == "rule":
        return functools.partial(_step, call.function, *args)
    if call.kind == "kernel":
        if call.value is None:
            return functools.partial(call.function, *args)
        return functools.partial(_guarded, call, args, kwargs)
    if call.kind == "guard":
        return functools.partial(_guarded, call, args, kwargs)
    run: Callable[[], Any] = functools.partial(call.function, *args, **kwargs)
    if has_live((args, kwargs)):
        run = functools.partial(_with_live, call.function, args, kwargs)
    if call.kind in ("effect", "truth"):
        return functools.partial(_repeated, run, call.value.cell) if isinstance(call.value, Live) else run
    if not outs:
        return run
    if call.kind == "function":
        return _copied(call, run, args, kwargs, outs)
    return functools.partial(_stored, run, outs, call.is_several)


def _ufunc(call: Call, args: Any, kwargs: Any, outs: list[np.ndarray]) -> Callable[[], Any]:
    if has_live(args):  # a gradient and the weight of a rank's batch
        is_there = args[0].__array_interface__["data"] == outs[0].__array_interface__["data"]
        return functools.partial(_weighted, args[0], args[1].cell, outs[0], is_there)
    if len(outs) == 1 and not kwargs and call.method == "__call__":
        if call.function is np.matmul and get_num_threads() > 1:
            return functools.partial(_matmul, *args, outs[0])
        if call.function in (np.maximum, np.minimum):  # a third argument is discouraged
            return functools.partial(call.function, *args, out=outs[0])
        return functools.partial(call.function, *args, outs[0])
    if call.method == "reduce" and len(args) == 1 and not set(kwargs) - {"axis", "dtype", "keepdims"}:
        rest = kwargs.get("axis", 0), kwargs.get("dtype"), outs[0], kwargs.get("keepdims", False)
        return functools.partial(call.function, args[0], *rest)
    if call.method == "reduce":  # NumPy's own methods pass all by position, the result's place among them
        args = (*args[:3], outs[0], *args[4:]) if len(args) > 3 else args
        given = {} if len(args) > 3 else {"out": outs[0]}
        return functools.partial(call.function, *args, **kwargs, **given)
    return functools.partial(call.function, *args, out=tuple(outs), **kwargs)


#: Functions that may write their result where they are told, and give the same bits there.
_INTO = {"concatenate", "stack"}


def _copied(
    call: Call, run: Callable[[], Any], args: Any, kwargs: Any, outs: list[np.ndarray]
) -> Callable[[], Any]:
    """New memory is spared where the result is a copy of what is there."""
    name, out = call.name, outs[0]
    if name == "astype" and args[0].__class__ is np.ndarray:
        return functools.partial(np.copyto, out, args[0], "unsafe")
    if name in ("copy", "ascontiguousarray") and len(args) == 1 and args[0].__class__ is np.ndarray:
        return functools.partial(np.copyto, out, args[0])
    if name in _INTO and "out" not in kwargs:
        return functools.partial(call.function, *args, **kwargs, out=out)
    return functools.partial(_stored, run, outs, call.is_several)


def _step(kernel: Any, optimizer: Any, number: int, parameter: Any, arrays: list[np.ndarray]) -> None:
    numbers = optimizer.numbers(optimizer.param_groups[number], optimizer._steps[parameter])
    kernel(*arrays, *map(arrays[0].dtype.type, optimizer.rule.take(numbers)))


def _weighted(g: np.ndarray, cell: list[float], out: np.ndarray, is_there: bool) -> None:
    """A gradient times a rank's weight; without samples it may be NaN, and counts nothing."""
    if cell[0] == 0.0:
        out[...] = 0.0
    elif cell[0] != 1.0 or not is_there:
        np.multiply(g, cell[0], out=out)


def _stored(run: Callable[[], Any], outs: list[np.ndarray], is_several: bool) -> None:
    results = run()
    for out, y in zip(outs, results if is_several else (results,), strict=True):
        y = np.asarray(y)
        if y.shape != out.shape or y.dtype != out.dtype:
            raise GuardError(f"a result is {y.dtype}{list(y.shape)}, and was {out.dtype}{list(out.shape)}")
        np.copyto(out, y)


def _guarded(call: Call, args: Any, kwargs: Any) -> None:
    value, expected = call.function(*args, **kwargs), call.value
    if value != expected and not (value != value and expected != expected):
        raise GuardError(f"a number that is looked at is {value!r}, and was {expected!r} ({call.where()})")


def _with_live(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    args, kwargs = mapped((args, kwargs), lambda x: x.cell[0] if isinstance(x, Live) else x)
    return function(*args, **kwargs)


def _repeated(run: Callable[[], Any], cell: list[Any]) -> None:
    cell[0] = run()


def emit_unit(unit: Sequence[Call], arrays: Arrays) -> Callable[[], Any]:
    """One call, or those of kernels that threads share."""
    if unit[0].group is None:
        return emit(unit[0], arrays)
    if any(call.value is not None for call in unit):  # what they answer is compared
        return functools.partial(_in_turn, [emit(call, arrays) for call in unit])
    parts: dict[int, list[Any]] = {}
    for call in unit:
        assert call.group is not None
        parts.setdefault(call.group[1], []).append((call.function, *arrays.tree(call.args)))
    each = list(parts.values())

    def part(start: int, stop: int) -> list[Any]:
        return [call for calls in each[start:stop] for call in calls]

    return functools.partial(run_parts, part, len(each), _WORTH_NS)


def _in_turn(calls: Sequence[Callable[[], Any]]) -> None:
    for call in calls:
        call()
