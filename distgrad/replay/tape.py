"""A tape: the calls of a step on planned memory, run with new inputs."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.errors import CaptureError
from distgrad.replay.agreement import digest
from distgrad.replay.arguments import Results, copier
from distgrad.replay.calls import Call, mapped
from distgrad.replay.conditions import Conditions
from distgrad.replay.emit import Arrays, GuardError, emit_unit
from distgrad.replay.loops import Assembler, Run, emit_units
from distgrad.replay.order import check_guards, guards_first
from distgrad.replay.places import Place, Storage
from distgrad.replay.plan import allocate, plan
from distgrad.replay.ranks import failed, parts_of
from distgrad.replay.record import Record
from distgrad.replay.undo import Saved, remembered

__all__ = ["GuardError", "Tape"]

#: Bytes between the parameters of a flat buffer, at most; zeros lie there.
_GAP = 128

#: Functions whose result's shape depends on numbers.
_BY_NUMBERS = {
    *("argwhere", "compress", "extract", "flatnonzero", "nonzero", "repeat", "trim_zeros", "unique"),
    *("unique_all", "unique_counts", "unique_inverse", "unique_values", "bincount", "histogram"),
    *("intersect1d", "setdiff1d", "setxor1d", "union1d", "histogram_bin_edges", "delete", "insert"),
}


class Tape:
    """A step that is replayed.

    Args:
        record: of the step, settled.
        inputs: the arrays that the step was recorded with, which stay in its memory.
        conditions: what must be as it was.
        results: what the step returns, around the record's outputs.
        mode: ``loops`` or ``calls``.

    Attributes:
        calls: of the record.
        conditions, results: as given.
        digest: tells its collectives from those of other ranks' tapes.
        num_replays: how often it was run.
        num_instructions: of the compiled machine.
        block_bytes: of the planned memory.
        temporary_bytes: of all temporaries together.
    """

    def __init__(
        self,
        record: Record,
        inputs: Sequence[np.ndarray],
        conditions: Conditions,
        results: Results,
        mode: str,
    ) -> None:
        self.calls, self.conditions, self.results = guards_first(record.calls), conditions, results
        check_guards(self.calls)
        self.digest = digest(self.calls)
        self.inputs = list(inputs)
        self.num_replays = self.num_instructions = 0
        self._assemblers: list[Assembler] = []  # they keep what instructions point to
        units = [
            list(unit)
            for _, unit in itertools.groupby(
                self.calls, key=lambda call: id(call) if call.group is None else call.group[0]
            )
        ]
        self.block_bytes = plan(units, record.outputs)
        self.temporary_bytes = sum(each.nbytes for each in record.storages if each.offset is not None)
        self.block = allocate(self.block_bytes)
        self._arrays = Arrays(self.block)
        apart = next((i for i, unit in enumerate(units) if unit[0].is_collective), len(units))
        last = max((i for i, unit in enumerate(units[:apart]) if any(map(_may_fail, unit))), default=-1)
        self._head = self._emit(units[: last + 1], mode)
        self._tail = self._emit(units[last + 1 :], mode)
        head = list(itertools.chain(*units[: last + 1]))
        self._saved = Saved(each.view() for each in _worth_saving(head, conditions))
        self._remember = _remembering(head)
        self.outliving = _outliving(record.calls)
        self.effects = _objects(record.calls)
        self._is_silent = mode == "loops" and all(each.is_silent for each in self._assemblers)
        self._outputs = [self._arrays.at(place) for place in record.outputs]
        self._new = [i for i, place in enumerate(record.outputs) if _is_new(place, record)]
        self._copies = copier([self._outputs[i] for i in self._new])
        self._gradients = [(leaf, leaf.grad) for leaf in conditions.leaves]
        born = [each for each in record.storages if each.is_born and each.owners]
        self._made = [i for i, (_, g) in enumerate(self._gradients) if g is not None and _lies_in(g, born)]

    def _emit(self, units: list[list[Call]], mode: str) -> list[Callable[[], Any]]:
        found: list[Callable[[], Any]] = []
        for _, some in itertools.groupby(units, key=lambda unit: id(unit[0].condition)):
            chosen = list(some)
            condition, calls = chosen[0][0].condition, self._emit_always(chosen, mode)
            found += calls if condition is None else [functools.partial(_branch, condition.cell, calls)]
        return found

    def _emit_always(self, units: list[list[Call]], mode: str) -> list[Callable[[], Any]]:
        if mode == "calls":
            return [emit_unit(unit, self._arrays) for unit in units]
        assembler = Assembler(self._arrays)
        self._assemblers.append(assembler)
        found = emit_units(units, assembler)
        self.num_instructions += sum(len(each.code) for each in found if isinstance(each, Run))
        return found

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Replay the step; returns the arrays of its results.

        Raises:
            GuardError: Python would have been told something else; nothing is changed then.
        """
        if self._is_silent:
            return self._run(inputs)
        with np.errstate(all="ignore"):
            return self._run(inputs)

    def _run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        for to, x in zip(self.inputs, inputs, strict=True):
            to[...] = x
        if self._made:
            self._hand_over()
        if self._saved.views:
            self._saved.take()
        put_back = self._remember()
        try:
            for call in self._head:
                call()
        except BaseException:
            self._saved.put_back()
            put_back()
            raise
        try:
            for call in self._tail:
                call()
        except GuardError as guard:
            raise CaptureError(
                f"capture: {guard}, of which nothing told before the step changed its state: some of it is "
                "that after this step now; leave what has another shape each time out of the captured step"
            ) from None
        except BaseException:
            failed(self.effects)
            raise
        for leaf, gradient in self._gradients:
            leaf.grad = gradient
        for tensor, where in self.conditions.changes:
            tensor.changed(where)
        self.num_replays += 1
        copies = self._copies()
        if len(copies) == len(self._outputs):
            return copies
        results = list(self._outputs)
        for i, x in zip(self._new, copies, strict=True):
            results[i] = x
        return results

    def _hand_over(self) -> None:
        """Whoever has kept the gradient of an earlier step keeps its numbers, as after an eager step."""
        for i in self._made:
            leaf, gradient = self._gradients[i]
            if sys.getrefcount(gradient) > (4 if leaf.grad is gradient else 3):
                self._gradients[i] = leaf, Tensor(gradient._data)
                gradient._data = gradient._data.copy()


def _branch(cell: list[bool], calls: list[Callable[[], Any]]) -> None:
    if cell[0]:
        for call in calls:
            call()


def _may_fail(call: Call) -> bool:
    """Whether a call asks for something that may be another one in a replay."""
    if call.kind == "guard" or (call.kind == "kernel" and call.value is not None):
        return True
    if call.name == "where" and len(call.args) == 1:
        return True
    return call.name in _BY_NUMBERS or (call.name == "_get" and _has_mask(call.args[1]))


def _has_mask(key: Any) -> bool:
    found: list[Any] = []
    mapped(key, lambda x: found.append(x) if isinstance(x, Place) and x.dtype == bool else x)
    return bool(found)


def _lies_in(gradient: Tensor, storages: list[Storage]) -> bool:
    start, stop = Place(gradient._data).bounds()
    return any(each.start <= start and stop <= each.stop for each in storages)


def _is_new(place: Place, record: Record) -> bool:
    """Whether a result is handed out as a copy, since the next replay writes where it lies."""
    return place.is_empty or place.storage.is_born or place.storage in record.given


def _outliving(calls: Any) -> list[Storage]:
    """What calls write that is there after the step."""
    found = [place.storage for call in calls for place in call.writes if not place.is_empty]
    return [each for each in dict.fromkeys(found) if each.offset is None]


def _worth_saving(calls: list[Call], conditions: Conditions) -> list[Storage]:
    """What calls write that must be put back if one of them fails; not gradients that were not there."""
    void: list[list[int]] = []
    for place in sorted((Place(x) for x in conditions.new_gradients()), key=lambda place: place.address):
        start, stop = place.bounds()
        if void and start - void[-1][1] < _GAP:
            void[-1][1] = max(void[-1][1], stop)
        else:
            void.append([start, stop])
    found: dict[Storage, None] = {}
    for place in (place for call in calls for place in call.writes if not place.is_empty):
        low, high = place.bounds()
        if place.storage.offset is None and not any(start <= low and high <= stop for start, stop in void):
            found[place.storage] = None
    return list(found)


def _objects(calls: Any) -> list[Any]:
    found = [call.args[0] for call in calls if call.kind in ("effect", "live")]
    return list({id(part): part for each in found for part in parts_of(each)}.values())


def _remembering(calls: Any) -> Callable[[], Callable[[], Any]]:
    """What takes down the memory of the objects that calls change, and gives what puts it back."""
    objects = _objects(calls)
    return (lambda: remembered(objects)) if objects else (lambda: bool)  # which called does nothing
