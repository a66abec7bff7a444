"""The gamma distribution and what is made of it."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.function import Function
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, to_device
from distgrad.backend.rng import default_generator
from distgrad.torch.probability import constraints
from distgrad.torch.probability.distribution import Elementwise

__all__ = ["Beta", "Chi2", "Gamma", "InverseGamma", "standard_gamma"]


class _StandardGamma(Function):
    """Samples of Gamma(concentration, 1), whose gradient is the implicit one.

    Source: Figurnov, Mohamed, Mnih, "Implicit reparameterization gradients", NeurIPS 2018.
    """

    @staticmethod
    def forward(ctx: Any, concentration: Tensor) -> Tensor:
        """Draw on the host."""
        shape = to_device(concentration._data, CPU).astype(np.float64)
        drawn = default_generator.host().standard_gamma(shape)
        tiny = np.finfo(concentration.dtype).tiny
        out = Tensor(to_device(np.maximum(drawn, tiny).astype(concentration.dtype), concentration.device))
        ctx.save_for_backward(concentration, out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """-(dF/da) / (dF/dz), dF/da as a central difference on the side of F that is not near 1."""
        concentration, z = (each.detach() for each in ctx.saved_tensors)
        a, x = (to_device(each._data, CPU).astype(np.float64) for each in (concentration, z))
        step = 1e-4 * a
        above, below = (
            (ops.gammainc(Tensor(b), Tensor(x)).numpy(), ops.gammaincc(Tensor(b), Tensor(x)).numpy())
            for b in (a + step, a - step)
        )
        change = np.where(x < a, above[0] - below[0], below[1] - above[1]) / (2 * step)
        density = (a - 1) * np.log(x) - x - ops.gammaln(Tensor(a)).numpy()
        slope = np.asarray(-change * np.exp(-density)).astype(concentration.dtype)
        return g * Tensor(to_device(slope, g.device))


def standard_gamma(concentration: Tensor) -> Any:
    """Samples of Gamma(``concentration``, 1), with their gradient."""
    return _StandardGamma.apply(concentration)


class GammaParameters(Elementwise):
    """What the gamma distribution and its inverse share; neither is a kind of the other."""

    parameters = ("concentration", "rate")
    arg_constraints: ClassVar[dict[str, Any]] = {
        "concentration": constraints.positive,
        "rate": constraints.positive,
    }
    has_rsample = True
    concentration: Tensor
    rate: Tensor

    def _drawn(self, sample_shape: Any) -> Any:
        shape = tuple(self._extended_shape(sample_shape))
        return standard_gamma(ops.broadcast_to(self.concentration, shape)) / self.rate


class Gamma(GammaParameters):
    """The gamma distribution.

    Attributes:
        concentration: its shape.
        rate: one over its scale.
    """

    support: Any = constraints.nonnegative

    mean = property(lambda self: self.concentration / self.rate)
    mode = property(lambda self: ((self.concentration - 1) / self.rate).clamp(min=0))
    variance = property(lambda self: self.concentration / self.rate**2)

    def rsample(self, sample_shape: Any = ()) -> Any:
        """A standard one over the rate."""
        return self._drawn(sample_shape)

    def log_prob(self, value: Tensor) -> Any:
        """a log rate + (a - 1) log x - rate x - log Γ(a)."""
        x, a = self._checked(value), self.concentration
        return a.xlogy(self.rate) + (a - 1).xlogy(x) - self.rate * x - a.lgamma()

    def cdf(self, value: Tensor) -> Any:
        """The regularized lower incomplete gamma function."""
        return ops.gammainc(self.concentration, self.rate * self._checked(value))

    def entropy(self) -> Any:
        """a - log rate + log Γ(a) + (1 - a) ψ(a)."""
        a = self.concentration
        return a - self.rate.log() + a.lgamma() + (1 - a) * a.digamma()


class Chi2(Gamma):
    """The sum of squares of ``df`` standard normal numbers."""

    arg_constraints: ClassVar[dict[str, Any]] = {"df": constraints.positive}

    def __init__(self, df: Any, validate_args: bool | None = None) -> None:
        super().__init__(0.5 * df, 0.5, validate_args=validate_args)

    @property
    def df(self) -> Tensor:
        """Degrees of freedom."""
        return self.concentration * 2


class InverseGamma(GammaParameters):
    """One over a number of the gamma distribution."""

    support = constraints.positive

    mean = property(
        lambda self: ops.where(self.concentration > 1, self.rate / (self.concentration - 1), math.inf)
    )
    mode = property(lambda self: self.rate / (self.concentration + 1))

    @property
    def variance(self) -> Any:
        """(rate / (a - 1))² / (a - 2), ∞ up to a = 2."""
        a = self.concentration
        return ops.where(a > 2, self.rate**2 / ((a - 1) ** 2 * (a - 2)), math.inf)

    def rsample(self, sample_shape: Any = ()) -> Any:
        """One over one."""
        return 1 / self._drawn(sample_shape)

    def log_prob(self, value: Tensor) -> Any:
        """a log rate - (a + 1) log x - rate / x - log Γ(a)."""
        x, a = self._checked(value), self.concentration
        return a * self.rate.log() - (a + 1) * x.log() - self.rate / x - a.lgamma()

    def cdf(self, value: Tensor) -> Any:
        """The regularized upper incomplete gamma function."""
        return ops.gammaincc(self.concentration, self.rate / self._checked(value))

    def entropy(self) -> Any:
        """a + log rate + log Γ(a) - (1 + a) ψ(a)."""
        a = self.concentration
        return a + self.rate.log() + a.lgamma() - (1 + a) * a.digamma()


class Beta(Elementwise):
    """The beta distribution on [0, 1].

    Attributes:
        concentration1, concentration0: what pulls to 1 and to 0.
    """

    parameters = ("concentration1", "concentration0")
    arg_constraints: ClassVar[dict[str, Any]] = dict.fromkeys(parameters, constraints.positive)
    support = constraints.unit_interval
    has_rsample = True
    concentration1: Tensor
    concentration0: Tensor

    _total = property(lambda self: self.concentration1 + self.concentration0)
    mean = property(lambda self: self.concentration1 / self._total)

    @property
    def mode(self) -> Any:
        """(a - 1) / (a + b - 2) where both are above 1."""
        a, b = self.concentration1, self.concentration0
        found = (a - 1) / (self._total - 2)
        return ops.where((a > 1) & (b > 1), found, ops.where(a > b, 1.0, ops.where(a < b, 0.0, math.nan)))

    @property
    def variance(self) -> Any:
        """a b / ((a + b)² (a + b + 1))."""
        return self.concentration1 * self.concentration0 / (self._total**2 * (self._total + 1))

    def rsample(self, sample_shape: Any = ()) -> Any:
        """g₁ / (g₁ + g₀) of two gamma numbers."""
        shape = tuple(self._extended_shape(sample_shape))
        first, second = (
            standard_gamma(ops.broadcast_to(each, shape))
            for each in (self.concentration1, self.concentration0)
        )
        return first / (first + second)

    def _log_normalizer(self) -> Any:
        return self.concentration1.lgamma() + self.concentration0.lgamma() - self._total.lgamma()

    def log_prob(self, value: Tensor) -> Any:
        """(a - 1) log x + (b - 1) log(1 - x) - log B(a, b)."""
        x = self._checked(value)
        first, second = (self.concentration1 - 1).xlogy(x), (self.concentration0 - 1).xlogy(1 - x)
        return first + second - self._log_normalizer()

    def entropy(self) -> Any:
        """log B(a, b) - (a - 1) ψ(a) - (b - 1) ψ(b) + (a + b - 2) ψ(a + b)."""
        a, b = self.concentration1, self.concentration0
        return (
            self._log_normalizer()
            - (a - 1) * a.digamma()
            - (b - 1) * b.digamma()
            + (self._total - 2) * self._total.digamma()
        )
