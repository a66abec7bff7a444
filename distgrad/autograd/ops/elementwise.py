"""Operations an element at a time: arithmetic, powers, exponentials, comparisons."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.shape_rules import broadcast_shape, fraction_dtype, real_dtype, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import at_hand
from distgrad.errors import DTypeError, ShapeError

UNARY = [Sample(((3, 4),)), Sample(((),), note="no axes"), Sample(((0, 3),), note="empty")]
BINARY = [
    Sample(((3, 4), (3, 4))),
    Sample(((3, 1), (4,)), note="broadcast"),
    Sample(((2, 3), ()), note="no axes"),
    Sample(((0, 3), (3,)), note="empty"),
]
MISFIT = Reject(((3, 4), (3,)), ShapeError, "broadcast")


# -- arithmetic


@primitive(math="y = x1 + x2", shape=broadcast_shape, samples=BINARY, rejects=[MISFIT])
def add(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Sum of two arrays."""
    return xp.add(x1, x2)


@add.vjp("x1")
def _(xp: Any, g: Array) -> Array:
    return g


@add.vjp("x2")
def _(xp: Any, g: Array) -> Array:
    return g


@primitive(math="y = x1 - x2", shape=broadcast_shape, dtypes="numeric", samples=BINARY, rejects=[MISFIT])
def subtract(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Difference of two arrays."""
    return xp.subtract(x1, x2)


@subtract.vjp("x1")
def _(xp: Any, g: Array) -> Array:
    return g


@subtract.vjp("x2")
def _(xp: Any, g: Array) -> Array:
    return -g


@primitive(math="y = x1 x2", shape=broadcast_shape, samples=BINARY, rejects=[MISFIT])
def multiply(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Product of two arrays, an element at a time."""
    return xp.multiply(x1, x2)


@multiply.vjp("x1")
def _(xp: Any, g: Array, x2: Array) -> Array:
    return g * x2


@multiply.vjp("x2")
def _(xp: Any, g: Array, x1: Array) -> Array:
    return g * x1


@primitive(
    math="y = x1 / x2",
    shape=broadcast_shape,
    domain=(0.5, 2.0),
    result=fraction_dtype,
    samples=[*BINARY, Sample((np.array([200.0, 900.0]), np.array([300.0, 500.0])), note="large")],
    rejects=[MISFIT],
)
def divide(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Quotient of two arrays."""
    return xp.divide(x1, x2)


@divide.vjp("x1")
def _(xp: Any, g: Array, x2: Array) -> Array:
    return g / x2


@divide.vjp("x2")
def _(xp: Any, g: Array, x2: Array, y: Array) -> Array:
    return -g * (y / x2)  # x2² would leave the range of float16 early


def _product_power(x1: Array, x2: Array) -> Array | None:
    """Powers 3, 4 and -2 as products; NumPy's powers of negative numbers take thirty times as long."""
    is_product = isinstance(x2, int | float) and x2 in (3, 4, -2)
    if not is_product or x1.dtype not in (np.float32, np.float64):
        return None
    square = x1 * x1
    if x2 == -2:
        return 1.0 / square
    return square * (x1 if x2 == 3 else square)


@primitive(
    math="y = x1 ^ x2",
    shape=broadcast_shape,
    dtypes="numeric",
    domain=(0.5, 2.0),
    samples=[
        *BINARY,
        Sample((np.array([-1.5, 0.0, 2.0]), 2), note="a number"),
        Sample((np.array([-1.5, 0.0, 2.0]), 0), note="the zeroth power"),
        Sample((np.array([-1.5, 0.25, 2.0]), 3.0), note="the third power"),
        Sample((np.array([-1.5, 0.25, 2.0]), 4), note="the fourth power"),
        Sample((np.array([-1.5, 0.25, 2.0]), -2), note="a negative power"),
    ],
    rejects=[MISFIT],
)
def pow(xp: Any, x1: Array, x2: Array, /) -> Array:
    """``x1`` to the power of ``x2``."""
    y = _product_power(x1, x2)
    if y is not None:
        return y
    y = xp.pow(x1, x2)
    half = x2 == 0.5  # where NumPy may take the root, whose values at −∞ and −0 are others
    if half is False or not at_hand(y) or y.dtype.kind != "f" or not (half is True or half.any()):
        return y
    return xp.where(half & ((x1 == 0) | (x1 == -np.inf)), xp.abs(x1), y).astype(y.dtype)


@pow.vjp("x1")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    if isinstance(x2, int | float):
        if x2 == 0:
            return g * 0.0
        power = _product_power(x1, x2 - 1)
        return g * (x2 * (x1 ** (x2 - 1) if power is None else power))
    zero = x2 == 0  # 0 · x^(−1) has no value at x = 0
    return g * xp.where(zero, 0.0, x2 * x1 ** xp.where(zero, 1.0, x2 - 1))


@pow.vjp("x2")
def _(xp: Any, g: Array, x1: Array, y: Array) -> Array:
    if isinstance(x1, int | float):
        return g * y * float(np.log(x1)) if x1 > 0 else g * 0.0
    if isinstance(x1, complex):
        return g * y * complex(np.log(x1))
    if x1.dtype.kind == "c":
        return g * y * xp.log(xp.where(x1 == 0, 1.0, x1))
    return g * y * xp.where(x1 > 0, xp.log(xp.where(x1 > 0, x1, 1.0)), 0.0)


@primitive(math="y = -x", shape=same_shape, dtypes="numeric", samples=UNARY)
def negative(xp: Any, x: Array, /) -> Array:
    """The array with its sign turned."""
    return xp.negative(x)


@negative.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return -g


@primitive(math="y = |x|", shape=same_shape, result=real_dtype, dtypes="numeric", samples=UNARY)
def abs(xp: Any, x: Array, /) -> Array:
    """Absolute value; the gradient at 0 is 0."""
    return xp.abs(x)


@abs.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * xp.sign(x)


@primitive(math="y = +x", shape=same_shape, dtypes="numeric", samples=UNARY)
def positive(xp: Any, x: Array, /) -> Array:
    """A copy."""
    return xp.positive(x)


@positive.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return g


@primitive(
    math="y = √(x1² + x2²)",
    shape=broadcast_shape,
    dtypes="real floating-point",
    samples=[*BINARY, Sample((np.array([1e200, 3.0]), np.array([1e200, 4.0])), note="large", grad=False)],
    rejects=[MISFIT],
)
def hypot(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The length of a right triangle's longest side; the gradient at (0, 0) is 0."""
    return xp.hypot(x1, x2)


def _leg(xp: Any, g: Array, x: Array, y: Array) -> Array:
    return g * (x / xp.where(y == 0, 1.0, y))


@hypot.vjp("x1")
def _(xp: Any, g: Array, x1: Array, y: Array) -> Array:
    return _leg(xp, g, x1, y)


@hypot.vjp("x2")
def _(xp: Any, g: Array, x2: Array, y: Array) -> Array:
    return _leg(xp, g, x2, y)


@primitive(math="y = x²", shape=same_shape, dtypes="numeric", samples=UNARY)
def square(xp: Any, x: Array, /) -> Array:
    """The square."""
    return xp.square(x)


@square.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * (2.0 * x)


@primitive(math="y = √x", shape=same_shape, dtypes="floating-point", domain=(0.2, 2.0), samples=UNARY)
def sqrt(xp: Any, x: Array, /) -> Array:
    """The square root."""
    return xp.sqrt(x)


@sqrt.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return g * 0.5 / y


@primitive(math="y = 1 / x", shape=same_shape, dtypes="floating-point", domain=(0.5, 2.0), samples=UNARY)
def reciprocal(xp: Any, x: Array, /) -> Array:
    """One over the array."""
    return xp.reciprocal(x)


@reciprocal.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return -g * (y * y)


# -- exponentials


@primitive(
    math="y = e^x",
    shape=same_shape,
    dtypes="floating-point",
    samples=UNARY,
    rejects=[Reject((np.arange(3),), DTypeError, "x must be floating-point, got int64")],
)
def exp(xp: Any, x: Array, /) -> Array:
    """The exponential."""
    return xp.exp(x)


@exp.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return g * y


@primitive(math="y = e^x - 1", shape=same_shape, dtypes="floating-point", samples=UNARY)
def expm1(xp: Any, x: Array, /) -> Array:
    """The exponential less one, exact near 0."""
    y = xp.expm1(x)
    return _complex_expm1(xp, xp.asarray(x)) if y.dtype.kind == "c" else y


def _complex_expm1(xp: Any, x: Array) -> Array:
    """expm1(a + bi) = expm1(a) cos b - 2 sin²(b/2) + i e^a sin b, with the limits where a is infinite."""
    a, b = x.real, x.imag
    endless = xp.isinf(a) & ~xp.isfinite(b)
    b = xp.where(endless, 0.0, b)
    half = xp.sin(0.5 * b)
    real = (
        xp.where((b == 0) | (a == -xp.inf), xp.expm1(a), xp.expm1(a) * xp.cos(b) - 2.0 * half * half) + 0.0
    )  # no -0
    imag = xp.where(b == 0, b, xp.exp(a) * xp.sin(b))
    y = xp.empty_like(x)
    y.real, y.imag = real, xp.where(endless & (a > 0), xp.nan, imag)
    return y


@expm1.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return g * (y + 1.0)


@primitive(math="y = log x", shape=same_shape, dtypes="floating-point", domain=(0.2, 2.0), samples=UNARY)
def log(xp: Any, x: Array, /) -> Array:
    """The natural logarithm."""
    return xp.log(x)


@log.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g / x


@primitive(math="y = log₂ x", shape=same_shape, dtypes="floating-point", domain=(0.2, 2.0), samples=UNARY)
def log2(xp: Any, x: Array, /) -> Array:
    """The logarithm to base 2."""
    return xp.log2(x)


@log2.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g / (math.log(2.0) * x)


@primitive(math="y = log₁₀ x", shape=same_shape, dtypes="floating-point", domain=(0.2, 2.0), samples=UNARY)
def log10(xp: Any, x: Array, /) -> Array:
    """The logarithm to base 10."""
    return xp.log10(x)


@log10.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g / (math.log(10.0) * x)


@primitive(
    math="y = log(e^x1 + e^x2)",
    shape=broadcast_shape,
    dtypes="real floating-point",
    samples=[*BINARY, Sample((np.array([-900.0, 0.0]), np.array([-900.0, 900.0])), note="tails", grad=False)],
    rejects=[MISFIT],
)
def logaddexp(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The logarithm of the sum of two exponentials."""
    return xp.logaddexp(x1, x2)


@logaddexp.vjp("x1")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * xp.sigmoid(x1 - x2)


@logaddexp.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * xp.sigmoid(x2 - x1)


@primitive(
    math="y = log(1 + x)", shape=same_shape, dtypes="floating-point", domain=(-0.5, 2.0), samples=UNARY
)
def log1p(xp: Any, x: Array, /) -> Array:
    """The natural logarithm of one plus the array, exact near 0."""
    return xp.log1p(x)


@log1p.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g / (1.0 + x)


@primitive(
    math="y = 1 / (1 + e^(-x))",
    shape=same_shape,
    dtypes="real floating-point",
    samples=[*UNARY, Sample((np.array([-800.0, 0.0, 800.0]),), note="tails", grad=False)],
)
def sigmoid(xp: Any, x: Array, /) -> Array:
    """The logistic function."""
    return 0.5 + 0.5 * xp.tanh(0.5 * x)  # exp(-x) would overflow for x << 0


@sigmoid.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return g * (y * (1.0 - y))


@primitive(math="y = max(x, 0)", shape=same_shape, dtypes="real numeric", samples=UNARY)
def relu(xp: Any, x: Array, /) -> Array:
    """The rectifier; the gradient at 0 is 0."""
    return xp.maximum(x, 0)


@relu.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return g * (y > 0)


# -- choosing


@primitive(
    math="y = max(x1, x2)", shape=broadcast_shape, dtypes="real numeric", samples=BINARY, rejects=[MISFIT]
)
def maximum(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The larger of two arrays; where they are equal each gets half of the gradient."""
    return xp.maximum(x1, x2)


@maximum.vjp("x1")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * (0.5 * (x1 > x2) + 0.5 * (x1 >= x2))


@maximum.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * (0.5 * (x2 > x1) + 0.5 * (x2 >= x1))


@primitive(
    math="y = min(x1, x2)", shape=broadcast_shape, dtypes="real numeric", samples=BINARY, rejects=[MISFIT]
)
def minimum(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The smaller of two arrays; where they are equal each gets half of the gradient."""
    return xp.minimum(x1, x2)


@minimum.vjp("x1")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * (0.5 * (x1 < x2) + 0.5 * (x1 <= x2))


@minimum.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    return g * (0.5 * (x2 < x1) + 0.5 * (x2 <= x1))


@primitive(
    math="y = x1 where condition, else x2",
    shape=broadcast_shape,
    samples=[
        Sample((np.array([[True, False, True]]), (2, 3), (2, 3))),
        Sample((np.array([[True], [False]]), (2, 3), ()), note="broadcast"),
    ],
)
def where(xp: Any, condition: Array, x1: Array, x2: Array, /) -> Array:
    """Elements of ``x1`` where ``condition`` holds, of ``x2`` elsewhere."""
    return xp.where(condition, x1, x2)


@where.vjp("x1")
def _(xp: Any, g: Array, condition: Array) -> Array:
    return xp.where(condition, g, 0.0)


@where.vjp("x2")
def _(xp: Any, g: Array, condition: Array) -> Array:
    return xp.where(condition, 0.0, g)
