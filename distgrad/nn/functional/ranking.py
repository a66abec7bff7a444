"""Losses about which of two is larger, closer or alike, each with PyTorch's ``reduction``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn.functional.arguments import as_values, mean_or_sum

__all__ = [
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Any, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """``max(0, margin − target (input1 − input2))``; target 1: the first should be larger, −1: the second."""
    losses = ops.margin_ranking_loss(input1, input2, as_values(target, input1), margin=margin)
    return mean_or_sum(losses, reduction, "margin_ranking_loss")


def hinge_embedding_loss(input: Tensor, target: Any, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """A distance where target is 1 (alike), ``max(0, margin − distance)`` where it is −1."""
    losses = ops.hinge_embedding_loss(input, as_values(target, input), margin=margin)
    return mean_or_sum(losses, reduction, "hinge_embedding_loss")


def soft_margin_loss(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """``log(1 + e^(−target input))`` for targets of 1 and −1."""
    return mean_or_sum(ops.soft_margin_loss(input, as_values(target, input)), reduction, "soft_margin_loss")


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Any, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """``1 − cosine`` where target is 1 (alike), ``max(0, cosine − margin)`` where it is −1.

    Args:
        input1, input2: ``[N, D]`` or ``[D]``.
        target: ``[N]`` or ``[]``.
        margin: the cosine that is small enough for different ones.
        reduction: "none", "mean" or "sum".
    """
    losses = ops.cosine_embedding_loss(input1, input2, as_values(target, input1), margin=margin)
    return mean_or_sum(losses, reduction, "cosine_embedding_loss")


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """``max(0, d(anchor, positive) − d(anchor, negative) + margin)``.

    Args:
        anchor, positive, negative: ``[N, D]`` or ``[D]``.
        margin: by how much the positive should be closer.
        p: order of the norm that measures distance.
        eps: added to every difference.
        swap: take the positive's distance to the negative where it is smaller than the anchor's.
        reduction: "none", "mean" or "sum".
    """
    losses = ops.triplet_margin_loss(anchor, positive, negative, margin=margin, p=p, eps=eps, swap=swap)
    return mean_or_sum(losses, reduction, "triplet_margin_loss")


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """:func:`triplet_margin_loss` with a distance of one's own; None: the pairwise 2-norm."""
    if margin <= 0:
        raise OptionError(f"triplet_margin_with_distance_loss: margin must be above 0, got {margin}")
    distance = ops.pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = ops.minimum(far, distance(positive, negative))
    return mean_or_sum(ops.relu(near - far + margin), reduction, "triplet_margin_with_distance_loss")
