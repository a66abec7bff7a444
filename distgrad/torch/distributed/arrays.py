"""Tensors as the arrays that communicators take, and results back into tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import get_array_module
from distgrad.comm.base import Communicator
from distgrad.errors import DTypeError, OptionError
from distgrad.torch.distributed.groups import ProcessGroup, member_of
from distgrad.torch.distributed.works import Work

__all__ = ["ReduceOp", "array_of", "flat", "issue", "meet", "place_in", "reduce_op", "reduction", "store"]

Array = NDArray[Any]


class ReduceOp:
    """How elements of several ranks become one."""

    class RedOpType:
        """The same names."""

    SUM, AVG, PRODUCT, MIN, MAX, BAND, BOR, BXOR = "sum", "mean", "prod", "min", "max", "band", "bor", "bxor"


for _name in ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR"):
    setattr(ReduceOp.RedOpType, _name, getattr(ReduceOp, _name))
reduce_op = ReduceOp

#: NumPy's functions for the reductions that the communicators leave out.
_BITWISE = {"band": "bitwise_and", "bor": "bitwise_or", "bxor": "bitwise_xor"}


def reduction(op: Any, where: str) -> str:
    """The communicator's name of a reduction.

    Raises:
        OptionError: there is no such reduction.
    """
    if op not in ("sum", "mean", "prod", "min", "max", *_BITWISE):
        raise OptionError(f"{where}: op must be one of ReduceOp's, got {op!r}")
    return str(op)


def array_of(tensor: Any, where: str) -> Array:
    """A tensor's own array, or a copy of it in C order.

    Raises:
        DTypeError: it is no tensor of distgrad's.
    """
    if not isinstance(tensor, Tensor):
        kind = f"{type(tensor).__module__}.{type(tensor).__name__}"
        raise DTypeError(
            f"{where}: expected a tensor of distgrad's, got {kind}; make one of it with torch.from_dlpack"
        )
    data: Array = tensor._data
    return data if data.flags.c_contiguous else data.copy(order="C")


def flat(tensor: Any, where: str) -> Array:
    """The same, as one axis."""
    return array_of(tensor, where).reshape(-1)


def store(tensor: Tensor, values: Array, where: str) -> Tensor:
    """Have a tensor hold ``values``, which may be its own memory."""
    own = tensor._data
    if not own.flags.c_contiguous or _address(values) != _address(own):
        own[...] = values.reshape(own.shape)
    tensor.changed(where)
    return tensor


def _address(values: Array) -> int:
    interface = getattr(values, "__cuda_array_interface__", None) or values.__array_interface__
    return int(interface["data"][0])


def meet(group: Any, where: str, tensor: Tensor | None = None) -> tuple[ProcessGroup, Communicator] | None:
    """The group and what exchanges arrays where the tensor lies; None where this rank is no member."""
    found = member_of(group, where)
    if found is None:
        return None
    return found, found.comm.host if tensor is None else found.for_device(tensor.device)


def place_in(group: ProcessGroup, global_rank: int | None, group_rank: int | None, where: str) -> int:
    """The place in a group of a rank that is named as in the world, or as in the group.

    Raises:
        ValueError: named in neither way, or in both, or not in the group.
    """
    if (global_rank is None) == (group_rank is None):
        raise ValueError(f"{where}: name one rank, as in the world or as in the group")
    if group_rank is not None:
        return group_rank
    if global_rank not in group.ranks:
        raise ValueError(f"{where}: rank {global_rank} of the world is not in {group}")
    return group.ranks.index(global_rank)


def issue(
    call: Callable[[bool], Any], finish: Callable[[Any], Sequence[Tensor]], async_op: bool
) -> Work | None:
    """Issue a verb, and hand its result to ``finish`` once it is there: now, or in the Work's ``wait``."""
    if async_op:
        return Work(call(True), finish)
    finish(call(False))
    return None


def combine(rows: Array, op: str) -> Array:
    """A bitwise reduction over the first axis."""
    xp = get_array_module(rows)
    found = rows[0].copy()
    for row in rows[1:]:
        found = getattr(xp, _BITWISE[op])(found, row)
    return found


def is_bitwise(op: str) -> bool:
    """Whether it is one of those that :func:`combine` does."""
    return op in _BITWISE


def stacked(tensors: Sequence[Tensor], where: str) -> Array:
    """Tensors of equal shapes as rows of one new array."""
    arrays = [array_of(each, where) for each in tensors]
    return get_array_module(arrays[0]).stack(arrays) if arrays else np.empty(0)
