"""Losses between values, and about which of two is larger, closer or alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.nn.functional import ranking, regression
from distgrad.nn.functional.arguments import check_reduction
from distgrad.nn.module import Module
from distgrad.nn.modules.distance import PairwiseDistance

__all__ = [
    "CosineEmbeddingLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "MarginRankingLoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]


class Loss(Module):
    """A loss with a reduction.

    Args:
        reduction: "none", "mean" or "sum".
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        check_reduction(reduction, type(self).__name__)
        self.reduction = reduction


class L1Loss(Loss):
    """Absolute error ``|input − target|``."""

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Input and target of one shape."""
        return regression.l1_loss(input, target, self.reduction)


class MSELoss(Loss):
    """Squared error ``(input − target)²``."""

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Input and target of one shape."""
        return regression.mse_loss(input, target, self.reduction)


class SmoothL1Loss(Loss):
    """Squared error over ``2 beta`` up to an error of ``beta``, absolute error less ``beta / 2`` beyond.

    Args:
        reduction: "none", "mean" or "sum".
        beta: where the one goes over into the other.
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Input and target of one shape."""
        return regression.smooth_l1_loss(input, target, self.reduction, self.beta)


class HuberLoss(Loss):
    """Half the squared error up to an error of ``delta``, ``delta`` times the absolute error beyond.

    Args:
        reduction: "none", "mean" or "sum".
        delta: where the one goes over into the other.
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Input and target of one shape."""
        return regression.huber_loss(input, target, self.reduction, self.delta)


class PoissonNLLLoss(Loss):
    """Negative log-likelihood of counts under a Poisson distribution.

    Args:
        log_input: whether the input holds logarithms of the mean.
        full: add Stirling's approximation of log(target!).
        eps: added to a mean before its logarithm is taken.
        reduction: "none", "mean" or "sum".
    """

    def __init__(
        self, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, log_input: Tensor, target: Any) -> Tensor:
        """The distribution's mean (or its logarithm) and counts."""
        return regression.poisson_nll_loss(
            log_input, target, self.log_input, self.full, self.eps, self.reduction
        )


class GaussianNLLLoss(Loss):
    """Negative log-likelihood of values under a normal distribution.

    Args:
        full: add the constant log(2π)/2.
        eps: the least variance.
        reduction: "none", "mean" or "sum".
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.full = full
        self.eps = eps

    def forward(self, input: Tensor, target: Any, var: Any) -> Tensor:
        """Mean, values and variance."""
        return regression.gaussian_nll_loss(input, target, var, self.full, self.eps, self.reduction)


class MarginRankingLoss(Loss):
    """``max(0, margin − target (input1 − input2))``.

    Args:
        margin: by how much one should be larger.
        reduction: "none", "mean" or "sum".
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input1: Tensor, input2: Tensor, target: Any) -> Tensor:
        """Scores; target 1: the first should be larger, −1: the second."""
        return ranking.margin_ranking_loss(input1, input2, target, self.margin, self.reduction)


class HingeEmbeddingLoss(Loss):
    """A distance where target is 1 (alike), ``max(0, margin − distance)`` where it is −1.

    Args:
        margin: the distance that suffices.
        reduction: "none", "mean" or "sum".
    """

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Distances, and 1 or −1 for each."""
        return ranking.hinge_embedding_loss(input, target, self.margin, self.reduction)


class SoftMarginLoss(Loss):
    """``log(1 + e^(−target input))`` for targets of 1 and −1."""

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Scores, and 1 or −1 for each."""
        return ranking.soft_margin_loss(input, target, self.reduction)


class CosineEmbeddingLoss(Loss):
    """``1 − cosine`` where target is 1 (alike), ``max(0, cosine − margin)`` where it is −1.

    Args:
        margin: the cosine that is small enough for different ones.
        reduction: "none", "mean" or "sum".
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input1: Tensor, input2: Tensor, target: Any) -> Tensor:
        """``[N, D]`` twice and ``[N]``, or without N."""
        return ranking.cosine_embedding_loss(input1, input2, target, self.margin, self.reduction)


class TripletMarginLoss(Loss):
    """``max(0, d(anchor, positive) − d(anchor, negative) + margin)``.

    Args:
        margin: by how much the positive should be closer.
        p: order of the norm that measures distance.
        eps: added to every difference.
        swap: take the positive's distance to the negative where it is smaller than the anchor's.
        reduction: "none", "mean" or "sum".
    """

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """``[N, D]`` thrice, or without N."""
        return ranking.triplet_margin_loss(
            anchor, positive, negative, self.margin, self.p, self.eps, self.swap, self.reduction
        )


class TripletMarginWithDistanceLoss(Loss):
    """:class:`TripletMarginLoss` with a distance of one's own.

    Args:
        distance_function: of two tensors; None means :class:`PairwiseDistance`.
        margin: by how much the positive should be closer.
        swap: take the positive's distance to the negative where it is smaller than the anchor's.
        reduction: "none", "mean" or "sum".
    """

    def __init__(
        self,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.distance_function: Any = PairwiseDistance() if distance_function is None else distance_function
        self.margin = margin
        self.swap = swap

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Three tensors that the distance takes."""
        return ranking.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )
