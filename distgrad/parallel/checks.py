"""What a data-parallel module asks before it starts: options, ranks, devices, and equal modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device
from distgrad.comm.base import Communicator
from distgrad.errors import CommMismatchError, DeviceError, OptionError
from distgrad.parallel.gathering import home_of

__all__ = ["STAGES", "check_devices", "check_options", "check_same_module", "check_sharding", "find_replicas"]

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


def check_sharding(
    shard: str | None,
    group: Communicator | None,
    blocks: Sequence[str] | None,
    offload_dir: str | None,
    exact: bool,
) -> None:
    """Refuse what goes with ``shard`` where it has no use, and what does not go with it."""
    if shard == "parameters" and exact:
        raise OptionError(
            "DistributedDataParallel: with exact=True ranks run the module as often as they have shards, but "
            "blocks of shard='parameters' are gathered by all ranks at once; take shard='gradients'"
        )
    if shard not in (None, *STAGES):
        raise OptionError(
            f"DistributedDataParallel: shard must be one of {', '.join(map(repr, STAGES))} or None, "
            f"got {shard!r}"
        )
    if group is not None and (shard is None or exact):
        raise OptionError(
            "DistributedDataParallel: shard_group says among whom parts are spread; it goes with shard=, and "
            f"without exact, got shard={shard!r}, exact={exact}"
        )
    if shard is None and offload_dir is not None:
        raise OptionError(
            "DistributedDataParallel: offload_dir keeps an owner's state; give shard='optimizer' too"
        )
    if shard != "parameters" and blocks is not None:
        raise OptionError(
            f"DistributedDataParallel: shard_blocks goes with shard='parameters', got shard={shard!r}"
        )
    if offload_dir is not None and not Path(offload_dir).is_dir():
        raise OptionError(
            f"DistributedDataParallel: offload_dir must be a folder, and {offload_dir} is none; make it "
            "first, on a local disk"
        )


def check_same_module(named: Sequence[tuple[str, Tensor]], comm: Communicator) -> None:
    """Refuse modules whose parameters differ in name, dtype or shape.

    Collective: yes; blocks: yes.
    """
    own = [(name, str(p.dtype), p.shape) for name, p in named]
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
