"""Kullback and Leibler's divergence, by the kinds of both distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.torch.probability.continuous import Cauchy, Exponential, Gumbel, Laplace, Normal, Uniform
from distgrad.torch.probability.derived import (
    HalfNormal,
    Independent,
    Pareto,
    TransformedDistribution,
)
from distgrad.torch.probability.discrete import (
    Bernoulli,
    Binomial,
    Categorical,
    Geometric,
    OneHotCategorical,
    Poisson,
)
from distgrad.torch.probability.distribution import Distribution, lacking
from distgrad.torch.probability.gamma import Beta, Gamma, GammaParameters, InverseGamma
from distgrad.torch.probability.multivariate import Dirichlet, MultivariateNormal, squared_distance

__all__ = ["kl_divergence", "register_kl"]

_EULER = 0.57721566490153286061
_KNOWN: dict[tuple[type, type], Callable[..., Any]] = {}


def register_kl(type_p: type, type_q: type) -> Callable[..., Any]:
    """Decorate a function of two distributions of these kinds, or of kinds made of them."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        _KNOWN[type_p, type_q] = function
        return function

    return decorate


def kl_divergence(p: Distribution, q: Distribution) -> Any:
    """∫ p log(p / q).

    Raises:
        NotImplementedError: the divergence of these kinds is not known.
    """
    for first in type(p).__mro__:
        for second in type(q).__mro__:
            if (first, second) in _KNOWN:
                return _KNOWN[first, second](p, q)
    raise lacking(
        "kl_divergence",
        f"none is known from {type(p).__name__} to {type(q).__name__}; add one with register_kl",
    )


@register_kl(Normal, Normal)
def _normal(p: Normal, q: Normal) -> Any:
    ratio = (p.scale / q.scale) ** 2
    return 0.5 * (ratio + ((p.loc - q.loc) / q.scale) ** 2 - 1 - ratio.log())


@register_kl(Laplace, Laplace)
def _laplace(p: Laplace, q: Laplace) -> Any:
    ratio, far = p.scale / q.scale, (p.loc - q.loc).abs()
    return -ratio.log() + far / q.scale + ratio * (-far / p.scale).exp() - 1


@register_kl(Cauchy, Cauchy)
def _cauchy(p: Cauchy, q: Cauchy) -> Any:
    far = (p.scale + q.scale) ** 2 + (p.loc - q.loc) ** 2
    return far.log() - (4 * p.scale * q.scale).log()


@register_kl(Uniform, Uniform)
def _uniform(p: Uniform, q: Uniform) -> Any:
    inside = (q.low <= p.low) & (q.high >= p.high)
    return ops.where(inside, ((q.high - q.low) / (p.high - p.low)).log(), math.inf)


@register_kl(Uniform, Normal)
def _uniform_to_normal(p: Uniform, q: Normal) -> Any:
    width = p.high - p.low
    far = (width / q.scale) ** 2 / 12 + ((p.high + p.low - 2 * q.loc) / (2 * q.scale)) ** 2
    return (math.sqrt(math.pi * 2) * q.scale / width).log() + 0.5 * far


@register_kl(Exponential, Exponential)
def _exponential(p: Exponential, q: Exponential) -> Any:
    ratio = q.rate / p.rate
    return -ratio.log() + ratio - 1


@register_kl(Gamma, Gamma)
def _gamma(p: GammaParameters, q: GammaParameters) -> Any:
    first = q.concentration * (p.rate / q.rate).log()
    second = q.concentration.lgamma() - p.concentration.lgamma()
    third = (p.concentration - q.concentration) * p.concentration.digamma()
    return first + second + third + (q.rate - p.rate) * (p.concentration / p.rate)


@register_kl(InverseGamma, InverseGamma)
def _inverse_gamma(p: InverseGamma, q: InverseGamma) -> Any:
    return _gamma(p, q)


@register_kl(Exponential, Gamma)
def _exponential_to_gamma(p: Exponential, q: Gamma) -> Any:
    ratio, a = q.rate / p.rate, q.concentration
    return -a * ratio.log() + ratio + a.lgamma() + a * _EULER - (1 + _EULER)


@register_kl(Gumbel, Gumbel)
def _gumbel(p: Gumbel, q: Gumbel) -> Any:
    ratio, first, second = p.scale / q.scale, q.loc / q.scale, p.loc / q.scale
    inside = (second * -1 + first + (1 + ratio).lgamma()).exp()
    return (q.scale / p.scale).log() - first + second + ratio * _EULER + inside - (1 + _EULER)


@register_kl(HalfNormal, HalfNormal)
def _half_normal(p: HalfNormal, q: HalfNormal) -> Any:
    return _normal(p.base_dist, q.base_dist)


@register_kl(Pareto, Pareto)
def _pareto(p: Pareto, q: Pareto) -> Any:
    ratio = q.alpha / p.alpha
    found = q.alpha * (p.scale / q.scale).log() - ratio.log() + ratio - 1
    return ops.where(p.scale < q.scale, math.inf, found)


@register_kl(Beta, Beta)
def _beta(p: Beta, q: Beta) -> Any:
    a, b, c, d = p.concentration1, p.concentration0, q.concentration1, q.concentration0
    return (
        c.lgamma() + d.lgamma() + (a + b).lgamma() - a.lgamma() - b.lgamma() - (c + d).lgamma()
        + (a - c) * a.digamma() + (b - d) * b.digamma() + (c + d - a - b) * (a + b).digamma()
    )  # fmt: skip


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p: Dirichlet, q: Dirichlet) -> Any:
    a, b = p.concentration, q.concentration
    total = ops.sum(a, axis=-1)
    front = total.lgamma() - ops.sum(b, axis=-1).lgamma() - ops.sum(a.lgamma() - b.lgamma(), axis=-1)
    return front + ops.sum((a - b) * (a.digamma() - ops.expand_dims(total.digamma(), axis=-1)), axis=-1)


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Bernoulli, q: Bernoulli) -> Any:
    a, b = p.logits, q.logits
    one = p.probs * (ops.logaddexp(-b, 0.0) - ops.logaddexp(-a, 0.0))
    zero = (1 - p.probs) * (ops.logaddexp(b, 0.0) - ops.logaddexp(a, 0.0))
    one, zero = ops.where(q.probs == 0, math.inf, one), ops.where(q.probs == 1, math.inf, zero)
    return ops.where(p.probs == 0, 0.0, one) + ops.where(p.probs == 1, 0.0, zero)


@register_kl(Binomial, Binomial)
def _binomial(p: Binomial, q: Binomial) -> Any:
    if bool(ops.any(p.total_count < q.total_count)):
        raise lacking("kl_divergence", "Binomial to Binomial with a larger total_count")
    found = p.total_count * (p.probs * (p.logits - q.logits) + (-p.probs).log1p() - (-q.probs).log1p())
    return ops.where(p.total_count > q.total_count, math.inf, found)


@register_kl(Geometric, Geometric)
def _geometric(p: Geometric, q: Geometric) -> Any:
    return -p.entropy() - (-q.probs).log1p() / p.probs - q.logits


@register_kl(Poisson, Poisson)
def _poisson(p: Poisson, q: Poisson) -> Any:
    return p.rate * (p.rate.log() - q.rate.log()) - (p.rate - q.rate)


@register_kl(Categorical, Categorical)
def _categorical(p: Categorical, q: Categorical) -> Any:
    terms = p.probs * (p.logits - q.logits)
    terms = ops.where(q.probs == 0, math.inf, terms)
    return ops.sum(ops.where(p.probs == 0, 0.0, terms), axis=-1)


@register_kl(OneHotCategorical, OneHotCategorical)
def _one_hot(p: OneHotCategorical, q: OneHotCategorical) -> Any:
    return _categorical(p, q)


@register_kl(MultivariateNormal, MultivariateNormal)
def _multivariate(p: MultivariateNormal, q: MultivariateNormal) -> Any:
    k = int(p.event_shape[0])
    half = q._half_log_det() - p._half_log_det()
    inside = ops.solve_triangular(q.scale_tril, ops.broadcast_to(p.scale_tril, _both(p, q, k)), upper=False)
    return half + 0.5 * (
        ops.sum(inside * inside, axis=(-2, -1)) + squared_distance(q.scale_tril, q.loc - p.loc) - k
    )


def _both(p: Distribution, q: Distribution, k: int) -> tuple[int, ...]:
    batch = ops.broadcast_arrays(ops.zeros(p.batch_shape), ops.zeros(q.batch_shape))[0].shape
    return (*batch, k, k)


@register_kl(Independent, Independent)
def _independent(p: Independent, q: Independent) -> Any:
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        raise lacking("kl_divergence", "Independent with different numbers of axes")
    found = kl_divergence(p.base_dist, q.base_dist)
    count = p.reinterpreted_batch_ndims
    return ops.sum(found, axis=tuple(range(found.ndim - count, found.ndim))) if count else found


@register_kl(TransformedDistribution, TransformedDistribution)
def _transformed(p: TransformedDistribution, q: TransformedDistribution) -> Any:
    if p.transforms != q.transforms or p.event_shape != q.event_shape:
        raise lacking("kl_divergence", "distributions made by different transforms")
    return kl_divergence(p.base_dist, q.base_dist)
