"""Which calls the ranks have issued, compared behind them: for collectives at which no host waits.

Every rank of a host writes the fingerprint of each call into memory that all of them map, and compares, now
and then, what it and the others have written. All ranks are told of the first difference, and write
down what they had called there. Ranks of several hosts exchange their fingerprints too, many at once.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable

import numpy as np

from distgrad.comm.base import Communicator
from distgrad.comm.calls import Call, describe_mismatch
from distgrad.comm.meeting import Meeting
from distgrad.errors import CommMismatchError

__all__ = ["PERIOD", "Ledger"]

PERIOD = (
    1024  #: Calls after which what is behind must have been compared, and after which hosts compare theirs.
)
_KEPT = 4 * PERIOD
_COUNT, _COMPARED, _ALARM, _TEXT_OF, _MARKS = range(5)  # what stands in a rank's row
_TEXT_BYTES = 1 << 12
_ANSWER_S = 2.0  # how long to wait for the others to write down what they called
_RETRY_S = 1e-3


class Ledger:
    """The calls of one group on this host, from this rank's side.

    Args:
        meeting: the group's ranks on this host.
        group: its name in error reports.
        ranks: the places in the group of those ranks.
    """

    def __init__(self, meeting: Meeting, group: str, ranks: list[int]) -> None:
        own = meeting.allocate(8 * (_MARKS + _KEPT) + _TEXT_BYTES)
        rows = meeting.rows(own)[:, : own.size]
        self._group = group
        self._ranks = ranks
        self._numbers = rows[:, : 8 * (_MARKS + _KEPT)].view(np.int64)
        self._texts = rows[:, 8 * (_MARKS + _KEPT) :]
        self._own = memoryview(self._numbers[meeting.rank])
        self._place = meeting.rank
        self._compared = [0] * meeting.size  # with each of them
        self._count = 0
        self._num_between = 0  # compared between hosts
        self._calls: list[Call] = [Call("")] * _KEPT
        self._comparing = threading.Lock()  # by the program or by the watchdog

    def write(self, call: Call) -> bool:
        """Note that this rank has issued ``call``; whether a period is full, and :meth:`catch_up` is due."""
        count = self._count
        place = count % _KEPT
        self._calls[place] = call
        self._own[_MARKS + place] = call.fingerprint()
        self._count = self._own[_COUNT] = count + 1
        return count % PERIOD == PERIOD - 1

    def catch_up(self, wait: Callable[[], None]) -> None:
        """Return once nothing that has not been compared will be overwritten in the coming period.

        Args:
            wait: called while others are behind; raises to give up.
        """
        behind = self._count + PERIOD - _KEPT
        while (self._numbers[:, _COMPARED] < behind).any() and not self._own[_ALARM]:
            self.compare()
            wait()
            time.sleep(_RETRY_S)

    def compare(self) -> None:
        """Compare this rank's calls with the others', as far as both are; tell all of a difference."""
        with self._comparing:
            for other, start in enumerate(self._compared):
                stop = min(self._own[_COUNT], int(self._numbers[other, _COUNT]))
                places = _MARKS + np.arange(start, stop) % _KEPT
                differs = np.flatnonzero(self._numbers[self._place, places] != self._numbers[other, places])
                if differs.size:
                    self.alarm(start + int(differs[0]))
                    return
                self._compared[other] = stop
            self._own[_COMPARED] = min(self._compared)

    def alarm(self, number: int) -> None:
        """Tell all ranks of this host that the calls of this number differ; the earliest one counts."""
        for row in self._numbers:
            if not 0 < row[_ALARM] <= number + 1:
                row[_ALARM] = number + 1

    def mismatch(self) -> CommMismatchError | None:
        """What the ranks of this host have called where their calls were first found to differ, or None."""
        self.compare()
        number = self._own[_ALARM] - 1
        if number < 0:
            return None
        self._texts[self._place] = np.frombuffer(
            pickle.dumps(self._entry(number)).ljust(_TEXT_BYTES), np.uint8
        )
        self._own[_TEXT_OF] = number + 1
        deadline_s = time.monotonic() + _ANSWER_S
        while (self._numbers[:, _TEXT_OF] != number + 1).any() and time.monotonic() < deadline_s:
            time.sleep(_RETRY_S)
        entries = {
            rank: pickle.loads(text.tobytes())
            for rank, row, text in zip(self._ranks, self._numbers, self._texts, strict=True)
            if row[_TEXT_OF] == number + 1
        }
        return self._explain(number, entries)

    def compare_hosts(self, host: Communicator) -> CommMismatchError | None:
        """Compare the period that is full with the other hosts'; what differs, or None.

        Collective: yes, inside ``host.submit``; blocks: yes.
        """
        start = self._num_between
        self._num_between += PERIOD
        every = host.all_gather(self._numbers[self._place, _MARKS + np.arange(start, start + PERIOD) % _KEPT])
        differs = np.flatnonzero((every != every[0]).any(axis=0))
        if not differs.size:
            return None
        number = start + int(differs[0])
        entries = host.all_gather_object(self._entry(number))
        return self._explain(number, dict(enumerate(entries)))

    def _entry(self, number: int) -> tuple[str, str] | None:
        """This rank's call of that number with its line; None if it has not come there or long gone on."""
        if not max(0, self._count - _KEPT) <= number < self._count:
            return None
        call = self._calls[number % _KEPT]
        return str(call)[:1000], call.place[-1000:]

    def _explain(self, number: int, entries: dict[int, tuple[str, str] | None]) -> CommMismatchError:
        known = {rank: entry for rank, entry in entries.items() if entry is not None}
        last = self._calls[(number - 1) % _KEPT] if number else None
        return CommMismatchError(describe_mismatch(f"#{number}", self._group, known, last))
