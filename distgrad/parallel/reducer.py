"""The reducer: watches gradients become ready and reduces full buckets while backward goes on.

Collectives must come in one order on every rank, but when a bucket is full depends on what a rank used.
Buckets alone are always reduced in the order of their plan. Where backward passes issue other collectives
too, no rank knows how far the others' buckets are at that point. With those of SyncBatchNorm the ranks agree
on how many buckets are full on all of them, and start these behind it; with others (those of another reducer)
all buckets wait for the end of backward.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.flat import FlatBuffer
from distgrad.autograd.graph import Leaf, Node
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU
from distgrad.backend.graphs import graph_recording
from distgrad.backend.streams import Moment
from distgrad.comm.base import Communicator
from distgrad.errors import CommError, GraphError, RankFailedError
from distgrad.parallel.buckets import Bucket, Hook, plan_buckets
from distgrad.parallel.passes import ForwardPasses
from distgrad.parallel.replicas import batch_checksum
from distgrad.parallel.statistics import Statistics, Timing
from distgrad.parallel.watching import GraphMeter
from distgrad.trace import event, listening
from distgrad.tracebacks import warn_once

__all__ = ["PeerFailedError", "Reducer", "current_weight", "launch_agreed"]

_next_number = itertools.count().__next__
_this_thread = threading.local()


def current_weight() -> float:
    """How much this rank counts in the backward pass that is under way; 1 if no reducer watches it."""
    return getattr(_this_thread, "weight", 1.0)


class PeerFailedError(RankFailedError):
    """The ranks have agreed that the backward pass of one of them failed; all have come to the same point."""


def launch_agreed(comm: Communicator, failed: bool = False) -> None:
    """Behind a collective that every rank issues in backward: start the buckets that are full on all ranks.

    Collective: yes; blocks: until the ranks have agreed.

    Args:
        comm: the ranks that have come here; nothing happens unless they are those of the reducer that
            watches the backward pass.
        failed: this rank has come here only to say that its backward pass failed.

    Raises:
        PeerFailedError: one rank's did; on all ranks.
    """
    reducer: Reducer | None = getattr(_this_thread, "reducer", None)
    if reducer is not None and reducer.comm is comm:
        reducer._launch_agreed(failed)


class Reducer:
    """Sums gradients over the ranks of a communicator, weighted, a bucket at a time.

    Args:
        parameters: the same on every rank, by name, in the order in which their gradients become ready.
        storage: the flat buffers that hold them, as :func:`distgrad.parallel.buckets.store` gives them.
        comm: the ranks.
        cap_bytes: as in :func:`distgrad.parallel.buckets.plan_buckets`.
        hook: sums a bucket's gradients; None is :func:`distgrad.parallel.buckets.all_reduce`.
        by_rank: every rank counts once, and its backward passes add up; else by their weights.

    Attributes:
        storage: as given; what it holds stays where it is.
        buckets: ranges of the storage.
        passes: the forward passes of late; a backward pass counts as much as those that it goes back through,
            and 1 if there are none.
        enabled: whether backward passes reduce; if not they add up until one does.
        active: whether a backward pass is under way.
        begun: whether there was a forward pass since the last reduction, also one inside ``no_sync``.
        joined: whether this rank has begun the step that the next reduction ends.
        averaged: whether the gradients at hand are means already.
        factor: what a reduction multiplies the means by; the number of ranks leaves sums.
        num_steps: reductions of all buckets so far.
        better_order: the parameters as their gradients became ready in the first step that reduced, agreed on
            by all ranks; None before that step, and if ``parameters`` had that order.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[str, Tensor]],
        storage: Sequence[FlatBuffer],
        comm: Communicator,
        cap_bytes: float,
        hook: Hook | None = None,
        by_rank: bool = False,
    ) -> None:
        for name, parameter in parameters:
            if parameter.leaf_state().observer is not None:
                raise GraphError(f"reducer: {name} is reduced by another DistributedDataParallel already")
        self.number = _next_number()
        self.comm = comm
        self.by_rank = by_rank
        self.enabled = True
        self.active = False
        self.has_data = True
        self.begun = self.joined = False
        self.averaged = False
        self.factor = 1.0
        self.statistics = Statistics()
        self._meter = GraphMeter()
        self.num_steps = 0
        self.passes = ForwardPasses()
        self.storage = list(storage)
        self.buckets = self._divide(parameters, cap_bytes, hook)
        self._names = [name for bucket in self.buckets for name in bucket.names]
        self._bucket_of = {leaf: bucket for bucket in self.buckets for leaf in bucket.leaves}
        for leaf in self._bucket_of:
            leaf.observer = self
        self.better_order: list[tuple[str, Tensor]] | None = None
        self._ready: list[Leaf] | None = []  # in order, until the ranks have agreed
        self._batch = 0  # the checksum of the first one, to be compared along with the order
        self._reference = 1.0  # the unit of weights: one rank's in the last step
        self._gathered = 0.0  # weight of the backward passes that have not been reduced yet
        self._num_gathered = 0  # how many there are
        self._overlaps: bool | None = None  # None: the first step will tell
        self._num_issued = 0
        self._issued_in_forward = 0
        self._next = 0
        self._device = self.storage[0].device if self.storage else CPU
        self._moments: list[Moment] = []
        self._ended: Moment | None = None
        self._unsettled: deque[Timing] = deque()
        self._sent_bytes = 0.0

    def _divide(
        self, parameters: Sequence[tuple[str, Tensor]], cap_bytes: float, hook: Hook | None
    ) -> list[Bucket]:
        """The buckets of all buffers, in the order in which they are full."""
        ready = {parameter: place for place, (_, parameter) in enumerate(parameters)}
        buckets = []
        for flat in self.storage:
            places = [ready[parameter] for parameter in flat.parameters]
            names = [parameters[place][0] for place in places]
            parts = (
                plan_buckets(flat.parameters, places, cap_bytes) if flat.shares is None else flat.shares.parts
            )
            for part in parts:
                full = max(places[number] for number in part)
                buckets.append((full, Bucket(flat, part, names[part.start : part.stop], self.comm, hook)))
        return [bucket for _, bucket in sorted(buckets, key=lambda each: each[0])]

    # -- what the backward pass tells

    def backward_started(self, leaves: set[Leaf], order: Sequence[Node]) -> None:
        """Scale what this pass will add, and find the parameters that it does not reach."""
        if self.active:
            raise GraphError("backward: called inside a backward pass of the same module; call it after")
        if listening():
            self._meter.add(order)
        self.begin(leaves, self.passes.within(order))

    def begin(self, leaves: set[Leaf], passes: Sequence[int]) -> None:
        """Begin a backward pass that reaches these leaves, through the forward passes at these places."""
        weight = self.passes.weight_of(passes)
        self.has_data = weight > 0.0
        self._start(leaves, 1.0 if self.by_rank else weight)

    def _start(self, leaves: set[Leaf], weight: float) -> None:
        if self.averaged:
            for bucket in self.buckets:
                bucket.keep()
            self.averaged = False
        self.active = True
        before = 0.0 if self.by_rank else self._gathered
        for bucket in self.buckets:
            bucket.weigh(weight, before, self._reference)
        self._gathered = max(self._gathered, before + weight)
        self._num_gathered += 1
        _this_thread.weight = weight
        if not self.enabled:
            return
        _this_thread.reducer = self
        self._moments = [Moment(self._device)]
        self._sent_bytes = self.comm.sent_bytes
        self._next = 0
        self._num_issued = self.comm.family.num_issued
        self._ready = None if self._ready is None else []
        for bucket in self.buckets:
            bucket.pending = sum(leaf in leaves for leaf in bucket.leaves)
        self._launch_full()

    def gradient_ready(self, leaf: Leaf) -> None:
        """Reduce the leaf's bucket if this was the last gradient that it waited for."""
        bucket = self._bucket_of[leaf]
        bucket.gather(leaf)
        if self.enabled:
            self.comm.family.take_turn()
            if self._ready is not None:
                self._ready.append(leaf)
            bucket.pending -= 1
            if bucket.pending == 0:
                self._launch_full()

    def _launch_full(self) -> None:
        """Start the reductions of full buckets, always in the order of the plan, the same on every rank.

        The last one, which has nothing to travel behind, starts when backward has ended.
        """
        if self.comm.family.num_issued != self._num_issued:  # by someone else, in the midst of backward
            self._overlaps = False
        if self._overlaps:
            while self._next < len(self.buckets) - 1 and self.buckets[self._next].pending == 0:
                self._launch(self._gathered)

    def _launch_agreed(self, failed: bool) -> None:
        """Start the buckets that are full on all ranks, which all have come to the same point of backward."""
        if self._overlaps or self._next == len(self.buckets):
            return
        self._overlaps = False
        full = itertools.takewhile(lambda bucket: bucket.pending == 0, self.buckets)
        count = -1 if failed else sum(1 for _ in full)
        agreed = self.comm.host.all_reduce(np.array([count]), "min")
        if agreed[0] < 0:
            raise PeerFailedError("backward: another rank's failed; no gradients are left on any rank")
        while self._next < agreed[0]:
            self._launch(self._gathered)

    def forward_ended(self, count: int, arguments: Iterable[Any]) -> None:
        """Look at what a forward pass did.

        Args:
            count: of collectives that it issued; backward may issue some too, if it is another number.
            arguments: what it computed on; the first pass's differ where ranks have data of their own.
        """
        if count != self._issued_in_forward:
            self._issued_in_forward, self._overlaps = count, None
        if self._ready is not None and not self._batch and self.comm.size > 1:
            self._batch = batch_checksum(arguments)

    def _launch(self, weight: float, failed: bool = False) -> None:
        bucket = self.buckets[self._next]
        if listening():
            about = {"rank": self.comm.rank, "step": self.num_steps, "bucket": self._next}
            event("bucket.issue", **about, bytes=bucket.num_bytes)
        family = self.comm.family
        family.is_awaited = self._next == len(self.buckets) - 1
        try:
            bucket.launch(weight, self._reference, failed)
        finally:
            family.is_awaited = False
        self._next += 1
        self._num_issued = self.comm.family.num_issued

    def backward_ended(self) -> None:
        """Wait for the buckets and turn sums into means.

        Raises:
            RankFailedError: another rank's backward pass failed; the gradients are gone on all ranks, which
                are still in step.
        """
        self._stop()
        if not self.enabled:
            return
        self._launch_full()  # sees whether others have communicated
        self._moments.append(Moment(self._device))
        while self._next < len(self.buckets):
            self._launch(self._gathered)
        self._wait()
        if self._overlaps is None:
            self._overlaps = True
        self._count()
        self._finish(None)
        if self._ready is not None:
            self._agree_on_order(self._ready)

    def _wait(self) -> None:
        """Wait for all buckets, which are over then, also where one ended badly."""
        self._begin_anew()
        errors = []
        for bucket in self.buckets:
            try:
                bucket.wait()
            except Exception as error:
                errors.append(error)
            self._moments.append(Moment(self._device))
        if errors:
            raise errors[0]
        self._sum_tails()

    def _sum_tails(self) -> None:
        """Reduce the tails that the buckets have left, from host to host in one call."""
        leaving = [bucket for bucket in self.buckets if bucket.leaves_tail]
        dtypes = [bucket.flat.dtype if bucket.alike else bucket.tail.dtype for bucket in leaving]
        for dtype in dict.fromkeys(dtypes):
            tails = [bucket.tail for bucket, kind in zip(leaving, dtypes, strict=True) if kind == dtype]
            joined = self.comm.host.all_reduce(np.concatenate(tails).astype(dtype))
            start = 0
            for tail in tails:
                tail[:] = joined[start : start + len(tail)]
                start += len(tail)

    def _finish(self, failure: str | None) -> None:
        """Hand the means out; where a rank has failed, nothing."""
        failed = any(bucket.num_failures for bucket in self.buckets)
        for bucket in self.buckets:
            bucket.finish(usable=not failed, factor=self.factor)
        self.averaged = True
        if failed:
            failures = enumerate(self.comm.all_gather_object(failure))
            texts = [f"rank {rank} ({text})" for rank, text in failures if text is not None]
            if failure is None:
                raise RankFailedError(
                    f"backward: failed on {', '.join(texts)}; no gradients are left on any rank. The ranks "
                    "are in step: go on with the next batch on all of them, or end the program"
                )
        elif self.buckets and self.buckets[0].summed_weight > 0.0:
            unit = self.buckets[0].summed_weight / self.comm.size
            # A power of two changes no bits: a job that goes on from a file begins with another unit.
            self._reference *= 2.0 ** round(math.log2(unit))

    def _begin_anew(self) -> None:
        self._num_gathered, self._gathered, self.begun, self.joined = 0, 0.0, False, False

    def _stop(self) -> None:
        self.active = False
        _this_thread.weight, _this_thread.reducer = 1.0, None
        for leaf in self._bucket_of:
            leaf.scale = 1.0

    def backward_failed(self) -> None:
        """Forget what was gathered, and tell the others, which wait for this rank's buckets.

        Raises:
            RankFailedError: the ranks have agreed already that another one's backward pass failed: which.
        """
        error = sys.exception()
        self._stop()
        heard = isinstance(error, PeerFailedError)
        if self.enabled and isinstance(error, Exception) and (heard or not isinstance(error, CommError)):
            try:
                while self._next < len(self.buckets):
                    self._launch(0.0, failed=True)
                self._wait()
                self._finish(None if heard else f"{type(error).__name__}: {error}")
                return
            except CommError as consequence:
                if heard and self.averaged:  # the error that says which rank
                    raise consequence from None
                error.add_note(f"the other ranks could not be told: {consequence}")
        self._begin_anew()
        for bucket in self.buckets:
            bucket.finish(usable=False)
        self.averaged = True

    def reduce(self, weight: float = 0.0) -> None:
        """Reduce what was gathered, without a backward pass of this rank, which counts as much as is said.

        Collective: yes; blocks: yes.
        """
        if not self.enabled:
            raise GraphError("reduce_gradients: called inside no_sync(); call it outside")
        self._start(set(), weight)
        self.backward_ended()

    # -- for who reduces by himself

    def set_aside(self, unit: float) -> None:
        """Keep the gradients there are, and let those of coming passes add up, with weights in ``unit``."""
        for bucket in self.buckets:
            bucket.keep()
        self.averaged = self.enabled = False
        self._reference = unit

    def take_weight(self) -> float:
        """How much the backward passes count that were gathered, which are forgotten."""
        weight = self._gathered
        self._begin_anew()
        self.passes.clear()
        return weight

    # -- between steps

    def _agree_on_order(self, ready: list[Leaf]) -> None:
        """Take rank 0's order of this step; parameters that it did not reach come last.

        Along with it the ranks see whether all of them began with one batch.
        """
        places = {leaf: place for place, leaf in enumerate(self._bucket_of)}
        order = [places.pop(leaf) for leaf in ready] + list(places.values())
        told = self.comm.host.all_gather(np.array([*order, self._batch], dtype=np.int64))
        agreed = told[0, :-1].tolist()
        self._ready = None
        if self._batch and (told[:, -1] == self._batch).all():
            warn_once(
                "batches",
                f"DistributedDataParallel: all {self.comm.size} ranks may compute on the same batches, as "
                "they were given the same tensors first, which trains no better than one rank; give each its "
                "own: sampler=DistributedSampler(dataset), or in the __iter__ of an IterableDataset what "
                "dg.comm.get_world().rank says",
                self.comm.rank,
            )
        if agreed != sorted(agreed):
            named = [pair for each in self.buckets for pair in zip(each.names, each.parameters, strict=True)]
            self.better_order = [named[place] for place in agreed]

    @property
    def idle(self) -> bool:
        """Whether no backward pass waits for its reduction, so that buckets may be planned anew."""
        return self._num_gathered == 0

    def succeed(self, previous: Reducer) -> None:
        """Take over from a reducer of other buckets, or of storage from which the parameters have moved."""
        self.number = previous.number
        self.statistics = previous.statistics
        self.num_steps = previous.num_steps
        self.passes = previous.passes
        self.enabled = previous.enabled
        self.begun, self.joined = previous.begun, previous.joined
        self.averaged = previous.averaged
        self._reference = previous._reference
        self._overlaps = previous._overlaps
        self._issued_in_forward = previous._issued_in_forward
        self._ended, self._unsettled = previous._ended, previous._unsettled
        if previous.better_order is not None:
            self._ready = None

    def reduce_within(self, comm: Communicator) -> None:
        """Reduce among the ranks of another communicator from now on."""
        self.comm = comm
        self._reference = 1.0  # what its ranks have agreed on
        for bucket in self.buckets:
            bucket.comm = comm

    def _count(self) -> None:
        if graph_recording() is not None:
            return  # what is written down takes no time
        start_s = time.perf_counter()
        total = self.statistics
        total.ready_order = self._names
        self.count_step()
        total.sent_bytes += self.comm.sent_bytes - self._sent_bytes
        each = [bucket.statistics() | bucket.gather_times() for bucket in self.buckets]
        total.num_bytes += sum(bucket["num_bytes"] for bucket in each)
        works = [bucket.work for bucket in self.buckets]
        before, self._ended = self._ended or self._moments[0], self._moments[-1]
        step = {"rank": self.comm.rank, "step": self.num_steps - 1}
        self._unsettled.append(Timing(total, each, works, self._moments, before, step, self._meter.take()))
        self.settle()
        total.counting_s += time.perf_counter() - start_s

    def count_step(self) -> None:
        """A reduction of all buckets is over."""
        self.num_steps += 1
        self.statistics.num_steps += 1

    def settle(self) -> None:
        """Bring the statistics up to the last step that the device has finished.

        Collective: no; blocks: no.
        """
        while self._unsettled and self._unsettled[0].settle():
            self._unsettled.popleft()

    def detach(self) -> None:
        """Stop watching; the parameters stay in their flat buffers."""
        for leaf in self._bucket_of:
            leaf.observer = None

    def describe(self) -> list[dict[str, Any]]:
        """The plan: for each bucket its parameters' shapes and bytes."""
        return [
            {"shapes": [list(p.shape) for p in bucket.parameters], "num_bytes": bucket.gradients.nbytes}
            for bucket in self.buckets
        ]
