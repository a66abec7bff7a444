"""The reducer: watches gradients become ready and reduces full buckets while backward goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distgrad.autograd.graph import Leaf
from distgrad.autograd.tensor import Tensor
from distgrad.comm.base import Communicator
from distgrad.errors import GraphError
from distgrad.parallel.buckets import Bucket, plan_buckets
from distgrad.trace import event, listening

__all__ = ["Reducer", "Statistics"]


@dataclass
class Statistics:
    """Sums over the steps since the last reset, in seconds and bytes.

    Attributes:
        num_steps: reductions of all buckets.
        backward_s: time in backward passes that reduced, the waiting at their end included.
        computing_s: of that, the time before the waiting.
        communication_s: time that the buckets' reductions took.
        exposed_s: of that, the time that backward's end waited for.
        num_bytes: bytes of gradients that this rank reduced.
        buckets: of the last step, for each bucket ``num_parameters``, ``num_bytes``, ``busy_s`` (its
            reduction's time) and ``waited_s`` (what backward's end waited for it).
        slowest_rank: the rank that had computed longest in backward passes when replicas were last compared.
    """

    num_steps: int = 0
    backward_s: float = 0.0
    computing_s: float = 0.0
    communication_s: float = 0.0
    exposed_s: float = 0.0
    num_bytes: int = 0
    buckets: list[dict[str, Any]] = field(default_factory=list)
    slowest_rank: int | None = None

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
        parameters: the same on every rank, in the order in which their gradients become ready.
        comm: the ranks.
        bucket_cap_mb: as in :func:`plan_buckets`.

    Attributes:
        weight: of this rank's next backward pass; its gradients count that much in the mean.
        enabled: whether backward passes reduce; if not they add up until one does.
        averaged: whether the gradients at hand are means already.
        better_order: the parameters as their gradients became ready in the first step that reduced, agreed on
            by all ranks; None before that step, and if ``parameters`` had that order.
    """

    def __init__(
        self, parameters: Sequence[Tensor], comm: Communicator, bucket_cap_mb: float | None = None
    ) -> None:
        self.comm = comm
        self.weight = 1.0
        self.enabled = True
        self.statistics = Statistics()
        planned = plan_buckets(parameters, bucket_cap_mb)
        self.buckets = [Bucket(bucket, comm) for bucket in planned]
        self._bucket_of = {leaf: bucket for bucket in self.buckets for leaf in bucket.leaves}
        for leaf in self._bucket_of:
            if leaf.observer is not None:
                raise GraphError("reducer: a parameter is reduced by another DistributedDataParallel already")
            leaf.observer = self
        self._gathered_weight = 0.0  # of backward passes that have not been reduced yet
        self.averaged = False
        self.better_order: list[Tensor] | None = None
        self._ready: list[Leaf] | None = []  # in order, until the ranks have agreed
        self._next = 0
        self._started_s = 0.0

    def backward_started(self, leaves: set[Leaf]) -> None:
        """Scale what this pass will add, and find the parameters that it does not reach."""
        if self.averaged and any(leaf.grad is not None for leaf in self._bucket_of):
            self._unaverage()
        self.averaged = False
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
            if self._ready is not None:
                self._ready.append(leaf)
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
        waited_s = [bucket.finish() for bucket in self.buckets]
        self._gathered_weight = 0.0
        self.averaged = True
        self._count(computed_s, waited_s)
        if self._ready is not None:
            self._agree_on_order(self._ready)

    def _agree_on_order(self, ready: list[Leaf]) -> None:
        """Take rank 0's order of this step; parameters that it did not reach come last."""
        places = {leaf: place for place, leaf in enumerate(self._bucket_of)}
        order = [places.pop(leaf) for leaf in ready] + list(places.values())
        agreed = self.comm.broadcast(np.array(order, dtype=np.int64)).tolist()
        self._ready = None
        if agreed != sorted(agreed):
            leaves = list(self._bucket_of)
            self.better_order = [leaves[place].tensor() for place in agreed]

    @property
    def idle(self) -> bool:
        """Whether no backward pass waits for its reduction, so that buckets may be planned anew."""
        return self._gathered_weight == 0.0

    def succeed(self, previous: Reducer) -> None:
        """Take over from a reducer of other buckets, whose gradients have moved here."""
        self.statistics = previous.statistics
        self.enabled = previous.enabled
        self.averaged = previous.averaged
        if previous.better_order is not None:
            self._ready = None

    def _count(self, computed_s: float, waited_s: list[float]) -> None:
        ended_s = time.perf_counter()
        each = [
            {**bucket.statistics(), "waited_s": waited}
            for bucket, waited in zip(self.buckets, waited_s, strict=True)
        ]
        total = self.statistics
        total.buckets = each
        total.num_steps += 1
        total.backward_s += ended_s - self._started_s
        total.computing_s += computed_s - self._started_s
        total.communication_s += sum(bucket["busy_s"] for bucket in each)
        total.exposed_s += sum(waited_s)
        total.num_bytes += sum(bucket["num_bytes"] for bucket in each)
        if listening():
            event("reduce", buckets=each, computed_s=computed_s)

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
