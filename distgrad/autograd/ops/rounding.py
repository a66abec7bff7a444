"""Rounding, signs and division with a remainder: gradients are 0 wherever the result is constant."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.casting import result_dtype
from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.elementwise import BINARY, MISFIT, UNARY
from distgrad.autograd.ops.shape_rules import broadcast_shape, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import DTypeError

_STEPS = [*UNARY, Sample((np.array([-1.5, -0.5, 0.5, 1.5, 2.5, -0.0]),), note="halves", grad=False)]
_APART = [
    Sample((np.array([[5.3, -5.3], [1.9, -0.7]]), np.array([[2.1, 2.1], [-0.6, -0.4]])), note="all signs"),
    *[Sample(sample.args, note=sample.note, domain=(0.6, 0.9)) for sample in BINARY],
]


def nothing(xp: Any, g: Array) -> Array:
    """The gradient of what is constant between its jumps."""
    return xp.zeros_like(g)


@primitive(math="y = ⌈x⌉", shape=same_shape, dtypes="real numeric", samples=_STEPS)
def ceil(xp: Any, x: Array, /) -> Array:
    """The smallest whole number that is not below; the gradient is 0."""
    return xp.ceil(x)


@primitive(math="y = ⌊x⌋", shape=same_shape, dtypes="real numeric", samples=_STEPS)
def floor(xp: Any, x: Array, /) -> Array:
    """The largest whole number that is not above; the gradient is 0."""
    return xp.floor(x)


@primitive(math="y = sign(x) ⌊|x|⌋", shape=same_shape, dtypes="real numeric", samples=_STEPS)
def trunc(xp: Any, x: Array, /) -> Array:
    """The whole number towards 0; the gradient is 0."""
    return xp.trunc(x)


@primitive(math="y = whole number nearest to x", shape=same_shape, dtypes="numeric", samples=_STEPS)
def round(xp: Any, x: Array, /) -> Array:
    """The nearest whole number, halves to the even one; the gradient is 0."""
    return xp.round(x)


@primitive(math="y = x / |x|, and 0 at 0", shape=same_shape, dtypes="numeric", samples=UNARY)
def sign(xp: Any, x: Array, /) -> Array:
    """−1, 0 or 1; of a complex number, the point on the unit circle. A real gradient is 0."""
    y = xp.sign(x) + 0  # −0 becomes 0
    if y.dtype.kind == "c":  # NumPy gives ∞ + NaN·i the sign 1
        return xp.where(xp.isnan(x), xp.nan * (1 + 1j), y).astype(y.dtype)
    return y


@sign.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array) -> Array:
    if x.dtype.kind != "c":
        return nothing(xp, g)
    size = xp.abs(x)  # only what turns the number changes its place on the circle
    turning = g - xp.real(g * y) * xp.conj(y)
    return xp.where(size == 0, 0.0, turning / xp.where(size == 0, 1.0, size))


for _steps in (ceil, floor, trunc, round):
    _steps.vjp("x")(nothing)


@primitive(
    math="y = |x1| with the sign of x2",
    shape=broadcast_shape,
    dtypes="real floating-point",
    samples=BINARY,
    rejects=[MISFIT],
)
def copysign(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The first's magnitude with the second's sign."""
    return xp.copysign(x1, x2)


@copysign.vjp("x1")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * (xp.sign(x1) * xp.copysign(1.0, x2))


copysign.vjp("x2")(nothing)


@primitive(
    math="y = next number after x1 towards x2",
    shape=broadcast_shape,
    dtypes="real floating-point",
    samples=BINARY,
    rejects=[MISFIT],
)
def nextafter(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The number of this dtype that follows the first in the direction of the second."""
    return xp.nextafter(x1, x2)


@nextafter.vjp("x1")
def _(xp: Any, g: Array) -> Array:
    return g


nextafter.vjp("x2")(nothing)


@primitive(
    math="y = ⌊x1 / x2⌋",
    shape=broadcast_shape,
    dtypes="real numeric",
    samples=[
        *_APART,
        Sample((np.array([np.inf, -np.inf, 3.0, -3.0]), np.array([2.0, 2.0, np.inf, np.inf])), grad=False),
    ],
    rejects=[MISFIT],
)
def floor_divide(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The quotient rounded down; where either is infinite, the quotient itself. The gradient is 0."""
    with np.errstate(invalid="ignore"):  # of an infinite x1, whose result is replaced below
        y = xp.floor_divide(x1, x2)
    if y.dtype.kind == "f":
        return xp.where(xp.isinf(x1) | xp.isinf(x2), xp.divide(x1, x2), y)
    return y


floor_divide.vjp("x1")(nothing)
floor_divide.vjp("x2")(nothing)


@primitive(
    math="y = x1 - x2 ⌊x1 / x2⌋",
    shape=broadcast_shape,
    dtypes="real numeric",
    samples=_APART,
    rejects=[MISFIT, Reject((3, np.ones(2, dtype=complex)), DTypeError, "x2 must be real numeric")],
)
def remainder(xp: Any, x1: Array, x2: Array, /) -> Array:
    """What division leaves over; it has the divisor's sign."""
    return xp.remainder(x1, x2)


@remainder.vjp("x1")
def _(xp: Any, g: Array) -> Array:
    return g


@remainder.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return -g * xp.floor_divide(x1, x2)


def _bounded_dtype(x: np.dtype, *bounds: Any, **attributes: Any) -> np.dtype:
    """The array's dtype, whatever arrays bound it; a Python float makes whole numbers floating."""
    return result_dtype(x, *[each for each in bounds if not isinstance(each, np.dtype)])


@primitive(
    math="y = min(max(x, min), max)",
    result=_bounded_dtype,
    shape=lambda x, min=None, max=None: np.broadcast_shapes(*[s for s in (x, min, max) if s is not None]),
    dtypes="real numeric",
    samples=[
        Sample((np.array([-2.0, -0.4, 0.3, 2.0]), -0.5, 0.5), note="numbers"),
        Sample(((3, 4), (4,), None), note="from below"),
        Sample(((3, 4), None, (3, 1)), note="from above"),
        Sample((np.array([-2.0, 0.1, 2.0]), np.array([-1.0, -1.1, 1.0]), np.array([0.5, 0.6, -1.0]))),
        Sample(((0, 3), 0.0, 1.0), note="empty"),
    ],
    rejects=[MISFIT],
)
def clip(xp: Any, x: Array, /, min: Array | None = None, max: Array | None = None) -> Array:
    """Every element brought between two bounds; at a bound the gradient goes to ``x``.

    Args:
        x: any shape.
        min: the lower bound, a number or an array; None means none.
        max: the upper bound, likewise; it wins where the two cross.
    """
    bounds: list[Any] = [min, max]
    if hasattr(x, "dtype"):
        bounds = [each.astype(x.dtype) if hasattr(each, "dtype") else each for each in bounds]
    return xp.clip(x, *bounds)


@clip.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array) -> Array:
    return g * (x == y)


@clip.vjp("min")
def _(xp: Any, g: Array, x: Array, min: Array, max: Array) -> Array:
    return g * (x < min) if max is None else g * ((x < min) & (min <= max))


@clip.vjp("max")
def _(xp: Any, g: Array, x: Array, min: Array, max: Array) -> Array:
    return g * (x > max) if min is None else g * ((x > max) | (min > max))
