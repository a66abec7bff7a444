"""What this process has used, and what its machine has taken away from it, as the kernel counts."""

from __future__ import annotations

import contextlib
import os
import resource
import time

__all__ = ["UsageMeter"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_FILES = ("/proc/self/statm", "/proc/self/schedstat", "/proc/stat")
_HEAD_BYTES = 256  # the numbers stand in a file's first line


class UsageMeter:
    """Reads the kernel's counters of the process that has made it.

    The files stay open: to open one takes twenty times as long as to read what it says now.
    """

    def __init__(self) -> None:
        self._places: list[int | None] = []
        for name in _FILES:
            try:
                self._places.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:  # no Linux, or a container that hides it
                self._places.append(None)

    def read(self) -> dict[str, float]:
        """The counters up to now, and when that is (``at_s``), without what this machine does not count."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        found = {
            "at_s": time.perf_counter(),
            "cpu_s": used.ru_utime + used.ru_stime,
            "minor_faults": used.ru_minflt,
            "major_faults": used.ru_majflt,
            "preempted": used.ru_nivcsw,
        }
        memory, scheduled, machine = map(_words, self._places)
        with contextlib.suppress(ValueError, IndexError):
            found["resident_bytes"] = int(memory[1]) * _PAGE_BYTES
        with contextlib.suppress(ValueError, IndexError):  # of the main thread: nanoseconds ready to run
            found["ready_s"] = int(scheduled[1]) * 1e-9
        with contextlib.suppress(ValueError, IndexError):
            found["steal_s"] = int(machine[8]) / _TICKS
        return found

    def close(self) -> None:
        """Read no more."""
        while self._places:
            place = self._places.pop()
            if place is not None:
                os.close(place)


def _words(place: int | None) -> list[bytes]:
    """The first words of a file of the kernel's; none of one that cannot be read."""
    try:
        return [] if place is None else os.pread(place, _HEAD_BYTES, 0).split()
    except OSError:
        return []
