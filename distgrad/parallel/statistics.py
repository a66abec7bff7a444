"""Statistics: what a data-parallel step spends its time on, and what watching it costs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from distgrad.backend.streams import Moment
from distgrad.comm.work import Work
from distgrad.trace import listening, report

__all__ = ["Statistics", "Timing"]


@dataclass
class Statistics:
    """Sums over the steps since the last reset, in seconds and bytes.

    Seconds are those of the device that the gradients lie on; of a step that a GPU is still at they come in
    when it has finished.

    Attributes:
        num_steps: reductions of all buckets.
        backward_s: time in backward passes that reduced, the waiting at their end included.
        computing_s: of that, the time before the waiting.
        communication_s: time that the buckets' reductions took.
        exposed_s: of that, the time that backward's end waited for.
        step_s: time between the ends of those backward passes.
        num_bytes: bytes of gradients that this rank reduced.
        sent_bytes: bytes that this rank sent for them, counted as ``Communicator.sent_bytes`` is.
        buckets: of the last finished step, for each bucket ``num_parameters``, ``num_bytes``, ``busy_s`` (its
            reduction's time) and ``waited_s`` (what backward's end waited for it). Where ranks own parts,
            also ``gather_s``, the time in which its parameters came together since the step before, and
            ``gather_waited_s``, what was waited for them: the rest went on behind forward or backward.
        ready_order: the parameters' names in the order of the buckets.
        slowest_rank: the rank that had computed longest in backward passes when replicas were last compared.
        counting_s: time that it took this rank to gather these numbers.
        comparing_s: time that comparisons of the replicas took, their waiting for other ranks included.
    """

    num_steps: int = 0
    backward_s: float = 0.0
    computing_s: float = 0.0
    communication_s: float = 0.0
    exposed_s: float = 0.0
    step_s: float = 0.0
    num_bytes: int = 0
    sent_bytes: float = 0.0
    buckets: list[dict[str, Any]] = field(default_factory=list)
    ready_order: list[str] = field(default_factory=list)
    slowest_rank: int | None = None
    counting_s: float = 0.0
    comparing_s: float = 0.0

    @property
    def hidden_s(self) -> float:
        """Communication that went on behind the backward pass."""
        return max(0.0, self.communication_s - self.exposed_s)

    @property
    def hidden_share(self) -> float:
        """Share of the communication that went on behind the backward pass, 0 … 1."""
        return self.hidden_s / self.communication_s if self.communication_s else 0.0

    @property
    def watching_share(self) -> float:
        """Share of the steps' time that went into these numbers and into comparisons of the replicas."""
        return (self.counting_s + self.comparing_s) / self.step_s if self.step_s else 0.0


@dataclass
class Timing:
    """When the parts of a step were done, for the statistics that it belongs to.

    Attributes:
        statistics: get the seconds.
        buckets: what each bucket moves.
        works: the buckets' reductions.
        moments: the backward pass's start, the end of its computation, and for each bucket that of its wait.
        before: the end of the step before.
        step: whose step it is, ``rank``, and its number from 0, ``step``.
        work: what the backward passes took.
    """

    statistics: Statistics
    buckets: list[dict[str, Any]]
    works: list[Work]
    moments: list[Moment]
    before: Moment
    step: dict[str, int]
    work: dict[str, float]

    def settle(self) -> bool:
        """Add the seconds to the statistics; False if the device has not finished."""
        busy_s = [work.seconds for work in self.works]
        first, last = self.moments[0], self.moments[-1]
        backward_s = first.until(last)
        if backward_s is None or None in busy_s:
            return False
        waits = [x.until(y) or 0.0 for x, y in itertools.pairwise(self.moments)]
        for bucket, busy, waited in zip(self.buckets, busy_s, waits[1:], strict=True):
            bucket |= {"busy_s": busy, "waited_s": waited}
        total = self.statistics
        total.buckets = self.buckets
        total.step_s += self.before.until(last) or 0.0
        total.backward_s += backward_s
        total.computing_s += waits[0]
        total.communication_s += sum(bucket["busy_s"] for bucket in self.buckets)
        total.exposed_s += sum(waits[1:])
        if listening():
            self._report(backward_s, waits)
        return True

    def _report(self, backward_s: float, waits: list[float]) -> None:
        """Tell the listeners of these very times; a device's are laid on the host's clock at its start."""
        start_s = self.moments[0].told_s
        report("backward", start_s, start_s + backward_s, **self.step, **self.work)
        start_s += waits[0]
        for place, (bucket, waited_s) in enumerate(zip(self.buckets, waits[1:], strict=True)):
            moved = {"bucket": place, "bytes": bucket["num_bytes"], "busy_s": bucket["busy_s"]}
            report("bucket.wait", start_s, start_s + waited_s, **self.step, **moved)
            start_s += waited_s
