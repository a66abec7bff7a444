"""Losses an element at a time: what each element of a prediction costs, before any mean or sum.

Names and arguments are PyTorch's, without ``reduction``: summing up is a step of its own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import broadcast_shape, not_zero
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import at_hand
from distgrad.errors import DTypeError, OptionError

_PAIR = [Sample(((3, 4), (3, 4))), Sample(((), ()), note="no axes"), Sample(((0, 3), (0, 3)), note="empty")]
_OPTIONS: dict[str, Any] = {"shape": broadcast_shape, "dtypes": "real floating-point"}
_SIGNS = np.array([1.0, -1.0, 1.0, -1.0])


# -- regression


def _clipped(xp: Any, x: Array, bound: float) -> Array:
    return xp.minimum(xp.maximum(x, -bound), bound)


@primitive(
    math="y = d²/2 if |d| <= delta else delta (|d| - delta/2), d = x - target",
    source="Huber, Annals of Mathematical Statistics, 1964",
    samples=[*_PAIR, Sample(((3, 4), (3, 4)), {"delta": 0.5})],
    **_OPTIONS,
)
def huber_loss(xp: Any, x: Array, target: Array, /, *, delta: float = 1.0) -> Array:
    """Squared error near 0, absolute error beyond ``delta``.

    Args:
        x, target: any shapes that broadcast.
        delta: where the one goes over into the other.
    """
    size = xp.abs(x - target)
    near = xp.minimum(size, delta)
    return near * (size - 0.5 * near)


@huber_loss.vjp("x")
def _(xp: Any, g: Array, x: Array, target: Array, delta: float) -> Array:
    return g * _clipped(xp, x - target, delta)


@huber_loss.vjp("target")
def _(xp: Any, g: Array, x: Array, target: Array, delta: float) -> Array:
    return g * _clipped(xp, target - x, delta)


@composite(
    math="y = d²/(2 beta) if |d| < beta else |d| - beta/2, d = x - target",
    source="Girshick, ICCV 2015",
    samples=[*_PAIR, Sample(((3, 4), (3, 4)), {"beta": 0.5}), Sample(((3, 4), (3, 4)), {"beta": 0.0})],
    **_OPTIONS,
)
def smooth_l1_loss(xp: Any, x: Array, target: Array, /, *, beta: float = 1.0) -> Array:
    """Absolute error, rounded off within ``beta`` of 0."""
    if beta == 0.0:
        return xp.abs(x - target)
    return xp.huber_loss(x, target, delta=beta) / beta


# -- probabilities

_PROBABILITY = Sample(((3, 4), (3, 4)), domain=(0.1, 0.9))


def _log_or_floor(xp: Any, x: Array) -> Array:
    """log x, not below -100: a single certain mistake must not be infinite."""
    return xp.where(x <= 0, -100.0, xp.maximum(xp.log(xp.where(x <= 0, 1.0, x)), -100.0))


def _log_rest_or_floor(xp: Any, x: Array) -> Array:
    """log(1 - x), not below -100."""
    return xp.where(x >= 1, -100.0, xp.maximum(xp.log1p(xp.where(x >= 1, 0.0, -x)), -100.0))


@primitive(
    math="y = -target log x - (1 - target) log(1 - x)",
    samples=[
        _PROBABILITY,
        Sample((np.array([0.0, 1.0]), np.array([0.0, 1.0])), note="certain, and right", grad=False),
        Sample(((0, 3), (0, 3)), note="empty"),
    ],
    rejects=[Reject((np.array([0.5, 1.5]), np.array([1.0, 1.0])), OptionError, "x must lie in [0, 1]")],
    **_OPTIONS,
)
def binary_cross_entropy(xp: Any, x: Array, target: Array, /) -> Array:
    """Cross entropy of a probability with a target in [0, 1]; logarithms stop at −100.

    Raises:
        OptionError: a probability outside [0, 1]; not looked for on a device, as that would wait.
    """
    values = xp.asarray(x)
    if at_hand(values) and values.size and (values.min() < 0 or values.max() > 1):
        raise OptionError(f"binary_cross_entropy: x must lie in [0, 1], got {values.min()} to {values.max()}")
    y = -target * _log_or_floor(xp, x) - (1.0 - target) * _log_rest_or_floor(xp, x)
    return xp.asarray(y, dtype=xp.result_type(x, target))  # where x is a number its logarithm is float64


@binary_cross_entropy.vjp("x")
def _(xp: Any, g: Array, x: Array, target: Array) -> Array:
    return g * ((x - target) / xp.maximum(x * (1.0 - x), not_zero(1e-12, x.dtype)))


@binary_cross_entropy.vjp("target")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * (_log_rest_or_floor(xp, x) - _log_or_floor(xp, x))


@composite(
    math="y = log(1 + e^x) - target x",
    samples=[
        *_PAIR,
        Sample(((3, 4), (3, 4), (4,)), note="weights of the positive"),
        Sample((np.array([-800.0, 800.0]), np.array([1.0, 0.0])), note="tails", grad=False),
    ],
    **_OPTIONS,
)
def binary_cross_entropy_with_logits(
    xp: Any, x: Array, target: Array, pos_weight: Array | None = None, /
) -> Array:
    """Cross entropy of the logistic function of ``x`` with a target in [0, 1].

    Args:
        x: logits, any shape.
        target: any shape that broadcasts.
        pos_weight: what positive targets' part is multiplied by; broadcasts too.
    """
    if pos_weight is None:
        return xp.softplus(x, threshold=math.inf) - target * x
    weight = 1.0 + (pos_weight - 1.0) * target
    return (1.0 - target) * x + weight * xp.softplus(-x, threshold=math.inf)


@composite(
    math="y = target (log target - x)",
    source="Kullback and Leibler, Annals of Mathematical Statistics, 1951",
    domain=(0.1, 0.9),
    samples=[
        *_PAIR,
        Sample(((3, 4), (3, 4)), {"log_target": True}),
        Sample((np.array([-1.0, -2.0]), np.array([0.0, 1.0])), note="zeros", grad=False),
    ],
    **_OPTIONS,
)
def kl_div(xp: Any, x: Array, target: Array, /, *, log_target: bool = False) -> Array:
    """Terms of the divergence of a target distribution from a prediction.

    Args:
        x: logarithms of the predicted probabilities.
        target: probabilities, or their logarithms.
        log_target: whether ``target`` holds logarithms.
    """
    if log_target:
        return xp.exp(target) * (target - x)
    return xp.xlogy(target, target) - target * x


# -- likelihoods


@composite(
    math="y = e^x - target x, or x - target log(x + eps)",
    domain=(0.5, 3.0),
    samples=[
        *_PAIR,
        Sample(((3, 4), (3, 4)), {"log_input": False}),
        Sample(((3, 4), (3, 4)), {"full": True}),
    ],
    **_OPTIONS,
)
def poisson_nll_loss(
    xp: Any, x: Array, target: Array, /, *, log_input: bool = True, full: bool = False, eps: float = 1e-8
) -> Array:
    """Negative log-likelihood of counts under a Poisson distribution.

    Args:
        x: the distribution's mean, or its logarithm.
        target: counts.
        log_input: whether ``x`` holds logarithms.
        full: add Stirling's approximation of log(target!) where the target is above 1.
        eps: added to a mean before its logarithm is taken.
    """
    y = xp.exp(x) - target * x if log_input else x - target * xp.log(x + eps)
    if full:
        count = xp.where(target > 1, target, 1.0)
        stirling = count * xp.log(count) - count + 0.5 * xp.log(2.0 * math.pi * count)
        y = y + xp.where(target > 1, stirling, 0.0)
    return y


@composite(
    math="y = (log var + (x - target)² / var) / 2",
    source="Nix and Weigend, ICNN 1994",
    domain=(0.5, 2.0),
    samples=[Sample(((3, 4), (3, 4), (3, 4))), Sample(((3, 4), (3, 4), (3, 1)), {"full": True})],
    **_OPTIONS,
)
def gaussian_nll_loss(
    xp: Any, x: Array, target: Array, var: Array, /, *, full: bool = False, eps: float = 1e-6
) -> Array:
    """Negative log-likelihood under a normal distribution.

    Args:
        x: its mean.
        target: values.
        var: its variance; below ``eps`` it counts as ``eps``.
        full: add the constant log(2π)/2.
        eps: the least variance.
    """
    var = xp.maximum(var, eps)
    y = 0.5 * (xp.log(var) + xp.square(x - target) / var)
    return y + 0.5 * math.log(2.0 * math.pi) if full else y


# -- margins an element


@composite(
    math="y = x if target = 1, max(0, margin - x) if target = -1",
    samples=[Sample(((3, 4), _SIGNS)), Sample(((3, 4), _SIGNS), {"margin": 0.3})],
    rejects=[Reject((np.arange(4), _SIGNS), DTypeError, "x must be real floating-point")],
    **_OPTIONS,
)
def hinge_embedding_loss(xp: Any, x: Array, target: Array, /, *, margin: float = 1.0) -> Array:
    """A distance where two things are alike, the lack of one where they differ.

    Args:
        x: distances.
        target: 1 for alike, −1 for different.
        margin: the distance that suffices.
    """
    return xp.where(target == -1, 0.0, x) + xp.where(target == 1, 0.0, xp.relu(margin - x))


@composite(math="y = log(1 + e^(-target x))", samples=[*_PAIR, Sample(((3, 4), _SIGNS))], **_OPTIONS)
def soft_margin_loss(xp: Any, x: Array, target: Array, /) -> Array:
    """Logistic loss of a score with a class of ±1."""
    return xp.softplus(-(target * x), threshold=math.inf)


@composite(
    math="y = max(0, margin - target (x1 - x2))",
    samples=[Sample(((3, 4), (3, 4), _SIGNS)), Sample(((3, 4), (3, 4), _SIGNS), {"margin": 0.5})],
    **_OPTIONS,
)
def margin_ranking_loss(xp: Any, x1: Array, x2: Array, target: Array, /, *, margin: float = 0.0) -> Array:
    """How far two scores are from the order wanted.

    Args:
        x1, x2: scores.
        target: 1 if the first should be larger, −1 if the second.
        margin: by how much.
    """
    return xp.relu(margin - target * (x1 - x2))
