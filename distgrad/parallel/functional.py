"""Collectives on tensors, through which gradients flow: for layers that are split over ranks.

The derivative is that of the sum of all ranks' losses. Where every rank computes the same loss from what it
has received, that sum counts it ``size`` times: divide the loss by ``comm.size``.

Source: Shoeybi et al., Megatron-LM, 2019 (layers split over ranks, and the pairs of collectives they need).
"""

from __future__ import annotations

from typing import Any

from distgrad.autograd.function import Function
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import get_array_module
from distgrad.comm.base import Communicator
from distgrad.comm.registry import get_world
from distgrad.errors import CommError

__all__ = ["all_gather", "all_reduce", "reduce_scatter"]


def all_reduce(x: Tensor, op: str = "sum", comm: Communicator | None = None) -> Tensor:
    """The sum or mean over the ranks: ``y = x_0 + x_1 + ...`` on each; ``dx = dy_0 + dy_1 + ...``.

    Collective: yes, forward and backward; blocks: yes.

    Args:
        x: of equal shape and dtype on every rank; left as it is.
        op: ``sum`` or ``mean``.
        comm: the ranks; None takes the world.

    Raises:
        CommError: another ``op``, which has no gradient here.
    """
    return _apply(_AllReduce, x, op, comm)


def all_gather(x: Tensor, comm: Communicator | None = None) -> Tensor:
    """Every rank's ``x`` on every rank: ``y[r] = x_r``; ``dx = dy_0[rank] + dy_1[rank] + ...``.

    Collective: yes, forward and backward; blocks: yes.

    Args:
        x: of equal shape and dtype on every rank.
        comm: the ranks; None takes the world.

    Returns:
        ``[size, *x.shape]``.
    """
    return _apply(_AllGather, x, "sum", comm)


def reduce_scatter(x: Tensor, op: str = "sum", comm: Communicator | None = None) -> Tensor:
    """This rank's part of the sum or mean: ``y_r = x_0[r] + x_1[r] + ...``; ``dx[r] = dy_r``.

    Collective: yes, forward and backward; blocks: yes.

    Args:
        x: ``[size, ...]``, of equal shape and dtype on every rank.
        op: ``sum`` or ``mean``.
        comm: the ranks; None takes the world.

    Returns:
        ``x.shape[1:]``.

    Raises:
        CommError: another ``op``, which has no gradient here.
    """
    return _apply(_ReduceScatter, x, op, comm)


def _apply(function: type[Function], x: Tensor, op: str, comm: Communicator | None) -> Tensor:
    if op not in ("sum", "mean"):
        raise CommError(
            f"parallel.functional: op must be sum or mean, got {op!r}, which has no gradient here; use the "
            "communicator's own verb"
        )
    comm = get_world() if comm is None else comm
    result: Tensor = function.apply(x, op, comm if comm.takes(x.device) else comm.host)
    return result


def _contiguous(x: Tensor) -> Any:
    return get_array_module(x._data).ascontiguousarray(x._data)


class _AllReduce(Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, ctx.op, ctx.comm = args
        return Tensor(ctx.comm.all_reduce(x._data.copy(order="C"), ctx.op))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _AllReduce.apply(grad_outputs[0], ctx.op, ctx.comm), None, None


class _AllGather(Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, ctx.op, ctx.comm = args
        y = ctx.comm.all_gather(_contiguous(x))
        return Tensor(y / ctx.comm.size if ctx.op == "mean" else y)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _ReduceScatter.apply(grad_outputs[0], ctx.op, ctx.comm), None, None


class _ReduceScatter(Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, ctx.op, ctx.comm = args
        return Tensor(ctx.comm.reduce_scatter(_contiguous(x), ctx.op))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _AllGather.apply(grad_outputs[0], ctx.op, ctx.comm), None, None
