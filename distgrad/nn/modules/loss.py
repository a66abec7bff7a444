"""Losses as modules."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.nn.functional import classification, regression
from distgrad.nn.functional.arguments import check_reduction
from distgrad.nn.module import Module

__all__ = ["CrossEntropyLoss", "MSELoss", "NLLLoss"]


class _Loss(Module):
    """A loss of an input and a target.

    Args:
        reduction: "none", "mean" or "sum".
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        check_reduction(reduction, type(self).__name__)
        self.reduction = reduction


class _WeightedLoss(_Loss):
    """A loss that counts some classes more than others; the weights are a buffer."""

    weight: Any

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)


class MSELoss(_Loss):
    """Squared error ``(input − target)²``."""

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Input and target of one shape."""
        return regression.mse_loss(input, target, self.reduction)


class NLLLoss(_WeightedLoss):
    """Negative log-likelihood of log-probabilities.

    Args:
        weight: of each class, ``[C]``; None means 1.
        ignore_index: a class number that counts nothing.
        reduction: "none", "sum", or "mean", which divides by the sum of the weights.
    """

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(weight, reduction)
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Log-probabilities ``[N, C, ...]`` and class numbers ``[N, ...]``."""
        return classification.nll_loss(input, target, self.weight, self.ignore_index, self.reduction)


class CrossEntropyLoss(_WeightedLoss):
    """Cross entropy of the softmax of class scores, in nats.

    Args:
        weight: of each class, ``[C]``; None means 1.
        ignore_index: a class number that counts nothing.
        reduction: "none", "sum", or "mean", which divides by the sum of the weights.
        label_smoothing: ε: targets become ``(1 − ε) target + ε / C``.
    """

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, reduction)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Scores ``[N, C, ...]``; class numbers ``[N, ...]`` or probabilities of the scores' shape."""
        return classification.cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )
