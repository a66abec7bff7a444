"""Losses between probabilities, and of several labels at once, each with PyTorch's ``reduction``."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.nn.functional.arguments import mean_or_sum, sum_over
from distgrad.nn.functional.regression import same_shape

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "kl_div",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
]


def binary_cross_entropy(input: Tensor, target: Any, weight: Any = None, reduction: str = "mean") -> Tensor:
    """``−target log input − (1 − target) log (1 − input)``, logarithms no lower than −100.

    Args:
        input: probabilities, any shape.
        target: of that shape, in [0, 1].
        weight: broadcasts to it; None means 1.
        reduction: "none", "mean" or "sum".
    """
    target = same_shape(input, target, "binary_cross_entropy")
    losses = ops.binary_cross_entropy(input, target)
    losses = losses if weight is None else losses * weight
    return mean_or_sum(losses, reduction, "binary_cross_entropy")


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Tensor:
    """:func:`binary_cross_entropy` of the sigmoid of ``input``, without its overflow.

    Args:
        input: logits, any shape.
        target: of that shape, in [0, 1].
        weight: broadcasts to it; None means 1.
        reduction: "none", "mean" or "sum".
        pos_weight: what the positive targets' part is multiplied by; broadcasts too.
    """
    target = same_shape(input, target, "binary_cross_entropy_with_logits")
    losses = ops.binary_cross_entropy_with_logits(input, target, pos_weight)
    losses = losses if weight is None else losses * weight
    return mean_or_sum(losses, reduction, "binary_cross_entropy_with_logits")


def kl_div(input: Tensor, target: Any, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Relative entropy ``target (log target − input)``.

    Args:
        input: logarithms of the predicted probabilities.
        target: probabilities, or their logarithms.
        reduction: "none", "mean", "sum", or "batchmean", which divides the sum by the length of the first
            axis and is the divergence itself.
        log_target: whether ``target`` holds logarithms.
    """
    losses = ops.kl_div(input, target, log_target=log_target)
    if reduction == "batchmean":
        return sum_over(losses, (*input.shape, 1)[0])
    return mean_or_sum(losses, reduction, "kl_div")


def multi_margin_loss(
    input: Tensor,
    target: Any,
    p: int = 1,
    margin: float = 1.0,
    weight: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """``Σ_c max(0, weight (margin − input[target] + input[c]))^p / C`` over the other classes.

    Args:
        input: scores ``[N, C]`` or ``[C]``, or ``[]`` of a single class.
        target: class numbers ``[N]``, or ``[]`` or ``[1]``.
        p: 1 or 2.
        margin: by how much the target's score should lead.
        weight: of each class, ``[C]``; None means 1.
        reduction: "none", "mean" or "sum".
    """
    losses = _by_rows(
        input, target, (-1,), lambda x, t: ops.multi_margin_loss(x, t, weight, p=p, margin=margin)
    )
    return mean_or_sum(losses, reduction, "multi_margin_loss")


def multilabel_margin_loss(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """``Σ max(0, 1 − input[label] + input[c]) / C`` over the labels and the classes that are none.

    Args:
        input: scores ``[N, C]`` or ``[C]``.
        target: class numbers of that shape; those before the first −1 of a row are its labels.
        reduction: "none", "mean" or "sum".
    """
    losses = _by_rows(input, target, (1, -1), ops.multilabel_margin_loss)
    return mean_or_sum(losses, reduction, "multilabel_margin_loss")


def multilabel_soft_margin_loss(
    input: Tensor, target: Any, weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """:func:`binary_cross_entropy_with_logits`, averaged over the classes on the last axis."""
    target = same_shape(input, target, "multilabel_soft_margin_loss")
    losses = ops.multilabel_soft_margin_loss(input, target, weight)
    return mean_or_sum(losses, reduction, "multilabel_soft_margin_loss")


def _by_rows(input: Tensor, target: Any, of_one: tuple[int, ...], loss: Any) -> Tensor:
    """A loss of ``[N, C]`` scores for one sample's ``[C]`` too, and for the score of a single class."""
    if input.ndim > 1:
        return loss(input, target)
    return ops.squeeze(loss(ops.reshape(input, (1, -1)), ops.reshape(target, of_one)), 0)
