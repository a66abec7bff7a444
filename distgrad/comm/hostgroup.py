"""Collectives among ranks of one host, through the slots of their meeting, or arrays where they lie.

An array in memory of ``allocate`` is reduced where it lies, by slices, if every rank's lies at the same
place; any other goes through the slots in pieces.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.comm.meeting import SLOT_BYTES, Meeting, Question
from distgrad.comm.reduction import UFUNCS, is_narrow, reduce_arrays

__all__ = ["HostGroup"]

_PIECE_BYTES = 1 << 20  # of an array that goes through the slots: what stays in the cache on its way
_SMALL_BYTES = 1 << 14  # up to here every rank reduces everything for itself, which saves a meeting
_MAX_VIEWS = 256
_ALIGNMENT_BYTES = 128  # slices begin where no other rank's cache line ends
_OPS = {op: number for number, op in enumerate(UFUNCS)}
_NOWHERE = np.zeros(4, np.int64)  # the place of arrays that lie in no arena


class HostGroup(Meeting):
    """Ranks of one host that communicate: what a communicator does within the host."""

    @functools.cached_property
    def _views(self) -> dict[tuple[int, np.dtype], list[list[NDArray[Any]]]]:
        """Small arrays in both halves of the slots, by their size and dtype."""
        return {}

    @staticmethod
    def _starts(length: int, step: int) -> range:
        """Where the pieces of an array begin; an empty one has a piece too, so that the ranks meet."""
        return range(0, max(length, 1), step)

    def _slices(self, x: NDArray[Any]) -> list[tuple[int, int]]:
        """Slices of a flat array, one a rank, as equal as whole cache lines can be."""
        step = _ALIGNMENT_BYTES // x.itemsize
        lines = -(-x.size // step)
        ends = [min(lines * rank // self.size * step, x.size) for rank in range(self.size + 1)]
        return list(itertools.pairwise(ends))

    # Collectives; arguments are those of distgrad.comm.pipeline.CallPipeline

    def all_reduce(self, x: NDArray[Any], op: str) -> None:
        """Reduce ``x`` in place, with the same bits on every rank."""
        if x.dtype in self._dtypes and x.flags.aligned:
            self._reduce_compiled(x, _OPS[op])
        elif x.nbytes <= _SMALL_BYTES:
            self._reduce_small(x, op)
        elif (everywhere := self._find_everywhere(x)) is None:
            self._reduce_pieces(x, op)
        else:
            start, stop = self._slices(x)[self.rank]
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
        if not self._work_in_place(compiled.reduce_in_place, x, (x, op)):
            step = _PIECE_BYTES // x.itemsize
            for start in range(0, x.size, step):
                num_met = 0
                while num_met := compiled.reduce_piece(state, x[start : start + step], op, spins, num_met):
                    self._await_late()

    def _work_in_place(self, function: Callable[..., int], x: NDArray[Any], given: tuple[Any, ...]) -> bool:
        """Run compiled code on arrays that lie in one arena at one place; False, and nothing done, if not."""
        arena = self._arenas.get(id(x.base))
        place = _NOWHERE if arena is None else arena.place
        state, spins = self._state, 0 if self._computes() else self._spins
        code = function(state, *given, spins, place, False)
        if code == 1:
            self._await_late()
            code = function(state, *given, spins, place, True)
        if code == 2:
            self._await_late()
        return code != 3

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

    def all_reduce_between(
        self, x: NDArray[Any], op: str, between: Callable[[NDArray[Any]], None], question: Question
    ) -> None:
        """Reduce ``x`` over this host, then by ``between`` over the hosts, which the first rank calls.

        Collective: yes; blocks: yes.

        Args:
            x: flat; overwritten.
            op: the reduction.
            between: reduces a flat array in place over the hosts; gets float32 for narrower floats.
            question: whether all hosts have come for this, which they answer while each reduces its own.

        Raises:
            DisagreementError: they have not; on every rank of all hosts.
        """
        wide = np.dtype(np.float32) if is_narrow(x.dtype) else x.dtype
        step = SLOT_BYTES // wide.itemsize
        for begin in self._starts(x.size, step):
            piece = x[begin : begin + step]
            slots = self._next_slots()[:, : piece.size * wide.itemsize].view(wide)
            slots[self.rank] = piece
            self.meet_and_ask(question)
            start, stop = self._slices(slots[0])[self.rank]
            arrays = list(slots[:, start:stop])
            reduce_arrays(arrays, arrays[:1], op)
            self.meet()
            self.meet_and_hear(question, functools.partial(between, slots[0]))
            with np.errstate(all="ignore"):
                np.copyto(piece, slots[0], casting="unsafe")

    def reduce_scatter(self, x: NDArray[Any], out: NDArray[Any], op: str, edges: list[int]) -> None:
        """Reduce this rank's part of the flat ``x`` into ``out``, with the bits of :meth:`all_reduce`."""
        start, stop = edges[self.rank : self.rank + 2]
        if x.nbytes > _SMALL_BYTES:
            if x.dtype in self._dtypes and x.flags.aligned:
                arguments = x, out, start, _OPS[op]
                if self._work_in_place(self._compiled.scatter_in_place, x, arguments):
                    return
            elif (everywhere := self._find_everywhere(x)) is not None:
                reduce_arrays([array[start:stop] for array in everywhere], [out], op)
                self.meet()
                return
        step = SLOT_BYTES // x.itemsize // self.size  # of every part at once
        lengths = [stop - start for start, stop in itertools.pairwise(edges)]
        for begin in self._starts(max(lengths), step):
            slots = self._next_slots()[:, : self.size * step * x.itemsize].view(x.dtype)
            for rank, (length, edge) in enumerate(zip(lengths, edges, strict=False)):
                piece = x[edge + min(begin, length) : edge + min(begin + step, length)]
                slots[self.rank, rank * step : rank * step + piece.size] = piece
            self.meet()
            piece = out[begin : begin + step]
            first = self.rank * step
            reduce_arrays([slot[first : first + piece.size] for slot in slots], [piece], op)

    def all_gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8], edges: list[int]) -> None:
        """Collect the flat bytes ``x`` into the parts of ``out``, of which ``x`` may be this rank's."""
        parts = list(itertools.pairwise(edges))
        own = out[slice(*parts[self.rank])]
        if not np.may_share_memory(own, x):
            own[:] = x
        if out.nbytes > _SMALL_BYTES and self._state is not None:
            whole_words = not any(edge % 4 for edge in (out.ctypes.data, *edges))
            numbers = out.view(np.int32 if whole_words else np.uint8)
            starts = np.array(edges) // numbers.itemsize
            arguments = numbers, starts, numbers.dtype.type(0)
            if self._work_in_place(self._compiled.gather_in_place, numbers, arguments):
                return
        elif out.nbytes > _SMALL_BYTES and (everywhere := self._find_everywhere(out)) is not None:
            for rank, (start, stop) in enumerate(parts):
                if rank != self.rank:
                    out[start:stop] = everywhere[rank][start:stop]
            self.meet()
            return
        for begin in self._starts(max(stop - start for start, stop in parts), SLOT_BYTES):
            slots = self._next_slots()
            piece = own[begin : begin + SLOT_BYTES]
            slots[self.rank, : piece.size] = piece
            self.meet()
            for rank, (start, stop) in enumerate(parts):
                if rank != self.rank:
                    piece = out[start:stop][begin : begin + SLOT_BYTES]
                    piece[:] = slots[rank, : piece.size]

    def broadcast(self, x: NDArray[np.uint8], root: int) -> None:
        """Replace the flat bytes ``x`` by the root's."""
        for start in self._starts(x.size, SLOT_BYTES):
            piece = x[start : start + SLOT_BYTES]
            slot = self._next_slots()[root, : piece.size]
            if self.rank == root:
                slot[:] = piece
            self.meet()
            if self.rank != root:
                piece[:] = slot

    def gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8] | None) -> None:
        """Collect the flat bytes ``x`` into the rows of ``out``, ``[size, x.size]``, where it is given."""
        for start in self._starts(x.size, SLOT_BYTES):
            piece = x[start : start + SLOT_BYTES]
            slots = self._next_slots()[:, : piece.size]
            slots[self.rank] = piece
            self.meet()
            if out is not None:
                out[:, start : start + SLOT_BYTES] = slots

    def scatter(self, x: NDArray[np.uint8] | None, out: NDArray[np.uint8], root: int) -> None:
        """Send the rows of the root's ``x``, ``[size, n]``, to the ranks' flat ``out``."""
        step = SLOT_BYTES // self.size
        for start in self._starts(out.size, step):
            piece = out[start : start + step]
            slot = self._next_slots()[root, : self.size * piece.size].reshape(self.size, -1)
            if x is not None:
                slot[:] = x[:, start : start + step]
            self.meet()
            piece[:] = slot[self.rank]

    def all_to_all(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Send the rows of ``x`` and receive the rows of ``out``, both ``[size, n]``."""
        step = SLOT_BYTES // self.size
        for start in self._starts(x.shape[1], step):
            piece = x[:, start : start + step]
            slots = self._next_slots()[:, : piece.size].reshape(self.size, *piece.shape)
            slots[self.rank] = piece
            self.meet()
            out[:, start : start + step] = slots[:, self.rank]
