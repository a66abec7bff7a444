"""What a data-parallel module asks before it starts: options, ranks, devices, and equal modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.autograd.casting import bfloat16
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device
from distgrad.comm.base import Communicator
from distgrad.comm.reduction import is_narrow
from distgrad.errors import CommMismatchError, DeviceError, OptionError
from distgrad.parallel.buckets import Hook
from distgrad.parallel.compress import bf16, fp16
from distgrad.parallel.gathering import home_of

__all__ = [
    "STAGES",
    "ShardOptions",
    "check_devices",
    "check_options",
    "check_same_module",
    "find_replicas",
]

#: What may be sharded, each with what stands before it.
STAGES = ("optimizer", "gradients", "parameters")


def check_options(
    exact: bool,
    shards: int | None,
    others: dict[str, Any],
    weigh_by: str,
) -> None:
    """Refuse options that do not go together; ``others`` are those that exact mode does not take."""
    if weigh_by not in ("samples", "ranks"):
        raise OptionError(f"DistributedDataParallel: weigh_by must be 'samples' or 'ranks', got {weigh_by!r}")
    others = others | {"weigh_by": None if weigh_by == "samples" else weigh_by}
    if exact != (shards is not None) or (exact and any(others.values())):
        given = ", ".join(f"{name}={value}" for name, value in others.items())
        raise OptionError(
            "DistributedDataParallel: exact=True goes with shards=, the number of parts of a batch, and "
            f"without {', '.join(others)}; got exact={exact}, shards={shards}, {given}"
        )


@dataclass(frozen=True)
class ShardOptions:
    """How a module is sharded: the options of :class:`DistributedDataParallel` of the same names.

    Attributes:
        shard: a stage, or None.
        group, blocks: ``shard_group`` and ``shard_blocks``.
        offload_dir, offload: as given.
        param_dtype, reduce_dtype: as given, or None.
    """

    shard: str | None = None
    group: Communicator | None = None
    blocks: Sequence[str] | None = None
    offload_dir: str | None = None
    param_dtype: np.dtype[Any] | None = None
    reduce_dtype: np.dtype[Any] | None = None
    offload: str | None = None

    @classmethod
    def make(cls, *options: Any) -> ShardOptions:
        """From all of them, in their order; dtypes may be given by name."""
        shard, group, blocks, folder, computing, reducing, offload = options
        dtypes = (_dtype("param_dtype", computing), _dtype("reduce_dtype", reducing))
        return cls(shard, group, blocks, folder, *dtypes, offload)

    @property
    def widens(self) -> bool:
        """Whether gradients of 16 bits are summed, and kept by their owners, in float32."""
        return self.param_dtype is not None and self.reduce_dtype == np.float32

    @property
    def narrows(self) -> bool:
        """Whether gradients of float32 travel in 16 bits."""
        return self.param_dtype is None and self.reduce_dtype is not None and is_narrow(self.reduce_dtype)

    def check(self, exact: bool = False, hook: Hook | None = None) -> Hook | None:
        """Refuse what goes with ``shard`` where it has no use, and what does not go with it.

        Returns:
            The hook that sums gradients, where they do not travel as they are.
        """
        shard = self.shard
        if shard not in (None, *STAGES):
            raise OptionError(
                f"DistributedDataParallel: shard must be one of {', '.join(map(repr, STAGES))} or None, "
                f"got {shard!r}"
            )
        if self.group is not None and (shard is None or exact):
            raise OptionError(
                "DistributedDataParallel: shard_group says among whom parts are spread; it goes with shard=, "
                f"and without exact, got shard={shard!r}, exact={exact}"
            )
        if self.offload not in (None, "host"):
            raise OptionError(
                f"DistributedDataParallel: offload must be 'host' or None, got {self.offload!r}; a folder "
                "for the optimizer's state is offload_dir="
            )
        if shard is None and (self.offload_dir or self.offload) is not None:
            option = "offload" if self.offload_dir is None else "offload_dir"
            raise OptionError(
                f"DistributedDataParallel: {option} says where an owner's state lies; give shard='optimizer' "
                "too"
            )
        if shard != "parameters" and self.blocks is not None:
            raise OptionError(
                f"DistributedDataParallel: shard_blocks goes with shard='parameters', got shard={shard!r}"
            )
        if self.offload_dir is not None and not Path(self.offload_dir).is_dir():
            raise OptionError(
                f"DistributedDataParallel: offload_dir must be a folder, and {self.offload_dir} is none; "
                "make it first, on a local disk"
            )
        self._check_dtypes(exact, hook)
        narrow = fp16 if self.reduce_dtype == np.float16 else bf16
        return narrow if self.narrows else hook

    def _check_dtypes(self, exact: bool, hook: Any) -> None:
        if self.param_dtype is None and self.reduce_dtype is None:
            return
        if self.shard is None:
            raise OptionError(
                "DistributedDataParallel: param_dtype and reduce_dtype go with shard=, whose owners keep "
                "parameters in float32; give shard='optimizer' too, or autocast, or hook=dg.parallel.bf16"
            )
        if self.param_dtype is not None and not is_narrow(self.param_dtype):
            raise OptionError(
                "DistributedDataParallel: param_dtype, in which the module computes, must be float16 or "
                f"bfloat16, got {self.param_dtype}"
            )
        if self.reduce_dtype is None:
            return
        if exact or hook is not None:
            raise OptionError(
                "DistributedDataParallel: reduce_dtype says how gradients are summed, and so does "
                f"{'exact=True' if exact else 'a hook'}; leave one of them out"
            )
        same = self.param_dtype is None or self.param_dtype == self.reduce_dtype
        narrow = same and is_narrow(self.reduce_dtype)
        if not narrow and self.reduce_dtype != np.float32:
            raise OptionError(
                "DistributedDataParallel: reduce_dtype must be float32, or 16 bits, those of param_dtype "
                f"where it is given, got {self.reduce_dtype} with param_dtype={self.param_dtype}"
            )


def _dtype(option: str, given: Any) -> np.dtype[Any] | None:
    try:
        return None if given is None else bfloat16() if given == "bfloat16" else np.dtype(given)
    except TypeError:
        raise OptionError(f"DistributedDataParallel: {option} must be a dtype, got {given!r}") from None


def check_same_module(named: Sequence[tuple[str, Tensor]], comm: Communicator) -> None:
    """Refuse modules whose parameters differ in name, dtype or shape.

    Collective: yes; blocks: yes.
    """
    own = [(name, str(p.dtype), tuple(p.shape)) for name, p in named]
    for rank, theirs in enumerate(comm.all_gather_object(own)):
        if theirs == own:
            continue
        first = next(
            (pair for pair in zip(own, theirs, strict=False) if pair[0] != pair[1]),
            (f"{len(own)} parameters", f"{len(theirs)} parameters"),
        )
        raise CommMismatchError(
            f"DistributedDataParallel: modules differ; rank {comm.rank} has {first[0]}, "
            f"rank {rank} has {first[1]}; build the same module on every rank"
        )


def check_devices(named: Sequence[tuple[str, Tensor]], comm: Communicator, exact: bool) -> Device:
    """Where the parameters lie that want gradients: where the communicator's arrays do."""
    wanting = [(name, home_of(p)) for name, p in named if p.requires_grad]
    for name, device in wanting:
        if not comm.takes(device):
            way = (
                "move the module first, module.to('cuda')"
                if device == CPU
                else "call dg.comm.init('nccl') first, or move the module to this rank's GPU"
            )
            raise DeviceError(
                f"DistributedDataParallel: {name} lies on {device}, whose arrays the {comm.backend} "
                f"communicator '{comm.group}' of rank {comm.rank} does not exchange; {way}"
            )
        if exact and device != CPU:
            raise DeviceError(
                f"DistributedDataParallel: exact=True gives the same bits on CPUs, but {name} lies on "
                f"{device}; leave exact and shards out, or move the module with .cpu()"
            )
    return wanting[0][1] if wanting else CPU


def find_replicas(comm: Communicator, group: Communicator) -> Communicator:
    """The ranks that own, each in its own group, what this one owns in its.

    Collective: yes; blocks: yes.

    Raises:
        OptionError: a group that does not come from ``comm``, or groups of several sizes.
    """
    sizes = comm.all_gather_object(group.size if group.family is comm.family else None)
    if set(sizes) != {group.size} or comm.size % group.size:
        raise OptionError(
            "DistributedDataParallel: shard_group must be made by comm.split, on every rank, into groups of "
            f"one size, got groups of {', '.join(map(str, sizes))} ranks, None for one of another world"
        )
    found = comm.split(group.rank, group=f"replicas of {group.rank}")
    assert found is not None
    return found
