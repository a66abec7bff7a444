"""Buckets: which gradients travel together, and in what order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.graph import Leaf
from distgrad.autograd.tensor import Tensor
from distgrad.comm.base import Communicator
from distgrad.comm.work import Work
from distgrad.optim.flat import FlatBuffer

__all__ = ["Bucket", "Hook", "all_reduce", "plan_buckets", "suitable_cap", "time_all_reduce"]

_MIB = 1 << 20
_FIRST_BYTES = _MIB  # a small first bucket starts the communication early
_SMALLEST_BYTES = _MIB // 8  # below it the calls cost more than what they carry
_LARGEST_BYTES = 25 * _MIB
_MAX_BUCKETS = 8  # wished for; those of the largest size may be more
_CALL_S = 0.3e-3  # what a bucket costs the processor beside backward: two threads hand the interpreter around
_TRIAL_BYTES = 1 << 22
_TRIALS = 3
_WEIGHT, _FAILURES, _USED = 0, 1, 2  # what stands where in a tail


def time_all_reduce(comm: Communicator, num_bytes: int) -> float:
    """Seconds that an all-reduce of ``num_bytes`` takes; the first rank's, on all of them.

    Collective: yes; blocks: yes.
    """
    trial = comm.allocate(max(4, min(num_bytes, _TRIAL_BYTES) // 4 * 4)).view(np.float32)
    times = []
    for _ in range(_TRIALS):
        comm.barrier()
        start_s = time.perf_counter()
        comm.all_reduce(trial)
        times.append(time.perf_counter() - start_s)
    best_s = np.array([min(times)])
    return float(comm.broadcast(best_s)[0]) * max(1.0, num_bytes / trial.nbytes)


def suitable_cap(num_bytes: int, transfer_s: float | None = None) -> float:
    """Bytes at which a bucket is full.

    The last of ``k`` buckets cannot hide, and each costs a call: ``transfer_s / k + k call_s`` is least for
    ``k = sqrt(transfer_s / call_s)``.

    Args:
        num_bytes: of all gradients.
        transfer_s: seconds that they travel, all together; None if that is not known.
    """
    count = float(_MAX_BUCKETS)
    if transfer_s is not None:
        count = min(max(math.sqrt(transfer_s / _CALL_S), 1.0), count)
    return min(max(num_bytes / count, _SMALLEST_BYTES), _LARGEST_BYTES)


def plan_buckets(
    parameters: Sequence[tuple[str, Tensor]], cap_bytes: float
) -> list[list[tuple[str, Tensor]]]:
    """Divide parameters, in the order given, into buckets of neighbours with one dtype.

    Args:
        parameters: by name, in the order in which their gradients become ready.
        cap_bytes: a bucket that has come to it is full; the first one is at 1 MiB.

    Returns:
        The buckets' parameters.
    """
    buckets: list[list[tuple[str, Tensor]]] = []
    filled = 0
    for name, parameter in parameters:
        limit = min(cap_bytes, _FIRST_BYTES) if len(buckets) == 1 else cap_bytes
        if buckets and filled < limit and buckets[-1][0][1].dtype == parameter.dtype:
            buckets[-1].append((name, parameter))
            filled += parameter.nbytes
        else:
            buckets.append([(name, parameter)])
            filled = parameter.nbytes
    return buckets


class Bucket:
    """Parameters whose gradients are reduced together.

    Along with them goes a tail of ``2 + n`` numbers, which are summed over the ranks too: the rank's weight,
    whether its backward pass failed, and for each of the n parameters whether the rank used it.

    Args:
        parameters: of one dtype, by name.
        comm: the ranks, and where the memory comes from.
        hook: sums the gradients; None is :func:`all_reduce`, in one call with the tail where it can be.

    Attributes:
        names: of the parameters.
        parameters: the parameters.
        slices: for each parameter its place in ``gradients``; what lies between is 0.
        gradients: ``[elements]``, weighted; the sum over the ranks once the bucket is reduced.
        comm: the ranks.
        weight: how much this rank's gradients count, as a part of the weight of all ranks in the last step.
        total: the sum of the ranks' weights in the same unit; known to functions that the hook submits.
        used: for each parameter whether any rank used it; likewise.
        flat: the parameters' flat buffer.
        pending: gradients that this backward pass still owes.
        launched: whether the reduction of this step has been issued.
    """

    def __init__(
        self, parameters: Sequence[tuple[str, Tensor]], comm: Communicator, hook: Hook | None
    ) -> None:
        self.names = [name for name, _ in parameters]
        self.parameters = [parameter for _, parameter in parameters]
        length = _USED + len(parameters)
        wide = self.parameters[0].dtype.itemsize >= 4  # float16 would round the weights, or overflow
        self.flat = FlatBuffer(self.parameters, extra=length if wide else 0, allocate=comm.allocate)
        self.slices = self.flat.slices
        self.gradients: NDArray[Any] = self.flat.grad[: self.flat.size]
        self._tail = self.flat.grad[self.flat.size :] if wide else np.zeros(length, np.float32)
        self._hook = all_reduce if hook is None else hook
        self._in_one_call = wide and hook is None
        self.comm = comm
        self.leaves: list[Leaf] = [parameter.leaf_state() for parameter in self.parameters]
        self.pending = 0
        self._weight = 0.0
        self._works: list[Work] = []
        self._kept: NDArray[Any] | None = None
        self._kept_leaves: set[Leaf] = set()

    @property
    def launched(self) -> bool:
        """Whether the reduction of this step has been issued."""
        return bool(self._works)

    @property
    def weight(self) -> float:
        """How much this rank's gradients count."""
        return self._weight

    @property
    def total(self) -> float:
        """The sum of the ranks' weights."""
        return float(self._tail[_WEIGHT])

    @property
    def used(self) -> list[bool]:
        """Whether any rank used it, for each parameter."""
        return [used > 0.0 for used in self._tail[_USED:].tolist()]

    def keep(self) -> None:
        """Set gradients aside that are means already; they are added to the coming mean."""
        self._kept_leaves = {leaf for leaf in self.leaves if leaf.grad is not None}
        for leaf, where in zip(self.leaves, self.slices, strict=True):
            if leaf.grad is None:
                self.gradients[where] = 0
            leaf.grad = None
        if self._kept_leaves and self.gradients.any():
            self._kept = self.gradients.copy()

    def gather(self, leaf: Leaf) -> None:
        """Bring a gradient that has a graph of its own (``create_graph=True``) into the bucket."""
        if leaf.grad is None or leaf.grad._data is leaf.buffer:
            return
        leaf.buffer[...] = leaf.grad._data
        leaf.grad = Tensor(leaf.buffer)

    def launch(self, weight: float, failed: bool = False) -> None:
        """Issue the reduction.

        Collective: yes; blocks: no.

        Args:
            weight: how much the gradients count, which hold it already.
            failed: the gradients are unusable; every rank gets to know.
        """
        self._weight = weight
        self._tail[_WEIGHT] = weight
        self._tail[_FAILURES] = failed
        for place, (leaf, where) in enumerate(zip(self.leaves, self.slices, strict=True), _USED):
            used = leaf.grad is not None and not failed
            self._tail[place] = used
            if not used:
                self.gradients[where] = 0
        if self._in_one_call:
            self._works = [self.comm.all_reduce(self.flat.grad, async_op=True)]
        else:
            self._works = [self.comm.all_reduce(self._tail, async_op=True)]
            self._works.append(self._hook(self))

    def wait(self) -> float:
        """Wait for the sums; returns the seconds waited.

        Collective: no; blocks: yes.
        """
        before_s = time.perf_counter()
        for work in self._works:
            work.wait()
        return time.perf_counter() - before_s

    @property
    def num_failures(self) -> int:
        """How many ranks could not compute their gradients."""
        return round(float(self._tail[_FAILURES]))

    def finish(self, usable: bool = True) -> None:
        """Turn the sums into the mean, and add what was kept; parameters that no rank used have no gradient.

        Args:
            usable: if not, only what was kept stays.
        """
        total = self.total
        if not usable:
            self.gradients[...] = 0
        elif total != 1.0:
            self.gradients *= 1.0 / total if total > 0.0 else 0.0
        if self._kept is not None:
            self.gradients += self._kept
        for leaf, used in zip(self.leaves, self.used, strict=True):
            if leaf not in self._kept_leaves and not (usable and used):
                leaf.grad = None
            elif leaf.grad is None:
                leaf.grad = Tensor(leaf.buffer)
            else:
                leaf.grad.changed("all_reduce")
        self._kept = None
        self._kept_leaves = set()
        self._works = []

    def settle(self, used: NDArray[Any]) -> None:
        """Take ``gradients`` for the mean over all ranks, made elsewhere, and add what was kept.

        Args:
            used: for each parameter how often it was used.
        """
        self._tail[_WEIGHT], self._tail[_FAILURES], self._tail[_USED:] = 1.0, 0.0, used
        self.finish()

    def statistics(self) -> dict[str, Any]:
        """What the last reduction moved and how long it took."""
        busy_s = sum((work.ended_s or 0.0) - (work.started_s or 0.0) for work in self._works)
        return {"num_parameters": len(self.leaves), "num_bytes": self.flat.grad.nbytes, "busy_s": busy_s}


#: Sums ``bucket.gradients`` over ``bucket.comm``, in place, behind the Work that it returns.
Hook = Callable[[Bucket], Work]


def all_reduce(bucket: Bucket) -> Work:
    """Sum a bucket's gradients as they are: the hook that takes the place of None.

    Collective: yes; blocks: no.
    """
    work: Work = bucket.comm.all_reduce(bucket.gradients, async_op=True)
    return work
