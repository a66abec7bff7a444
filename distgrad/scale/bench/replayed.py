"""What the communication threads of ranks compute, recorded once and replayed as sleeps.

A compressor's arithmetic and the copying of a reduction take processor time, of which a machine with fewer
cores than ranks has too little: measured there, they say how busy it was. So a few steps are really carried
out, with whole arrays, and each call's processor time is written down: what its thread has spent since the
call before. In the steps that are timed the same calls move arrays that are ``SCALE`` times smaller over a
line that is as much slower, and each sleeps as long as it was seen to compute.
"""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.comm import Link
from distgrad.comm.base import Communicator
from distgrad.comm.calls import Call
from distgrad.comm.work import Work
from distgrad.parallel.buckets import Bucket

__all__ = ["SCALE", "Recording", "ReplayedHook", "Replaying", "Spent", "shrunk"]

SCALE = 64
_THREAD = re.compile(r"distgrad communication of rank (\d+)")


@dataclass(frozen=True)
class Spent:
    """One call of a step, on a communication thread.

    Args:
        verb: of the communicator.
        num_bytes: of its array.
        cpu_s: processor time of the thread since its call before.
    """

    verb: str
    num_bytes: int
    cpu_s: float


def shrunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a parameter that has ``SCALE`` times fewer elements, at least one."""
    return (max(1, round(int(np.prod(shape)) / SCALE)),)


def _rank_of_thread() -> int | None:
    found = _THREAD.search(threading.current_thread().name)
    return None if found is None else int(found[1])


@dataclass(frozen=True)
class _Watched(Link):
    """A line whose calls somebody adds seconds to, in the threads that carry them out."""

    added_s: Callable[[Call], float]

    def seconds(self, call: Call, size: int) -> float:
        return super().seconds(call, size) + self.added_s(call)


class Recording:
    """Writes down what each call's thread had to compute, over a line that takes no time.

    Attributes:
        link: for the ranks' ThreadWorld.
    """

    def __init__(self) -> None:
        self.link: Link = _Watched(0.0, float("inf"), self._hear)
        self._calls: defaultdict[int, list[Spent]] = defaultdict(list)
        self._before_s: defaultdict[int, float] = defaultdict(float)
        self._starts: dict[int, int] = {}

    def _hear(self, call: Call) -> float:
        rank, now_s = _rank_of_thread(), time.thread_time()
        if rank is not None:
            self._calls[rank].append(Spent(call.verb, call.array_bytes(), now_s - self._before_s[rank]))
            self._before_s[rank] = now_s
        return 0.0

    def begin(self, rank: int) -> None:
        """From here on a rank's steps count; none of its calls is under way."""
        self._starts[rank] = len(self._calls[rank])

    def step(self, num_steps: int) -> list[Spent]:
        """The calls of a step, each with its median time over all ranks and ``num_steps`` steps."""
        found = []
        for rank, start in self._starts.items():
            calls = self._calls[rank][start:]
            length = len(calls) // num_steps
            found += [calls[length * step : length * (step + 1)] for step in range(num_steps)]
        return [
            Spent(calls[0].verb, calls[0].num_bytes, statistics.median(call.cpu_s for call in calls))
            for calls in zip(*found, strict=True)
        ]


class Replaying:
    """Has calls of shrunk arrays take as long as whole ones were seen to compute, and the line as long.

    Args:
        calls: of a step.
        link: what moves whole arrays; None where copying alone does.

    Attributes:
        link: for the ranks' ThreadWorld.
    """

    def __init__(self, calls: list[Spent], link: Link | None) -> None:
        link = Link(0.0, float("inf")) if link is None else link
        self.link: Link = _Watched(link.latency_s, link.bytes_per_s / SCALE, self._spent_s)
        self._calls = calls
        self._places: dict[int | None, int] = {}

    def _spent_s(self, call: Call) -> float:
        rank = _rank_of_thread()
        if rank not in self._places or not self._calls:
            return 0.0
        place = self._places[rank] % len(self._calls)
        if self._calls[place].verb != call.verb:
            return 0.0  # it belongs to no step, as a comparison of the ranks
        self._places[rank] += 1
        return self._calls[place].cpu_s

    def begin(self, rank: int) -> None:
        """From here on a rank's steps count; none of its calls is under way."""
        self._places[rank] = 0


class ReplayedHook:
    """A compressor without its arithmetic: it issues the calls that one was seen to issue.

    Args:
        calls: of a step.
    """

    def __init__(self, calls: list[Spent]) -> None:
        self._buckets: list[list[Spent]] = [[]]
        for call in calls:
            if call.verb == "submit":
                self._buckets[-1] = self._buckets[-1][1:]  # the tail's reduction, which no hook issues
                self._buckets.append([])
            else:
                self._buckets[-1].append(call)
        self._buckets.pop()
        self._next = 0

    def __call__(self, bucket: Bucket) -> Work:
        """Send as much as the bucket's compressor would."""
        calls = self._buckets[self._next % len(self._buckets)]
        self._next += 1

        def issue() -> None:
            for call in calls:
                _issue(bucket.comm, call)

        return bucket.comm.submit(issue, "replayed")


def _issue(comm: Communicator, call: Spent) -> None:
    num_bytes = max(1, round(call.num_bytes / SCALE))
    verbs: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: comm.all_reduce(np.zeros(-(-num_bytes // 4), np.float32)),
        "all_gather": lambda: comm.all_gather(np.zeros(num_bytes, np.uint8)),
        "all_to_all": lambda: comm.all_to_all(np.zeros((comm.size, -(-num_bytes // comm.size)), np.uint8)),
    }
    verbs[call.verb]()
