"""Sharded training: parameters in flat buffers of which each rank owns a part.

Source: Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models", SC 2020.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.flat import FlatBuffer
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device
from distgrad.backend.memory import release_freed_memory
from distgrad.comm.base import Communicator
from distgrad.errors import DeviceError, StateDictError
from distgrad.nn.module import Module
from distgrad.optim.states import piece_key, shape_key
from distgrad.parallel.blocks import Blocks, BlockSharding, Unit
from distgrad.parallel.buckets import plan_buckets
from distgrad.parallel.checks import find_replicas
from distgrad.parallel.gathering import home_of
from distgrad.parallel.sharding import Sharding, assign_whole

__all__ = ["ShardedStorage", "join_states"]


class ShardedStorage:
    """Moves parameters into flat buffers whose elements are spread over ranks.

    Args:
        shard: ``optimizer``, ``gradients`` or ``parameters``.
        comm: the ranks.
        group: those of them that this one shares with; None for all.
        lay_out: lays all parameters out anew.
        module: whose parameters they are.
        blocks: names of modules whose parameters come and go together, as for
            :func:`~distgrad.parallel.blocks.find_blocks`.
        offload_dir: an existing folder for the optimizer's state; None keeps it in memory.
    """

    def __init__(
        self,
        shard: str,
        comm: Communicator,
        group: Communicator | None,
        lay_out: Callable[[], None],
        module: Module,
        blocks: Sequence[str] | None,
        offload_dir: str | None,
    ) -> None:
        self.shard = shard
        self.comm = comm if group is None else group
        self._replicas = None if group is None else find_replicas(comm, group)
        self._holders = [] if group is None else comm.all_gather_object(group.rank)
        self._lay_out = lay_out
        self._offload_dir = offload_dir
        self._whole: set[Tensor] = set()  # parameters that one rank owns
        self._blocks = Blocks(module, comm, blocks) if shard == "parameters" else None

    @classmethod
    def make(cls, shard: str | None, *options: Any) -> ShardedStorage | None:
        """One for a stage; None for none. The other arguments are the constructor's."""
        return None if shard is None else cls(shard, *options)

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
            key = (parameter.dtype, home_of(parameter), parameter in self._whole)
            alike.setdefault(key, []).append(parameter)
        loads = [0] * self.comm.size
        buffers = []
        units: dict[tuple[int, ...], Unit] = {}
        for (_, device, whole), group in alike.items():
            self._check_device(device)
            group, parts = self._divide(group, cap_bytes)
            keys = [() if self._blocks is None else self._blocks.unit_key(group[part[0]]) for part in parts]
            owners = None
            if whole:
                owners = assign_whole([parameter.size for parameter in group], self.comm.size)
                order = [place for part in parts for place in sorted(part, key=owners.__getitem__)]
                group, owners = [group[place] for place in order], [owners[place] for place in order]
            buffer = FlatBuffer(
                group, allocate=functools.partial(self.comm.allocate, device=device), device=device
            )
            sharding = (Sharding if self._blocks is None else BlockSharding)(
                buffer,
                parts,
                owners,
                loads,
                self.comm,
                replicas=self._replicas,
                releases=self.shard != "optimizer",
                keep_whole=self.keep_whole,
                offload_dir=self._offload_dir,
            )
            if isinstance(sharding, BlockSharding) and self._blocks is not None:
                sharding.attach(self._blocks, [units.setdefault(key, Unit()) for key in keys])
            buffers.append(buffer)
        if self._blocks is not None:
            self._blocks.attach(units)
        release_freed_memory()  # where the parameters lay before
        return buffers

    def _divide(self, group: list[Tensor], cap_bytes: float) -> tuple[list[Tensor], list[range]]:
        """Parameters in the order in which they lie, and which of them travel together: those of a unit."""
        if self._blocks is None:
            return group, plan_buckets(group, range(len(group)), cap_bytes)
        units: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter in group:
            units.setdefault(self._blocks.unit_key(parameter), []).append(parameter)
        stops = [0, *itertools.accumulate(len(unit) for unit in units.values())]
        parts = [range(*edge) for edge in itertools.pairwise(stops)]
        return [parameter for unit in units.values() for parameter in unit], parts

    def let_go(self) -> None:
        """Let parameters go that have been laid out, where they come and go.

        Collective: no; blocks: no.
        """
        if self._blocks is not None:
            self._blocks.let_all_go()

    def replicated(self, named: Sequence[tuple[str, Tensor]]) -> tuple[Sequence[tuple[str, Tensor]], Any]:
        """What several ranks hold the same of, by name, of parameters: all, or this rank's part.

        Collective: no; blocks: no.

        Returns:
            Names and tensors, and ``[ranks, tensors]``, equal where ranks hold the same; None where all do.
        """
        if self._blocks is None:
            return named, None
        spread = [pair for pair in named if pair[1].requires_grad]
        found = [pair for pair in named if not pair[1].requires_grad]
        if not self._holders:  # each part is there once
            return found, None
        holders = np.zeros((len(self._holders), len(named)), np.int64)
        holders[:, len(found) :] = np.array(self._holders)[:, None]
        for name, parameter in spread:
            part = parameter.leaf_state().flat[0].shares.part(parameter)
            found.append((name, Tensor(part.data)))
        return found, holders

    def _check_device(self, device: Device) -> None:
        if device != CPU and (self.shard != "optimizer" or self._offload_dir is not None):
            raise DeviceError(
                f"DistributedDataParallel: the parameters lie on {device}, where shard='optimizer' alone is "
                "of use, without offload_dir: the pages under a device's memory cannot be given back"
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
        parts = {key for name in names for key in (name, piece_key(name), shape_key(name))}
        whole[number] = {key: value for key, value in entries[0].items() if key not in parts}
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
