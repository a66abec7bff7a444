"""What a rank needs in memory, known before it runs: one step on shapes, and the formulas of sharding."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from distgrad.autograd.flat import FlatBuffer, flatten
from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.backend.meta import META, LiveBytes, MetaArray
from distgrad.errors import OptionError
from distgrad.nn.module import Module
from distgrad.nn.parameter import Buffer, Parameter
from distgrad.optim.lbfgs import LBFGS
from distgrad.optim.optimizer import Optimizer
from distgrad.optim.states import state_dtype
from distgrad.parallel.blocks import unit_keys
from distgrad.parallel.buckets import plan_buckets, suitable_cap
from distgrad.parallel.checks import STAGES, ShardOptions
from distgrad.parallel.sharding import assign_whole

__all__ = ["MemoryPlan", "memory_plan", "on_meta"]

_MIB = 1 << 20


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that one rank needs, of those ranks the one that needs most.

    Attributes:
        parameters: elements that stay with the rank, master weights too, and the module's buffers.
        gradients: of what it owns, or of all; where they are summed in float32, their means too.
        state: the optimizer's.
        buckets: what is there for a while of what other ranks own: gradients of buckets that are being
            reduced, and the parameters of blocks that compute.
        activations: the batch, and the most that forward and backward hold at once beside all that.
        on_host: with ``offload="host"``, what the host holds of it: a rank's part, its gradients, the state.
    """

    parameters: int
    gradients: int
    state: int
    buckets: int
    activations: int
    on_host: int = 0

    @property
    def total(self) -> int:
        """All that lies with the parameters."""
        return sum(getattr(self, each.name) for each in fields(self)) - self.on_host

    def __str__(self) -> str:
        rows = [(each.name, getattr(self, each.name)) for each in fields(self)][:-1] + [("total", self.total)]
        rows += [("on the host", self.on_host)] if self.on_host else []
        return "\n".join([f"{'a rank':12}{'MiB':>12}"] + [f"{n:12}{size / _MIB:12.1f}" for n, size in rows])


def memory_plan(
    module: Module,
    optimizer: Optimizer | Callable[[Any], Optimizer],
    shape: Any,
    *,
    ranks: int = 1,
    shard: str | None = None,
    shard_blocks: Sequence[str] | None = None,
    bucket_cap_mb: float | None = None,
    param_dtype: Any = None,
    reduce_dtype: Any = None,
    offload: str | None = None,
    loss: Callable[[Any], Tensor] | None = None,
) -> MemoryPlan:
    """How many bytes a rank needs to train a module, from one step of forward and backward on ``"meta"``.

    The module may lie there itself, so that what does not fit anywhere can be planned. Memory that a kernel
    needs while it runs, the interpreter's and the libraries' own are not in it.

    Collective: no; blocks: no.

    Args:
        module: before it is wrapped; it stays as it is.
        optimizer: of its parameters, or a function (a class) that makes one of them. Those that want no
            gradient have no state.
        shape: of one rank's batch: lengths, for numbers of the parameters' dtype; or what the module is
            called with, a tensor or a tuple of them, of which shape and dtype count.
        ranks: how many there are.
        shard, shard_blocks, bucket_cap_mb, param_dtype, reduce_dtype, offload: as for
            :class:`DistributedDataParallel`.
        loss: of what the module returns, on ``"meta"`` too; None takes the sum of its first tensor.

    Returns:
        The bytes; printed it is a table.

    Raises:
        OptionError: no such stage, no rank, or an optimizer whose state depends on how it fares.
        DeviceError: a module whose shapes depend on elements.

    Source: Rajbhandari et al., SC 2020 (the parts), measured on shapes as JAX's ``eval_shape`` has them.
    """
    options = ShardOptions.make(shard, None, shard_blocks, None, param_dtype, reduce_dtype, offload)
    options.check()
    if not isinstance(ranks, int) or ranks < 1:
        raise OptionError(f"memory_plan: ranks must be a whole number from 1 up, got {ranks!r}")
    twin = on_meta(module)
    computing = options.param_dtype
    masters = 0 if computing is None else 4 * sum(p.size for p in twin.parameters() if p.requires_grad)
    if computing is not None:
        for each in twin.parameters():
            each._data = MetaArray(each.shape, computing if each.requires_grad else each.dtype)
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    buffers = flatten(trained)
    num_bytes = sum(buffer.data.nbytes for buffer in buffers)
    others = [each for each in (*twin.parameters(), *twin.buffers()) if each not in set(trained)]
    stage = 0 if shard is None else 1 + STAGES.index(shard)
    gradients, parameters = (num_bytes if stage < first else _share(num_bytes, ranks) for first in (2, 3))
    foreign = (ranks - 1) / ranks  # of what comes and goes
    largest = _pair(_units(twin, shard_blocks) if stage == 3 else _buckets(buffers, bucket_cap_mb))
    reducing = foreign * largest * {2: 1, 3: 2}.get(stage, 0)  # gradients, and parameters too
    if options.widens and computing is not None:
        reducing += largest * 4 // computing.itemsize  # a copy that is summed in float32
    state = _state_bytes(optimizer, module, ranks if stage else 1)
    kept, on_host = _share(masters, ranks), 0
    if offload is not None:
        own = _share(num_bytes, ranks)
        on_host = (kept or own) + (kept if options.widens else own) + state
        kept = state = 0
    return MemoryPlan(
        parameters=parameters + kept + sum(each.nbytes for each in others),
        gradients=gradients + (_share(masters, ranks) if options.widens else 0),
        state=state,
        on_host=on_host,
        buckets=round(reducing),
        activations=_activations(twin, _arguments(shape, trained, computing), loss),
    )


def on_meta(module: Module) -> Module:
    """A copy of a module whose parameters and buffers have shapes and no elements.

    Collective: no; blocks: no.
    """
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = Parameter(MetaArray(parameter.shape, parameter.dtype), parameter.requires_grad)
    for buffer in module.buffers():
        empty = MetaArray(buffer.shape, buffer.dtype)
        kept = getattr(buffer, "persistent", None)
        memo[id(buffer)] = Tensor(empty) if kept is None else Buffer(empty, persistent=kept)
    return copy.deepcopy(module, memo)


def _arguments(shape: Any, parameters: Sequence[Tensor], computing: np.dtype[Any] | None) -> list[Any]:
    """What the module is called with, on 'meta': in the dtype in which it computes, where one is given."""
    given = shape if isinstance(shape, tuple | list) else (shape,)
    if all(isinstance(each, int) for each in given):
        dtype = next((p.dtype for p in parameters if p.dtype.char in FLOATING), np.dtype(np.float32))
        return [Tensor(MetaArray(given, dtype))]
    cast = {np.dtype(np.float32): computing or np.dtype(np.float32)}
    return [
        Tensor(MetaArray(each.shape, cast.get(np.dtype(each.dtype), each.dtype)))
        if hasattr(each, "dtype")
        else each
        for each in given
    ]


def _activations(twin: Module, arguments: list[Any], loss: Callable[[Any], Tensor] | None) -> int:
    given = sum(each.nbytes for each in arguments if isinstance(each, Tensor))
    with META, LiveBytes() as counted:
        out = twin(*arguments)
        found = next(_tensors(out)).sum() if loss is None else loss(out)
        if found.requires_grad:
            found.backward()
    return given + counted.peak


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)


def _share(count: int, ranks: int) -> int:
    return -(-count // ranks)


def _pair(sizes: Sequence[int]) -> int:
    """The most that two neighbours have."""
    return max((a + b for a, b in itertools.pairwise(sizes)), default=sum(sizes))


def _buckets(buffers: Sequence[FlatBuffer], cap_mb: float | None) -> list[int]:
    """Bytes of the buckets of each buffer, in the order in which they are full."""
    num_bytes = sum(buffer.data.nbytes for buffer in buffers)
    cap_bytes = suitable_cap(num_bytes) if cap_mb is None else cap_mb * _MIB
    return [
        sum(buffer.parameters[place].nbytes for place in part)
        for buffer in buffers
        for part in plan_buckets(buffer.parameters, range(len(buffer.parameters)), cap_bytes)
    ]


def _units(twin: Module, named: Sequence[str] | None) -> list[int]:
    """Bytes of what is gathered together, in the order of the module's parameters."""
    keys = unit_keys(twin, named)
    sizes: dict[tuple[int, ...], int] = {}
    for parameter in twin.parameters():
        if parameter.requires_grad:
            sizes[keys[parameter]] = sizes.get(keys[parameter], 0) + parameter.nbytes
    return list(sizes.values())


def _state_bytes(optimizer: Any, module: Module, ranks: int) -> int:
    """The largest share of an optimizer's state."""
    if not isinstance(optimizer, Optimizer):
        optimizer = optimizer(list(on_meta(module).parameters()))
        if not isinstance(optimizer, Optimizer):
            raise OptionError(f"memory_plan: optimizer must give an Optimizer, got {optimizer!r}")
    if isinstance(optimizer, LBFGS):
        raise OptionError(
            "memory_plan: LBFGS keeps as much history as it has made steps, up to history_size of them; plan "
            "with another optimizer, and add 2 * history_size times the parameters' bytes"
        )
    sizes, weights = [], []
    for group in optimizer.param_groups:
        for parameter in filter(lambda parameter: parameter.requires_grad, group["params"]):
            shapes = optimizer.state_shapes(group, parameter.shape).values()
            itemsize = state_dtype(parameter.dtype).itemsize
            sizes.append(sum(MetaArray(shape, np.uint8).size for shape in shapes) * itemsize)
            weights.append(parameter.size)
    if optimizer.elementwise:
        return _share(sum(sizes), ranks)
    loads = [0] * ranks
    for size, owner in zip(sizes, assign_whole(weights, ranks), strict=True):
        loads[owner] += size
    return max(loads)
