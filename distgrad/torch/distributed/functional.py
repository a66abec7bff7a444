"""``torch.distributed.nn.functional``: collectives through which gradients flow."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.parallel import functional as engine
from distgrad.torch.distributed.arrays import ReduceOp
from distgrad.torch.distributed.groups import member_of

__all__ = ["all_gather", "all_reduce", "reduce_scatter"]


def _comm(group: Any, where: str) -> Any:
    found = member_of(group, where)
    return None if found is None else found.comm


def all_reduce(tensor: Tensor, op: Any = ReduceOp.SUM, group: Any = None) -> Tensor:
    """The sum or mean over the ranks, a new tensor.

    Collective: yes, forward and backward; blocks: yes.
    """
    return engine.all_reduce(tensor, op, _comm(group, "all_reduce"))


def all_gather(tensor: Tensor, group: Any = None) -> tuple[Tensor, ...]:
    """Every rank's tensor.

    Collective: yes, forward and backward; blocks: yes.
    """
    return tuple(engine.all_gather(tensor, _comm(group, "all_gather")))


def reduce_scatter(output: Tensor, input_list: Any, op: Any = ReduceOp.SUM, group: Any = None) -> Tensor:
    """This rank's part of the sum or mean of a list of tensors, a new tensor of ``output``'s shape.

    Collective: yes, forward and backward; blocks: yes.
    """
    from distgrad.autograd.dispatch import operations as ops

    rows: Tensor = ops.stack(list(input_list))
    return engine.reduce_scatter(rows, op, _comm(group, "reduce_scatter")).reshape(output.shape)
