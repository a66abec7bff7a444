"""The calls of several hosts, compared by messages for which nobody waits.

The first rank of each host sends the fingerprints of its calls to the first host's, a message at a time: the
next one when that has answered up to where they agree. Any host tells all of a difference, and each then
tells the others what its ranks had called there.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Entries", "HostComparison", "HostLine"]

#: By rank, its call and its line, of those that know it.
Entries = dict[int, tuple[str, str]]

_CALLS, _AGREED, _ALARM, _ENTRIES = range(4)  # kinds of messages
_NEVER = 1 << 62  # the number of no call
_RETRY_S = 1e-3


class HostLine(Protocol):
    """Messages between the first ranks of a group's hosts.

    Attributes:
        rank: this host, from 0.
        size: number of hosts.
    """

    rank: int
    size: int

    def is_open(self) -> bool:
        """Whether the calling thread may use it."""

    def send(self, message: NDArray[np.uint8], host: int, kind: int) -> None:
        """Hand over a message, which is the line's own from now on; does not wait."""

    def receive(self, host: int, kind: int) -> NDArray[np.uint8] | None:
        """The next message of that kind from a host; None if none has come."""

    def is_idle(self) -> bool:
        """Whether all that was sent has left."""


class HostComparison:
    """One host's side.

    Args:
        line: to the other hosts.
        marks: the fingerprints of this host's calls from one number up to another.

    Attributes:
        alarm: the number of the first call that is known to differ.
    """

    def __init__(self, line: HostLine, marks: Callable[[int, int], NDArray[np.int64]]) -> None:
        self.alarm = _NEVER
        self._line = line
        self._marks = marks
        self._others = [host for host in range(line.size) if host != line.rank]
        # Calls that a host and the first one have in common; but for the first one, its own are all it knows.
        self._agreed = dict.fromkeys(self._others if line.rank == 0 else [0], 0)
        self._num_sent = 0  # calls whose fingerprints the first host has been sent
        self._given: dict[int, NDArray[np.int64]] = {}  # by host, what has come and this rank is behind
        self._told = _NEVER  # the alarm that the others know

    def step(self, count: int) -> int:
        """Go on as far as nobody must be waited for.

        Args:
            count: calls that this host has issued.

        Returns:
            How many of them are known to be the same on all hosts.
        """
        if self._line.is_open():
            self._hear()
            if self._line.rank == 0:
                self._compare(count)
            else:
                self._ask(count)
            self._tell()
        return min(self._agreed.values())

    def is_idle(self) -> bool:
        """Whether all that was sent has left."""
        return self._line.is_idle()

    def _hear(self) -> None:
        for host in self._others:
            while (message := self._receive(host, _ALARM)) is not None:
                self.alarm = min(self.alarm, int(message[0]))

    def _tell(self) -> None:
        if self.alarm < self._told:
            self._told = self.alarm
            for host in self._others:
                self._send([self.alarm], host, _ALARM)

    def _ask(self, count: int) -> None:
        while (answer := self._receive(0, _AGREED)) is not None:
            self._agreed[0] = int(answer[0])
        if self._agreed[0] == self._num_sent < count:
            self._send(self._marks(self._num_sent, count), 0, _CALLS)
            self._num_sent = count

    def _compare(self, count: int) -> None:
        for host in self._others:
            given = self._given.pop(host, None)
            if given is None:
                given = self._receive(host, _CALLS)
            if given is None:
                continue
            start = self._agreed[host]
            stop = min(count, start + given.size)
            differs = np.flatnonzero(self._marks(start, stop) != given[: stop - start])
            if differs.size:
                self.alarm = min(self.alarm, start + int(differs[0]))
                continue
            self._agreed[host] = stop
            if stop - start == given.size:
                self._send([stop], host, _AGREED)
            else:
                self._given[host] = given[stop - start :]

    def exchange(self, number: int, entries: Entries, timeout_s: float) -> Entries:
        """What the other hosts' ranks have called at an alarm, and tell them ``entries``, this host's.

        Each call comes with the first rank of a host that has issued it.
        """
        first: dict[str, int] = {}
        for rank in sorted(entries):
            first.setdefault(entries[rank][0], rank)
        if not self._line.is_open():
            return {}
        own = pickle.dumps((number, {rank: entries[rank] for rank in first.values()}))
        for host in self._others:
            self._line.send(np.frombuffer(own, np.uint8), host, _ENTRIES)
        found: Entries = {}
        missing = set(self._others)
        deadline_s = time.monotonic() + timeout_s
        while missing and time.monotonic() < deadline_s:
            for host in sorted(missing):
                message = self._line.receive(host, _ENTRIES)
                if message is not None:
                    its_number, theirs = pickle.loads(message.tobytes())
                    if its_number == number:
                        found |= theirs
                    missing.discard(host)
            time.sleep(_RETRY_S)
        return found

    def _send(self, numbers: Any, host: int, kind: int) -> None:
        self._line.send(np.array(numbers, np.int64).view(np.uint8), host, kind)

    def _receive(self, host: int, kind: int) -> NDArray[np.int64] | None:
        message = self._line.receive(host, kind)
        return None if message is None else message.view(np.int64)
