"""The schedule of a data-parallel step: which gradients travel together, when, and what is waited for.

The buckets are those that :mod:`distgrad.parallel.buckets` plans. Nothing here runs: times go in and come
out, for one rank or for thousands at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.parallel.buckets import plan_buckets, suitable_cap

__all__ = ["Gradient", "Packet", "Profile", "end_of_reductions", "packets", "transfers"]

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Gradient:
    """A gradient, or several that are ready together.

    Args:
        nbytes: of it.
        ready_s: seconds after the start of backward.
        shape: of it; empty where that is not known.
    """

    nbytes: int
    ready_s: float
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Profile:
    """What a step of one rank takes that nobody else delays.

    Args:
        forward_s: seconds of the forward pass.
        backward_s: seconds of the backward pass's own computing.
        rest_s: seconds of everything else: optimizer, data.
        gradients: in the order in which they are ready.
        spread: standard deviation of a step's computing from one step to the next, as a share of it.
    """

    forward_s: float
    backward_s: float
    rest_s: float
    gradients: tuple[Gradient, ...]
    spread: float = 0.0

    @property
    def num_bytes(self) -> int:
        """Bytes of all gradients."""
        return sum(each.nbytes for each in self.gradients)

    @property
    def computing_s(self) -> float:
        """Seconds of a step that waits for nothing."""
        return self.forward_s + self.backward_s + self.rest_s

    def shared(self, share: float) -> Profile:
        """The step of a rank that has a share of the samples; what does not depend on these stays."""
        gradients = tuple(replace(each, ready_s=share * each.ready_s) for each in self.gradients)
        forward_s, backward_s = share * self.forward_s, share * self.backward_s
        return replace(self, forward_s=forward_s, backward_s=backward_s, gradients=gradients)


@dataclass(frozen=True)
class Packet:
    """A bucket: gradients that are reduced together.

    Args:
        nbytes: of them.
        ready_s: seconds after the start of backward at which the last is in.
        shapes: of them.
    """

    nbytes: int
    ready_s: float
    shapes: tuple[tuple[int, ...], ...] = field(default=())


def packets(profile: Profile, cap_bytes: float | None = None) -> list[Packet]:
    """The buckets of a profile, in the order in which they are full.

    Args:
        profile: what is known of the gradients.
        cap_bytes: bytes at which a bucket is full; None as :func:`~distgrad.parallel.buckets.suitable_cap`
            has it where the network is not known.
    """
    cap_bytes = suitable_cap(profile.num_bytes) if cap_bytes is None else cap_bytes
    parameters = cast(Sequence[Tensor], profile.gradients)  # of which plan_buckets asks for nbytes
    found = []
    for part in plan_buckets(parameters, range(len(parameters)), cap_bytes) if parameters else []:
        chosen = [profile.gradients[place] for place in part]
        ready_s = max(each.ready_s for each in chosen)
        found.append(
            Packet(sum(each.nbytes for each in chosen), ready_s, tuple(each.shape for each in chosen))
        )
    return found


def end_of_reductions(ready_s: Times, seconds: Times) -> Times:
    """When each bucket's reduction ends: behind the last rank that comes to it, and behind the one before.

    ``end[b] = max(end[b - 1], max_r ready[r, b]) + seconds[b]``

    Args:
        ready_s: ``[..., ranks, buckets]``; leading axes are groups that reduce apart.
        seconds: ``[buckets]``, or ``[..., buckets]``.

    Returns:
        ``[..., buckets]``.
    """
    last = ready_s.max(axis=-2)
    ends = np.empty(np.broadcast_shapes(last.shape, seconds.shape))
    free: Any = -np.inf
    for bucket in range(last.shape[-1]):
        free = np.maximum(free, last[..., bucket]) + seconds[..., bucket]
        ends[..., bucket] = free
    return ends


#: A verb and the bytes of its array.
Transfer = tuple[str, float]
_TAIL_BYTES = 8  # of each of a tail's numbers, which hooks need to know ahead


def _rounded(packet: Packet, size: int) -> list[Transfer]:
    return [("all_to_all", packet.nbytes / 2), ("all_gather", packet.nbytes / 2 / size)]


def _power(packet: Packet, rank: int) -> list[Transfer]:
    left = right = 0.0
    for shape in packet.shapes:
        n, m = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (0, 0)
        if 0 < 2 * (n + m) * rank <= n * m:
            left, right = left + 4 * n * rank, right + 4 * m * rank
        else:
            left += 4 * math.prod(shape)
    return [("all_reduce", each) for each in (left, right) if each]


def _largest(packet: Packet, ratio: float) -> list[Transfer]:
    return [("all_gather", 8 * max(1, round(ratio * packet.nbytes / 4)))]


_HOOKS: dict[str, Callable[[Packet, float, int], list[Transfer]]] = {
    "fp16": lambda packet, _, size: _rounded(packet, size),
    "bf16": lambda packet, _, size: _rounded(packet, size),
    "PowerSGD": lambda packet, value, _: _power(packet, int(value)),
    "TopK": lambda packet, value, _: _largest(packet, value),
}


def transfers(packet: Packet, hook: str, shard: str | None, size: int) -> list[Transfer]:
    """What a bucket of float32 sends, call by call.

    Args:
        packet: the bucket.
        hook: ``"none"``, ``"fp16"``, ``"bf16"``, ``"PowerSGD(4)"`` or ``"TopK(0.01)"``.
        shard: as in DistributedDataParallel; the parameters' own way is not in it.
        size: ranks.
    """
    name, _, value = hook.rstrip(")").partition("(")
    tail: Transfer = ("all_reduce", _TAIL_BYTES * (2 + len(packet.shapes)))
    if name == "none":
        return [("all_reduce", packet.nbytes)] if shard is None else [("reduce_scatter", packet.nbytes)]
    if name not in _HOOKS:
        raise OptionError(f"scale: no hook {hook!r}; there are none, {', '.join(_HOOKS)}, as in PowerSGD(4)")
    return [tail, *_HOOKS[name](packet, float(value or 0), size)]
