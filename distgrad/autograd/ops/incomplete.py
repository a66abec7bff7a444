"""The incomplete gamma functions, in float64.

Below 100 the power series, or Legendre's continued fraction, whichever converges; above, the integral from x
into the tail by Gauss and Legendre's rule, since the integrand is a bell of width √a there.

Source: Press et al., Numerical Recipes, 2007, section 6.2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.gamma import in_float64, log_gamma
from distgrad.autograd.ops.shape_rules import fraction_dtype
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import GraphError, ShapeError

_NUM_TERMS, _NUM_STEPS, _LARGE = 140, 150, 100.0
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_SAMPLES = [
    Sample((np.array([[1], [4]]), (3,)), domain=(0.5, 6.0)),
    Sample((np.array([0, 1, 3, 200]), np.array([1.0, 0.0, np.inf, 210.0])), note="ends", grad=False),
]
_REJECTS = [Reject(((3, 4), (3,)), ShapeError, "broadcast")]


def _series(xp: Any, a: Array, x: Array) -> Array:
    """Σ xⁿ / (a (a + 1) … (a + n)), all terms of one sign."""
    term = total = 1.0 / a
    for n in range(1, _NUM_TERMS):
        term = term * (x / (a + n))
        total = total + term
    return total


def _fraction(xp: Any, a: Array, x: Array) -> Array:
    """1 / (x + 1 - a - 1 (1 - a) / (x + 3 - a - …)), by Lentz's method."""
    b = x + 1.0 - a
    c, d = 1.0 / 1e-300 + 0.0 * b, 1.0 / b
    total = d
    for n in range(1, _NUM_STEPS):
        step = -n * (n - a)
        b = b + 2.0
        d = step * d + b
        c = b + step / c
        d = 1.0 / xp.where(xp.abs(d) < 1e-300, 1e-300, d)
        c = xp.where(xp.abs(c) < 1e-300, 1e-300, c)
        total = total * (d * c)
    return total


def _tail_by_quadrature(xp: Any, a: Array, x: Array) -> tuple[Array, Array]:
    """The integral from x into the tail on its side of the peak, and whether that is the upper one."""
    peak = a - 1.0
    width = xp.sqrt(peak)
    above = x > peak
    upper = xp.maximum(peak + 11.5 * width, x + 6.0 * width)
    lower = xp.maximum(0.0, xp.minimum(peak - 11.5 * width, x - 6.0 * width))
    end = xp.where(above, upper, lower)
    total = xp.zeros_like(x)
    for point, weight in zip(_POINTS.tolist(), _WEIGHTS.tolist(), strict=True):
        t = x + (end - x) * (0.5 * (point + 1.0))
        inside = xp.where(t > 0, t, 1.0)
        total = total + 0.5 * weight * xp.where(
            t > 0, xp.exp(-(t - peak) + peak * (xp.log(inside) - xp.log(peak))), 0.0
        )
    scale = xp.exp(peak * (xp.log(peak) - 1.0) - log_gamma(xp, a))
    return total * xp.abs(end - x) * scale, above


def _both(xp: Any, a: Array, x: Array) -> tuple[Array, Array]:
    """The lower and the upper function."""
    a, x = xp.broadcast_to(a, np.broadcast_shapes(a.shape, x.shape)), x + 0.0 * a
    inside = (a > 0) & (x > 0) & xp.isfinite(x)
    safe_a, safe_x = xp.where(inside, a, 1.0), xp.where(inside, x, 1.0)
    small_a = xp.where(safe_a > _LARGE, 1.0, safe_a)
    small_x = xp.where(safe_a > _LARGE, 1.0, safe_x)
    front = xp.exp(small_a * xp.log(small_x) - small_x - log_gamma(xp, small_a))
    low = small_x < small_a + 1.0
    lower = front * _series(xp, small_a, xp.where(low, small_x, 0.0))
    upper = front * _fraction(xp, small_a, xp.where(low, small_a + 1.0, small_x))
    tail, above = _tail_by_quadrature(
        xp, xp.maximum(safe_a, _LARGE), xp.where(safe_a > _LARGE, safe_x, _LARGE)
    )
    large = safe_a > _LARGE
    from_below = xp.where(large, ~above, low)
    known = xp.where(large, tail, xp.where(low, lower, upper))
    p = xp.where(from_below, known, 1.0 - known)
    q = xp.where(from_below, 1.0 - known, known)
    nowhere = (a < 0) | (x < 0) | xp.isnan(a) | xp.isnan(x) | ((a == 0) & (x == 0))
    ends = xp.where(x == 0, 0.0, 1.0)  # a = 0 or x = ∞
    p = xp.where(nowhere, math.nan, xp.where(inside, p, ends))
    q = xp.where(nowhere, math.nan, xp.where(inside, q, 1.0 - ends))
    return p, q


@primitive(
    math="y = 1/Γ(x1) ∫₀^x2 t^(x1-1) e^-t dt",
    source="Press et al., Numerical Recipes, 2007, section 6.2",
    shape=np.broadcast_shapes,
    result=fraction_dtype,
    dtypes="real numeric",
    samples=_SAMPLES,
    rejects=_REJECTS,
)
def gammainc(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The regularized lower incomplete gamma function of order ``x1``; the gradient is that of ``x2``."""
    return in_float64(lambda a, x: _both(xp, a, x)[0], x1, x2)


@primitive(
    math="y = 1/Γ(x1) ∫_x2^∞ t^(x1-1) e^-t dt",
    source="Press et al., Numerical Recipes, 2007, section 6.2",
    shape=np.broadcast_shapes,
    result=fraction_dtype,
    dtypes="real numeric",
    samples=_SAMPLES,
    rejects=_REJECTS,
)
def gammaincc(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The regularized upper incomplete gamma function of order ``x1``; the gradient is that of ``x2``."""
    return in_float64(lambda a, x: _both(xp, a, x)[1], x1, x2)


def _density(xp: Any, x1: Array, x2: Array) -> Array:
    """x2^(x1 - 1) e^-x2 / Γ(x1), 0 at the ends."""
    order = xp.astype(x1, x2.dtype)
    inside = (x2 > 0) & xp.isfinite(x2) & (order > 0)
    a, x = xp.where(inside, order, 1.0), xp.where(inside, x2, 1.0)
    return xp.where(inside, xp.exp((a - 1.0) * xp.log(x) - x - xp.gammaln(a)), 0.0)


@gammainc.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * _density(xp, x1, x2)


@gammaincc.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return -g * _density(xp, x1, x2)


@gammainc.vjp("x1")
def _(xp: Any, g: Array) -> Array:
    raise GraphError("gammainc: there is no gradient of the order x1; detach() it")


@gammaincc.vjp("x1")
def _(xp: Any, g: Array) -> Array:
    raise GraphError("gammaincc: there is no gradient of the order x1; detach() it")
