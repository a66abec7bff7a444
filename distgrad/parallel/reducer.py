"""The reducer: watches gradients become ready and reduces full buckets while backward goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distgrad import trace
from distgrad.autograd.graph import Leaf
from distgrad.autograd.tensor import Tensor
from distgrad.comm.base import Communicator
from distgrad.errors import GraphError
from distgrad.parallel.buckets import Bucket, plan_buckets

__all__ = ["Reducer", "Statistics"]


@dataclass
class Statistics:
    """Sums over the steps since the last reset, in seconds and bytes.

    Attributes:
        num_steps: reductions of all buckets.
        backward_s: time in backward passes that reduced, the waiting at their end included.
        communication_s: time that the buckets' reductions took.
        exposed_s: of that, the time that backward's end waited for.
        num_bytes: bytes of gradients that this rank reduced.
    """

    num_steps: int = 0
    backward_s: float = 0.0
    communication_s: float = 0.0
    exposed_s: float = 0.0
    num_bytes: int = 0

    @property
    def hidden_s(self) -> float:
        """Communication that went on behind the backward pass."""
        return max(0.0, self.communication_s - self.exposed_s)

    @property
    def hidden_share(self) -> float:
        """Share of the communication that went on behind the backward pass, 0 … 1."""
        return self.hidden_s / self.communication_s if self.communication_s else 0.0


class Reducer:
    """Sums gradients over the ranks of a communicator, weighted, a bucket at a time.

    Args:
        parameters: the same on every rank, in the same order; last gradients first is what backward gives.
        comm: the ranks.
        bucket_cap_mb: as in :func:`plan_buckets`.

    Attributes:
        weight: of this rank's next backward pass; its gradients count that much in the mean.
        enabled: whether backward passes reduce; if not they add up until one does.
    """

    def __init__(
        self, parameters: Sequence[Tensor], comm: Communicator, bucket_cap_mb: float | None = None
    ) -> None:
        self.comm = comm
        self.weight = 1.0
        self.enabled = True
        self.statistics = Statistics()
        planned = plan_buckets(list(reversed(parameters)), bucket_cap_mb)
        self.buckets = [Bucket(bucket, comm) for bucket in planned]
        self._bucket_of = {leaf: bucket for bucket in self.buckets for leaf in bucket.leaves}
        for leaf in self._bucket_of:
            if leaf.observer is not None:
                raise GraphError("reducer: a parameter is reduced by another DistributedDataParallel already")
            leaf.observer = self
        self._gathered_weight = 0.0  # of backward passes that have not been reduced yet
        self._averaged = False  # whether the gradients at hand are means already
        self._next = 0
        self._started_s = 0.0

    def backward_started(self, leaves: set[Leaf]) -> None:
        """Scale what this pass will add, and find the parameters that it does not reach."""
        if self._averaged and any(leaf.grad is not None for leaf in self._bucket_of):
            self._unaverage()
        self._averaged = False
        self._gathered_weight += self.weight
        for leaf in self._bucket_of:
            leaf.scale = self.weight
        if not self.enabled:
            return
        self._started_s = time.perf_counter()
        self._next = 0
        for bucket in self.buckets:
            bucket.pending = sum(leaf in leaves for leaf in bucket.leaves)
            bucket.work = None
        self._launch()

    def _unaverage(self) -> None:
        """Gradients of the last step are kept: weigh them so that the coming mean leaves them as they are."""
        if not self.enabled:
            raise GraphError(
                "no_sync: gradients hold the mean of an earlier step; call zero_grad() before accumulating"
            )
        for bucket in self.buckets:
            bucket.flat.grad[: bucket.flat.size] *= self.weight

    def gradient_ready(self, leaf: Leaf) -> None:
        """Reduce the leaf's bucket if this was the last gradient that it waited for."""
        if self.enabled:
            bucket = self._bucket_of[leaf]
            bucket.pending -= 1
            if bucket.pending == 0:
                self._launch()

    def _launch(self) -> None:
        """Start the reductions of full buckets, always in the order of the plan, the same on every rank."""
        while self._next < len(self.buckets) and self.buckets[self._next].pending == 0:
            bucket = self.buckets[self._next]
            bucket.prepare(self._gathered_weight)
            bucket.work = self.comm.all_reduce(bucket.flat.grad, async_op=True)
            self._next += 1

    def backward_ended(self) -> None:
        """Wait for the buckets and turn sums into means."""
        for leaf in self._bucket_of:
            leaf.scale = 1.0
        if not self.enabled:
            return
        computed_s = time.perf_counter()
        waited_s = 0.0
        for bucket in self.buckets:
            assert bucket.work is not None
            before_s = time.perf_counter()
            bucket.work.wait()
            waited_s += time.perf_counter() - before_s
            bucket.finish()
        self._gathered_weight = 0.0
        self._averaged = True
        self._count(computed_s, waited_s)

    def _count(self, computed_s: float, waited_s: float) -> None:
        ended_s = time.perf_counter()
        each = [bucket.statistics() for bucket in self.buckets]
        total = self.statistics
        total.num_steps += 1
        total.backward_s += ended_s - self._started_s
        total.communication_s += sum(bucket["busy_s"] for bucket in each)
        total.exposed_s += waited_s
        total.num_bytes += sum(bucket["num_bytes"] for bucket in each)
        if trace.listening():
            trace.event("reduce", buckets=each, waited_s=waited_s, computed_s=computed_s)

    def backward_failed(self) -> None:
        """Forget what the pass has gathered; its gradients are unusable."""
        self._gathered_weight = 0.0
        for leaf in self._bucket_of:
            leaf.scale = 1.0

    def detach(self) -> None:
        """Stop watching; the parameters stay in their flat buffers."""
        for leaf in self._bucket_of:
            leaf.observer = None

    def describe(self) -> list[dict[str, Any]]:
        """The plan: for each bucket its parameters' shapes and bytes."""
        return [
            {"shapes": [list(p.shape) for p in bucket.flat.parameters], "num_bytes": bucket.flat.grad.nbytes}
            for bucket in self.buckets
        ]
