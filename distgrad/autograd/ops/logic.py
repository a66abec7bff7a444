"""Comparisons, truth and bits: what comes out has no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.elementwise import BINARY, UNARY
from distgrad.autograd.ops.shape_rules import broadcast_shape, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import DTypeError

_SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan])
_ALL = [*UNARY, Sample((_SPECIAL,), note="special values", grad=False)]
_INTEGERS = [Reject((np.ones(3), np.ones(3)), DTypeError, "x1 must be integer")]


# -- comparisons


@primitive(math="y = x1 == x2", shape=broadcast_shape, result="bool", samples=BINARY)
def equal(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Whether elements are equal."""
    return xp.equal(x1, x2)


@primitive(math="y = x1 != x2", shape=broadcast_shape, result="bool", samples=BINARY)
def not_equal(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Whether elements differ."""
    return xp.not_equal(x1, x2)


@primitive(
    math="y = x1 < x2",
    shape=broadcast_shape,
    dtypes="real numeric or boolean",
    result="bool",
    samples=BINARY,
)
def less(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Whether elements of the first are smaller."""
    return xp.less(x1, x2)


@primitive(
    math="y = x1 <= x2",
    shape=broadcast_shape,
    dtypes="real numeric or boolean",
    result="bool",
    samples=BINARY,
)
def less_equal(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Whether elements of the first are smaller or equal."""
    return xp.less_equal(x1, x2)


@primitive(
    math="y = x1 > x2",
    shape=broadcast_shape,
    dtypes="real numeric or boolean",
    result="bool",
    samples=BINARY,
)
def greater(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Whether elements of the first are larger."""
    return xp.greater(x1, x2)


@primitive(
    math="y = x1 >= x2",
    shape=broadcast_shape,
    dtypes="real numeric or boolean",
    result="bool",
    samples=BINARY,
)
def greater_equal(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Whether elements of the first are larger or equal."""
    return xp.greater_equal(x1, x2)


# -- kinds of numbers


@primitive(math="y = whether x is finite", shape=same_shape, result="bool", samples=_ALL)
def isfinite(xp: Any, x: Array, /) -> Array:
    """Whether elements are neither infinite nor NaN."""
    return xp.isfinite(x)


@primitive(math="y = whether |x| = ∞", shape=same_shape, result="bool", samples=_ALL)
def isinf(xp: Any, x: Array, /) -> Array:
    """Whether elements are infinite, of either sign."""
    return xp.isinf(x)


@primitive(math="y = whether x is NaN", shape=same_shape, result="bool", samples=_ALL)
def isnan(xp: Any, x: Array, /) -> Array:
    """Whether elements are NaN."""
    return xp.isnan(x)


@primitive(
    math="y = whether x has a minus sign",
    shape=same_shape,
    dtypes="real floating-point",
    result="bool",
    samples=_ALL,
)
def signbit(xp: Any, x: Array, /) -> Array:
    """Whether the sign bit is set, also of −0 and NaN."""
    return xp.signbit(x)


# -- truth


@primitive(math="y = whether x1 and x2", shape=broadcast_shape, result="bool", samples=BINARY)
def logical_and(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Whether both elements are true (not 0)."""
    return xp.logical_and(x1, x2)


@primitive(math="y = whether x1 or x2", shape=broadcast_shape, result="bool", samples=BINARY)
def logical_or(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Whether either element is true (not 0)."""
    return xp.logical_or(x1, x2)


@primitive(math="y = whether either x1 or x2", shape=broadcast_shape, result="bool", samples=BINARY)
def logical_xor(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Whether exactly one of the elements is true (not 0)."""
    return xp.logical_xor(x1, x2)


@primitive(math="y = whether not x", shape=same_shape, result="bool", samples=UNARY)
def logical_not(xp: Any, x: Array, /) -> Array:
    """Whether elements are false (0)."""
    return xp.logical_not(x)


# -- bits


@primitive(
    math="y = x1 & x2",
    shape=broadcast_shape,
    dtypes="integer or boolean",
    samples=BINARY,
    rejects=_INTEGERS,
)
def bitwise_and(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The bits that both elements have."""
    return xp.bitwise_and(x1, x2)


@primitive(
    math="y = x1 | x2",
    shape=broadcast_shape,
    dtypes="integer or boolean",
    samples=BINARY,
    rejects=_INTEGERS,
)
def bitwise_or(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The bits that either element has."""
    return xp.bitwise_or(x1, x2)


@primitive(
    math="y = x1 ^ x2",
    shape=broadcast_shape,
    dtypes="integer or boolean",
    samples=BINARY,
    rejects=_INTEGERS,
)
def bitwise_xor(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The bits that exactly one of the elements has."""
    return xp.bitwise_xor(x1, x2)


@primitive(math="y = ~x", shape=same_shape, dtypes="integer or boolean", samples=UNARY)
def bitwise_invert(xp: Any, x: Array, /) -> Array:
    """Every bit turned; of booleans, the negation."""
    return xp.bitwise_invert(x)


@primitive(
    math="y = x1 2^x2",
    shape=broadcast_shape,
    dtypes="integer",
    domain=(0, 6),
    samples=BINARY,
    rejects=_INTEGERS,
)
def bitwise_left_shift(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Bits moved towards the large end."""
    return xp.bitwise_left_shift(x1, x2)


@primitive(
    math="y = ⌊x1 / 2^x2⌋",
    shape=broadcast_shape,
    dtypes="integer",
    domain=(0, 6),
    samples=BINARY,
    rejects=_INTEGERS,
)
def bitwise_right_shift(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Bits moved towards the small end; the sign stays."""
    return xp.bitwise_right_shift(x1, x2)
