"""Special functions: the error function and its kin, logarithms with care at 0, log-sum-exp.

float64 error functions are Cody's rational approximations, within a few units in the last place; float32 and
float16 go through one rational function in float32.

Source: W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23, 1969.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import (
    Axis,
    broadcast_shape,
    highest,
    in_float32,
    reduced_shape,
    restore_axes,
    same_shape,
)
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import at_hand
from distgrad.errors import AxisError, DTypeError

_SAMPLES = [Sample(((3, 4),)), Sample(((),), note="no axes"), Sample(((0, 3),), note="empty")]
_TAILS = Sample(
    (np.array([-np.inf, -30.0, -5.0, -0.0, 1e-300, 5.0, 30.0, np.inf]),), note="tails", grad=False
)
_CODY = "Cody, Math. Comp., 1969"
_BLOCK = 8192  # elements computed at once, so that the steps of a polynomial stay in cache

# Coefficients from the highest power down: erf on [0, 0.46875], erfc on [0.46875, 4] and on [4, ∞).
_NEAR = (
    (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2)
    + (3.20937758913846947e3,),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1)
    + (2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3)
    + (1.23033935479799725e3,),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3)
    + (3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)
_FAR = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1)
    + (1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1, 6.05183413124413191e-2)
    + (2.33520497626869185e-3,),
)

# erf(x) / x as a rational function of x², fitted to a relative error of 2e-8 up to 3.9192; 1 beyond.
_SINGLE_END = 3.9192059
_SINGLE = (
    (2.050737527125065e-06, 2.8488846085529226e-4, 3.7644908095702838e-3, 5.2745377200314e-2)
    + (1.9037613517188426e-1, 1.1283791462092871),
    (3.8098724421837486e-05, 1.1623195974737573e-3, 1.4966945431219755e-2, 1.1409717829890653e-1)
    + (5.020491995882708e-1, 1.0),
)


def _rational(z: Array, coefficients: tuple[Sequence[float], Sequence[float]]) -> Array:
    """The quotient of two polynomials in z."""
    top, bottom = (_polynomial(z, each) for each in coefficients)
    top /= bottom
    return top


def _polynomial(z: Array, coefficients: Sequence[float]) -> Array:
    """Horner's scheme, the highest power first."""
    y = z * coefficients[0]
    for coefficient in coefficients[1:-1]:
        y += coefficient
        y *= z
    y += coefficients[-1]
    return y


def _in_blocks(xp: Any, function: Callable[[Any, Array], Array], x: Array) -> Array:
    """``function`` of every element, a block at a time."""
    x = xp.asarray(x)
    flat = x.reshape(-1)
    out = xp.empty(flat.shape, dtype=x.dtype)
    block = _BLOCK if at_hand(x) else max(flat.shape[0], 1)  # a device has no cache to stay in
    for start in range(0, flat.shape[0], block):
        out[start : start + block] = function(xp, flat[start : start + block])
    return out.reshape(x.shape)


def _erf_single(xp: Any, x: Array) -> Array:
    """erf in float32, for float16 too."""
    x = xp.clip(x.astype("float32", copy=False), -_SINGLE_END, _SINGLE_END)
    y = xp.clip(_rational(x * x, _SINGLE) * x, -1.0, 1.0)
    return xp.where(xp.abs(x) == _SINGLE_END, xp.sign(x), y)  # exactly 1, or gelu(-800) would be -2e-5


def scaled_tail(xp: Any, x: Array) -> Array:
    """e^(x²) erfc x in float64 of x ≥ 0.46875."""
    far = 1.0 / (x * x)
    tail = (1.0 / math.sqrt(math.pi) - far * _rational(far, _FAR)) / x
    return xp.where(x <= 4.0, _rational(xp.minimum(x, 4.0), _MIDDLE), tail)


def _erfc_positive(xp: Any, x: Array) -> Array:
    """erfc in float64 of x ≥ 0.46875."""
    x = xp.minimum(x, 30.0)  # erfc is 0 from 28 on
    scaled = scaled_tail(xp, x)
    coarse = xp.floor(x * 16.0) / 16.0  # its square is exact, so that e^(-x²) keeps its last digits
    return xp.exp(-coarse * coarse) * xp.exp(-(x - coarse) * (x + coarse)) * scaled


def _erf_double(xp: Any, x: Array) -> Array:
    size = xp.abs(x)
    y = x * _rational(xp.minimum(x * x, 0.22), _NEAR)
    large = ~(size <= 0.46875)
    if not at_hand(x):  # both sides of all elements cost less than waiting to hear which are large
        far = 1.0 - _erfc_positive(xp, xp.maximum(size, 0.46875))
        return xp.where(large, xp.copysign(far, x), y)
    if large.any():
        y[large] = xp.copysign(1.0 - _erfc_positive(xp, size[large]), x[large])
    return y


def _erfc_double(xp: Any, x: Array) -> Array:
    size = xp.abs(x)
    y = 1.0 - x * _rational(xp.minimum(x * x, 0.22), _NEAR)
    large = ~(size <= 0.46875)
    if not at_hand(x):
        upper = _erfc_positive(xp, xp.maximum(size, 0.46875))
        return xp.where(large, xp.where(x < 0, 2.0 - upper, upper), y)
    if large.any():
        upper = _erfc_positive(xp, size[large])
        y[large] = xp.where(x[large] < 0, 2.0 - upper, upper)
    return y


def _erfc_single(xp: Any, x: Array) -> Array:
    return _erfc_double(xp, x.astype("float64"))  # the tail spans more digits than float32 keeps


@primitive(
    math="y = 2/√π ∫₀ˣ e^(-t²) dt",
    source=_CODY,
    shape=same_shape,
    dtypes="real floating-point",
    samples=[*_SAMPLES, _TAILS],
    rejects=[Reject((np.arange(3),), DTypeError, "x must be real floating-point, got int64")],
)
def erf(xp: Any, x: Array, /) -> Array:
    """The error function."""
    return _in_blocks(xp, _erf_double if xp.asarray(x).dtype.itemsize == 8 else _erf_single, x)


@erf.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * (2.0 / math.sqrt(math.pi) * xp.exp(-(x * x)))


@primitive(
    math="y = 1 - erf x",
    source=_CODY,
    shape=same_shape,
    dtypes="real floating-point",
    samples=[*_SAMPLES, _TAILS],
)
def erfc(xp: Any, x: Array, /) -> Array:
    """The complementary error function, exact in the upper tail."""
    return _in_blocks(xp, _erfc_double if xp.asarray(x).dtype.itemsize == 8 else _erfc_single, x)


@erfc.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * (-2.0 / math.sqrt(math.pi) * xp.exp(-(x * x)))


def _erfinv_block(xp: Any, x: Array) -> Array:
    size = xp.abs(x.astype("float64"))
    y = inverse_erf(xp, size, xp.where(size <= 1.0, 1.0 - size, np.nan))  # exact from 0.5 on
    return xp.copysign(xp.where(xp.isnan(size), size, xp.where(size > 1.0, np.nan, y)), x)


def inverse_erf(xp: Any, size: Array, tail: Array) -> Array:
    """y ≥ 0 such that erf y = size and erfc y = tail, in float64; both are given, for one is the more exact.

    Winitzki's formula, then Halley steps on the tail that is small, so that digits last near 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = xp.log(tail * (1.0 + size))
        half = 2.0 / (math.pi * 0.147) + 0.5 * logs
        y = xp.sqrt(xp.sqrt(half * half - logs / 0.147) - half)
        for _ in range(3):
            error = xp.where(size < 0.5, size - _erf_double(xp, y), _erfc_double(xp, y) - tail)
            step = error * (0.5 * math.sqrt(math.pi)) * xp.exp(y * y)
            y = xp.where(tail == 0, np.inf, y + step / (1.0 - y * step))
    return y


@primitive(
    math="y such that erf y = x",
    source="Winitzki, 2008 (start), Halley's method",
    shape=same_shape,
    dtypes="real floating-point",
    domain=(-0.9, 0.9),
    samples=[
        *_SAMPLES,
        Sample((np.array([-1.0, -1 + 1e-15, -0.0, 1e-300, 1 - 1e-15, 1.0]),), note="tails", grad=False),
    ],
)
def erfinv(xp: Any, x: Array, /) -> Array:
    """The inverse of the error function; ±∞ at ±1, NaN beyond."""
    return _in_blocks(xp, _erfinv_block, x)


@erfinv.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return g * (0.5 * math.sqrt(math.pi) * xp.exp(y * y))


@composite(
    math="y = (1 + erf(x / √2)) / 2",
    shape=same_shape,
    dtypes="real floating-point",
    samples=[*_SAMPLES, _TAILS],
)
def ndtr(xp: Any, x: Array, /) -> Array:
    """The normal distribution's cumulative function, exact in the lower tail."""
    return 0.5 * xp.erfc(x * -math.sqrt(0.5))


@composite(
    math="y = log(x / (1 - x))",
    shape=same_shape,
    dtypes="real floating-point",
    domain=(0.1, 0.9),
    samples=_SAMPLES,
)
def logit(xp: Any, x: Array, /) -> Array:
    """The inverse of the logistic function."""
    return xp.log(x) - xp.log1p(-x)


@primitive(
    math="y = x1 log x2, 0 where x1 = 0",
    shape=broadcast_shape,
    dtypes="real floating-point",
    domain=(0.2, 2.0),
    samples=[
        Sample(((3, 4), (3, 4))),
        Sample(((3, 1), (4,)), note="broadcast"),
        Sample((np.array([0.0, 0.0, 1.0]), np.array([0.0, 2.0, 2.0])), note="zeros", grad=False),
    ],
)
def xlogy(xp: Any, x1: Array, x2: Array, /) -> Array:
    """A number times a logarithm, as entropies need it: 0 log 0 is 0."""
    return x1 * xp.log(xp.where(x1 == 0, x1 + 1.0, x2))  # two numbers in where would make it float64


@xlogy.vjp("x1")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * xp.log(xp.where((x1 == 0) * (x2 <= 0), 1.0, x2))


@xlogy.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * (x1 / xp.where(x1 == 0, 1.0, x2))


@primitive(
    math="y = log Σ e^x",
    shape=reduced_shape,
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4),)),
        Sample(((3, 4),), {"axis": 1}),
        Sample(((2, 3, 4),), {"axis": (0, -1), "keepdims": True}),
        Sample(((),), note="no axes"),
        Sample(((3, 0),), {"axis": 1}, note="over nothing", grad=False),
        Sample((np.array([[800.0, 799.0, -np.inf], [-np.inf] * 3]),), {"axis": 1}, note="tails", grad=False),
    ],
    rejects=[Reject(((3, 4),), AxisError, "axis 2", {"axis": 2})],
)
def logsumexp(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Logarithm of the sum of exponentials, without their over- and underflow.

    Args:
        x: any shape.
        axis: the axes to sum over; None means all.
        keepdims: keep the axes summed over, with length 1.
    """
    return in_float32(functools.partial(_logsumexp, xp), x, axis=axis, keepdims=keepdims)


def _logsumexp(xp: Any, x: Array, axis: Axis, keepdims: bool) -> Array:
    top = highest(xp, x, axis)
    top = xp.where(xp.isfinite(top), top, 0.0)
    total = xp.sum(xp.exp(x - top), axis=axis, keepdims=True)
    with np.errstate(divide="ignore"):  # the logarithm of no probability at all is -∞
        y = xp.log(total) + top
    return y if keepdims else y.reshape(reduced_shape(x.shape, axis=axis))


@logsumexp.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array, axis: Axis, keepdims: bool) -> Array:
    y = restore_axes(xp, y, x.shape, axis, keepdims)
    safe = xp.where(xp.isfinite(y), y, 0.0)  # -∞ - -∞ has no value
    e = xp.exp(x - safe)
    total = xp.sum(e, axis=axis, keepdims=True)  # 1, but for what y lost by rounding
    return restore_axes(xp, g, x.shape, axis, keepdims) * (e / xp.where(total > 0, total, 1.0))
