"""Distributions near those of categories, through which gradients come.

Source: Maddison, Mnih, Teh, "The concrete distribution", and Jang, Gu, Poole, "Categorical reparameterization
with Gumbel-softmax", both ICLR 2017.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.torch.probability import constraints
from distgrad.torch.probability.continuous import uniform
from distgrad.torch.probability.derived import TransformedDistribution
from distgrad.torch.probability.discrete import CategoryWeights
from distgrad.torch.probability.distribution import ProbsOrLogits
from distgrad.torch.probability.transforms import ExpTransform, SigmoidTransform

__all__ = ["RelaxedBernoulli", "RelaxedOneHotCategorical"]


class _LogitRelaxed(ProbsOrLogits):
    support = constraints.real
    has_rsample = True
    temperature: Any
    _shared = ("temperature",)

    def rsample(self, sample_shape: Any = ()) -> Any:
        """(logit(u) + logits) / temperature."""
        shape = tuple(self._extended_shape(sample_shape))
        u = uniform(self.logits, shape).clamp(max=1 - 2.0**-24)
        return (u.log() - (-u).log1p() + self.logits) / self.temperature

    def log_prob(self, value: Tensor) -> Any:
        """log t + d - 2 softplus(d), d = logits - t x."""
        off = self.logits - self._checked(value) * self.temperature
        return _log_of(self.temperature) + off - 2 * ops.logaddexp(off, 0.0)


def _log_of(temperature: Any) -> Any:
    return temperature.log() if isinstance(temperature, Tensor) else math.log(temperature)


class RelaxedBernoulli(TransformedDistribution):
    """Numbers between 0 and 1 that come near them as the temperature falls.

    Args:
        temperature: how far from whole numbers.
        probs, logits: as in ``Bernoulli``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    support = constraints.unit_interval

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        base = _LogitRelaxed(probs, logits, validate_args=validate_args)
        base.temperature = temperature
        super().__init__(base, SigmoidTransform())

    temperature = property(lambda self: self.base_dist.temperature)
    logits = property(lambda self: self.base_dist.logits)
    probs = property(lambda self: self.base_dist.probs)


class _LogRelaxed(CategoryWeights):
    support = constraints.real_vector
    has_rsample = True
    temperature: Any
    _shared = ("temperature",)

    def rsample(self, sample_shape: Any = ()) -> Any:
        """log softmax((logits - log(-log u)) / temperature)."""
        shape = tuple(self._extended_shape(sample_shape))
        u = uniform(self.logits, shape).clamp(max=1 - 2.0**-24)
        scores = (self.logits - (-u.log()).log()) / self.temperature
        return scores - ops.logsumexp(scores, axis=-1, keepdims=True)

    def log_prob(self, value: Tensor) -> Any:
        """log (k - 1)! + (k - 1) log t + Σ scores, each less their logsumexp."""
        k = self._num_events
        logits, value = ops.broadcast_arrays(self.logits, self._checked(value))
        score = logits - value * self.temperature
        score = ops.sum(score - ops.logsumexp(score, axis=-1, keepdims=True), axis=-1)
        return score + math.lgamma(k) + (k - 1) * _log_of(self.temperature)


class RelaxedOneHotCategorical(TransformedDistribution):
    """Probabilities that come near one-hot rows as the temperature falls; Gumbel-softmax.

    Args:
        temperature: how far from whole numbers.
        probs, logits: as in ``Categorical``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "probs": constraints.simplex,
        "logits": constraints.real_vector,
    }
    support = constraints.simplex

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        base = _LogRelaxed(probs, logits, validate_args=validate_args)
        base.temperature = temperature
        super().__init__(base, ExpTransform())

    temperature = property(lambda self: self.base_dist.temperature)
    logits = property(lambda self: self.base_dist.logits)
    probs = property(lambda self: self.base_dist.probs)
