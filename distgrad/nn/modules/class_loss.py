"""Losses between class scores and classes, and between probabilities."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn.functional import binary, classification
from distgrad.nn.functional.arguments import check_reduction
from distgrad.nn.module import Module
from distgrad.nn.modules.loss import Loss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "KLDivLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
]


class _WeightedLoss(Loss):
    """A loss that counts some classes more than others; the weights are a buffer.

    Args:
        weight: None means that all count alike.
        reduction: "none", "mean" or "sum".
    """

    weight: Any

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)


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

    _kernels = ("softmax_cross_entropy", "softmax_cross_entropy/logits")

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


class BCELoss(_WeightedLoss):
    """``−target log input − (1 − target) log (1 − input)``, logarithms no lower than −100.

    Args:
        weight: broadcasts to the input's shape; None means 1.
        reduction: "none", "mean" or "sum".
    """

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Probabilities, and targets in [0, 1] of that shape."""
        return binary.binary_cross_entropy(input, target, self.weight, self.reduction)


class BCEWithLogitsLoss(_WeightedLoss):
    """:class:`BCELoss` of the sigmoid of the input, without its overflow.

    Args:
        weight: broadcasts to the input's shape; None means 1.
        reduction: "none", "mean" or "sum".
        pos_weight: what the positive targets' part is multiplied by; broadcasts too.
    """

    pos_weight: Any

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(weight, reduction)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Logits, and targets in [0, 1] of that shape."""
        return binary.binary_cross_entropy_with_logits(
            input, target, self.weight, self.reduction, self.pos_weight
        )


class KLDivLoss(Module):
    """Relative entropy ``target (log target − input)``.

    Args:
        reduction: "none", "mean", "sum", or "batchmean", which divides the sum by the length of the first
            axis and is the divergence itself.
        log_target: whether targets are logarithms.
    """

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__()
        if reduction != "batchmean":
            check_reduction(reduction, "KLDivLoss")
        self.reduction = reduction
        self.log_target = log_target

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Logarithms of the predicted probabilities, and probabilities."""
        return binary.kl_div(input, target, self.reduction, self.log_target)


class MultiMarginLoss(_WeightedLoss):
    """``Σ_c max(0, weight (margin − input[target] + input[c]))^p / C`` over the other classes.

    Args:
        p: 1 or 2.
        margin: by how much the target's score should lead.
        weight: of each class, ``[C]``; None means 1.
        reduction: "none", "mean" or "sum".
    """

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(weight, reduction)
        if p not in (1, 2):
            raise OptionError(f"MultiMarginLoss: p must be 1 or 2, got {p}")
        self.p = p
        self.margin = margin

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Scores ``[N, C]`` and class numbers ``[N]``, or without N."""
        return binary.multi_margin_loss(input, target, self.p, self.margin, self.weight, self.reduction)


class MultiLabelMarginLoss(Loss):
    """``Σ max(0, 1 − input[label] + input[c]) / C`` over the labels and the classes that are none."""

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Scores ``[N, C]``, and class numbers of that shape: those before the first −1 are labels."""
        return binary.multilabel_margin_loss(input, target, self.reduction)


class MultiLabelSoftMarginLoss(_WeightedLoss):
    """:class:`BCEWithLogitsLoss`, averaged over the classes on the last axis.

    Args:
        weight: of each class, ``[C]``; None means 1.
        reduction: "none", "mean" or "sum".
    """

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Logits ``[..., C]``, and targets in [0, 1] of that shape."""
        return binary.multilabel_soft_margin_loss(input, target, self.weight, self.reduction)
