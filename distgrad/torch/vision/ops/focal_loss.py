"""A loss for classes of which one is rare.

Source: Lin, Goyal, Girshick, He and Dollár, "Focal loss for dense object detection", ICCV 2017.
"""

from __future__ import annotations

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.nn.functional.arguments import check_reduction
from distgrad.nn.functional.binary import binary_cross_entropy_with_logits

__all__ = ["sigmoid_focal_loss"]


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """``−α_t (1 − p_t)^γ log p_t`` with ``p_t`` the probability of the target.

    Args:
        inputs: log-odds, any shape.
        targets: 0 or 1, of that shape.
        alpha: the weight of targets 1, ``1 − α`` that of 0; negative for none.
        gamma: how little of what is certain counts.
        reduction: "none", "mean" or "sum".

    Raises:
        OptionError: another reduction.
    """
    check_reduction(reduction, "sigmoid_focal_loss")
    p = ops.sigmoid(inputs)
    missed = p + targets - 2 * p * targets
    loss = binary_cross_entropy_with_logits(inputs, targets, reduction="none") * missed**gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()
