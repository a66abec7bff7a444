"""Calls of a tape as instructions of the compiled machine, each held against NumPy's call before it is used.

Nothing is compiled for a tape, and the bits are NumPy's, as its own loops compute them. A call that has no
instruction, or whose instruction gives other bits, stays a call.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from distgrad.backend.products import SMALL_PRODUCT
from distgrad.errors import CaptureError
from distgrad.replay.calls import Call, has_live
from distgrad.replay.emit import Arrays, GuardError, emit, emit_unit
from distgrad.replay.holders import count_step
from distgrad.replay.inner import find_loop
from distgrad.replay.places import Place

__all__ = ["Assembler", "Run", "emit_units"]

_LOOP, _GUARD, _GATHER, _SCATTER, _CALL = range(5)  # as the machine has them
_MOST_CALLS = 1 << 12  # of a loop, by one instruction
_MOST_WORK = 2 * SMALL_PRODUCT  # multiplications of a product; larger ones may be shared by threads
_MOST_ELEMENTS = 1 << 18  # of an array; beside the time for more NumPy's own call costs nothing
_SILENT = ("kernel", "rule", "effect")
Instruction = list[int]


def _address(x: np.ndarray) -> int:
    return int(x.__array_interface__["data"][0])


class Assembler:
    """Makes instructions of calls.

    Args:
        arrays: at the tape's places.

    Attributes:
        keep: what the instructions' addresses point to.
        is_silent: whether nothing was left to NumPy's own calls, which warn of overflow.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.keep: list[Any] = []
        self.is_silent = True
        self._words: np.ndarray | None = None  # that making a kernel's call takes
        self._rng = np.random.default_rng(0)

    def assemble(self, call: Call, run: Callable[[Any], int]) -> list[Instruction] | None:
        """A call's instructions; None if it has none that do what it does.

        Args:
            call: of one thread.
            run: the machine.
        """
        large = max([math.prod(x.shape) for x in (*call.reads, *call.writes)], default=0) > _MOST_ELEMENTS
        if large and call.kind != "kernel":
            return None
        found = self._make(call)
        if found is None or call.kind in ("guard", "kernel"):
            return found
        with np.errstate(all="ignore"):
            return found if self._is_equal(call, run) else None

    def _make(self, call: Call) -> list[Instruction] | None:
        if call.kind == "guard":
            return self._guard(call)
        if call.kind == "kernel":
            return self._kernel(call)
        if call.name == "_get":
            return self._gather(call)
        if call.name == "add.at":
            return self._scatter(call)
        if call.kind == "fill" or (call.kind == "change" and call.name == "fill"):
            to = self.arrays.at(call.writes[0])
            return self._elementwise(np.positive, [self._operand(call.args[1], to.dtype), to])
        if call.kind != "ufunc" or has_live(call.args):
            return None
        if call.method == "reduce":
            return self._reduction(call)
        if call.method != "__call__" or call.kwargs or len(call.outs) != 1:
            return None
        return self._product(call) if call.function is np.matmul else self._function(call)

    # -- kinds of calls

    def _integers(self, values: Any) -> int:
        array = np.ascontiguousarray(values, np.int64)
        self.keep.append(array)
        return _address(array)

    def _operand(self, x: Any, dtype: Any) -> np.ndarray:
        array = self.arrays.at(x) if isinstance(x, Place) else np.array(x, dtype)
        self.keep.append(array)
        return array

    def _guard(self, call: Call) -> list[Instruction] | None:
        place = call.args[0] if call.function is bool else None
        if not isinstance(place, Place) or place.dtype != bool or place.shape not in ((), (1,)):
            return None
        return [[_GUARD, _address(self._operand(place, bool)), int(call.value), 0, 0, 0, 0, 0]]

    def _kernel(self, call: Call) -> list[Instruction] | None:
        """The kernel itself, by its address."""
        if call.value is not None or has_live(call.args):
            return None
        made = self._written(call.function, [self._argument(each) for each in call.args])
        return None if made is None else [made[0]]

    def _argument(self, x: Any) -> Any:
        return self._operand(x, None) if isinstance(x, Place) else x

    def _written(self, function: Any, arguments: list[Any]) -> tuple[Instruction, np.ndarray] | None:
        """A kernel's call, and what it is written in; None if it has too many arguments for that."""
        from distgrad.backend.kernels.calls import CALL_WORDS, flatten, make_form

        try:
            form = make_form(function, arguments)
        except TypeError:
            return None
        values = [id(x) if is_array else x for x, is_array in zip(arguments, form.arrays, strict=True)]
        call = np.zeros(form.size, np.uint8)
        form.pack(call.data, 0, *form.head, *flatten(values))
        if self._words is None:
            self._words = np.zeros(CALL_WORDS, np.int64)
        self.keep += [call, form.layout, *arguments]
        return [_CALL, _address(call), _address(self._words), 0, 0, 0, 0, 0], call

    def rule(self, call: Call) -> tuple[Instruction, Callable[[], Any]] | None:
        """An optimizer's rule by its address, and what gives it the numbers of its time beforehand."""
        optimizer, number, parameter, places = call.args
        arrays = [self._argument(each) for each in places]
        kind = arrays[0].dtype.type
        names = optimizer.rule.numbers
        made = self._written(call.function, [*arrays, *[kind(0)] * len(names)])
        if made is None or len(names) < 2:
            return None
        pack = struct.Struct("=" + ("f4x" if kind is np.float32 else "d") * len(names)).pack_into
        written, place = made[1].data, 16 + 8 * len(arrays)  # behind the kernel, its layout and the arrays

        def write() -> None:
            numbers = optimizer.numbers(optimizer.param_groups[number], optimizer._steps[parameter])
            values = take(numbers)
            try:
                pack(written, place, *values)
            except (OverflowError, struct.error):
                pack(written, place, *map(kind, values))

        take = operator.itemgetter(*names)
        return made[0], write

    def _pairs(self, key: Any, x: np.ndarray) -> list[np.ndarray] | None:
        """The rows and columns by which elements of a matrix are named."""
        if key.__class__ is not tuple or len(key) != 2 or x.ndim != 2:
            return None
        if not all(isinstance(each, Place) and each.dtype == np.int64 for each in key):
            return None
        found = [self._operand(each, np.int64) for each in key]
        plain = all(each.ndim == 1 and each.flags.c_contiguous for each in found)
        return found if plain and len(found[0]) == len(found[1]) else None

    def _gather(self, call: Call) -> list[Instruction] | None:
        x, to = self.arrays.at(call.args[0]), self.arrays.at(call.outs[0])
        pairs = self._pairs(call.args[1], x)
        if pairs is None or x.dtype.itemsize != 4 or not to.flags.c_contiguous:
            return None
        return [[_GATHER, _address(x), *map(_address, pairs), len(pairs[0]), _address(to), *x.strides]]

    def _scatter(self, call: Call) -> list[Instruction] | None:
        x, value = self.arrays.at(call.args[0]), call.args[2]
        pairs = self._pairs(call.args[1], x)
        if pairs is None or x.dtype.char != "f":
            return None
        if isinstance(value, Place) and value.dtype.char != "f":
            return None
        values = np.broadcast_to(self._operand(value, x.dtype), pairs[0].shape)
        self.keep.append(values)
        if min(*x.strides, *values.strides) < 0 or max(*x.strides, *values.strides) >= 1 << 31:
            return None
        both = x.strides[1] << 32 | values.strides[0]
        places = [_address(x), *map(_address, pairs), len(pairs[0]), _address(values)]
        return [[_SCATTER, *places, x.strides[0], both]]

    def _function(self, call: Call) -> list[Instruction] | None:
        to = self.arrays.at(call.outs[0])
        dtypes = [each.dtype for each in call.args if isinstance(each, Place)]
        if not dtypes or any(each != dtypes[0] for each in dtypes):
            return None
        operands = [self._operand(each, dtypes[0]) for each in call.args]
        for x in operands:  # NumPy would compute elsewhere first
            same = _address(x) == _address(to) and (x.shape, x.strides) == (to.shape, to.strides)
            if not same and np.may_share_memory(x, to):
                return None
        return self._elementwise(cast("np.ufunc", call.function), [*operands, to])

    def _elementwise(self, function: np.ufunc, operands: list[np.ndarray]) -> list[Instruction] | None:
        """An instruction for operands that broadcast to the last one, the result."""
        loop = find_loop(function, "".join(each.dtype.char for each in operands))
        to = operands[-1]
        if loop is None or not to.size:
            return None
        strides = [np.broadcast_to(each, to.shape).strides for each in operands[:-1]] + [to.strides]
        axes = [(n, tuple(each[i] for each in strides)) for i, n in enumerate(to.shape) if n != 1]
        axes.sort(key=lambda axis: -abs(axis[1][-1]))
        joined: list[tuple[int, tuple[int, ...]]] = []
        for n, steps in axes:
            if joined and all(outer == inner * n for outer, inner in zip(joined[-1][1], steps, strict=True)):
                joined[-1] = (joined[-1][0] * n, steps)
            else:
                joined.append((n, steps))
        length, inner = joined.pop() if joined else (1, (0,) * len(operands))
        places = np.array([[_address(each) for each in operands]], np.int64)
        for n, steps in joined:
            if len(places) * n > _MOST_CALLS:
                return None
            moved = np.arange(n)[None, :, None] * np.array(steps, np.int64)
            places = (places[:, None] + moved).reshape(-1, len(operands))
        return [self._loop(loop, places, [length], inner)]

    def _loop(self, loop: tuple[int, int], places: Any, lengths: Any, strides: Any) -> Instruction:
        table = np.ascontiguousarray(places, np.int64)
        where = self._integers(table), 8 * table.shape[1]
        return [_LOOP, *loop, len(table), *where, self._integers(lengths), self._integers(strides)]

    def _product(self, call: Call) -> list[Instruction] | None:
        if not all(isinstance(each, Place) for each in call.args):
            return None
        a, b, y = (self._operand(each, None) for each in (*call.args, call.outs[0]))
        if a.ndim != 2 or b.ndim != 2 or not y.size or a.size * b.shape[1] >= _MOST_WORK:
            return None
        loop = find_loop(np.matmul, "".join(each.dtype.char for each in (a, b, y)))
        if loop is None:
            return None
        lengths = [1, a.shape[0], a.shape[1], b.shape[1]]
        strides = [0, 0, 0, *a.strides, *b.strides, *y.strides]
        return [self._loop(loop, [[_address(each) for each in (a, b, y)]], lengths, strides)]

    def _reduction(self, call: Call) -> list[Instruction] | None:
        """The first terms, or a sum's zeros, and then a loop over the others for each result."""
        names = ("axis", "dtype", "out", "keepdims", "initial", "where")
        given = dict(zip(names, call.args[1:], strict=False)) | call.kwargs
        x, to = self._operand(call.args[0], None), self._operand(call.outs[0], None)
        if given.get("dtype") not in (None, to.dtype) or given.get("where", True) is not True:
            return None
        function = call.function.__self__  # type: ignore[attr-defined]
        if given.get("out") is not None or "initial" in given or x.ndim > 2 or not x.size or not x.ndim:
            return None
        axis = given.get("axis", 0)
        if axis is None or (isinstance(axis, tuple) and len(axis) == x.ndim):
            if x.ndim > 1 and not x.flags.c_contiguous:
                return None
            x, axis = x.reshape(-1), 0
        axis = axis[0] if isinstance(axis, tuple) and len(axis) == 1 else axis
        if not isinstance(axis, int) or x.dtype != to.dtype:
            return None
        rows = np.moveaxis(x, axis, 0)
        out = to.reshape(rows.shape[1:])
        self.keep += [x, rows, out]
        return self._folded(function, rows, out)

    def _folded(self, function: np.ufunc, rows: np.ndarray, out: np.ndarray) -> list[Instruction] | None:
        loop = find_loop(function, rows.dtype.char * 3)
        if loop is None or not np.may_share_memory(out, out):
            return None
        is_sum = function is np.add
        start = np.zeros((), rows.dtype) if is_sum else rows[0, ...]
        copy = np.logical_or if rows.dtype == bool else np.positive
        self.keep.append(start)
        first = self._elementwise(copy, [start] * copy.nin + [out])
        rest = rows if is_sum else rows[1:]
        if first is None or not len(rest):
            return first
        step, x, y = rest.strides[0], _address(rest), _address(out)
        if out.ndim == 0:
            places, length, strides = [[y, x, y]], len(rest), (0, step, 0)
        elif abs(step) <= abs(rest.strides[1]):
            ends = [(y + i * out.strides[0], x + i * rest.strides[1]) for i in range(len(out))]
            places, length, strides = [[to, of, to] for to, of in ends], len(rest), (0, step, 0)
        else:
            places = [[y, x + i * step, y] for i in range(len(rest))]
            length, strides = len(out), (out.strides[0], rest.strides[1], out.strides[0])
        return None if len(places) > _MOST_CALLS else [*first, self._loop(loop, places, [length], strides)]

    # -- the comparison

    def _is_equal(self, call: Call, run: Callable[[Any], int]) -> bool:
        """Whether instructions leave the call's bytes, of random numbers in copies of its places.

        What lies in the places themselves is in use: parameters, which other threads may read meanwhile.
        """
        places = (*call.reads, *call.writes)
        theirs, ours = (Assembler(self.arrays.apart(places)) for _ in range(2))
        for place in dict.fromkeys(places):
            if place.dtype.kind == "f":
                x = theirs.arrays.at(place)
                x[...] = self._rng.standard_normal(x.shape)
        for place in places:
            ours.arrays.at(place)[...] = theirs.arrays.at(place)
        found = ours._make(call)
        emit(call, theirs.arrays)()
        if found is None:
            return False
        run(np.array(found, np.int64))
        return all(ours.arrays.at(x).tobytes() == theirs.arrays.at(x).tobytes() for x in places)


def emit_units(units: Sequence[Sequence[Call]], assembler: Assembler) -> list[Callable[[], Any]]:
    """What a replay calls: the machine for each run of instructions, and between them what has none."""
    from distgrad.backend.kernels.machine import run

    found: list[Callable[[], Any]] = []
    code: list[Instruction] = []
    sources: list[Call] = []

    def close() -> None:
        if code:
            found.append(Run(run, np.array(code, np.int64), list(sources)))
            code.clear()
            sources.clear()

    for unit in units:
        if unit[0].function is count_step:  # which no instruction before it hangs on, nor the other way round
            found.append(emit_unit(unit, assembler.arrays))
            continue
        rule = assembler.rule(unit[0]) if unit[0].kind == "rule" else None
        if rule is not None:
            found.append(rule[1])
            code.append(rule[0])
            sources.append(unit[0])
            continue
        made = assembler.assemble(unit[0], run) if unit[0].group is None else None
        if made is None:
            close()
            found.append(emit_unit(unit, assembler.arrays))
            assembler.is_silent &= unit[0].kind in _SILENT
        else:
            code += made
            sources += [unit[0]] * len(made)
    close()
    return found


class Run:
    """Instructions that follow each other.

    Args:
        run: the machine.
        code: the instructions.
        sources: for each of them the call that it was made of.
    """

    def __init__(self, run: Callable[[Any], int], code: np.ndarray, sources: list[Call]) -> None:
        self._run, self.code, self._sources = run, code, sources

    def __call__(self) -> None:
        place = self._run(self.code)
        if place >= 0:
            call = self._sources[place]
            if call.kind != "guard":
                raise CaptureError(f"capture: {call.name} at {call.where()} has failed inside")
            raise GuardError(
                f"a number that is looked at is {not call.value}, and was {call.value} ({call.where()})"
            )
