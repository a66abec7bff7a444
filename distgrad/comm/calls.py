"""The record of a rank's calls: what was called, in which order, from which line."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from types import CodeType

import numpy as np

__all__ = ["Call", "CallLog", "DisagreementError", "describe_mismatch", "name_ranks"]

_SHOWN = 6  # lines of a report
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_RING = 32

# Bytes that a rank sends in the algorithms that send least, as parts of the array's bytes, for n ranks.
_SENT: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2.0 * (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "all_gather": lambda n: n - 1.0,
    "broadcast": lambda n: (n - 1) / n,
}


@functools.cache
def _shares(size: int) -> dict[str, float]:
    """By verb, the part of its array that each of ``size`` ranks sends; without verbs of unequal arrays."""
    return {verb: share(size) for verb, share in _SENT.items()}


_digests: dict[tuple[object, ...], int] = {}  # of calls, but for their arrays' shapes and their numbers
_MAX_DIGESTS = 1000


class DisagreementError(Exception):
    """The ranks that meet have come for different calls; what these are is found out by who catches it."""


class Call:
    """One call of a communicator's verb.

    Attributes:
        num_bytes: of its array, if :meth:`sent_bytes` is to count them.
        number: its place among the group's collectives, from 0; -1 for ``send`` and ``recv``, which only some
            of the ranks issue.
        site: the caller, the innermost one outside distgrad, and the offset in its code. The line comes from
            these when somebody asks: finding it takes microseconds.
        within: the name of the submitted function that issues it; None where the program itself does.
        blocks: whether the program waits for it and does nothing else.
    """

    __slots__ = ("blocks", "dtype", "num_bytes", "number", "options", "shape", "site", "verb", "within")

    def __init__(
        self,
        verb: str,
        dtype: np.dtype | None = None,
        shape: tuple[int, ...] = (),
        options: str = "",
        num_bytes: float = 0,
    ) -> None:
        self.verb = verb
        self.dtype = dtype
        self.shape = shape
        self.options = options
        self.num_bytes = num_bytes
        self.number = -1
        self.site: tuple[CodeType | None, int] = (None, 0)
        self.within: str | None = None
        self.blocks = False

    def __str__(self) -> str:
        array = "" if self.dtype is None else f"{self.dtype}[{', '.join(map(str, self.shape))}]"
        within = "" if self.within is None else f" in submit({self.within})"
        return f"{self.verb}({', '.join(filter(None, (array, self.options)))}){within}"

    @property
    def name(self) -> str:
        """``#417 all_reduce``, or the verb alone where there is no number."""
        return self.verb if self.number < 0 else f"#{self.number} {self.verb}"

    @property
    def place(self) -> str:
        """``train.py:31``, as Python's tracebacks would find it; none where no line of a program calls."""
        code, offset = self.site
        if code is None:
            return "?:0"
        if code.co_filename.startswith(_PACKAGE):
            return "the end of its program"
        lines = (line for start, stop, line in code.co_lines() if start <= offset < stop)
        return f"{code.co_filename}:{next(lines, None) or code.co_firstlineno}"

    def sent_bytes(self, size: int) -> float:
        """Bytes of the array that each of ``size`` ranks sends on average, in the algorithm that sends least.

        0 for calls whose arrays differ between the ranks, and for those without one.
        """
        return _shares(size)[self.verb] * self.num_bytes if self.num_bytes else 0.0

    def array_bytes(self) -> int:
        """Bytes of its array; 0 without one."""
        return 0 if self.dtype is None else math.prod(self.shape) * self.dtype.itemsize

    def fingerprint(self) -> int:
        """64 bits, signed, that two ranks have in common if, and only if, they issued the same call.

        Every call asks, so only what repeats is digested. Python hashes a tuple of whole numbers, unlike a
        text, to the same number in every process.
        """
        key = (self.verb, self.dtype, self.options, self.within)
        digest = _digests.get(key)
        if digest is None:
            if len(_digests) == _MAX_DIGESTS:
                _digests.clear()
            text = repr((self.verb, str(self.dtype), self.options, self.within))
            whole = hashlib.blake2b(text.encode(), digest_size=8).digest()
            digest = _digests[key] = int.from_bytes(whole, "little", signed=True)
        return digest ^ hash(self.shape) ^ self.number


class CallLog:
    """Numbers a group's calls and keeps the last 32 of them for error reports."""

    def __init__(self) -> None:
        self.count = 0
        self._last: deque[Call] = deque(maxlen=_RING)

    def add(self, call: Call, *, numbered: bool = True, depth: int = 3) -> Call:
        """Keep ``call`` with its number and its caller's line; return it.

        Args:
            call: the call.
            numbered: whether all ranks issue it.
            depth: calls between this one and the nearest that may be the caller's; the usual ones are a verb
                and what issues it.
        """
        if numbered:
            call.number = self.count
            self.count += 1
        frame = sys._getframe(depth)  # every frame that is looked at costs 0.3 us
        while frame.f_code.co_filename.startswith(_PACKAGE):
            outer = frame.f_back
            if outer is None:
                break
            frame = outer
        call.site = frame.f_code, frame.f_lasti
        self._last.append(call)
        return call

    def report(self, rank: int) -> str:
        """The last calls, oldest first, in few lines; equal ones in a row share one."""
        texts = [(call.name.split()[0], f"{call} at {call.place}") for call in self._last]
        lines = []
        for text, group in itertools.groupby(texts, lambda each: each[1]):
            numbers = [number for number, _ in group]
            span = numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
            lines.append(f"  {span} {text}")
        return f"Last calls of rank {rank}:\n" + "\n".join(lines[-_SHOWN:])


def describe_mismatch(name: str, group: str, entries: dict[int, tuple[str, str]], agreed: Call | None) -> str:
    """What ranks have called where they should have called the same, each with its line.

    Args:
        name: of the collective.
        group: its group.
        entries: by rank, the call and its place.
        agreed: the last one that was the same on all.
    """
    first: dict[str, int] = {}
    for rank in sorted(entries):
        first.setdefault(entries[rank][0], rank)
    return (
        f"collective {name}, group '{group}': "
        + ", ".join(f"rank {rank} called {text}" for text, rank in first.items())
        + "; every rank must issue the same calls in the same order. "
        + f"Last agreed: {agreed.name if agreed else 'none'}\n"
        + "\n".join(f"  rank {rank} at {entries[rank][1]}" for rank in first.values())
    )


def name_ranks(ranks: Iterable[int]) -> str:
    """``rank 3``, or ``ranks 1, 2``."""
    numbers = sorted(ranks)
    return f"rank{'s' if len(numbers) != 1 else ''} {', '.join(map(str, numbers))}"
