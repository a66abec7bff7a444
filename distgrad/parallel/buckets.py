"""Buckets: which gradients travel together, and in what order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from distgrad.autograd.graph import Leaf
from distgrad.autograd.tensor import Tensor
from distgrad.comm.base import Communicator
from distgrad.comm.work import Work
from distgrad.optim.flat import FlatBuffer

__all__ = ["Bucket", "plan_buckets"]

_MIB = 1 << 20
_FIRST_BYTES = _MIB  # a small first bucket starts the communication early
_SMALLEST_BYTES = _MIB // 8  # below it the calls cost more than what they carry
_LARGEST_BYTES = 25 * _MIB
_NUM_WISHED = 8  # so that a small model has something to overlap too


def plan_buckets(parameters: Sequence[Tensor], bucket_cap_mb: float | None = None) -> list[list[Tensor]]:
    """Divide parameters, in the order given, into buckets of neighbours with one dtype.

    Args:
        parameters: in the order in which their gradients become ready.
        bucket_cap_mb: size in MiB at which a bucket is full; None takes an eighth of all, between 1/8 and 25.

    Returns:
        The buckets' parameters; a parameter larger than the cap has one to itself.
    """
    total = sum(parameter.nbytes for parameter in parameters)
    cap = min(max(total / _NUM_WISHED, _SMALLEST_BYTES), _LARGEST_BYTES)
    if bucket_cap_mb is not None:
        cap = bucket_cap_mb * _MIB
    buckets: list[list[Tensor]] = []
    filled = 0
    for parameter in parameters:
        limit = min(cap, _FIRST_BYTES) if len(buckets) == 1 else cap
        fits = buckets and filled + parameter.nbytes <= limit and buckets[-1][0].dtype == parameter.dtype
        if fits:
            buckets[-1].append(parameter)
            filled += parameter.nbytes
        else:
            buckets.append([parameter])
            filled = parameter.nbytes
    return buckets


class Bucket:
    """Parameters whose gradients are reduced by one call.

    The gradients' array has ``1 + n`` elements more than the gradients: the rank's weight, and for each of
    the n parameters whether the rank used it. They are summed along with the gradients.

    Args:
        parameters: of one dtype.
        comm: where the memory comes from.

    Attributes:
        flat: the parameters' flat buffer.
        pending: gradients that this backward pass still owes.
        work: the reduction under way.
    """

    def __init__(self, parameters: Sequence[Tensor], comm: Communicator) -> None:
        self.flat = FlatBuffer(parameters, extra=1 + len(parameters), allocate=comm.allocate)
        self.leaves: list[Leaf] = [parameter.leaf_state() for parameter in parameters]
        self.pending = 0
        self.work: Work | None = None

    def prepare(self, weight: float) -> None:
        """Write what travels with the gradients, and zeros for parameters that were not used."""
        tail = self.flat.grad[self.flat.size :]
        tail[0] = weight
        for i, (leaf, where) in enumerate(zip(self.leaves, self.flat.slices, strict=True)):
            tail[1 + i] = leaf.grad is not None
            if leaf.grad is None:
                self.flat.grad[where] = 0
            elif leaf.grad._data is not leaf.buffer:  # backward(create_graph=True) leaves it with its graph
                leaf.buffer[...] = leaf.grad._data * weight

    def finish(self) -> float:
        """Wait for the sums and turn them into the mean; a parameter that no rank used keeps no gradient.

        Returns:
            Seconds waited.
        """
        assert self.work is not None
        before_s = time.perf_counter()
        self.work.wait()
        waited_s = time.perf_counter() - before_s
        self._divide()
        return waited_s

    def _divide(self) -> None:
        size = self.flat.size
        total = float(self.flat.grad[size])
        gradients = self.flat.grad[:size]
        gradients *= 1.0 / total if total > 0.0 else 0.0
        for leaf, used in zip(self.leaves, self.flat.grad[size + 1 :].tolist(), strict=True):
            if used == 0.0:
                leaf.grad = None
            elif leaf.grad is None or leaf.grad._data is not leaf.buffer:
                leaf.grad = Tensor(leaf.buffer)
            else:
                leaf.grad.changed("all_reduce")

    def statistics(self) -> dict[str, Any]:
        """What the last reduction moved and how long it took."""
        work = self.work
        busy = 0.0
        if work is not None and work.started_s is not None and work.ended_s is not None:
            busy = work.ended_s - work.started_s
        return {"num_parameters": len(self.leaves), "num_bytes": self.flat.grad.nbytes, "busy_s": busy}
