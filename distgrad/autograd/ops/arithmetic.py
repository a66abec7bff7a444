"""Less common operations an element at a time, under NumPy's names where it has them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.elementwise import BINARY, MISFIT, UNARY
from distgrad.autograd.ops.shape_rules import broadcast_shape, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import DTypeError

_LN2 = math.log(2.0)
_APART = [
    Sample((np.array([[5.3, -5.3], [1.9, -0.7]]), np.array([[2.1, 2.1], [-0.6, -0.4]])), note="all signs"),
    Sample(((3, 1), (4,)), note="broadcast", domain=(0.6, 0.9)),
]
_HOLES = np.array([np.nan, np.inf, -np.inf, 1.5, -0.0])
_WITH_NAN = Sample((np.array([np.nan, 1.0, np.nan]), np.array([2.0, np.nan, np.nan])), note="NaN", grad=False)


# -- powers


@primitive(math="y = 2^x", shape=same_shape, dtypes="floating-point", samples=UNARY[:2])
def exp2(xp: Any, x: Array, /) -> Array:
    """Two to the power of the array."""
    return xp.exp2(x)


@exp2.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return g * y * _LN2


@primitive(math="y = 1 / √x", shape=same_shape, dtypes="floating-point", domain=(0.5, 2.0), samples=UNARY[:2])
def rsqrt(xp: Any, x: Array, /) -> Array:
    """One over the square root."""
    return xp.reciprocal(xp.sqrt(x))


@rsqrt.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return -0.5 * g * (y * y * y)


@composite(
    math="y = x1 ^ x2 in float64",
    shape=broadcast_shape,
    dtypes="numeric",
    result="float64",
    domain=(0.5, 2.0),
    samples=[Sample(((3, 1), (4,))), Sample((np.array([1, 2]), 3), note="whole numbers")],
)
def float_power(xp: Any, x1: Array, x2: Array, /) -> Array:
    """A power computed in float64 (complex128 of complex numbers), whatever the inputs are."""
    return xp.pow(*(_doubled(xp, x) for x in (x1, x2)))


def _doubled(xp: Any, x: Array) -> Array:
    if not hasattr(x, "dtype"):
        return x
    return xp.astype(x, np.complex128 if x.dtype.kind == "c" else np.float64)


@composite(
    math="y = x1 2^x2",
    shape=broadcast_shape,
    samples=[Sample(((3, 1), (4,)), note="fractions"), Sample(((3, 4), np.array([2, -1, 0, 3])))],
    dtypes="real numeric",
)
def ldexp(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The array times a power of two, in the array's dtype."""
    dtype = x1.dtype if x1.dtype.kind == "f" else np.result_type(x1.dtype, np.float32)
    return x1 * xp.exp2(xp.astype(x2, dtype))


@primitive(
    math="x = mantissa 2^exponent, 0.5 ≤ |mantissa| < 1",
    shape=lambda x: (x, x),
    dtypes="real floating-point",
    outputs=2,
    result=lambda x: (x, np.dtype(np.int32)),
    samples=UNARY[:2],
)
def frexp(xp: Any, x: Array, /) -> tuple[Array, Array]:
    """Numbers as mantissa and power of two.

    Returns:
        mantissa, exponent (int32).
    """
    return xp.frexp(x)


@frexp.vjp("x")
def _(xp: Any, g: tuple[Array, Array], y: tuple[Array, Array]) -> Array:
    return g[0] * xp.exp2(xp.astype(-y[1], g[0].dtype))


@primitive(
    math="y = log₂(2^x1 + 2^x2)",
    shape=broadcast_shape,
    dtypes="real floating-point",
    samples=[*BINARY[:2], Sample((np.array([-900.0, 0.0]), np.array([-900.0, 900.0])), grad=False)],
    rejects=[MISFIT],
)
def logaddexp2(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The logarithm to base 2 of the sum of two powers of 2."""
    return xp.logaddexp2(x1, x2)


@logaddexp2.vjp("x1")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * xp.sigmoid((x1 - x2) * _LN2)


@logaddexp2.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * xp.sigmoid((x2 - x1) * _LN2)


# -- complex numbers


def _complex_dtype(x1: Any, x2: Any, **attributes: Any) -> Any:
    return np.result_type(*(getattr(x, "dtype", x) for x in (x1, x2)), np.complex64)


@primitive(
    math="y = x1 + i x2",
    shape=broadcast_shape,
    dtypes="real floating-point",
    result=_complex_dtype,
    samples=[*BINARY[:2], Sample((np.array([1.0, -0.0]), np.array([np.inf, -0.0])), grad=False)],
    rejects=[MISFIT],
)
def from_parts(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Complex numbers of two parts, each as it is: an infinite or signed one leaves the other alone."""
    shape = np.broadcast_shapes(getattr(x1, "shape", ()), getattr(x2, "shape", ()))
    y = xp.empty(shape, dtype=_complex_dtype(x1, x2))
    y.real[...], y.imag[...] = x1, x2
    return y


@from_parts.vjp("x1")
def _(xp: Any, g: Array) -> Array:
    return xp.real(g)


@from_parts.vjp("x2")
def _(xp: Any, g: Array) -> Array:
    return -xp.imag(g)  # of the conjugate: the result is complex


# -- angles


@composite(math="y = x π / 180", shape=same_shape, dtypes="real floating-point", samples=UNARY[:1])
def deg2rad(xp: Any, x: Array, /) -> Array:
    """Degrees as radians."""
    return x * (math.pi / 180.0)


@composite(math="y = x 180 / π", shape=same_shape, dtypes="real floating-point", samples=UNARY[:1])
def rad2deg(xp: Any, x: Array, /) -> Array:
    """Radians as degrees."""
    return x * (180.0 / math.pi)


@primitive(
    math="y = sin(πx) / (πx), 1 at 0",
    shape=same_shape,
    dtypes="floating-point",
    samples=[*UNARY[:2], Sample((np.array([0.0, -1.0, 2.0]),), note="zeros", grad=False)],
)
def sinc(xp: Any, x: Array, /) -> Array:
    """The normalized cardinal sine."""
    return xp.sinc(x)


@sinc.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    small = xp.abs(x) < 0.03  # the difference would lose its digits
    z = math.pi * xp.where(small, x, 0.0)
    square = z * z
    series = z * (-1 / 3 + square * (1 / 30 - square * (1 / 840 - square / 45360)))
    z = math.pi * xp.where(small, 1.0, x)
    return g * (math.pi * xp.where(small, series, (z * xp.cos(z) - xp.sin(z)) / (z * z)))


# -- remainders


@composite(math="y = x - trunc x", shape=same_shape, dtypes="real floating-point", samples=UNARY[:2])
def frac(xp: Any, x: Array, /) -> Array:
    """What stands behind the decimal point, with the number's sign."""
    return x - xp.trunc(x)


@primitive(
    math="y = x1 - x2 trunc(x1 / x2)",
    shape=broadcast_shape,
    dtypes="real numeric",
    samples=_APART,
    rejects=[MISFIT, Reject((3, np.ones(2, dtype=complex)), DTypeError, "x2 must be real numeric")],
)
def fmod(xp: Any, x1: Array, x2: Array, /) -> Array:
    """What division towards 0 leaves over; it has the dividend's sign."""
    return xp.fmod(x1, x2)


@fmod.vjp("x1")
def _(xp: Any, g: Array) -> Array:
    return g


@fmod.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return -g * xp.trunc(x1 / x2)


# -- choosing


def _extremum_gradients(operation: Any, wins: Any) -> None:
    """Gradients of an extremum that leaves NaN out: all of it to one side, the first where both are equal."""

    @operation.vjp("x1")
    def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
        return g * (wins(x1, x2) | xp.isnan(x2))

    @operation.vjp("x2")
    def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
        return g * xp.logical_not(wins(x1, x2) | xp.isnan(x2))


@primitive(
    math="y = max(x1, x2), NaN left out",
    shape=broadcast_shape,
    dtypes="real floating-point",
    samples=[*BINARY[:2], _WITH_NAN],
    rejects=[MISFIT],
)
def fmax(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The larger of two arrays, or the one that is no NaN; equal ones give the gradient to the first."""
    return xp.fmax(x1, x2)


@primitive(
    math="y = min(x1, x2), NaN left out",
    shape=broadcast_shape,
    dtypes="real floating-point",
    samples=[*BINARY[:2], _WITH_NAN],
    rejects=[MISFIT],
)
def fmin(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The smaller of two arrays, or the one that is no NaN; equal ones give the gradient to the first."""
    return xp.fmin(x1, x2)


_extremum_gradients(fmax, lambda x1, x2: x1 >= x2)
_extremum_gradients(fmin, lambda x1, x2: x1 <= x2)


@primitive(
    math="y = 0 for x1 < 0, x2 at 0, 1 for x1 > 0",
    shape=broadcast_shape,
    dtypes="real numeric",
    samples=[Sample(((3, 4), (4,))), Sample((np.array([0.0, -1.0]), np.array(0.5)), note="at 0", grad=False)],
    rejects=[MISFIT],
)
def heaviside(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The step function, without a gradient."""
    y = xp.where(x1 == 0, x2, xp.where(x1 != x1, x1, x1 > 0))
    return y.astype(xp.result_type(x1, x2), copy=False)


@primitive(
    math="y = x, and numbers for NaN and ±∞",
    shape=same_shape,
    dtypes="real floating-point",
    samples=[
        *UNARY[:1],
        Sample((_HOLES,), note="NaN and infinities", grad=False),
        Sample((_HOLES,), {"nan": 1.0, "posinf": 2.0, "neginf": -2.0}, grad=False),
    ],
)
def nan_to_num(
    xp: Any, x: Array, /, nan: float | None = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Array:
    """Numbers in the places of NaN and infinities, where the gradient is 0.

    Args:
        x: any shape.
        nan: for NaN; None is 0.
        posinf, neginf: for ∞ and −∞; None means the dtype's largest and smallest number.
    """
    limit = np.finfo(np.float32 if x.dtype.char == "E" else x.dtype).max
    high, low = limit if posinf is None else posinf, -limit if neginf is None else neginf
    y = xp.where(xp.isnan(x), 0.0 if nan is None else nan, x)
    return xp.where(x == math.inf, high, xp.where(x == -math.inf, low, y)).astype(x.dtype)


@nan_to_num.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * xp.isfinite(x)


# -- entropies


@primitive(
    math="y = x1 log(1 + x2), 0 where x1 = 0",
    shape=broadcast_shape,
    dtypes="real floating-point",
    domain=(0.2, 2.0),
    samples=[
        Sample(((3, 1), (4,))),
        Sample((np.array([0.0, 0.0, 1.0]), np.array([-1.0, 2.0, 2.0])), note="zeros", grad=False),
    ],
)
def xlog1py(xp: Any, x1: Array, x2: Array, /) -> Array:
    """A number times the logarithm of one more than another; 0 log 0 is 0."""
    return x1 * xp.log1p(xp.where((x1 == 0) & ~xp.isnan(x2), x1, x2))


@xlog1py.vjp("x1")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * xp.log1p(xp.where((x1 == 0) * (x2 <= -1), 0.0, x2))


@xlog1py.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * (x1 / xp.where(x1 == 0, 1.0, 1.0 + x2))


@primitive(
    math="y = -x log x, 0 at 0, -∞ below",
    shape=same_shape,
    dtypes="real floating-point",
    domain=(0.2, 2.0),
    samples=[*UNARY[:2], Sample((np.array([0.0, -1.0, np.nan, np.inf]),), note="ends", grad=False)],
)
def entr(xp: Any, x: Array, /) -> Array:
    """An element's part of an entropy; at 0 and below the gradient is infinite."""
    inside = ~(x <= 0)
    y = -x * xp.log(xp.where(inside, x, 1.0))
    return xp.where(x < 0, -math.inf, y).astype(x.dtype)


@entr.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    inside = xp.logical_not(x <= 0)
    return g * xp.where(inside, -1.0 - xp.log(xp.where(inside, x, 1.0)), math.inf)
