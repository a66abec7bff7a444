"""Losses between values."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import namespace as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import ShapeError
from distgrad.nn.functional.arguments import mean_or_sum

__all__ = ["mse_loss"]


def _same_shapes(input: Tensor, target: Any, where: str) -> None:
    """Refuse shapes that would broadcast: a loss of [N] with [N, 1] is an [N, N] by mistake."""
    if input.shape != target.shape:
        raise ShapeError(
            f"{where}: input is {list(input.shape)} but target {list(target.shape)}; give both the same shape"
        )


def mse_loss(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """Squared error ``(input − target)²``.

    Args:
        input: any shape.
        target: of that shape.
        reduction: "none", "mean" or "sum".
    """
    _same_shapes(input, target, "mse_loss")
    return mean_or_sum(ops.square(input - target), reduction, "mse_loss")
