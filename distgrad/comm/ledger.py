"""Which calls the ranks have issued, compared behind them: for collectives at which no host waits.

Every rank of a host writes the fingerprint of each call into memory that all of them map, and compares, now
and then, what it and the others have written; the first ranks of several hosts compare theirs by messages.
All ranks are told of the first difference, and write down what they had called there.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from distgrad.comm.calls import Call, describe_mismatch
from distgrad.comm.hostcompare import Entries, HostComparison, HostLine
from distgrad.comm.meeting import Meeting
from distgrad.errors import CommMismatchError

__all__ = ["PERIOD", "Ledger"]

PERIOD = 1024  #: Calls after which what is behind must have been compared.
_KEPT = 4 * PERIOD
_COUNT, _COMPARED, _ALARM, _TEXT_OF, _OTHERS_OF, _MARKS = range(6)  # what stands in a rank's row
_TEXT_BYTES = 1 << 12  # of what a rank has called
_OTHERS_BYTES = 1 << 14  # of what the ranks of other hosts have
_SHOWN_CHARS = 1000
_MAX_OTHERS = 6  # of their entries; the rest only repeats that all must issue the same
_ANSWER_S = 2.0  # how long to wait for the others to write down what they called
_RETRY_S = 1e-3


class Ledger:
    """The calls of one group, from this rank's side.

    Args:
        meeting: the group's ranks on this host.
        group: its name in error reports.
        ranks: the places in the group of those ranks.
        line: to the group's other hosts, on the first of those ranks; None elsewhere.
        num_hosts: of the group.
    """

    def __init__(
        self, meeting: Meeting, group: str, ranks: list[int], line: HostLine | None, num_hosts: int
    ) -> None:
        numbers_end = 8 * (_MARKS + _KEPT)
        texts_end = numbers_end + _TEXT_BYTES
        own = meeting.allocate(texts_end + _OTHERS_BYTES)
        rows = meeting.rows(own)[:, : own.size]
        self._group = group
        self._ranks = ranks
        self._numbers = rows[:, :numbers_end].view(np.int64)
        self._texts = rows[:, numbers_end:texts_end]
        self._others = rows[:, texts_end:]
        self._own = memoryview(self._numbers[meeting.rank])
        self._place = meeting.rank
        self._compared = [0] * meeting.size  # with each of them
        self._count = 0
        self._calls: list[Call] = [Call("")] * _KEPT
        self._comparing = threading.Lock()  # by the program or by the watchdog
        self._explaining = threading.Lock()
        self._found: CommMismatchError | None = None
        self._between = None if line is None else HostComparison(line, self._marks)
        self._num_hosts = num_hosts

    def write(self, call: Call) -> bool:
        """Note that this rank has issued ``call``; whether a period is full, and :meth:`catch_up` is due."""
        count = self._count
        place = count % _KEPT
        self._calls[place] = call
        self._own[_MARKS + place] = call.fingerprint()
        self._count = self._own[_COUNT] = count + 1
        return count % PERIOD == PERIOD - 1

    def end(self, call: Call) -> None:
        """Note that this rank issues nothing any more, which it cannot be asked about later."""
        call.number = self._count
        with self._explaining:
            if not self._own[_ALARM]:  # else the others wait for another call's
                self._write_text(call.number, (str(call), call.place))
        self.write(call)

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

    def is_settled(self) -> bool:
        """Whether all that this rank has issued was compared with everyone's, or is known to differ."""
        self.compare()
        if self._own[_ALARM]:
            return True
        compared = bool((self._numbers[:, _COMPARED] >= self._count).all())
        return compared and (self._between is None or self._between.is_idle())

    def compare(self) -> None:
        """Compare this rank's calls with the others', as far as both are; tell all of a difference."""
        with self._comparing:
            for other, start in enumerate(self._compared):
                stop = min(self._own[_COUNT], int(self._numbers[other, _COUNT]))
                places = _MARKS + np.arange(start, stop) % _KEPT
                differs = np.flatnonzero(self._numbers[self._place, places] != self._numbers[other, places])
                if differs.size:
                    self._raise_alarm(start + int(differs[0]))
                    break
                self._compared[other] = stop
            compared = min(self._compared)
            if self._between is not None:
                compared = min(compared, self._compare_hosts(self._between))
            self._own[_COMPARED] = compared

    def _compare_hosts(self, between: HostComparison) -> int:
        if self._own[_ALARM]:
            between.alarm = min(between.alarm, self._own[_ALARM] - 1)
        known = between.alarm
        agreed = between.step(self._own[_COUNT])
        if between.alarm < known:
            self._raise_alarm(between.alarm)
        return agreed

    def _marks(self, start: int, stop: int) -> NDArray[np.int64]:
        """This rank's fingerprints of those calls."""
        found: NDArray[np.int64] = self._numbers[self._place, _MARKS + np.arange(start, stop) % _KEPT]
        return found

    def _raise_alarm(self, number: int) -> None:
        """Tell all ranks of this host that the calls of this number differ; the earliest one counts."""
        for row in self._numbers:
            if not 0 < row[_ALARM] <= number + 1:
                row[_ALARM] = number + 1

    def mismatch(self) -> CommMismatchError | None:
        """What the ranks have called where their calls were first found to differ, or None."""
        self.compare()
        number = self._own[_ALARM] - 1
        if number < 0:
            return None
        with self._explaining:
            if self._found is None:
                self._found = self._explain(number)
        return self._found

    def _explain(self, number: int) -> CommMismatchError:
        entries = self._collect(number)
        if self._num_hosts > 1:
            entries |= self._collect_others(number, entries)
        last = min(number, self._count) - 1  # this rank may not have come so far
        agreed = self._calls[last % _KEPT] if last >= 0 else None
        return CommMismatchError(describe_mismatch(f"#{number}", self._group, entries, agreed))

    def _collect(self, number: int) -> Entries:
        """What the ranks of this host have called; they are asked by the alarm."""
        self._write_text(number, self._entry(number))
        self._await_answers(_TEXT_OF, slice(None), number, _ANSWER_S)
        every = zip(self._ranks, self._numbers, self._texts, strict=True)
        texts = {rank: pickle.loads(text.data) for rank, row, text in every if row[_TEXT_OF] == number + 1}
        return {rank: entry for rank, entry in texts.items() if entry is not None}

    def _collect_others(self, number: int, entries: Entries) -> Entries:
        """What the other hosts' ranks have, which this host's first rank has exchanged for its own."""
        if self._between is not None:
            found = self._between.exchange(number, entries, _ANSWER_S)
            shown = dict(sorted(found.items())[:_MAX_OTHERS])
            self._others[self._place] = _padded(shown, _OTHERS_BYTES)
            self._own[_OTHERS_OF] = number + 1
        self._await_answers(_OTHERS_OF, slice(1), number, 2 * _ANSWER_S)
        is_there = self._numbers[0, _OTHERS_OF] == number + 1
        others: Entries = pickle.loads(self._others[0].data) if is_there else {}
        return others

    def _await_answers(self, field: int, rows: slice, number: int, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while (self._numbers[rows, field] != number + 1).any() and time.monotonic() < deadline_s:
            time.sleep(_RETRY_S)

    def _write_text(self, number: int, entry: tuple[str, str] | None) -> None:
        self._texts[self._place] = _padded(entry, _TEXT_BYTES)
        self._own[_TEXT_OF] = number + 1

    def _entry(self, number: int) -> tuple[str, str] | None:
        """This rank's call of that number with its line; None if it has not come there or long gone on."""
        if not max(0, self._count - _KEPT) <= number < self._count:
            return None
        call = self._calls[number % _KEPT]
        return str(call)[:_SHOWN_CHARS], call.place[-_SHOWN_CHARS:]


def _padded(content: object, num_bytes: int) -> NDArray[np.uint8]:
    return np.frombuffer(pickle.dumps(content).ljust(num_bytes), np.uint8)
