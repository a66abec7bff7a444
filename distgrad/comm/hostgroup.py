"""Collectives among ranks of one host, through memory that all of them map.

Every rank has a cell, in which it counts the meetings it has come to, and two slots, which it fills in turn:
what a rank writes into a slot before a meeting is read by the others between that meeting and the next, so
that the slot is free again one meeting later. An array that lies in memory of :meth:`HostGroup.allocate` is
reduced where it lies, by slices; any other goes through the slots in pieces. That memory has pages of 2 MiB
where the kernel gives them (``distgrad.comm.mapping``).

Meetings, and reductions of the usual dtypes, are compiled (``distgrad.backend.kernels.shared``) once there
have been so many that loading the compiler pays; until then, and without Numba, they are Python. The two are
one protocol, and a rank may run either.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import platform
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.backend.kernels.cache import compiling
from distgrad.backend.kernels.compiler import load_numba
from distgrad.comm.calls import name_ranks
from distgrad.comm.mapping import LARGE_PAGE_BYTES, enlarge_pages
from distgrad.comm.neighbours import Neighbours
from distgrad.comm.reduction import UFUNCS, is_narrow, reduce_arrays
from distgrad.errors import RankFailedError

__all__ = ["HostGroup"]

_CELL = 16  # numbers a cell: 128 bytes, two cache lines, since processors fetch them in pairs
_ARRIVED, _AWAITED, _ARENA, _OFFSET = range(4)  # what stands in a cell
_SLOT_BYTES = 1 << 22  # one of a rank's two; pages that are not used cost nothing
# Where a slot begins in its page: some processors copy ten times slower to a place less than 64 bytes behind
# the source's in their pages, and arrays of the heap lie near the beginning.
_SHIFT_BYTES = 2048
_PIECE_BYTES = 1 << 20  # of an array that goes through the slots: what stays in the cache on its way
_SMALL_BYTES = 1 << 14  # up to here every rank reduces everything for itself, which saves a meeting
_MAX_VIEWS = 256
_ALIGNMENT_BYTES = 128  # slices begin where no other rank's cache line ends
_SPIN_S = 100e-6
_PAGE_BYTES = 4096
_STATE_EPOCH = 3  # where compiled code counts the meetings
_LOOK_S = 0.25  # how often a rank that waits looks at the clock and at the others
_OPS = {op: number for number, op in enumerate(UFUNCS)}
# Meetings after which compiled code pays: if the program has loaded the compiler anyway, and if it has not.
_MEETINGS_BEFORE_COMPILING = (64, 4096)
_CORES = len(os.sched_getaffinity(0))
_IN_ORDER = platform.machine() in ("x86_64", "i686")  # stores and loads keep their order there
_fence_lock = threading.Lock()


def _fence() -> None:
    """Keep memory accesses before it before those after it, on processors that would not."""
    for _ in range(2):  # a release, then an acquire
        with _fence_lock:
            pass


@functools.cache
def _load_compiled() -> Any:
    """The module of compiled collectives, or None without Numba."""
    if not load_numba():
        return None
    return importlib.import_module("distgrad.backend.kernels.shared")


_NOWHERE = np.zeros(4, np.int64)  # the place of arrays that lie in no arena


@dataclass
class _Arena:
    """Memory of :meth:`HostGroup.allocate`.

    Attributes:
        number: the same on every rank, from 1.
        rows: ``[size, bytes]``, every rank's part.
        place: what compiled code knows: the number, the address of the first rank's part in this process,
            bytes from one part to the next, and the address of this rank's part.
    """

    number: int
    rows: NDArray[np.uint8]
    place: NDArray[np.int64]


class HostGroup:
    """Ranks of one host that communicate; what a communicator does within the host.

    Args:
        neighbours: the job's processes on this host.
        ranks: those of the group, as numbered in the world, this process's among them.
        name: a name that all of them know the group by, and no other group has.
        watch: called now and then with the ranks that a meeting lacks, as numbered in the world, and the
            seconds waited; raises to give up.
        computes: whether the rank computes meanwhile, so that a wait must not take the processor.

    Attributes:
        rank: this process's place in ``ranks``.
        size: number of ranks.
    """

    def __init__(
        self,
        neighbours: Neighbours,
        ranks: Sequence[int],
        name: str,
        watch: Callable[[list[int], float], None],
        computes: Callable[[], bool],
    ) -> None:
        self.ranks = list(ranks)
        self.rank = self.ranks.index(neighbours.rank)
        self.size = len(self.ranks)
        self._neighbours = neighbours
        self._name = name
        self._watch = watch
        self._computes = computes
        head = -(-self.size * _CELL * 8 // _PAGE_BYTES) * _PAGE_BYTES + _SHIFT_BYTES
        memory = neighbours.share(head + 2 * self.size * _SLOT_BYTES, self.ranks, f"group {name}")
        self._cells = memory[: self.size * _CELL * 8].cast("q")
        self._cells_address = np.frombuffer(memory, np.uint8, head).ctypes.data
        self._slots = np.frombuffer(memory, np.uint8, offset=head).reshape(2, self.size, _SLOT_BYTES)
        self._own = self.rank * _CELL
        self._others = [rank * _CELL for rank in range(self.size) if rank != self.rank]
        self._num_meetings = 0  # until they are compiled; see _epoch
        self._may_compile = True
        self._compiled: Any = None
        self._state: Any = None  # what compiled code knows of the group
        self._dtypes: frozenset[np.dtype] = frozenset()  # of what it reduces
        self._spins = 0
        self._arenas: dict[int, _Arena] = {}
        self._num_arenas = 0
        self._views: dict[tuple[int, np.dtype], list[list[NDArray[Any]]]] = {}  # of both halves of the slots

    # Meeting

    @property
    def _epoch(self) -> int:
        """The number of the last meeting."""
        return self._num_meetings if self._state is None else int(self._state[_STATE_EPOCH])

    def meet(self) -> None:
        """Return when every rank has come.

        Collective: yes; blocks: yes.
        """
        if self._state is not None:
            if self._compiled.meet(self._state, 0 if self._computes() else self._spins):
                self._await_late()
            return
        self._num_meetings = epoch = self._num_meetings + 1
        cells = self._cells
        if not _IN_ORDER:
            _fence()
        cells[self._own] = epoch
        for cell in self._others:
            if cells[cell + _AWAITED] == self.rank + 1:  # it sleeps until this rank comes
                self._neighbours.ring(self.ranks[cell // _CELL])
        for cell in self._others:
            if cells[cell] < epoch:
                self._await(cell, epoch)
        if not _IN_ORDER:
            _fence()
        if self._may_compile and epoch >= _MEETINGS_BEFORE_COMPILING["numba" not in sys.modules]:
            self._compile()

    def _compile(self) -> None:
        """Leave the coming meetings and reductions to compiled code, if it can be had."""
        self._may_compile = False
        compiled = _load_compiled()
        if compiled is None:
            return
        state = compiled.make_state(
            self._cells_address,
            self.size,
            self.rank,
            self._num_meetings,
            self.size > _CORES,
            [half.ctypes.data for half in self._slots],
            _SLOT_BYTES,
        )
        if state is not None:
            with compiling("host group"):
                self._spins = compiled.prepare(state)
            self._dtypes = frozenset(map(np.dtype, compiled.DTYPES))
            self._compiled, self._state = compiled, state

    def _await_late(self) -> None:
        """Go on waiting for the last meeting, which somebody is late for."""
        start_s = time.monotonic()
        look_s = start_s + _LOOK_S
        late = self._compiled.wait(self._state, 0)
        while late:
            rank = self.ranks[late - 1]
            ended = self._neighbours.has_ended(rank)
            late = self._compiled.wait(self._state, 0)
            if ended and late and self.ranks[late - 1] == rank:
                raise RankFailedError(f"waited for {name_ranks([rank])} of the world, which ended without it")
            if time.monotonic() > look_s:
                self._look(self._epoch, time.monotonic() - start_s)
                look_s = time.monotonic() + _LOOK_S
        if look_s > start_s + _LOOK_S:  # the watch may have told
            self._neighbours.tell("")

    def _await(self, cell: int, epoch: int) -> None:
        cells = self._cells
        if self.size <= _CORES and not self._computes():
            until_s = time.perf_counter() + _SPIN_S
            while cells[cell] < epoch:
                if time.perf_counter() > until_s:
                    break
            else:
                return
        cells[self._own + _AWAITED] = cell // _CELL + 1
        try:
            self._neighbours.wait_for(
                lambda: cells[cell] >= epoch,
                self.ranks[cell // _CELL],
                lambda waited_s: self._look(epoch, waited_s),
            )
        finally:
            cells[self._own + _AWAITED] = 0

    def _missing(self, epoch: int) -> list[int]:
        return [self.ranks[cell // _CELL] for cell in self._others if self._cells[cell] < epoch]

    def _look(self, epoch: int, waited_s: float) -> None:
        ended = [rank for rank in self._missing(epoch) if self._neighbours.has_ended(rank)]
        if gone := set(ended) & set(self._missing(epoch)):  # it may have come and then ended
            raise RankFailedError(f"waited for {name_ranks(gone)} of the world, which ended without it")
        self._watch(self._missing(epoch), waited_s)

    # Memory

    def allocate(self, nbytes: int) -> NDArray[np.uint8]:
        """Zeroed memory whose arrays are reduced in place.

        Collective: yes, with equal ``nbytes``; blocks: yes.
        """
        self._num_arenas += 1
        page = LARGE_PAGE_BYTES if nbytes >= LARGE_PAGE_BYTES else _PAGE_BYTES
        stride = -(-max(nbytes, 1) // page) * page  # pages behind the bytes are not used and cost nothing
        topic = f"arena {self._num_arenas} of {self._name}"
        memory = self._neighbours.share(stride * self.size, self.ranks, topic)
        rows = np.frombuffer(memory, np.uint8).reshape(self.size, stride)
        own = np.frombuffer(memory, np.uint8, nbytes, self.rank * stride)
        enlarge_pages(own)
        # Views of ``own`` have it as their base, by whose identity the arena is found, and end with the last.
        place = np.array([self._num_arenas, rows.ctypes.data, stride, own.ctypes.data], np.int64)
        self._arenas[id(own)] = _Arena(self._num_arenas, rows, place)
        weakref.finalize(own, self._arenas.pop, id(own)).atexit = False
        return own[:]

    def _place(self, x: NDArray[Any]) -> tuple[_Arena | None, int]:
        """The arena in which ``x`` lies, and where."""
        arena = self._arenas.get(id(x.base))
        return arena, 0 if arena is None else x.ctypes.data - int(arena.place[-1])

    def _find_everywhere(self, x: NDArray[Any]) -> list[NDArray[Any]] | None:
        """Every rank's ``x``, if all of them lie in one arena at one place.

        Collective: yes; blocks: yes.
        """
        arena, offset = self._place(x)
        cells = self._cells
        cells[self._own + _ARENA] = 0 if arena is None else arena.number
        cells[self._own + _OFFSET] = offset
        self.meet()
        if arena is None:
            return None
        for cell in self._others:
            if cells[cell + _ARENA] != arena.number or cells[cell + _OFFSET] != offset:
                return None
        return [row[offset : offset + x.nbytes].view(x.dtype) for row in arena.rows]

    def _next_slots(self) -> NDArray[np.uint8]:
        """The slots that the coming meeting is about, ``[size, bytes]``."""
        return self._slots[(self._epoch + 1) & 1]

    def _bounds(self, x: NDArray[Any]) -> tuple[int, int]:
        """This rank's slice of a flat array."""
        step = _ALIGNMENT_BYTES // x.itemsize
        lines = -(-x.size // step)
        start, stop = (lines * rank // self.size * step for rank in (self.rank, self.rank + 1))
        return min(start, x.size), min(stop, x.size)

    def _slices(self, x: NDArray[Any]) -> list[tuple[int, int]]:
        """Slices of a flat array, one a rank, as equal as whole cache lines can be."""
        step = _ALIGNMENT_BYTES // x.itemsize
        lines = -(-x.size // step)
        ends = [min(lines * rank // self.size * step, x.size) for rank in range(self.size + 1)]
        return list(itertools.pairwise(ends))

    # Collectives; arguments are those of distgrad.comm.transport.Transport

    def all_reduce(self, x: NDArray[Any], op: str) -> None:
        """Reduce ``x`` in place, with the same bits on every rank."""
        if x.dtype in self._dtypes and x.flags.aligned:
            self._reduce_compiled(x, _OPS[op])
        elif x.nbytes <= _SMALL_BYTES:
            self._reduce_small(x, op)
        elif (everywhere := self._find_everywhere(x)) is None:
            self._reduce_pieces(x, op)
        else:
            start, stop = self._bounds(x)
            arrays = [array[start:stop] for array in everywhere]
            reduce_arrays(arrays, arrays, op)
            self.meet()

    def _reduce_compiled(self, x: NDArray[Any], op: int) -> None:
        compiled, state = self._compiled, self._state
        spins = 0 if self._computes() else self._spins
        if x.nbytes <= _SMALL_BYTES:
            if compiled.reduce_small(state, x, op, spins, False):
                self._await_late()
                compiled.reduce_small(state, x, op, spins, True)
            return
        arena = self._arenas.get(id(x.base))
        place = _NOWHERE if arena is None else arena.place
        code = compiled.reduce_in_place(state, x, op, spins, place, False)
        if code == 1:
            self._await_late()
            code = compiled.reduce_in_place(state, x, op, spins, place, True)
        if code == 2:
            self._await_late()
        elif code == 3:  # the ranks' arrays do not lie at one place, and nothing was done
            step = _PIECE_BYTES // x.itemsize
            for start in range(0, x.size, step):
                num_met = 0
                while num_met := compiled.reduce_piece(state, x[start : start + step], op, spins, num_met):
                    self._await_late()

    def _reduce_pieces(self, x: NDArray[Any], op: str) -> None:
        step = _PIECE_BYTES // x.itemsize
        for start in range(0, x.size, step):
            self._reduce_piece(x[start : start + step], op)

    def _reduce_small(self, x: NDArray[Any], op: str) -> None:
        views = self._views.get((x.size, x.dtype))
        if views is None:
            if len(self._views) == _MAX_VIEWS:
                self._views.clear()
            halves = [half[:, : x.nbytes].view(x.dtype) for half in self._slots]
            views = self._views[x.size, x.dtype] = [list(half) for half in halves]
        slots = views[(self._epoch + 1) & 1]
        np.copyto(slots[self.rank], x)
        self.meet()
        reduce_arrays(slots, (x,), op)

    def _reduce_piece(self, x: NDArray[Any], op: str) -> None:
        slots = self._next_slots()[:, : x.nbytes].view(x.dtype)
        slots[self.rank] = x
        self.meet()
        slices = self._slices(x)
        start, stop = slices[self.rank]
        results = self._next_slots()[:, : x.nbytes].view(x.dtype)
        reduce_arrays(list(slots[:, start:stop]), [x[start:stop], results[self.rank, start:stop]], op)
        self.meet()
        for rank, (start, stop) in enumerate(slices):
            if rank != self.rank:
                x[start:stop] = results[rank, start:stop]

    def all_reduce_between(self, x: NDArray[Any], op: str, between: Callable[[NDArray[Any]], None]) -> None:
        """Reduce ``x`` over this host, then by ``between`` over the hosts, which the first rank calls.

        Collective: yes; blocks: yes.

        Args:
            x: flat; overwritten.
            op: the reduction.
            between: reduces a flat array in place over the hosts; gets float32 for narrower floats.
        """
        wide = np.dtype(np.float32) if is_narrow(x.dtype) else x.dtype
        step = _SLOT_BYTES // wide.itemsize
        for begin in range(0, x.size, step):
            piece = x[begin : begin + step]
            slots = self._next_slots()[:, : piece.size * wide.itemsize].view(wide)
            slots[self.rank] = piece
            self.meet()
            start, stop = self._bounds(slots[0])
            arrays = list(slots[:, start:stop])
            reduce_arrays(arrays, arrays[:1], op)
            self.meet()
            if self.rank == 0:
                between(slots[0])
            self.meet()
            with np.errstate(all="ignore"):
                np.copyto(piece, slots[0], casting="unsafe")

    def reduce_scatter(self, x: NDArray[Any], out: NDArray[Any], op: str) -> None:
        """Reduce row ``rank`` of ``x``, ``[size, n]``, into ``out``, ``[n]``."""
        step = _SLOT_BYTES // x.itemsize // self.size
        for start in range(0, out.size, step):
            piece = x[:, start : start + step]
            slots = self._next_slots()[:, : piece.nbytes].view(x.dtype).reshape(self.size, *piece.shape)
            slots[self.rank] = piece
            self.meet()
            reduce_arrays(list(slots[:, self.rank]), [out[start : start + step]], op)

    def broadcast(self, x: NDArray[np.uint8], root: int) -> None:
        """Replace the flat bytes ``x`` by the root's."""
        for start in range(0, x.size, _SLOT_BYTES):
            piece = x[start : start + _SLOT_BYTES]
            slot = self._next_slots()[root, : piece.size]
            if self.rank == root:
                slot[:] = piece
            self.meet()
            if self.rank != root:
                piece[:] = slot

    def gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8] | None) -> None:
        """Collect the flat bytes ``x`` into the rows of ``out``, ``[size, x.size]``, where it is given."""
        for start in range(0, x.size, _SLOT_BYTES):
            piece = x[start : start + _SLOT_BYTES]
            slots = self._next_slots()[:, : piece.size]
            slots[self.rank] = piece
            self.meet()
            if out is not None:
                out[:, start : start + _SLOT_BYTES] = slots

    def scatter(self, x: NDArray[np.uint8] | None, out: NDArray[np.uint8], root: int) -> None:
        """Send the rows of the root's ``x``, ``[size, n]``, to the ranks' flat ``out``."""
        step = _SLOT_BYTES // self.size
        for start in range(0, out.size, step):
            piece = out[start : start + step]
            slot = self._next_slots()[root, : self.size * piece.size].reshape(self.size, -1)
            if x is not None:
                slot[:] = x[:, start : start + step]
            self.meet()
            piece[:] = slot[self.rank]

    def all_to_all(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Send the rows of ``x`` and receive the rows of ``out``, both ``[size, n]``."""
        step = _SLOT_BYTES // self.size
        for start in range(0, x.shape[1], step):
            piece = x[:, start : start + step]
            slots = self._next_slots()[:, : piece.size].reshape(self.size, *piece.shape)
            slots[self.rank] = piece
            self.meet()
            out[:, start : start + step] = slots[:, self.rank]
