"""Where an epoch of a stream stands, and the pieces that its batches are made of from there on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

from distgrad.data.collate import Share

__all__ = ["Piece", "Pieces", "Place", "Reader"]


class Place(NamedTuple):
    """Where an epoch of a stream stands.

    A stream has one or several orders of its own samples, its lanes, of which each gives a batch in turn.

    Attributes:
        epoch: the stream's own.
        counts: samples that all ranks together were given of each lane, ``[lanes]``.
        next: the lane that gives the next batch.
    """

    epoch: int
    counts: tuple[int, ...]
    next: int = 0

    def after(self, piece: Piece) -> Place:
        """The place behind one more batch."""
        counts = list(self.counts)
        counts[piece.lane] = piece.start + piece.share.total
        return Place(self.epoch, tuple(counts), (piece.lane + 1) % len(counts))


class Piece(NamedTuple):
    """The samples of a batch: of which lane, behind how many, and which of those are this rank's."""

    lane: int
    start: int
    share: Share


class Pieces(Iterator[tuple[int, Piece]]):
    """The pieces of an epoch from a place on, each with the number of its batch, without an end of their own.

    Args:
        place: where the epoch stands.
        share: what of a lane makes a batch.
    """

    def __init__(self, place: Place, share: Share) -> None:
        self._counts, self._share = list(place.counts), share
        lanes = range(len(self._counts))
        self._turn = deque([*lanes[place.next :], *lanes[: place.next]])

    def __next__(self) -> tuple[int, Piece]:
        if not self._turn:
            raise StopIteration
        lane = self._turn[0]
        self._turn.rotate(-1)
        piece = Piece(lane, self._counts[lane], self._share)
        self._counts[lane] += self._share.total
        return number_of(piece.start, piece, len(self._counts)), piece

    def end(self, lane: int) -> None:
        """Give no more of a lane whose samples are used up."""
        if lane in self._turn:
            self._turn.remove(lane)


def number_of(start: int, piece: Piece, lanes: int) -> int:
    """The number of the batch at a place in a piece's lane: it keys the batch's random numbers."""
    return start // piece.share.total * lanes + piece.lane


class _Lanes(Protocol):
    def iterate(self, place: Place, lane: int) -> Iterator[Any]: ...


class Reader:
    """Reads pieces of a stream, those of a lane in their order; what others read is passed over.

    Args:
        stream: gives the samples of a lane, from its start.
        place: where the epoch stands.
        seed: called with the number of every batch before its samples are read, also of those passed over:
            so all readers of a lane draw alike.
    """

    def __init__(self, stream: _Lanes, place: Place, seed: Callable[[int], None] | None = None) -> None:
        self._stream, self._place, self._seed = stream, place, seed
        self._samples: dict[int, Iterator[Any]] = {}
        self._counts = [0] * len(place.counts)

    def seek(self, piece: Piece) -> Iterator[Any]:
        """The samples of a piece's lane, from the piece on."""
        lane, total = piece.lane, piece.share.total
        if lane not in self._samples:
            self._begin(-total, piece)
            self._samples[lane] = self._stream.iterate(self._place, lane)
        samples = self._samples[lane]
        for start in range(self._counts[lane], piece.start, total):
            self._begin(start, piece)
            deque(islice(samples, min(total, piece.start - start)), maxlen=0)
        self._counts[lane] = piece.start + total
        self._begin(piece.start, piece)
        return samples

    def _begin(self, start: int, piece: Piece) -> None:
        if self._seed is not None:
            self._seed(-1 if start < 0 else number_of(start, piece, len(self._counts)))
