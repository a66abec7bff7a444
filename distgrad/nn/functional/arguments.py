"""Arguments that many functions take alike: reductions, results in place, batches of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import operations
from distgrad.autograd.inplace import overwrite
from distgrad.autograd.tensor import FLOATING, Tensor, constant
from distgrad.backend.array_module import get_array_module
from distgrad.errors import OptionError, ShapeError

__all__ = ["as_values", "batched", "check_reduction", "in_place", "mean_or_sum", "roomy", "sum_over"]


def check_reduction(reduction: str, where: str) -> None:
    """Refuse what is no reduction.

    Raises:
        OptionError: another text than "none", "mean" or "sum".
    """
    if reduction not in ("none", "mean", "sum"):
        raise OptionError(f"{where}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")


def mean_or_sum(losses: Tensor, reduction: str, where: str) -> Tensor:
    """A loss's values as they are, their mean, or their sum.

    Args:
        losses: any shape.
        reduction: "none", "mean" or "sum".
        where: the loss, for messages.
    """
    check_reduction(reduction, where)
    if reduction == "mean":
        return operations.mean(losses)
    return operations.sum(losses) if reduction == "sum" else losses


def as_values(target: Any, like: Tensor) -> Any:
    """A target for a computation with ``like``: whole numbers and booleans in its dtype."""
    values = target._data if isinstance(target, Tensor) else constant(target, "loss", "target")
    if getattr(values, "dtype", like.dtype).char in FLOATING:
        return target
    return values.astype(like.dtype)


def roomy(dtype: np.dtype) -> np.dtype:
    """What sums of many elements of a dtype are taken in: 16 bits have no room, also where the mean has."""
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def sum_over(losses: Tensor, total: Any) -> Tensor:
    """``Σ losses / total``; where the total is 0, the mean of nothing, NaN with a gradient of 0.

    Args:
        losses: any shape.
        total: what the losses are divided by; a number, or on a device an array without axes.
    """
    return operations.astype(_divided(operations.sum(losses, dtype=roomy(losses.dtype)), total), losses.dtype)


def _divided(x: Any, total: Any) -> Any:
    if isinstance(total, int | float):
        return x * (1.0 / total) if total else x * 0.0 + float("nan")
    xp = get_array_module(total)
    nothing = total == 0
    return x / xp.where(nothing, 1, total) + xp.where(nothing, math.nan, 0.0)


def in_place(x: Tensor, y: Tensor, inplace: bool, where: str) -> Tensor:
    """The result, or, if ``inplace``, the input with the result's elements and place in the graph."""
    return overwrite(x, y, where) if inplace and y is not x else y


def batched(x: Tensor, ndim: int, where: str, function: Callable[[Tensor], Any]) -> Any:
    """Apply a function of ``[N, C, ...]`` also to one sample without N.

    Args:
        x: ``ndim`` axes, or one less.
        ndim: axes of a batch.
        where: the operation, for messages.
        function: takes and gives batches, one or a tuple of them.
    """
    if x.ndim == ndim:
        return function(x)
    if x.ndim != ndim - 1:
        raise ShapeError(f"{where}: expected {ndim} axes, or {ndim - 1} without a batch, got {list(x.shape)}")
    y = function(operations.expand_dims(x, axis=0))
    if isinstance(y, tuple):
        return tuple(operations.squeeze(each, 0) for each in y)
    return operations.squeeze(y, 0)
