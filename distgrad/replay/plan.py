"""A plan of memory: where in one block each temporary of a step lies, by its first and last use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from distgrad.replay.calls import Call
from distgrad.replay.places import Place, Storage

__all__ = ["allocate", "plan"]

_ALIGNMENT = 64  # a cache line, and the widest vector register


class _Block:
    """Free stretches of a block that grows at its end."""

    def __init__(self) -> None:
        self.size = 0
        self._free: list[tuple[int, int]] = []

    def take(self, nbytes: int) -> int:
        """The start of a stretch: of the smallest that is large enough."""
        fits = [each for each in self._free if each[1] >= nbytes]
        if fits:
            start, length = min(fits, key=lambda each: each[1])
            self._free.remove((start, length))
            if length > nbytes:
                self.give(start + nbytes, length - nbytes)
            return start
        start = self.size
        if self._free and sum(self._free[-1]) == self.size:
            start = self._free.pop()[0]
        self.size = start + nbytes
        return start

    def give(self, start: int, nbytes: int) -> None:
        """Give a stretch back."""
        self._free.append((start, nbytes))
        self._free.sort()
        joined: list[tuple[int, int]] = []
        for low, length in self._free:
            if joined and sum(joined[-1]) == low:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((low, length))
        self._free = joined


def _rounded(nbytes: int) -> int:
    return -(-max(nbytes, 1) // _ALIGNMENT) * _ALIGNMENT


def plan(units: Sequence[Sequence[Call]], outputs: Iterable[Place]) -> int:
    """Give every temporary its ``offset``; returns the bytes of the block.

    Args:
        units: calls in their order; those of one unit may run at the same time.
        outputs: what is read behind the last.
    """
    first: dict[Storage, int] = {}
    last: dict[Storage, int] = {}
    for number, unit in enumerate(units):
        for call in unit:
            for place in (*call.reads, *call.writes):
                _use(place, number, first, last)
    for place in outputs:
        _use(place, len(units), first, last)
    begins: dict[int, list[Storage]] = {}
    ends: dict[int, list[Storage]] = {}
    for storage, number in first.items():
        begins.setdefault(number, []).append(storage)
        ends.setdefault(last[storage], []).append(storage)
    block = _Block()
    for number in range(len(units) + 1):
        for storage in begins.get(number, ()):
            storage.offset = block.take(_rounded(storage.nbytes))
        for storage in ends.get(number, ()):
            assert storage.offset is not None
            block.give(storage.offset, _rounded(storage.nbytes))
    return block.size


def _use(place: Place, number: int, first: dict[Storage, int], last: dict[Storage, int]) -> None:
    if not place.is_empty and place.storage.is_born and not place.storage.owners:
        first.setdefault(place.storage, number)
        last[place.storage] = number


def allocate(nbytes: int) -> np.ndarray:
    """The block's memory."""
    raw = np.zeros(nbytes + _ALIGNMENT, np.uint8)
    start = -raw.__array_interface__["data"][0] % _ALIGNMENT
    return raw[start : start + nbytes]
