"""Meetings and sums of processes that share memory, without the interpreter: one call a collective.

The layout of the shared memory is that of ``distgrad.comm.meeting``; processes that run this code and such
that run its Python meet each other. A wait spins and then sleeps in the kernel (futex) until the process that
it waits for arrives, and comes back now and then, so that the caller can look at the clock and the others.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from distgrad.backend.kernels.native import load, pause, store
from distgrad.backend.kernels.support import jit, kernel, pointer

__all__ = [
    "DTYPES",
    "gather_in_place",
    "make_state",
    "meet",
    "prepare",
    "reduce_in_place",
    "reduce_piece",
    "reduce_small",
    "scatter_in_place",
    "wait",
]

_CELLS, _SIZE, _RANK, _EPOCH, _YIELD, _SYSCALL, _FUTEX = range(7)  # what stands in a state
_SECONDS, _NANOSECONDS = 7, 8  # a struct timespec
_SLOTS, _STRIDE = 9, 11  # addresses of the first rank's two slots; bytes from one rank's to the next's
_MARK = 12  # what this rank has come for
_WAITED = 13  # ns of all waits for others
_CLOCK, _NOW = 14, 15  # address of clock_gettime; a struct timespec
_LENGTH = 17
_NUMBER, _ROWS, _ROW_BYTES, _START = range(4)  # what stands in an arena's place
_CELL_BYTES = 128  # a rank's cell: 16 numbers
_ARENA, _OFFSET, _ASLEEP, _MARKS = 16, 24, 32, 40  # their bytes in a cell; 0: how many meetings it came to
_MONOTONIC = int(time.CLOCK_MONOTONIC)
_SLEEP_S = 0.05
_SPIN_S = 100e-6
_TRIAL_SPINS, _TRIALS = 20_000, 5
_NUM_YIELDS = 100
_BLOCK = 2048  # elements that are summed and copied while they are in the nearest cache
_ALIGNMENT_BYTES = 128  # slices begin where no other rank's cache line ends
_WAIT, _WAKE, _EVERYONE = 0, 1, (1 << 31) - 1
_FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98}
DTYPES = "fdl"  #: Type characters of what is reduced here.


@intrinsic
def _call(typing_context: Any, address: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    """A function of the C library that takes up to five numbers and returns one."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        function = ir.FunctionType(word, [word] * 5)
        return builder.call(builder.inttoptr(values[0], function.as_pointer()), values[1:])

    return types.int64(*[types.int64] * 6), code


@jit
def _now_ns(state: Any) -> int:
    _call(state[_CLOCK], _MONOTONIC, state.ctypes.data + 8 * _NOW, 0, 0, 0)
    return state[_NOW] * 1_000_000_000 + state[_NOW + 1]


@jit
def _await(state: Any, spins: int) -> int:
    """Spin and sleep until all have come, or one has not for a while: 0, or its place, from 1."""
    cells, rank, epoch = state[_CELLS], state[_RANK], state[_EPOCH]
    own = cells + rank * _CELL_BYTES
    for other in range(state[_SIZE]):
        cell = cells + other * _CELL_BYTES
        for _ in range(spins):
            if load(cell) >= epoch:
                break
            if state[_YIELD] != 0:
                _call(state[_YIELD], 0, 0, 0, 0, 0)
            else:
                pause()
        if load(cell) >= epoch:
            continue
        store(own + _ASLEEP, other + 1)
        seen = load(cell)
        if seen < epoch:
            until = state.ctypes.data + 8 * _SECONDS
            _call(state[_SYSCALL], state[_FUTEX], cell, _WAIT, seen & 0xFFFFFFFF, until)
        store(own + _ASLEEP, 0)
        if load(cell) < epoch:
            return other + 1
    return 0


@kernel("i1 i", dtypes="l", writes="state")
def wait(state: Any, spins: int) -> int:
    """Wait until all have come to the last meeting; how long is added up in the state.

    Returns:
        0, the place of one that is late, from 1, or -1 where all are there but not for the same.
    """
    cells, epoch = state[_CELLS], state[_EPOCH]
    for other in range(state[_SIZE]):
        if load(cells + other * _CELL_BYTES) < epoch:
            start_ns = _now_ns(state)
            late = _await(state, spins)
            state[_WAITED] += _now_ns(state) - start_ns
            if late != 0:
                return late
            break
    for other in range(state[_SIZE]):
        if load(cells + other * _CELL_BYTES + _MARKS + epoch % 2 * 8) != state[_MARK]:
            return -1
    return 0


@kernel("i1 i", dtypes="l", writes="state")
def meet(state: Any, spins: int) -> int:
    """Come to the next meeting, and wait for it as :func:`wait` does."""
    epoch = state[_EPOCH] + 1
    state[_EPOCH] = epoch
    cells, rank = state[_CELLS], state[_RANK]
    own = cells + rank * _CELL_BYTES
    store(own + _MARKS + epoch % 2 * 8, state[_MARK])
    store(own, epoch)
    for other in range(state[_SIZE]):
        if load(cells + other * _CELL_BYTES + _ASLEEP) == rank + 1:
            _call(state[_SYSCALL], state[_FUTEX], own, _WAKE, _EVERYONE, 0)
            break
    return wait(state, spins)


def _fold_elements(op: int, x: Any, y: Any) -> None:
    """``x = x op y``, the ops in the order of ``distgrad.comm.reduction.UFUNCS``."""
    if op == 0:
        for i in range(x.size):
            x[i] += y[i]
    elif op == 1:
        for i in range(x.size):
            x[i] = min(x[i], y[i])
    elif op == 2:
        for i in range(x.size):
            x[i] = max(x[i], y[i])
    else:
        for i in range(x.size):
            x[i] *= y[i]


_fold = jit(_fold_elements, fastmath=False)  # each element's sum is the one that NumPy would give


def _fold_elements_into_both(op: int, x: Any, y: Any) -> None:
    """``x = y = x op y``: written at once, since both are at hand."""
    if op == 0:
        for i in range(x.size):
            total = x[i] + y[i]
            x[i] = total
            y[i] = total
    elif op == 1:
        for i in range(x.size):
            total = min(x[i], y[i])
            x[i] = total
            y[i] = total
    elif op == 2:
        for i in range(x.size):
            total = max(x[i], y[i])
            x[i] = total
            y[i] = total
    else:
        for i in range(x.size):
            total = x[i] * y[i]
            x[i] = total
            y[i] = total


_fold_into_both = jit(_fold_elements_into_both, fastmath=False)


@jit
def _copy(x: Any, y: Any) -> None:
    """``x = y``, by a loop: the C library's copy takes ten times as long on some processors, at some places.

    That is ``rep movsb``, where the target lies less than 64 bytes behind the source in their pages.
    """
    for i in range(x.size):
        x[i] = y[i]


@jit
def _copy_over(x: Any, y: Any, nothing: Any) -> None:
    """``x = y`` of whole numbers, where x is in no cache: read first, which is faster than writing alone.

    Args:
        x, y: ``[n]``.
        nothing: 0, which the compiler does not know.
    """
    for i in range(x.size):
        x[i] = (x[i] & nothing) | y[i]


@kernel("i1 x1 i i b", dtypes=DTYPES, writes="state x")
def reduce_small(state: Any, x: Any, op: int, spins: int, met: bool) -> int:
    """Reduce ``x`` through the slots, everything on every rank.

    Args:
        state: of :func:`make_state`.
        x: ``[n]``, overwritten.
        op: number of the operation.
        spins: how long to spin.
        met: whether all have come; False comes to the meeting first.

    Returns:
        0, or 1 where somebody is late or has come for something else: call :func:`wait` until it says which,
        and, where nobody is late any more, this with ``met``.
    """
    n, stride = x.size, state[_STRIDE]
    slots = state[_SLOTS + (state[_EPOCH] + (0 if met else 1)) % 2]
    if not met:
        _copy(numba.carray(pointer(slots + state[_RANK] * stride, x), n), x)
        if meet(state, spins) != 0:
            return 1
    _copy(x, numba.carray(pointer(slots, x), n))
    for other in range(1, state[_SIZE]):
        _fold(op, x, numba.carray(pointer(slots + other * stride, x), n))
    return 0


@jit
def _bound(n: int, itemsize: int, rank: int, size: int) -> int:
    """Where a rank's slice of ``n`` elements begins, as ``distgrad.comm.hostgroup`` has it."""
    step = _ALIGNMENT_BYTES // itemsize
    return min(-(-n // step) * rank // size * step, n)


@kernel("i1 x1 i i i", dtypes=DTYPES, writes="state x")
def reduce_piece(state: Any, x: Any, op: int, spins: int, num_met: int) -> int:
    """Reduce a piece of an array that lies anywhere, through the slots: a slice on every rank.

    Args:
        state: of :func:`make_state`.
        x: ``[n]``, overwritten; no longer than a slot.
        op: number of the operation.
        spins: how long to spin.
        num_met: of the two meetings that it takes, how many there were already.

    Returns:
        0; 1 or 2 where somebody is late at the first or second meeting: call :func:`wait` until nobody is,
        and then this with that number for ``num_met``.
    """
    n, size, rank, stride = x.size, state[_SIZE], state[_RANK], state[_STRIDE]
    if num_met == 0:
        slots = state[_SLOTS + (state[_EPOCH] + 1) % 2]
        _copy(numba.carray(pointer(slots + rank * stride, x), n), x)
        if meet(state, spins) != 0:
            return 1
    if num_met <= 1:
        slots, results = state[_SLOTS + state[_EPOCH] % 2], state[_SLOTS + (state[_EPOCH] + 1) % 2]
        start, stop = _bound(n, x.itemsize, rank, size), _bound(n, x.itemsize, rank + 1, size)
        for begin in range(start, stop, _BLOCK):
            m, at = min(_BLOCK, stop - begin), begin * x.itemsize
            block = x[begin : begin + m]
            _copy(block, numba.carray(pointer(slots + at, x), m))
            for other in range(1, size):
                _fold(op, block, numba.carray(pointer(slots + other * stride + at, x), m))
            _copy(numba.carray(pointer(results + rank * stride + at, x), m), block)
        if meet(state, spins) != 0:
            return 2
    results = state[_SLOTS + state[_EPOCH] % 2]
    for other in range(size):
        if other != rank:
            start, stop = _bound(n, x.itemsize, other, size), _bound(n, x.itemsize, other + 1, size)
            there = results + other * stride + start * x.itemsize
            _copy(x[start:stop], numba.carray(pointer(there, x), stop - start))
    return 0


@jit
def _reduce_slice(x: Any, op: int, size: int, rows: int, stride: int, start: int, stop: int) -> None:
    """Reduce elements start to stop of every rank's array into all of them; the first lies at ``rows``."""
    for begin in range(start, stop, _BLOCK):
        n = min(_BLOCK, stop - begin)
        block = rows + begin * x.itemsize
        first = numba.carray(pointer(block, x), n)
        for other in range(1, size - 1):
            _fold(op, first, numba.carray(pointer(block + other * stride, x), n))
        if size > 1:
            _fold_into_both(op, first, numba.carray(pointer(block + (size - 1) * stride, x), n))
        for other in range(1, size - 1):
            _copy(numba.carray(pointer(block + other * stride, x), n), first)


@jit
def _find_everywhere(state: Any, offset: int, spins: int, place: Any, met: bool) -> int:
    """Meet, and see whether all ranks' arrays lie at one place of an arena.

    Returns:
        0 where they do, 3 where they do not, and 1 where :func:`meet` has something to say.
    """
    cells, arena = state[_CELLS], place[_NUMBER]
    if not met:
        own = cells + state[_RANK] * _CELL_BYTES
        store(own + _ARENA, arena)
        store(own + _OFFSET, offset)
        if meet(state, spins) != 0:
            return 1
    for other in range(state[_SIZE]):
        cell = cells + other * _CELL_BYTES
        if arena == 0 or load(cell + _ARENA) != arena or load(cell + _OFFSET) != offset:
            return 3
    return 0


@kernel("i1 x1 x1 i i i i1 b", dtypes=DTYPES, writes="state out")
def scatter_in_place(
    state: Any, x: Any, out: Any, start: int, op: int, spins: int, place: Any, met: bool
) -> int:
    """Reduce this rank's part of arrays that lie in one arena into ``out``, which may be that part.

    Args:
        state: of :func:`make_state`.
        x: ``[n]``, this rank's.
        out: ``[m]``, the part.
        start: where in x the part begins.
        op: number of the operation.
        spins: how long to spin.
        place: as for :func:`reduce_in_place`.
        met: likewise.

    Returns:
        As :func:`reduce_in_place`.
    """
    size, stride = state[_SIZE], place[_ROW_BYTES]
    offset = np.int64(x.ctypes.data) - place[_START]
    code = _find_everywhere(state, offset, spins, place, met)
    if code != 0:
        return code
    first = place[_ROWS] + offset + start * x.itemsize
    sums = np.empty(_BLOCK, x.dtype)
    for begin in range(0, out.size, _BLOCK):
        n = min(_BLOCK, out.size - begin)
        row = first + begin * x.itemsize
        target, total = out[begin : begin + n], sums[:n]
        if size == 2 and op % 3 == 0 and target.ctypes.data == row + state[_RANK] * stride:
            # Sums and products do not care for the order; what was read is written at no cost.
            _fold(op, target, numba.carray(pointer(row + (1 - state[_RANK]) * stride, x), n))
        else:
            _copy(total, numba.carray(pointer(row, x), n))
            for other in range(1, size):
                _fold(op, total, numba.carray(pointer(row + other * stride, x), n))
            _copy(target, total)
    return 2 if meet(state, spins) != 0 else 0


@kernel("i1 x1 i1 x i i1 b", dtypes="iB", writes="state x")
def gather_in_place(state: Any, x: Any, edges: Any, nothing: Any, spins: int, place: Any, met: bool) -> int:
    """Copy the other ranks' parts of arrays that lie in one arena into this rank's.

    Args:
        state: of :func:`make_state`.
        x: ``[n]``, this rank's, which holds its own part; int32 or uint8.
        edges: ``[size + 1]``, where the ranks' parts begin and end.
        nothing: 0 of x's dtype.
        spins: how long to spin.
        place: as for :func:`reduce_in_place`.
        met: likewise.

    Returns:
        As :func:`reduce_in_place`.
    """
    offset = np.int64(x.ctypes.data) - place[_START]
    code = _find_everywhere(state, offset, spins, place, met)
    if code != 0:
        return code
    for step in range(1, state[_SIZE]):
        other = (state[_RANK] + step) % state[_SIZE]  # each begins with another one
        start, stop = edges[other], edges[other + 1]
        there = place[_ROWS] + offset + other * place[_ROW_BYTES] + start * x.itemsize
        _copy_over(x[start:stop], numba.carray(pointer(there, x), stop - start), nothing)
    return 2 if meet(state, spins) != 0 else 0


@kernel("i1 x1 i i i1 b", dtypes=DTYPES, writes="state x")
def reduce_in_place(state: Any, x: Any, op: int, spins: int, place: Any, met: bool) -> int:
    """Reduce arrays that lie in one arena where they lie, a slice on every rank.

    Args:
        state: of :func:`make_state`.
        x: ``[n]``, this rank's, overwritten.
        op: number of the operation.
        spins: how long to spin.
        place: of the arena in which ``x`` lies: its number, from 1, the address of the first rank's row,
            bytes from one row to the next, and the address of this rank's row; zeros if it lies in none.
        met: whether all have come to the first meeting; False comes to it.

    Returns:
        0; 1 or 2 where somebody is late at the first or second meeting: call :func:`wait` until nobody is,
        and, after the first, this with ``met``; 3 where the ranks' arrays do not lie at one place of an
        arena.
    """
    size, rank = state[_SIZE], state[_RANK]
    offset = np.int64(x.ctypes.data) - place[_START]
    code = _find_everywhere(state, offset, spins, place, met)
    if code != 0:
        return code
    start, stop = _bound(x.size, x.itemsize, rank, size), _bound(x.size, x.itemsize, rank + 1, size)
    _reduce_slice(x, op, size, place[_ROWS] + offset, place[_ROW_BYTES], start, stop)
    return 2 if meet(state, spins) != 0 else 0


def make_state(
    cells: int, size: int, rank: int, epoch: int, yields: bool, slots: Sequence[int], stride: int
) -> Any:
    """What the functions above know of a group; None where this machine has not what they need.

    Args:
        cells: address of the ranks' cells.
        size: number of ranks.
        rank: this one.
        epoch: the meetings so far.
        yields: whether a spinning rank hands the processor to others, since there are more ranks than cores.
        slots: addresses of the first rank's two slots.
        stride: bytes from one rank's slot to the next one's.
    """
    number = _FUTEX_NUMBERS.get(platform.machine())
    if number is None or not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    functions = library.sched_yield, library.syscall, library.clock_gettime
    addresses = [ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions]
    state = np.zeros(_LENGTH, np.int64)
    state[:_YIELD] = cells, size, rank, epoch
    state[_YIELD] = addresses[0] if yields else 0
    state[_SYSCALL], state[_FUTEX], state[_CLOCK] = addresses[1], number, addresses[2]
    state[_NANOSECONDS] = int(1e9 * _SLEEP_S)
    state[_SLOTS:_STRIDE], state[_STRIDE] = slots, stride
    return state


def prepare(state: Any) -> int:
    """Compile everything, or load it from the cache; returns how many turns a wait spins for."""
    trial, cells = state.copy(), np.zeros(_CELL_BYTES // 8, np.int64)
    place = np.zeros(4, np.int64)
    for dtype in DTYPES:
        trial[:_YIELD] = cells.ctypes.data, 1, 0, 0  # a group of one
        x, slot = np.zeros(1, dtype), np.zeros(1, dtype)
        trial[_SLOTS:_STRIDE] = slot.ctypes.data
        reduce_small(trial, x, 0, 0, False)
        reduce_piece(trial, x, 0, 0, 0)
        reduce_in_place(trial, x, 0, 0, place, False)
        scatter_in_place(trial, x, x, 0, 0, 0, place, False)
    for kind in (np.int32, np.uint8):
        gather_in_place(trial, np.zeros(1, kind), np.zeros(2, np.int64), kind(0), 0, place, False)
    meet(trial, 0)
    if state[_YIELD]:  # how long a turn takes is the others' business
        return _NUM_YIELDS
    trial[_EPOCH], trial[_NANOSECONDS] = 1 << 32, 1  # nobody will come
    elapsed_s = []
    for _ in range(_TRIALS):  # a processor that is taken away in between would make it look slow
        start_s = time.perf_counter()
        wait(trial, _TRIAL_SPINS)
        elapsed_s.append(time.perf_counter() - start_s)
    return max(1, int(_SPIN_S / min(elapsed_s) * _TRIAL_SPINS))
