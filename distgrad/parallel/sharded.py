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
from distgrad.backend.memory import PageReserve, release_freed_memory
from distgrad.backend.meta import META
from distgrad.comm.base import Communicator
from distgrad.errors import DeviceError, OptionError, StateDictError
from distgrad.nn.module import Module
from distgrad.optim.states import piece_key, shape_key
from distgrad.parallel.blocks import Blocks, BlockSharding, Unit
from distgrad.parallel.buckets import plan_buckets
from distgrad.parallel.checks import ShardOptions, find_replicas
from distgrad.parallel.gathering import home_of
from distgrad.parallel.replicas import Held, held_alike
from distgrad.parallel.sharding import Sharding, assign_whole

__all__ = ["ShardedStorage", "join_states"]

_MASTERS = np.dtype(np.float32)


class ShardedStorage:
    """Moves parameters into flat buffers whose elements are spread over ranks.

    Args:
        options: the stage, and what goes with it.
        comm: the ranks.
        lay_out: lays all parameters out anew.
        module: whose parameters they are.
    """

    def __init__(
        self, options: ShardOptions, comm: Communicator, lay_out: Callable[[], None], module: Module
    ) -> None:
        group = options.group
        self.shard, self.options = str(options.shard), options
        self._all = comm
        self.comm = comm if group is None else group
        self._replicas = None if group is None else find_replicas(comm, group)
        self._lay_out = lay_out
        self._whole: set[Tensor] = set()  # parameters that one rank owns
        self._blocks = Blocks(module, comm, options.blocks) if self.shard == "parameters" else None

    @classmethod
    def make(cls, options: ShardOptions, *others: Any) -> ShardedStorage | None:
        """One for a stage; None for none. The other arguments are the constructor's."""
        return None if options.shard is None else cls(options, *others)

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
            key = (self._dtype_of(parameter), home_of(parameter), parameter in self._whole)
            alike.setdefault(key, []).append(parameter)
        loads = [0] * self.comm.size
        buffers, pages = [], PageReserve()
        units: dict[tuple[int, ...], Unit] = {}
        for (dtype, device, whole), group in alike.items():
            self._check_device(device)
            group, parts = self._divide(group, cap_bytes)
            keys = [() if self._blocks is None else self._blocks.unit_key(group[part[0]]) for part in parts]
            owners = None
            if whole:
                owners = assign_whole([parameter.size for parameter in group], self.comm.size)
                order = [place for part in parts for place in sorted(part, key=owners.__getitem__)]
                group, owners = [group[place] for place in order], [owners[place] for place in order]
            before = self._values(group)
            lazy = self._blocks is not None
            allocate = functools.partial(self.comm.allocate, device=device, lazy=lazy)
            buffer = FlatBuffer(group, allocate=allocate, device=device, dtype=dtype, moves=not before)
            sharding = self._share(buffer, parts, owners, loads, pages)
            if isinstance(sharding, BlockSharding) and self._blocks is not None:
                sharding.attach(self._blocks, [units.setdefault(key, Unit()) for key in keys])
            buffers.append(buffer)
            while before:
                parameter, values = before.pop()
                sharding.overwrite(parameter, values())
        if self._blocks is not None:
            self._blocks.attach(units)
        release_freed_memory()  # where the parameters lay before
        return buffers

    def _share(
        self,
        buffer: FlatBuffer,
        parts: Sequence[range],
        owners: Sequence[int] | None,
        loads: list[int],
        pages: PageReserve,
    ) -> Sharding:
        options = self.options
        return (Sharding if self._blocks is None else BlockSharding)(
            buffer,
            parts,
            owners,
            loads,
            self.comm,
            replicas=self._replicas,
            pages=pages,
            releases=self.shard != "optimizer",
            keep_whole=self.keep_whole,
            offload_dir=options.offload_dir,
            master_dtype=self._master_dtype(buffer),
            widens=options.widens,
            on_host=options.offload is not None,
        )

    def _master_dtype(self, buffer: FlatBuffer) -> np.dtype[Any] | None:
        """Of what is updated in the place of a buffer's elements, where they are not updated as they lie."""
        if self.options.param_dtype is not None:
            return _MASTERS
        return None if self.options.offload is None else buffer.dtype

    def _dtype_of(self, parameter: Tensor) -> np.dtype[Any]:
        """What a parameter's elements become, for computing."""
        computing = self.options.param_dtype
        if computing is not None and parameter.dtype not in (_MASTERS, computing):
            raise OptionError(
                f"DistributedDataParallel: param_dtype={computing} computes with copies of float32 "
                f"parameters, got one of {parameter.dtype}; convert the module with .float()"
            )
        return parameter.dtype if computing is None else computing

    def _values(self, parameters: Sequence[Tensor]) -> list[tuple[Tensor, Callable[[], Any]]]:
        """What gives, one after the other, the elements of which ranks are to keep what they own.

        Nothing, where every rank keeps all of them as they are.
        """
        options = self.options
        if options.param_dtype is None and options.offload is None and self._blocks is None:
            return []
        found: list[tuple[Tensor, Callable[[], Any]]] = []
        for parameter in parameters:
            home = parameter.leaf_state().flat
            shares = None if home is None else home[0].shares
            if isinstance(shares, Sharding) and shares.is_filled:
                shares.settle([parameter])
                found.append((parameter, functools.partial(shares.whole, parameter.shape, home)))
            elif parameter.device != META:
                found.append((parameter, functools.partial(self._first_values, parameter._data)))
        return found

    def _first_values(self, array: Any) -> Any:
        """Those of the first of all ranks, in the dtype in which they are kept."""
        masters = self.options.param_dtype is not None
        return self._all.broadcast(array.astype(_MASTERS if masters else array.dtype))

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

    def cast(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the module is called with, tensors of float32 in the dtype in which it computes."""
        dtype = self.options.param_dtype
        if dtype is None:
            return args, kwargs

        def narrowed(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.dtype == _MASTERS else value

        return tuple(map(narrowed, args)), {name: narrowed(value) for name, value in kwargs.items()}

    def held(self, named: Sequence[tuple[str, Tensor]]) -> Held:
        """What this rank holds of parameters, to be compared: all of them, or parts that come and go.

        Of those it is its own part, and that of the rank before it, as this one gets it in a gather.

        Collective: where blocks come and go; blocks: then.
        """
        if self._blocks is None:
            return held_alike(named)
        alike = held_alike([pair for pair in named if not pair[1].requires_grad])
        spread = [pair for pair in named if pair[1].requires_grad]
        rank, before = self.comm.rank, (self.comm.rank - 1) % self.comm.size
        found = self._blocks.checksums([parameter for _, parameter in spread], (rank, before))
        owners = np.repeat([[rank], [before]], len(spread), axis=1)
        return Held(
            [*alike.names, *(name for name, _ in spread)],
            np.concatenate([np.repeat(alike.sums, 2, axis=0), found], axis=1),
            np.concatenate([np.repeat(alike.holders, 2, axis=0), owners], axis=1),
        )

    def _check_device(self, device: Device) -> None:
        options = self.options
        if device == CPU and options.offload is not None:
            raise OptionError(
                "DistributedDataParallel: offload='host' keeps state and update on the host, where these "
                "parameters lie anyway; leave it out, or give offload_dir= a folder for the state"
            )
        in_files = options.offload_dir is not None and options.offload is None
        if device != CPU and (self.shard != "optimizer" or in_files):
            raise DeviceError(
                f"DistributedDataParallel: the parameters lie on {device}, where shard='optimizer' alone is "
                "of use, as pages under a device's memory cannot be given back; offload_dir goes with "
                "offload='host'"
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
