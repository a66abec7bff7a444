"""Buckets: which gradients travel together, and in what order."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.flat import FlatBuffer
from distgrad.autograd.graph import Leaf
from distgrad.autograd.ops.rules import at_hand
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device, follow
from distgrad.backend.streams import synchronize
from distgrad.comm.base import Communicator
from distgrad.comm.work import Work

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


def time_all_reduce(comm: Communicator, num_bytes: int, device: Device = CPU) -> float:
    """Seconds that an all-reduce of ``num_bytes`` on a device takes; the first rank's, on all of them.

    Collective: yes; blocks: yes.
    """
    trial = comm.allocate(max(4, min(num_bytes, _TRIAL_BYTES) // 4 * 4), device).view(np.float32)
    times = []
    for _ in range(_TRIALS):
        comm.barrier()
        start_s = time.perf_counter()
        comm.all_reduce(trial)
        synchronize(device)
        times.append(time.perf_counter() - start_s)
    best_s = np.array([min(times)])
    return float(comm.host.broadcast(best_s)[0]) * max(1.0, num_bytes / trial.nbytes)


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
    """Divide parameters, in the order given, into buckets of neighbours with one dtype on one device.

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
        last = buckets[-1][0][1] if buckets else parameter
        alike = last.dtype == parameter.dtype and last.device == parameter.device
        if buckets and filled < limit and alike:
            buckets[-1].append((name, parameter))
            filled += parameter.nbytes
        else:
            buckets.append([(name, parameter)])
            filled = parameter.nbytes
    return buckets


class Bucket:
    """Parameters whose gradients are reduced together.

    Along with them goes a tail of ``2 + n`` numbers, which are summed over the ranks too: the rank's weight,
    whether its backward pass failed, and for each of the n parameters whether the rank used it. The hosts
    must know it. So it travels with the gradients where these lie on the host; else, and where they are of
    float16, which would round the weights, it takes a way of its own from host to host.

    Args:
        parameters: of one dtype on one device, by name.
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
        tail: ``[2 + n]``, on the host.
        joined: whether the gradients travel as they are, in one call with the tail.
        leaves_tail: whether the bucket does not reduce its tail, as no hook must know it.
        pending: gradients that this backward pass still owes.
        launched: whether the reduction of this step has been issued.
    """

    def __init__(
        self, parameters: Sequence[tuple[str, Tensor]], comm: Communicator, hook: Hook | None
    ) -> None:
        self.names = [name for name, _ in parameters]
        self.parameters = [parameter for _, parameter in parameters]
        length = _USED + len(parameters)
        device = self.parameters[0].device
        self.joined = hook is None and device == CPU and self.parameters[0].dtype.itemsize >= 4
        allocate = functools.partial(comm.allocate, device=device)
        self.flat = FlatBuffer(self.parameters, extra=length if self.joined else 0, allocate=allocate)
        self.slices = self.flat.slices
        self.gradients: NDArray[Any] = self.flat.grad[: self.flat.size]
        self.tail = self.flat.grad[self.flat.size :] if self.joined else np.zeros(length)
        self.leaves_tail = hook is None and not self.joined
        self._hook = all_reduce if hook is None else hook
        self.comm = comm
        self.leaves: list[Leaf] = [parameter.leaf_state() for parameter in self.parameters]
        self.pending = 0
        self._weight = 0.0
        self._work: Work | None = None
        self._tail_work: Work | None = None  # of the tail alone
        self._kept: NDArray[Any] | None = None
        self._kept_leaves: set[Leaf] = set()

    @property
    def launched(self) -> bool:
        """Whether the reduction of this step has been issued."""
        return self._work is not None

    @property
    def weight(self) -> float:
        """How much this rank's gradients count."""
        return self._weight

    @property
    def total(self) -> float:
        """The sum of the ranks' weights."""
        return float(self._summed_tail()[_WEIGHT])

    @property
    def used(self) -> list[bool]:
        """Whether any rank used it, for each parameter."""
        return [used > 0.0 for used in self._summed_tail()[_USED:].tolist()]

    def _summed_tail(self) -> NDArray[Any]:
        if self._tail_work is not None:
            self._tail_work.wait()
        return self.tail

    def keep(self) -> None:
        """Set gradients aside that are means already; they are added to the coming mean."""
        self._kept_leaves = {leaf for leaf in self.leaves if leaf.grad is not None}
        if self._kept_leaves:
            follow(self.gradients)
            for leaf, where in zip(self.leaves, self.slices, strict=True):
                if leaf.grad is None:
                    self.gradients[where] = 0
                leaf.grad = None
            if not at_hand(self.gradients) or self.gradients.any():
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
        self.tail[_WEIGHT] = weight
        self.tail[_FAILURES] = failed
        follow(self.gradients)
        for place, (leaf, where) in enumerate(zip(self.leaves, self.slices, strict=True), _USED):
            used = leaf.grad is not None and not failed
            self.tail[place] = used
            if not used:
                self.gradients[where] = 0
        if self.joined:
            self._work = self.comm.all_reduce(self.flat.grad, async_op=True)
            return
        if not self.leaves_tail:
            self._tail_work = self.comm.host.all_reduce(self.tail, async_op=True)
        self._work = self._hook(self)

    def wait(self) -> None:
        """Wait for the sums: the host, or on a device the current stream.

        Collective: no; blocks: yes, except on a device.
        """
        for work in (self._tail_work, self._work):
            if work is not None:
                work.wait()

    @property
    def num_failures(self) -> int:
        """How many ranks could not compute their gradients."""
        return round(float(self.tail[_FAILURES]))

    def finish(self, usable: bool = True) -> None:
        """Turn the sums into the mean, and add what was kept; parameters that no rank used have no gradient.

        Args:
            usable: if not, only what was kept stays.
        """
        total = self.total
        follow(self.gradients)
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
        self._work = self._tail_work = None

    def settle(self, used: NDArray[Any]) -> None:
        """Take ``gradients`` for the mean over all ranks, made elsewhere, and add what was kept.

        Args:
            used: for each parameter how often it was used.
        """
        self.tail[_WEIGHT], self.tail[_FAILURES], self.tail[_USED:] = 1.0, 0.0, used
        self.finish()

    @property
    def work(self) -> Work:
        """The reduction of this step."""
        assert self._work is not None
        return self._work

    def statistics(self) -> dict[str, Any]:
        """What a reduction moves."""
        num_bytes = self.gradients.nbytes + self.tail.nbytes
        return {"num_parameters": len(self.leaves), "num_bytes": num_bytes}


#: Sums ``bucket.gradients`` over ``bucket.comm``, in place, behind the Work that it returns.
Hook = Callable[[Bucket], Work]


def all_reduce(bucket: Bucket) -> Work:
    """Sum a bucket's gradients as they are: the hook that takes the place of None.

    Collective: yes; blocks: no.
    """
    work: Work = bucket.comm.all_reduce(bucket.gradients, async_op=True)
    return work
