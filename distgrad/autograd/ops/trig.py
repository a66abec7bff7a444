"""Trigonometric and hyperbolic functions, and their inverses."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.elementwise import BINARY, MISFIT, UNARY
from distgrad.autograd.ops.shape_rules import broadcast_shape, same_shape


@primitive(math="y = sin x", shape=same_shape, dtypes="floating-point", samples=UNARY)
def sin(xp: Any, x: Array, /) -> Array:
    """The sine."""
    return xp.sin(x)


@sin.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * xp.cos(x)


@primitive(math="y = cos x", shape=same_shape, dtypes="floating-point", samples=UNARY)
def cos(xp: Any, x: Array, /) -> Array:
    """The cosine."""
    return xp.cos(x)


@cos.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return -g * xp.sin(x)


@primitive(math="y = tan x", shape=same_shape, dtypes="floating-point", domain=(-1.2, 1.2), samples=UNARY)
def tan(xp: Any, x: Array, /) -> Array:
    """The tangent."""
    return xp.tan(x)


@tan.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return g * (1.0 + y * y)


@primitive(math="y = arcsin x", shape=same_shape, dtypes="floating-point", domain=(-0.9, 0.9), samples=UNARY)
def asin(xp: Any, x: Array, /) -> Array:
    """The angle in [−π/2, π/2] whose sine is x."""
    return xp.asin(x)


@asin.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g / xp.sqrt((1.0 - x) * (1.0 + x))


@primitive(math="y = arccos x", shape=same_shape, dtypes="floating-point", domain=(-0.9, 0.9), samples=UNARY)
def acos(xp: Any, x: Array, /) -> Array:
    """The angle in [0, π] whose cosine is x."""
    return xp.acos(x)


@acos.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return -g / xp.sqrt((1.0 - x) * (1.0 + x))


@primitive(math="y = arctan x", shape=same_shape, dtypes="floating-point", samples=UNARY)
def atan(xp: Any, x: Array, /) -> Array:
    """The angle in (−π/2, π/2) whose tangent is x."""
    return xp.atan(x)


@atan.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g / (1.0 + x * x)


@primitive(
    math="y = angle of the point (x2, x1)",
    shape=broadcast_shape,
    dtypes="real floating-point",
    samples=BINARY,
    rejects=[MISFIT],
)
def atan2(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The angle in [−π, π] of the point with ordinate ``x1`` and abscissa ``x2``."""
    return xp.atan2(x1, x2)


@atan2.vjp("x1")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    size = _distance(xp, x1, x2)
    return g * (x2 / size) / size


@atan2.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2: Array) -> Array:
    size = _distance(xp, x1, x2)
    return -g * (x1 / size) / size


def _distance(xp: Any, x1: Array, x2: Array) -> Array:
    """From the origin, whose own angle has the gradient 0; squares would vanish or overflow."""
    size = xp.hypot(x1, x2)
    return xp.where(size == 0, 1.0, size)


@primitive(math="y = (e^x - e^(-x)) / 2", shape=same_shape, dtypes="floating-point", samples=UNARY)
def sinh(xp: Any, x: Array, /) -> Array:
    """The hyperbolic sine."""
    return xp.sinh(x)


@sinh.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * xp.cosh(x)


@primitive(math="y = (e^x + e^(-x)) / 2", shape=same_shape, dtypes="floating-point", samples=UNARY)
def cosh(xp: Any, x: Array, /) -> Array:
    """The hyperbolic cosine."""
    return xp.cosh(x)


@cosh.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * xp.sinh(x)


@primitive(math="y = sinh x / cosh x", shape=same_shape, dtypes="floating-point", samples=UNARY)
def tanh(xp: Any, x: Array, /) -> Array:
    """The hyperbolic tangent."""
    y = xp.tanh(x)
    if y.dtype.kind == "c":  # the limit at Re x = ±∞; libraries differ in the sign of its imaginary zero
        x = xp.asarray(x)
        limit = xp.empty_like(x)
        limit.real, limit.imag = xp.copysign(1.0, x.real), xp.copysign(0.0, x.imag)
        return xp.where(xp.isinf(x.real) & xp.isfinite(x.imag), limit, y)
    return y


@tanh.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    return g * (1.0 - y * y)


@primitive(math="y = arsinh x", shape=same_shape, dtypes="floating-point", samples=UNARY)
def asinh(xp: Any, x: Array, /) -> Array:
    """The number whose hyperbolic sine is x."""
    return xp.asinh(x)


@asinh.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g / (xp.sqrt(x * x + 1.0) if x.dtype.kind == "c" else xp.hypot(x, 1.0))


@primitive(math="y = arcosh x", shape=same_shape, dtypes="floating-point", domain=(1.2, 3.0), samples=UNARY)
def acosh(xp: Any, x: Array, /) -> Array:
    """The number from 0 on whose hyperbolic cosine is x."""
    return xp.acosh(x)


@acosh.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g / (xp.sqrt(x - 1.0) * xp.sqrt(x + 1.0))


@primitive(math="y = artanh x", shape=same_shape, dtypes="floating-point", domain=(-0.8, 0.8), samples=UNARY)
def atanh(xp: Any, x: Array, /) -> Array:
    """The number whose hyperbolic tangent is x."""
    return xp.atanh(x)


@atanh.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g / ((1.0 - x) * (1.0 + x))
