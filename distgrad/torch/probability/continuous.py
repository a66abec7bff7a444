"""Distributions of single real numbers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.random import rand, randn
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.torch.probability import constraints
from distgrad.torch.probability.distribution import Elementwise
from distgrad.torch.probability.gamma import standard_gamma

__all__ = ["Cauchy", "Exponential", "Gumbel", "Laplace", "Normal", "StudentT", "Uniform", "uniform"]

_EULER = 0.57721566490153286061
_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
_PLACED: dict[str, Any] = {"loc": constraints.real, "scale": constraints.positive}


def uniform(like: Tensor, shape: Any) -> Tensor:
    """Numbers uniform on (0, 1), the ends left out."""
    draws = rand(tuple(shape), dtype=like.dtype, device=like.device)
    return draws.clamp(min=float(np.finfo(draws.dtype).tiny))


def _normal(like: Tensor, shape: Any) -> Tensor:
    return randn(tuple(shape), dtype=like.dtype, device=like.device)


class Normal(Elementwise):
    """The normal distribution.

    Attributes:
        loc: the mean.
        scale: the standard deviation.
    """

    parameters = ("loc", "scale")
    arg_constraints: ClassVar[dict[str, Any]] = _PLACED
    support = constraints.real
    has_rsample = True
    loc: Tensor
    scale: Tensor

    mean = mode = property(lambda self: self.loc)
    stddev = property(lambda self: self.scale)
    variance = property(lambda self: self.scale * self.scale)

    def rsample(self, sample_shape: Any = ()) -> Any:
        """loc + scale ε."""
        return self.loc + _normal(self.loc, self._extended_shape(sample_shape)) * self.scale

    def log_prob(self, value: Tensor) -> Any:
        """-(x - loc)² / (2 scale²) - log scale - ½ log 2π."""
        off = self._checked(value) - self.loc
        return -(off * off) / (2 * self.variance) - self.scale.log() - _HALF_LOG_2_PI

    def cdf(self, value: Tensor) -> Any:
        """½ (1 + erf((x - loc) / (scale √2)))."""
        return 0.5 * (1 + ((self._checked(value) - self.loc) / (self.scale * math.sqrt(2))).erf())

    def icdf(self, value: Tensor) -> Any:
        """loc + scale √2 erfinv(2 p - 1)."""
        return self.loc + self.scale * (2 * value - 1).erfinv() * math.sqrt(2)

    def entropy(self) -> Any:
        """½ + ½ log 2π + log scale."""
        return 0.5 + _HALF_LOG_2_PI + self.scale.log()


class Laplace(Elementwise):
    """The two-sided exponential distribution.

    Attributes:
        loc: the mean.
        scale: the mean distance from it.
    """

    parameters = ("loc", "scale")
    arg_constraints: ClassVar[dict[str, Any]] = _PLACED
    support = constraints.real
    has_rsample = True
    loc: Tensor
    scale: Tensor

    mean = mode = property(lambda self: self.loc)
    variance = property(lambda self: 2 * self.scale * self.scale)

    def rsample(self, sample_shape: Any = ()) -> Any:
        """loc - scale sign(u) log(1 - |u|), u uniform on (-1, 1)."""
        u = uniform(self.loc, self._extended_shape(sample_shape)) * 2 - 1
        return self.loc - self.scale * u.sign() * (-u.abs()).log1p()

    def log_prob(self, value: Tensor) -> Any:
        """-log(2 scale) - |x - loc| / scale."""
        return -(2 * self.scale).log() - (self._checked(value) - self.loc).abs() / self.scale

    def cdf(self, value: Tensor) -> Any:
        """½ - ½ sign(x - loc) expm1(-|x - loc| / scale)."""
        off = self._checked(value) - self.loc
        return 0.5 - 0.5 * off.sign() * (-off.abs() / self.scale).expm1()

    def icdf(self, value: Tensor) -> Any:
        """loc - scale sign(p - ½) log(1 - 2 |p - ½|)."""
        off = value - 0.5
        return self.loc - self.scale * off.sign() * (-2 * off.abs()).log1p()

    def entropy(self) -> Any:
        """1 + log(2 scale)."""
        return 1 + (2 * self.scale).log()


class Uniform(Elementwise):
    """The uniform distribution on [low, high).

    Attributes:
        low, high: its ends.
    """

    parameters = ("low", "high")
    arg_constraints: ClassVar[dict[str, Any]] = {"low": constraints.dependent, "high": constraints.dependent}
    has_rsample = True
    low: Tensor
    high: Tensor

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not bool(ops.all(self.low < self.high)):
            raise OptionError(
                f"Uniform: expected low below high, got {self.low.detach()!r} and {self.high.detach()!r}"
            )

    mode = property(lambda self: math.nan * self.high)
    mean = property(lambda self: (self.high + self.low) / 2)
    stddev = property(lambda self: (self.high - self.low) / math.sqrt(12))
    variance = property(lambda self: (self.high - self.low) ** 2 / 12)

    @constraints.dependent_property
    def support(self) -> Any:
        """From low to high."""
        return constraints.interval(self.low.detach(), self.high.detach())

    def rsample(self, sample_shape: Any = ()) -> Any:
        """low + u (high - low)."""
        u = rand(tuple(self._extended_shape(sample_shape)), dtype=self.low.dtype, device=self.low.device)
        return self.low + u * (self.high - self.low)

    def log_prob(self, value: Tensor) -> Any:
        """-log(high - low) inside, -∞ outside."""
        inside = (self.low <= self._checked(value)) & (self.high > value)
        return ops.astype(inside, self.low.dtype).log() - (self.high - self.low).log()

    def cdf(self, value: Tensor) -> Any:
        """(x - low) / (high - low)."""
        return ((self._checked(value) - self.low) / (self.high - self.low)).clamp(0, 1)

    def icdf(self, value: Tensor) -> Any:
        """low + p (high - low)."""
        return value * (self.high - self.low) + self.low

    def entropy(self) -> Any:
        """log(high - low)."""
        return (self.high - self.low).log()


class Exponential(Elementwise):
    """The time to an event that comes at a constant rate.

    Attributes:
        rate: of events.
    """

    parameters = ("rate",)
    arg_constraints: ClassVar[dict[str, Any]] = {"rate": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True
    rate: Tensor

    mean = stddev = property(lambda self: self.rate.reciprocal())
    mode = property(lambda self: ops.zeros_like(self.rate))
    variance = property(lambda self: self.rate**-2)

    def rsample(self, sample_shape: Any = ()) -> Any:
        """-log(1 - u) / rate."""
        shape = tuple(self._extended_shape(sample_shape))
        return -(-rand(shape, dtype=self.rate.dtype, device=self.rate.device)).log1p() / self.rate

    def log_prob(self, value: Tensor) -> Any:
        """log rate - rate x."""
        return self.rate.log() - self.rate * self._checked(value)

    def cdf(self, value: Tensor) -> Any:
        """1 - exp(-rate x)."""
        return 1 - (-self.rate * self._checked(value)).exp()

    def icdf(self, value: Tensor) -> Any:
        """-log(1 - p) / rate."""
        return -(-value).log1p() / self.rate

    def entropy(self) -> Any:
        """1 - log rate."""
        return 1 - self.rate.log()


class Cauchy(Elementwise):
    """The ratio of two normal numbers.

    Attributes:
        loc: the median.
        scale: half the width at half the height.
    """

    parameters = ("loc", "scale")
    arg_constraints: ClassVar[dict[str, Any]] = _PLACED
    support = constraints.real
    has_rsample = True
    loc: Tensor
    scale: Tensor

    mean = property(lambda self: ops.full_like(self.loc, math.nan))
    mode = property(lambda self: self.loc)
    variance = property(lambda self: ops.full_like(self.loc, math.inf))

    def rsample(self, sample_shape: Any = ()) -> Any:
        """loc + scale tan(π (u - ½))."""
        return self.icdf(uniform(self.loc, self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Any:
        """-log π - log scale - log(1 + ((x - loc) / scale)²)."""
        off = (self._checked(value) - self.loc) / self.scale
        return -math.log(math.pi) - self.scale.log() - (off * off).log1p()

    def cdf(self, value: Tensor) -> Any:
        """atan((x - loc) / scale) / π + ½."""
        return ((self._checked(value) - self.loc) / self.scale).atan() / math.pi + 0.5

    def icdf(self, value: Tensor) -> Any:
        """loc + scale tan(π (p - ½))."""
        return (math.pi * (value - 0.5)).tan() * self.scale + self.loc

    def entropy(self) -> Any:
        """log 4π + log scale."""
        return math.log(4 * math.pi) + self.scale.log()


class StudentT(Elementwise):
    """Student's t distribution.

    Attributes:
        df: degrees of freedom.
        loc, scale: what is added, and multiplied with.
    """

    parameters = ("df", "loc", "scale")
    defaults: ClassVar[dict[str, Any]] = {"loc": 0.0, "scale": 1.0}
    arg_constraints: ClassVar[dict[str, Any]] = {"df": constraints.positive, **_PLACED}
    support = constraints.real
    has_rsample = True
    df: Tensor
    loc: Tensor
    scale: Tensor

    mean = property(lambda self: ops.where(self.df > 1, self.loc, math.nan))
    mode = property(lambda self: self.loc)

    @property
    def variance(self) -> Any:
        """scale² df / (df - 2), ∞ up to df = 2 and nan up to 1."""
        found = self.scale**2 * self.df / (self.df - 2)
        return ops.where(self.df > 2, found, ops.where(self.df > 1, math.inf, math.nan))

    def rsample(self, sample_shape: Any = ()) -> Any:
        """loc + scale ε √(df / χ²)."""
        shape = tuple(self._extended_shape(sample_shape))
        noise = _normal(self.loc, shape)
        square = 2 * standard_gamma(ops.broadcast_to(self.df / 2, shape))
        return self.loc + self.scale * noise * (square / self.df).rsqrt()

    def log_prob(self, value: Tensor) -> Any:
        """The logarithm of the density."""
        off = (self._checked(value) - self.loc) / self.scale
        front = self.scale.log() + 0.5 * self.df.log() + 0.5 * math.log(math.pi)
        front = front + (0.5 * self.df).lgamma() - (0.5 * (self.df + 1)).lgamma()
        return -0.5 * (self.df + 1) * (off**2 / self.df).log1p() - front

    def entropy(self) -> Any:
        """The entropy in nats."""
        half, more = 0.5 * self.df, 0.5 * (self.df + 1)
        log_beta = half.lgamma() + math.log(math.sqrt(math.pi)) - (half + 0.5).lgamma()
        return self.scale.log() + more * (more.digamma() - half.digamma()) + 0.5 * self.df.log() + log_beta


class Gumbel(Elementwise):
    """The distribution of the largest of many numbers.

    Attributes:
        loc, scale: what is added, and multiplied with.
    """

    parameters = ("loc", "scale")
    arg_constraints: ClassVar[dict[str, Any]] = _PLACED
    support = constraints.real
    has_rsample = True
    loc: Tensor
    scale: Tensor

    mean = property(lambda self: self.loc + self.scale * _EULER)
    mode = property(lambda self: self.loc)
    stddev = property(lambda self: math.pi / math.sqrt(6) * self.scale)
    variance = property(lambda self: self.stddev**2)

    def rsample(self, sample_shape: Any = ()) -> Any:
        """loc - scale log(-log u)."""
        return self.icdf(uniform(self.loc, self._extended_shape(sample_shape)).clamp(max=1 - 2.0**-24))

    def log_prob(self, value: Tensor) -> Any:
        """y - exp(y) - log scale, y = (loc - x) / scale."""
        y = (self.loc - self._checked(value)) / self.scale
        return y - y.exp() - self.scale.log()

    def cdf(self, value: Tensor) -> Any:
        """exp(-exp(-(x - loc) / scale))."""
        return (-(-(self._checked(value) - self.loc) / self.scale).exp()).exp()

    def icdf(self, value: Tensor) -> Any:
        """loc - scale log(-log p)."""
        return self.loc - self.scale * (-value.log()).log()

    def entropy(self) -> Any:
        """log scale + 1 + Euler's constant."""
        return self.scale.log() + (1 + _EULER)
