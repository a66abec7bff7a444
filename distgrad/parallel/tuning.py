"""Tuning: the first steps of a training try bucket sizes and numbers of threads, and the fastest stay.

A candidate is what the slowest rank takes for it, so that all ranks keep the same. Where bits are promised
none is tried that could change them: exact mode fixes buckets and threads, so nothing is left to try there.
A step begins with the first forward pass after a reduction, which all ranks come to equally often.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.backend.threads import get_num_threads, set_num_threads
from distgrad.comm.base import Communicator
from distgrad.errors import GraphError
from distgrad.trace import event

__all__ = ["Tuned", "Tuner", "make_tuner", "refuse_while_tuning"]

_MIB = 2**20
_WARM_UP_STEPS = 8  # before the first candidate: kernels compile, and the order of the gradients is agreed on
_UNCOUNTED_STEPS, _COUNTED_STEPS = 3, 8  # of a candidate; in the former, buckets are planned anew
_FACTORS = (0.25, 0.5, 2.0, 4.0)  # of the bucket size that was planned
_GAIN = 0.97  # a candidate must take less than that share of what stays otherwise
_SMALLEST_BYTES = _MIB // 8


@dataclass(frozen=True)
class Tuned:
    """What was found.

    Attributes:
        bucket_cap_mb: MiB at which a bucket is full.
        num_threads: of each rank.
        step_s: median seconds of a step on the slowest rank.
        trials: for each candidate ``bucket_cap_mb``, ``num_threads`` and ``step_s``; what was there comes
            first.
    """

    bucket_cap_mb: float
    num_threads: int
    step_s: float
    trials: tuple[tuple[float, int, float], ...]

    def __str__(self) -> str:
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        text = f"bucket_cap_mb={self.bucket_cap_mb:.4g} and {threads} a rank"
        before_s = self.trials[0][2]
        return f"{text}: {1e3 * self.step_s:.4g} ms a step ({1e3 * before_s:.4g} before)"


class Tuner:
    """Tries candidates one after the other.

    Args:
        comm: the ranks.
        cap_bytes: at which a bucket is full now.
        plan: has the buckets planned anew for a number of bytes, on all ranks at once, and gives their
            number.
        tries_caps: whether another bucket size may be tried. Where ranks own parts of buckets these stay, as
            do those of a hook, whose results may depend on them.
        tries_threads: whether another number of threads may be, and makes a difference.
    """

    def __init__(
        self,
        comm: Communicator,
        cap_bytes: float,
        plan: Callable[[float], int],
        tries_caps: bool,
        tries_threads: bool,
    ) -> None:
        self._comm = comm
        self._plan = plan
        self._caps: list[float] = []
        self._tries_caps = tries_caps and comm.size > 1
        self._now = cap_bytes, get_num_threads()
        self._threads = self._other_threads() if tries_threads else []
        self._trials: list[tuple[float, int, float]] = []
        self._steps = -_WARM_UP_STEPS
        self._began_s = 0.0
        self._times: list[float] = []
        self.found: Tuned | None = None

    def _other_threads(self) -> list[int]:
        """Not what all ranks have already: the least of their shares of a host, or else 1."""
        comm = self._comm
        share = max(1, len(os.sched_getaffinity(0)) // comm.topology.local_size(comm.rank))
        shares, fewest, fewer = comm.host.all_reduce(np.array([share, self._now[1], -self._now[1]]), "min")
        known = {int(fewest)} if fewest == -fewer else set()
        return [threads for threads in (int(shares), 1) if threads not in known][:1]

    def _different_caps(self, cap_bytes: float) -> list[float]:
        """Sizes that give other numbers of buckets than the one at hand and each other."""
        by_number = {self._plan(cap_bytes): cap_bytes}
        for factor in _FACTORS:
            cap = max(factor * cap_bytes, _SMALLEST_BYTES)
            by_number.setdefault(self._plan(cap), cap)
        self._plan(cap_bytes)
        return list(by_number.values())[1:]

    def step_begins(self) -> None:
        """Take the time of the step before, and go on to the next candidate when this one is known.

        Collective: yes; blocks: yes, where a candidate is known.
        """
        if self.found is not None:
            return
        now_s = time.perf_counter()
        if self._steps > _UNCOUNTED_STEPS:
            self._times.append(now_s - self._began_s)
        if len(self._times) == _COUNTED_STEPS:
            self._judge()
        self._began_s = time.perf_counter()
        self._steps += 1

    def _judge(self) -> None:
        median_s = np.array([statistics.median(self._times)])
        self._trials.append((*self._now, float(self._comm.host.all_reduce(median_s, "max")[0])))
        self._times, self._steps = [], 0
        if self._tries_caps and len(self._trials) == 1:
            self._caps = self._different_caps(self._now[0])
        best = _best(self._trials)
        if self._caps:
            self._take(self._caps.pop(0), self._now[1])
        elif self._threads:
            self._take(best[0], self._threads.pop(0))
        else:
            self._take(*best[:2])
            self._end(best)

    def _take(self, cap_bytes: float, threads: int) -> None:
        if cap_bytes != self._now[0]:
            self._plan(cap_bytes)
        if threads != self._now[1]:
            set_num_threads(threads)
        self._now = cap_bytes, threads

    def _end(self, best: tuple[float, int, float]) -> None:
        trials = tuple((cap / _MIB, threads, step_s) for cap, threads, step_s in self._trials)
        self.found = Tuned(best[0] / _MIB, best[1], best[2], trials)
        event("tuned", rank=self._comm.rank, text=str(self.found))
        if self._comm.rank == 0:
            print(f"DistributedDataParallel: tuned to {self.found}", file=sys.stderr)


def make_tuner(exact: bool, comm: Communicator, *given: Any) -> Tuner | None:
    """A tuner, or none in exact mode, which is said.

    Args:
        exact: whether bits are promised on any number of ranks.
        comm: the ranks.
        given: the other arguments of a Tuner.
    """
    if not exact:
        return Tuner(comm, *given)
    if comm.rank == 0:
        print(
            "DistributedDataParallel: tune=True finds nothing to try in exact mode, which fixes buckets and "
            "threads; leave it out",
            file=sys.stderr,
        )
    return None


def refuse_while_tuning(tuner: Tuner | None, where: str) -> None:
    """Refuse what needs the buckets to stay as they are, until they do."""
    if tuner is not None and tuner.found is None:
        raise GraphError(
            f"{where}: tune=True is still trying bucket sizes, which results may depend on; wait until "
            "tuned holds what was found, or leave tune out"
        )


def _best(trials: Sequence[tuple[float, int, float]]) -> tuple[float, int, float]:
    """The fastest trial, if it is faster than the first by more than chance is."""
    best = min(trials, key=lambda trial: trial[2])
    return best if best[2] < _GAIN * trials[0][2] else trials[0]
