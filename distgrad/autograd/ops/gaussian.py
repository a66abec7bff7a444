"""Functions of the normal distribution: its quantile and the logarithm and scaled form of its tail."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.elementwise import UNARY
from distgrad.autograd.ops.gamma import in_float64
from distgrad.autograd.ops.shape_rules import same_shape
from distgrad.autograd.ops.special import inverse_erf, scaled_tail
from distgrad.autograd.primitive import Sample

_TAILS = Sample((np.array([-30.0, -6.0, -0.5, -0.0, 0.4, 8.0, 300.0]),), note="tails", grad=False)


def _erfcx(xp: Any, x: Array) -> Array:
    size = xp.abs(x)
    near = xp.exp(xp.minimum(size, 1.0) ** 2) * xp.erfc(xp.minimum(size, 1.0))
    upper = xp.where(size < 0.46875, near, scaled_tail(xp, xp.maximum(size, 0.46875)))
    return xp.where(x < 0, 2.0 * xp.exp(x * x) - upper, upper)


@primitive(
    math="y = e^(x²) erfc x", shape=same_shape, dtypes="real floating-point", samples=[*UNARY[:2], _TAILS]
)
def erfcx(xp: Any, x: Array, /) -> Array:
    """The complementary error function, scaled so that its tail does not vanish."""
    return in_float64(functools.partial(_erfcx, xp), x)


@erfcx.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array) -> Array:
    return g * (2.0 * x * y - 2.0 / math.sqrt(math.pi))


def _log_ndtr(xp: Any, x: Array) -> Array:
    z = x * math.sqrt(0.5)
    tail = xp.log(0.5 * _erfcx(xp, xp.maximum(-z, 0.0))) - z * z
    return xp.where(x < -1.0, tail, xp.log1p(-0.5 * xp.erfc(z)))


@primitive(
    math="y = log((1 + erf(x / √2)) / 2)",
    shape=same_shape,
    dtypes="real floating-point",
    samples=[*UNARY[:2], _TAILS],
)
def log_ndtr(xp: Any, x: Array, /) -> Array:
    """The logarithm of the normal distribution's cumulative function, exact in both tails."""
    return in_float64(functools.partial(_log_ndtr, xp), x)


@log_ndtr.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * (math.sqrt(2.0 / math.pi) / xp.erfcx(x * -math.sqrt(0.5)))


def _ndtri(xp: Any, p: Array) -> Array:
    shape, p = p.shape, p.reshape(-1)
    tail = 2.0 * xp.minimum(p, 1.0 - p)
    y = math.sqrt(2.0) * inverse_erf(xp, xp.abs(1.0 - 2.0 * p), xp.where(tail >= 0, tail, math.nan))
    return xp.where(p < 0.5, -y, y).reshape(shape)


@primitive(
    math="y such that (1 + erf(y / √2)) / 2 = x",
    shape=same_shape,
    dtypes="real floating-point",
    domain=(0.1, 0.9),
    samples=[
        *UNARY[:2],
        Sample((np.array([0.0, 1e-200, 0.5, 1.0]),), note="tails", grad=False),
        Sample((np.array([1.5, -0.1]),), note="no probabilities", grad=False),
    ],
)
def ndtri(xp: Any, x: Array, /) -> Array:
    """The normal distribution's quantiles; ∓∞ at 0 and 1, NaN outside."""
    return in_float64(functools.partial(_ndtri, xp), x)


@ndtri.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return g * (math.sqrt(2.0 * math.pi) * xp.exp(0.5 * y * y))
