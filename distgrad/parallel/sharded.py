"""Sharded training: parameters in flat buffers of which each rank owns a part.

Source: Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models", SC 2020.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.autograd.flat import FlatBuffer
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device
from distgrad.comm.base import Communicator
from distgrad.errors import DeviceError, OptionError, StateDictError
from distgrad.optim.states import piece_key, shape_key
from distgrad.parallel.buckets import plan_buckets
from distgrad.parallel.sharding import Sharding, assign_whole

__all__ = ["STAGES", "ShardedStorage", "join_states"]

#: What may be sharded, each with what stands before it.
STAGES = ("optimizer", "gradients")


class ShardedStorage:
    """Moves parameters into flat buffers whose elements are spread over ranks.

    Args:
        shard: one of :data:`STAGES`.
        comm: the ranks.
        lay_out: lays all parameters out anew.
        offload_dir: an existing folder for the optimizer's state; None keeps it in memory.

    Raises:
        OptionError: another word, or no such folder.
    """

    def __init__(
        self, shard: str, comm: Communicator, lay_out: Callable[[], None], offload_dir: str | None
    ) -> None:
        if shard not in STAGES:
            raise OptionError(
                f"DistributedDataParallel: shard must be one of {', '.join(map(repr, STAGES))} or None, "
                f"got {shard!r}"
            )
        if offload_dir is not None and not Path(offload_dir).is_dir():
            raise OptionError(
                f"DistributedDataParallel: offload_dir must be a folder, and {offload_dir} is none; make it "
                "first, on a local disk"
            )
        self.shard = shard
        self.comm = comm
        self._lay_out = lay_out
        self._offload_dir = offload_dir
        self._whole: set[Tensor] = set()  # parameters that one rank owns

    def keep_whole(self, parameters: Iterable[Tensor]) -> None:
        """From now on one rank owns all of each of these.

        Collective: yes; blocks: yes.
        """
        new = set(parameters) - self._whole
        if new:
            self._whole |= new
            self._lay_out()

    def store(self, parameters: Sequence[Tensor], cap_bytes: float) -> list[FlatBuffer]:
        """Move parameters into memory of the communicator, and say who owns what.

        Collective: yes; blocks: yes.

        Args:
            parameters: in about the order in which their gradients become ready.
            cap_bytes: as for :func:`~distgrad.parallel.buckets.plan_buckets`.

        Returns:
            A buffer a dtype and device, and one more for parameters that one rank owns.
        """
        alike: dict[tuple[np.dtype[Any], Device, bool], list[Tensor]] = {}
        for parameter in parameters:
            key = (parameter.dtype, parameter.device, parameter in self._whole)
            alike.setdefault(key, []).append(parameter)
        loads = [0] * self.comm.size
        buffers = []
        for (_, device, whole), group in alike.items():
            self._check_device(device)
            parts = plan_buckets(group, range(len(group)), cap_bytes)
            owners = None
            if whole:
                owners = assign_whole([parameter.size for parameter in group], self.comm.size)
                order = [place for part in parts for place in sorted(part, key=owners.__getitem__)]
                group, owners = [group[place] for place in order], [owners[place] for place in order]
            buffer = FlatBuffer(group, allocate=functools.partial(self.comm.allocate, device=device))
            Sharding(
                buffer,
                parts,
                owners,
                loads,
                self.comm,
                releases=self.shard != "optimizer",
                keep_whole=self.keep_whole,
                offload_dir=self._offload_dir,
            )
            buffers.append(buffer)
        return buffers

    def _check_device(self, device: Device) -> None:
        if device != CPU and (self.shard != "optimizer" or self._offload_dir is not None):
            raise DeviceError(
                f"DistributedDataParallel: the parameters lie on {device}, where shard='optimizer' alone is "
                "of use, without offload_dir: pages of a device's memory cannot be given back"
            )


def join_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The whole state of an optimizer, from what each rank's ``state_dict(sharded=True)`` gave.

    It loads on any number of ranks, with and without shards.

    Collective: no; blocks: no.

    Args:
        states: of all ranks, in any order.

    Returns:
        What ``state_dict()`` would have given.

    Raises:
        StateDictError: a piece that is missing, or there twice.
    """
    numbers = states[0]["state"]
    whole: dict[int, dict[str, Any]] = {}
    for number in numbers:
        entries = [state["state"][number] for state in states]
        names = [name for name in entries[0] if piece_key(name) in entries[0]]
        whole[number] = {"step": entries[0]["step"]}
        for name in names:
            pieces = sorted(
                ((entry[piece_key(name)], entry[name]) for entry in entries if entry[name].size),
                key=lambda piece: piece[0],
            )
            stops = [0, *(start + array.size for start, array in pieces)]
            shape = entries[0][shape_key(name)]
            if [start for start, _ in pieces] != stops[:-1] or stops[-1] != math.prod(shape):
                raise StateDictError(
                    f"join_states: {name} of parameter {number} should have {math.prod(shape)} elements, "
                    f"got pieces {[(start, array.size) for start, array in pieces]}; give the states of all "
                    "ranks of one job, each once"
                )
            empty = entries[0][name][:0]
            whole[number][name] = np.concatenate([empty, *(array for _, array in pieces)]).reshape(shape)
    return {"state": whole, "param_groups": states[0]["param_groups"]}
