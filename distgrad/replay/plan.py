"""A plan of memory: where in one block each temporary of a step lies, by its first and last use."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

import numpy as np

from distgrad.replay.calls import Call
from distgrad.replay.places import Place, Storage

__all__ = ["ALIGNMENT", "allocate", "plan"]

ALIGNMENT = 64  # a cache line, and the widest vector register


def _rounded(nbytes: int) -> int:
    return -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT


def plan(units: Sequence[Sequence[Call]], outputs: Iterable[Place]) -> int:
    """Give every temporary its ``offset``; returns the bytes of the block.

    The largest are placed first, each at the lowest place that is free as long as it lives. Source: Pisarchyk
    and Lee, Efficient memory management for deep neural net inference, 2020 (greedy by size).

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
    placed: list[tuple[int, int, int, int]] = []  # start, stop, first and last use, by their starts
    for storage in sorted(first, key=lambda each: (-each.nbytes, first[each])):
        begin, end, nbytes = first[storage], last[storage], _rounded(storage.nbytes)
        storage.offset = _lowest(placed, begin, end, nbytes)
        bisect.insort(placed, (storage.offset, storage.offset + nbytes, begin, end))
    return max((stop for _, stop, _, _ in placed), default=0)


def _lowest(placed: list[tuple[int, int, int, int]], begin: int, end: int, nbytes: int) -> int:
    """The lowest place for so many bytes beside those that live at the same time."""
    start = 0
    for low, high, first, last in placed:
        if last < begin or first > end:
            continue
        if low - start >= nbytes:
            break
        start = max(start, high)
    return start


def _use(place: Place, number: int, first: dict[Storage, int], last: dict[Storage, int]) -> None:
    if not place.is_empty and place.storage.is_born and not place.storage.owners:
        first.setdefault(place.storage, number)
        last[place.storage] = number


def allocate(nbytes: int) -> np.ndarray:
    """The block's memory."""
    raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
    start = -raw.__array_interface__["data"][0] % ALIGNMENT
    return raw[start : start + nbytes]
