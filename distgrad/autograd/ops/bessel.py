"""Modified Bessel functions of the first kind, also scaled so that they do not overflow.

Below 20 their power series, whose terms all have one sign, and beyond Hankel's asymptotic series, both summed
until the rest is beyond float64.

Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, sections 9.6 and 9.7.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.gamma import in_float64
from distgrad.autograd.ops.shape_rules import same_shape
from distgrad.autograd.primitive import Sample

_SAMPLES = [Sample(((3, 4),), domain=(-4.0, 4.0)), Sample((np.array([0.0, -0.0]),), note="at 0", grad=False)]
_SCALED = [*_SAMPLES, Sample((np.array([-30.0, 19.9, 20.1, 500.0]),), note="far", grad=False)]
_END = 20.0


def _scaled(xp: Any, order: int, x: Array) -> Array:
    """e^-|x| I_order(x) in float64."""
    size = xp.abs(x)
    near, far = xp.minimum(size, _END), xp.maximum(size, _END)
    quarter = 0.25 * near * near
    term = xp.ones_like(x) if order == 0 else 0.5 * near
    total = term
    for k in range(1, 50):
        term = term * (quarter / (k * (k + order)))
        total = total + term
    term = tail = xp.ones_like(x)
    for k in range(1, 30):
        term = term * (((2 * k - 1) ** 2 - 4 * order * order) / (8.0 * k)) / far
        tail = tail + term
    y = xp.where(size < _END, total * xp.exp(-near), tail / xp.sqrt(2 * math.pi * far))
    y = xp.where(xp.isnan(x), x, xp.where(xp.isinf(x), 0.0, y))
    return y * xp.sign(x) if order else y


def _unscaled(xp: Any, order: int, x: Array) -> Array:
    # the exponential in halves, as it would overflow before the product does
    half = xp.exp(0.5 * xp.abs(x))
    y = _scaled(xp, order, x) * half * half
    return xp.where(xp.isinf(x), xp.abs(x) if order == 0 else x, y)


@primitive(math="y = I₀(x)", shape=same_shape, dtypes="real floating-point", samples=_SAMPLES)
def i0(xp: Any, x: Array, /) -> Array:
    """The modified Bessel function of order 0."""
    return in_float64(functools.partial(_unscaled, xp, 0), x)


@i0.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * xp.i1(x)


@primitive(math="y = e^-|x| I₀(x)", shape=same_shape, dtypes="real floating-point", samples=_SCALED)
def i0e(xp: Any, x: Array, /) -> Array:
    """The modified Bessel function of order 0, scaled."""
    return in_float64(functools.partial(_scaled, xp, 0), x)


@i0e.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array) -> Array:
    return g * (xp.i1e(x) - xp.sign(x) * y)


def _over(xp: Any, y: Array, x: Array) -> Array:
    """``y / x``, and its limit of 1/2 at 0."""
    zero = x == 0
    return xp.where(zero, 0.5, y / xp.where(zero, 1.0, x))


@primitive(math="y = I₁(x)", shape=same_shape, dtypes="real floating-point", samples=_SAMPLES)
def i1(xp: Any, x: Array, /) -> Array:
    """The modified Bessel function of order 1."""
    return in_float64(functools.partial(_unscaled, xp, 1), x)


@i1.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array) -> Array:
    return g * (xp.i0(x) - _over(xp, y, x))


@primitive(math="y = e^-|x| I₁(x)", shape=same_shape, dtypes="real floating-point", samples=_SCALED)
def i1e(xp: Any, x: Array, /) -> Array:
    """The modified Bessel function of order 1, scaled."""
    return in_float64(functools.partial(_scaled, xp, 1), x)


@i1e.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array) -> Array:
    return g * (xp.i0e(x) - xp.sign(x) * y - _over(xp, y, x))
