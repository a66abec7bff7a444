"""The gamma function's logarithm and its derivatives, and the incomplete gamma functions.

All are computed in float64, from series: Taylor's around 1 and 2, Stirling's and its derivatives beyond 9,
and recurrence or reflection in between.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.elementwise import MISFIT
from distgrad.autograd.ops.shape_rules import fraction_dtype, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import at_hand
from distgrad.errors import DTypeError, GraphError, OptionError

_ENDS = Sample((np.array([0.0, -2.5, 1e-300, 1.0, 2.0, 170.5, np.inf]),), note="ends", grad=False)
_POSITIVE = [Sample(((3, 4),), domain=(0.2, 12.0)), Sample(((),), note="no axes", domain=(0.5, 2.0))]
_BOTH_SIDES = [*_POSITIVE, Sample((np.array([-0.3, -1.6, -7.2, 9.5]),), note="below 0"), _ENDS]
_STIRLING = "Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, chapter 6"
_FAR = 9.0  # from here on the asymptotic series are exact to the last digit


_BLOCK = 8192  # elements computed at once, so that the steps of a series stay in cache


@functools.cache
def bernoulli_numbers(count: int) -> tuple[float, ...]:
    """B_2, B_4, …, as many as asked for."""
    numbers = [1.0, -0.5]
    for n in range(2, 2 * count + 1):
        rest = math.fsum(math.comb(n + 1, k) * numbers[k] for k in range(n))
        numbers.append(0.0 if n % 2 else -rest / (n + 1))
    return tuple(numbers[2::2])


@functools.cache
def _zeta_less_one(count: int) -> tuple[float, ...]:
    """ζ(k) - 1 for k = 2, 3, …, summed from the smallest term up, the tail by Euler and Maclaurin."""
    found = []
    for k in range(2, count + 2):
        n = 20
        head = math.fsum(float(i) ** -k for i in range(2, n))
        tail = n ** (1.0 - k) / (k - 1) + 0.5 * float(n) ** -k
        term = k * float(n) ** (-k - 1)
        for j, number in enumerate(bernoulli_numbers(6), 1):
            tail += number * term / math.factorial(2 * j)
            term *= (k + 2 * j - 1) * (k + 2 * j) / n**2
        found.append(head + tail)
    return tuple(found)


def in_float64(function: Callable[..., Array], *arrays: Array) -> Array:
    """``function`` of the arrays in float64, in the dtype that they came in."""
    dtypes = [x.dtype for x in arrays if hasattr(x, "dtype") and x.dtype.kind not in "iu"]
    dtype = np.result_type(*dtypes) if dtypes else np.float64
    with np.errstate(all="ignore"):  # both sides of every choice are computed
        if len(arrays) == 1 and at_hand(arrays[0]) and arrays[0].size > _BLOCK:
            flat = arrays[0].reshape(-1)
            out = np.empty(flat.shape, dtype)
            for start in range(0, flat.size, _BLOCK):
                out[start : start + _BLOCK] = function(flat[start : start + _BLOCK].astype(np.float64))
            return out.reshape(arrays[0].shape)
        y = function(*(x.astype(np.float64) if hasattr(x, "dtype") else np.float64(x) for x in arrays))
        return y.astype(dtype, copy=False)


# -- log Γ


def _near_two(z: Array) -> Array:
    """log Γ(2 + z) for |z| ≤ 1/2."""
    coefficients = _zeta_less_one(28)
    y = z * 0.0
    for k in range(len(coefficients) + 1, 1, -1):
        y = (y + (-1) ** k * coefficients[k - 2] / k) * z
    return (y + (1.0 - np.euler_gamma)) * z


def log_gamma(xp: Any, x: Array) -> Array:
    """log |Γ(x)| in float64."""
    low = x < 0.5
    z = xp.where(low, 1.0 - x, x)  # below 1/2 by reflection
    far = z >= _FAR
    large = xp.where(far, z, _FAR)
    inverse = 1.0 / large
    y = xp.zeros_like(z)
    for n, number in reversed(list(enumerate(bernoulli_numbers(10), 1))):
        y = y * (inverse * inverse) + number / (2 * n * (2 * n - 1))
    stirling = (large - 0.5) * xp.log(large) - large + 0.5 * math.log(2 * math.pi) + y * inverse
    near, factor = xp.where(far, 2.0, z), xp.ones_like(z)
    for _ in range(7):  # Γ(z) = (z - 1) Γ(z - 1), down to 2.5
        step = near > 2.5
        near = xp.where(step, near - 1.0, near)
        factor = xp.where(step, factor * near, factor)
    below = near < 1.5  # log Γ(near) = log Γ(near + 1) - log near
    shifted = xp.where(below, near + 1.0, near)
    middle = _near_two(shifted - 2.0) + xp.log(factor) - xp.where(below, xp.log(near), 0.0)
    upper = xp.where(far, stirling, middle)
    upper = xp.where(z == math.inf, math.inf, upper)
    turn = xp.abs(x - 2.0 * xp.round(0.5 * x))  # sin πx has the period 2
    sine = xp.sin(math.pi * xp.where(turn > 0.5, 1.0 - turn, turn))
    lower = math.log(math.pi) - xp.log(xp.abs(sine)) - upper
    tiny = xp.abs(x) < 1e-8  # Γ(x) = 1/x - γ there
    lower = xp.where(tiny, -xp.log(xp.abs(x)) - np.euler_gamma * x, lower)
    y = xp.where(low, lower, upper)
    return xp.where(xp.isinf(x) | (low & (x == xp.floor(x))), math.inf, y)


@primitive(
    math="y = log |Γ(x)|",
    source=_STIRLING,
    shape=same_shape,
    dtypes="real floating-point",
    samples=_BOTH_SIDES,
    rejects=[Reject((np.arange(3),), DTypeError, "x must be real floating-point, got int64")],
)
def gammaln(xp: Any, x: Array, /) -> Array:
    """The logarithm of the gamma function's magnitude; ∞ at 0 and negative whole numbers."""
    return in_float64(functools.partial(log_gamma, xp), x)


@gammaln.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * xp.digamma(x)


@composite(
    math="y = log(π^(p(p-1)/4) Π_{j<p} Γ(x - j/2))",
    shape=lambda x, p: x,
    dtypes="real floating-point",
    samples=[Sample(((3,), 3), domain=(1.2, 8.0)), Sample(((3,), 1), domain=(0.2, 8.0))],
    rejects=[Reject(((3,), 0), OptionError, "multigammaln: p must be at least 1, got 0")],
)
def multigammaln(xp: Any, x: Array, /, p: int) -> Array:
    """The logarithm of the multivariate gamma function of dimension ``p``, for x > (p - 1) / 2."""
    if p < 1:
        raise OptionError(f"multigammaln: p must be at least 1, got {p}")
    y = xp.gammaln(x)
    for j in range(1, p):
        y = y + xp.gammaln(x - 0.5 * j)
    return y + 0.25 * p * (p - 1) * math.log(math.pi)


# -- derivatives of log Γ


def _digamma(xp: Any, x: Array) -> Array:
    low = x < 0.5
    z, y = xp.where(low, 1.0 - x, x), xp.zeros_like(x)
    for _ in range(9):
        step = z < _FAR
        y = xp.where(step, y - 1.0 / z, y)
        z = xp.where(step, z + 1.0, z)
    inverse = 1.0 / (z * z)
    series = xp.zeros_like(z)
    for n, number in reversed(list(enumerate(bernoulli_numbers(10), 1))):
        series = (series + number / (2 * n)) * inverse
    y = y + (xp.log(z) - 0.5 / z - series)
    place = x - xp.round(x)  # cot πx has the period 1
    return xp.where(low, y - math.pi / xp.tan(math.pi * place), y)


def _digamma_everywhere(xp: Any, x: Array) -> Array:
    y = _digamma(xp, x)
    y = xp.where((x < 0) & (x == xp.floor(x)), math.nan, y)
    return xp.where(x == 0, xp.copysign(math.inf, -x), xp.where(x == math.inf, math.inf, y))


@primitive(
    math="y = d/dx log Γ(x)",
    source=_STIRLING,
    shape=same_shape,
    dtypes="real floating-point",
    samples=_BOTH_SIDES,
)
def digamma(xp: Any, x: Array, /) -> Array:
    """The logarithmic derivative of the gamma function; NaN at negative whole numbers, ∓∞ at ±0."""
    return in_float64(functools.partial(_digamma_everywhere, xp), x)


@digamma.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * xp.polygamma_of(x, n=1)


def hurwitz_zeta(xp: Any, s: Array, q: Array) -> Array:
    """Σ_k (k + q)^-s in float64 for s > 1 and q > 0, by Euler and Maclaurin."""
    y, q = xp.zeros_like(q * s), q + 0.0 * s
    for _ in range(10):
        y = y + q**-s
        q = q + 1.0
    y = y + q ** (1.0 - s) / (s - 1.0) + 0.5 * q**-s
    term = s * q ** (-s - 1.0)
    for j, number in enumerate(bernoulli_numbers(10), 1):
        y = y + number / math.factorial(2 * j) * term
        term = term * ((s + (2 * j - 1)) * (s + 2 * j) / (q * q))
    return y


def _cotangent_slope(xp: Any, n: int, x: Array) -> Array:
    """The n-th derivative of π cot πx: a polynomial in the cotangent."""
    powers = np.polynomial.Polynomial([0.0, 1.0])
    for _ in range(n):
        powers = powers.deriv() * np.polynomial.Polynomial([-math.pi, 0.0, -math.pi])
    cotangent = 1.0 / xp.tan(math.pi * (x - xp.round(x)))
    y = xp.zeros_like(x)
    for coefficient in powers.coef[::-1].tolist():
        y = y * cotangent + coefficient
    return math.pi * y


def _polygamma(xp: Any, n: int, x: Array) -> Array:
    low = x < 0.5
    upper = xp.where(low, 1.0 - x, x)
    y = (-1.0) ** (n + 1) * math.factorial(n) * hurwitz_zeta(xp, xp.asarray(n + 1.0), upper)
    y = xp.where(low, (-1.0) ** n * y - _cotangent_slope(xp, n, x), y)
    pole = (x <= 0) & (x == xp.floor(x))
    return xp.where(pole, (math.inf if n % 2 else math.nan), xp.where(x == math.inf, 0.0, y))


@primitive(
    math="y = dⁿ⁺¹/dxⁿ⁺¹ log Γ(x)",
    source=_STIRLING,
    shape=same_shape,
    dtypes="real floating-point",
    samples=[
        *[Sample(((3,),), {"n": n}, domain=(0.5, 6.0)) for n in (0, 2)],
        Sample((np.array([-0.3, -1.6, -4.2]),), {"n": 1}, note="below 0"),
    ],
    rejects=[Reject(((3,),), OptionError, "polygamma: n must be 0 or more, got -1", {"n": -1})],
)
def polygamma_of(xp: Any, x: Array, /, *, n: int) -> Array:
    """The n-th derivative of the digamma function."""
    if n < 0:
        raise OptionError(f"polygamma: n must be 0 or more, got {n}")
    if n == 0:
        return in_float64(functools.partial(_digamma_everywhere, xp), x)
    return in_float64(functools.partial(_polygamma, xp, n), x)


@polygamma_of.vjp("x")
def _(xp: Any, g: Array, x: Array, n: int) -> Array:
    return g * xp.polygamma_of(x, n=n + 1)


@composite(
    math="y = dⁿ⁺¹/dxⁿ⁺¹ log Γ(x)",
    source=_STIRLING,
    shape=lambda x, n: x,
    dtypes="real floating-point",
    samples=[Sample((1, (3,)), domain=(0.5, 6.0))],
)
def polygamma(xp: Any, n: int, x: Array, /) -> Array:
    """The n-th derivative of the digamma function.

    Args:
        n: 0 or more.
        x: any shape.
    """
    return xp.polygamma_of(x, n=n)


@primitive(
    math="y = Σ_k (k + x2)^-x1",
    shape=np.broadcast_shapes,
    result=fraction_dtype,
    dtypes="real numeric",
    domain=(0.5, 6.0),
    samples=[
        Sample((np.array([[2], [4]]), (4,)), domain=(0.5, 6.0)),
        Sample((np.array([1, 2]), np.array([1.0, -1.0])), note="infinite", grad=False),
    ],
    rejects=[MISFIT],
)
def zeta(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Hurwitz's zeta function of order ``x1`` > 1 from ``x2`` > 0 on; the gradient is that of ``x2``."""
    return in_float64(functools.partial(_zeta, xp), x1, x2)


def _zeta(xp: Any, s: Array, q: Array) -> Array:
    inside = (s > 1) & (q > 0)
    y = hurwitz_zeta(xp, xp.where(inside, s, 2.0), xp.where(inside, q, 1.0))
    pole = (s == 1) | ((s > 1) & (q <= 0) & (q == xp.floor(q)))
    return xp.where(inside, y, xp.where(pole, math.inf, math.nan))


@zeta.vjp("x1")
def _(xp: Any, g: Array) -> Array:
    raise GraphError("zeta: there is no gradient of the order x1; detach() it")


@zeta.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return -g * x1 * xp.zeta(x1 + 1.0, x2)
