"""Where the ranks of one host meet, and the memory that all of them map.

Every rank has a cell, in which it counts the meetings it has come to, and two slots, which it fills in turn:
what a rank writes into a slot before a meeting is read by the others between that meeting and the next, so
that the slot is free again one meeting later. In its cell it also leaves what it has come for, a number that
all of them compare at every meeting. Memory of :meth:`Meeting.allocate` has pages of 2 MiB where the kernel
gives them (``distgrad.comm.mapping``).

Meetings, and reductions of the usual dtypes, are compiled (``distgrad.backend.kernels.shared``) once there
have been so many that loading the compiler pays; until then, and without Numba, they are Python. The two are
one protocol, and a rank may run either.
"""

from __future__ import annotations

import functools
import importlib
import os
import platform
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distgrad.backend.kernels.ahead import request
from distgrad.backend.kernels.cache import SHARED, cache_folder, is_compiled
from distgrad.backend.kernels.compiler import load_numba
from distgrad.comm.calls import DisagreementError, name_ranks
from distgrad.comm.mapping import LARGE_PAGE_BYTES, enlarge_pages
from distgrad.comm.neighbours import Neighbours
from distgrad.errors import RankFailedError

__all__ = ["SLOT_BYTES", "Arena", "Meeting", "Question"]

_CELL = 16  # numbers a cell: 128 bytes, two cache lines, since processors fetch them in pairs
# What stands in a cell. Of marks there are two, written in turn, as a slot is.
_ARRIVED, _AWAITED, _ARENA, _OFFSET, _ASLEEP, _MARKS, _VERDICT = 0, 1, 2, 3, 4, 5, 7
SLOT_BYTES = 1 << 22  # one of a rank's two; pages that are not used cost nothing
# Where a slot begins in its page: some processors copy ten times slower to a place less than 64 bytes behind
# the source's in their pages, and arrays of the heap lie near the beginning.
_SHIFT_BYTES = 2048
_SPIN_S = 100e-6
_PAGE_BYTES = 4096
# Where compiled code counts the meetings, looks for the mark, and adds up the nanoseconds that it waits.
_STATE_EPOCH, _STATE_MARK, _STATE_WAITED = 3, 12, 13
_LOOK_S = 0.25  # how often a rank that waits looks at the clock and at the others
# Meetings after which compiled code pays: if the program has loaded the compiler anyway, and if it has not.
_MEETINGS_BEFORE_COMPILING = (64, 4096)
_LOOK_MEETINGS = 64  # how often it is looked whether the code has been compiled
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


@dataclass
class Arena:
    """Memory of :meth:`Meeting.allocate`.

    Attributes:
        number: the same on every rank, from 1.
        rows: ``[size, bytes]``, every rank's part.
        place: what compiled code knows: the number, the address of the first rank's part in this process,
            bytes from one part to the next, and the address of this rank's part.
    """

    number: int
    rows: NDArray[np.uint8]
    place: NDArray[np.int64]


class Question(Protocol):
    """Whether the ranks of all hosts have come for one call, which one rank of each host asks the others'."""

    def ask(self, agreed: bool) -> None:
        """Begin to ask, if that has not been done; ``agreed``: those of this host have come for one call."""

    def hear(self) -> bool:
        """Wait for the answer."""


class Meeting:
    """Ranks of one host that meet, and share memory.

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
        memory = neighbours.share(head + 2 * self.size * SLOT_BYTES, self.ranks, f"group {name}")
        self._cells = memory[: self.size * _CELL * 8].cast("q")
        self._cells_address = np.frombuffer(memory, np.uint8, head).ctypes.data
        self._slots = np.frombuffer(memory, np.uint8, offset=head).reshape(2, self.size, SLOT_BYTES)
        self._own = self.rank * _CELL
        self._others = [rank * _CELL for rank in range(self.size) if rank != self.rank]
        self._num_meetings = 0  # until they are compiled; see _epoch
        self._may_compile = True
        self._compiled: Any = None
        self._state: Any = None  # what compiled code knows of the group
        self._dtypes: frozenset[np.dtype] = frozenset()  # of what it reduces
        self._spins = 0
        self._numbers = memoryview(bytearray(8 * _STATE_MARK + 8)).cast("q")  # the state, once there is one
        self._arenas: dict[int, Arena] = {}
        self._num_arenas = 0
        self._waited_s = 0.0  # by what is not compiled

    @property
    def waited_s(self) -> float:
        """Seconds waited for others, all together; of what is not compiled but for waits below 0.1 ms."""
        return self._waited_s + (0.0 if self._state is None else 1e-9 * int(self._state[_STATE_WAITED]))

    def add_wait(self, seconds: float) -> None:
        """Count what was waited for elsewhere, as for other hosts."""
        self._waited_s += seconds

    # Meeting

    @property
    def _epoch(self) -> int:
        """The number of the last meeting."""
        return self._num_meetings if self._state is None else int(self._state[_STATE_EPOCH])

    def announce(self, mark: int) -> None:
        """Compare ``mark`` with the other ranks' at every meeting from here on.

        Collective: no; blocks: no.
        """
        self._numbers[_STATE_MARK] = mark

    def meet(self) -> None:
        """Return when every rank has come.

        Collective: yes; blocks: yes.

        Raises:
            DisagreementError: the ranks have not announced the same; on all of them, and nobody is late.
        """
        if self._state is not None:
            if self._compiled.meet(self._state, 0 if self._computes() else self._spins):
                self._await_late()
            return
        self._num_meetings = epoch = self._num_meetings + 1
        cells = self._cells
        if not _IN_ORDER:
            _fence()
        mark = cells[self._own + _MARKS + (epoch & 1)] = self._numbers[_STATE_MARK]
        cells[self._own] = epoch
        for cell in self._others:
            if cells[cell + _AWAITED] == self.rank + 1:  # it sleeps until this rank comes
                self._neighbours.ring(self.ranks[cell // _CELL])
        for cell in self._others:
            if cells[cell] < epoch:
                self._await(cell, epoch)
        if not _IN_ORDER:
            _fence()
        for cell in self._others:
            if cells[cell + _MARKS + (epoch & 1)] != mark:
                raise DisagreementError
        if self._may_compile and epoch % _LOOK_MEETINGS == 0 and self._pays(epoch):
            self._compile()

    def agree_between(self, question: Question) -> None:
        """Meet, and compare what was announced with the other hosts too.

        Collective: yes; blocks: yes.

        Raises:
            DisagreementError: on every rank of all hosts.
        """
        self.meet_and_ask(question)
        self.meet_and_hear(question)

    def meet_and_ask(self, question: Question) -> None:
        """Meet; the first rank begins to ask the other hosts, which go on meanwhile."""
        try:
            self.meet()
        except DisagreementError:
            if self.rank == 0:
                question.ask(False)
                question.hear()
            raise
        if self.rank == 0:
            question.ask(True)

    def meet_and_hear(self, question: Question, then: Callable[[], None] | None = None) -> None:
        """Learn at a meeting what the hosts have answered; the first rank calls ``then`` where they agree."""
        if self.rank == 0:
            if not question.hear():
                self._cells[_VERDICT] = self._epoch + 1  # the number of the coming meeting
            elif then is not None:
                then()
        self.meet()
        if self._cells[_VERDICT] == self._epoch:
            raise DisagreementError

    def _pays(self, epoch: int) -> bool:
        """Whether to load compiled code. Another process compiles it: no collective waits for that."""
        if epoch < _MEETINGS_BEFORE_COMPILING["numba" not in sys.modules]:
            return False
        request((SHARED,))
        return is_compiled(SHARED) or cache_folder() is None

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
            SLOT_BYTES,
        )
        if state is not None:
            self._spins = compiled.prepare(state)
            self._dtypes = frozenset(map(np.dtype, compiled.DTYPES))
            state[_STATE_MARK] = self._numbers[_STATE_MARK]
            self._compiled, self._state, self._numbers = compiled, state, memoryview(state)

    def _await_late(self) -> None:
        """Go on waiting for the last meeting, which somebody is late for or has come to for another call."""
        start_s = time.monotonic()
        look_s = start_s + _LOOK_S
        late = self._compiled.wait(self._state, 0)
        while late > 0:
            rank = self.ranks[late - 1]
            ended = self._neighbours.has_ended(rank)
            late = self._compiled.wait(self._state, 0)
            if ended and late > 0 and self.ranks[late - 1] == rank:
                raise RankFailedError(f"waited for {name_ranks([rank])} of the world, which ended without it")
            if time.monotonic() > look_s:
                self._look(self._epoch, time.monotonic() - start_s)
                look_s = time.monotonic() + _LOOK_S
        if look_s > start_s + _LOOK_S:  # the watch may have told
            self._neighbours.tell("")
        if late < 0:
            raise DisagreementError

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
        start_s = time.perf_counter()
        try:
            self._neighbours.wait_for(
                lambda: cells[cell] >= epoch,
                self.ranks[cell // _CELL],
                lambda waited_s: self._look(epoch, waited_s),
            )
        finally:
            cells[self._own + _AWAITED] = 0
            self._waited_s += time.perf_counter() - start_s

    def _missing(self, epoch: int) -> list[int]:
        return [self.ranks[cell // _CELL] for cell in self._others if self._cells[cell] < epoch]

    def _look(self, epoch: int, waited_s: float) -> None:
        ended = [rank for rank in self._missing(epoch) if self._neighbours.has_ended(rank)]
        if gone := set(ended) & set(self._missing(epoch)):  # it may have come and then ended
            raise RankFailedError(f"waited for {name_ranks(gone)} of the world, which ended without it")
        self._watch(self._missing(epoch), waited_s)

    # Memory

    def allocate(self, nbytes: int, lazy: bool = False) -> NDArray[np.uint8]:
        """Zeroed memory whose arrays are reduced in place.

        Collective: yes, with equal ``nbytes``; blocks: yes.

        Args:
            nbytes: bytes.
            lazy: let pages come as they are written; else large ones come at once.
        """
        self.meet()
        self._num_arenas += 1
        page = LARGE_PAGE_BYTES if nbytes >= LARGE_PAGE_BYTES else _PAGE_BYTES
        stride = -(-max(nbytes, 1) // page) * page  # pages behind the bytes are not used and cost nothing
        topic = f"arena {self._num_arenas} of {self._name}"
        memory = self._neighbours.share(stride * self.size, self.ranks, topic)
        rows = np.frombuffer(memory, np.uint8).reshape(self.size, stride)
        own = np.frombuffer(memory, np.uint8, nbytes, self.rank * stride)
        if not lazy:
            enlarge_pages(own)
        # Views of ``own`` have it as their base, by whose identity the arena is found, and end with the last.
        place = np.array([self._num_arenas, rows.ctypes.data, stride, own.ctypes.data], np.int64)
        self._arenas[id(own)] = Arena(self._num_arenas, rows, place)
        weakref.finalize(own, self._arenas.pop, id(own)).atexit = False
        return own[:]

    def rows(self, own: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Every rank's memory of the :meth:`allocate` that gave ``own``, in whole pages, ``[size, n]``."""
        return self._arenas[id(own.base)].rows

    def _place(self, x: NDArray[Any]) -> tuple[Arena | None, int]:
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
