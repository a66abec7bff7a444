"""Sorting and searching in order, and distinct values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.shape_rules import along_axis
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import plain
from distgrad.errors import AxisError, OptionError, ShapeError

_SAMPLES = [
    Sample(((3, 4),)),
    Sample(((3, 4),), {"axis": 0, "descending": True}),
    Sample(((2, 3, 4),), {"axis": 1, "stable": False}),
    Sample(((0, 3),), note="empty"),
]
_REJECTS = [Reject(((3, 4),), AxisError, "axis 2", {"axis": 2})]
_TIES = Sample((np.array([2.0, 1.0, 2.0, 1.0]),), {"descending": True}, note="ties", grad=False)


# -- order


def _order(xp: Any, x: Array, axis: int, descending: bool) -> Array:
    """The stable order along an axis, in the words that arrays and tensors share."""
    if not descending:
        return xp.argsort(x, axis=axis, stable=True)
    turned = xp.argsort(xp.flip(x, axis=axis), axis=axis, stable=True)
    return (x.shape[axis] - 1) - xp.flip(turned, axis=axis)


@primitive(
    math="y = x in order along an axis",
    shape=along_axis,
    dtypes="real numeric",
    samples=[*_SAMPLES, _TIES],
    rejects=_REJECTS,
)
def sort(xp: Any, x: Array, /, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Array:
    """The elements in order, NaN after all numbers when ascending.

    Args:
        x: at least one axis.
        axis: the axis to sort along.
        descending: from the largest to the smallest.
        stable: equal elements keep their order.
    """
    y = xp.sort(x, axis=axis, stable=stable)
    return xp.flip(y, axis=axis) if descending else y


@sort.vjp("x")
def _(xp: Any, g: Array, x: Array, axis: int, descending: bool) -> Array:
    places = xp.argsort(_order(xp, x, axis, descending), axis=axis)  # where each element went
    return xp.take_along_axis(g, places, axis=axis)


@primitive(
    math="y = the indices that bring x in order",
    shape=along_axis,
    dtypes="real numeric",
    result="int64",
    samples=[*_SAMPLES, _TIES],
    rejects=_REJECTS,
)
def argsort(xp: Any, x: Array, /, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Array:
    """The indices that bring an array in order along an axis; arguments as in ``sort``."""
    if stable or descending:
        return _order(xp, x, axis, descending)
    return xp.argsort(x, axis=axis)


@primitive(
    math="y = number of x1 < x2 (left) or ≤ x2 (right)",
    shape=lambda x1, x2, **attributes: x2,
    dtypes="real numeric",
    result="int64",
    samples=[
        Sample((np.array([1.0, 2.0, 2.0, 3.0]), np.array([[0.0, 2.0], [3.0, 9.0]])), grad=False),
        Sample((np.array([1.0, 2.0, 2.0, 3.0]), np.array([2.0])), {"side": "right"}, grad=False),
        Sample((np.array([2.0, 3.0, 1.0]), np.array([2.5])), {"sorter": np.array([2, 0, 1])}),
    ],
    rejects=[
        Reject((np.ones(3), np.ones(2)), OptionError, "side", {"side": "middle"}),
        Reject((np.ones((3, 2)), np.ones(2)), ShapeError, "searchsorted"),
    ],
)
def searchsorted(xp: Any, x1: Array, x2: Array, /, *, side: str = "left", sorter: Any = None) -> Array:
    """Where elements would have to be inserted to keep an array in order.

    Args:
        x1: one axis, in ascending order (or brought into it by ``sorter``).
        x2: what to insert, any shape.
        side: ``"left"``: before equal elements; ``"right"``: after them.
        sorter: indices that bring ``x1`` in order, as ``argsort`` returns them.
    """
    if side not in ("left", "right"):
        raise OptionError(f"searchsorted: side must be 'left' or 'right', got {side!r}")
    return xp.searchsorted(x1, x2, side, plain(sorter))


# -- distinct values

_SETS = [
    Sample((np.array([[3.0, 1.0], [1.0, 2.0]]),), grad=False),
    Sample((np.array([1.0, np.nan, np.nan]),), note="every NaN is distinct", grad=False),
    Sample(((4,),), note="all distinct"),
    Sample(((0, 3),), note="empty"),
]


def _to_first(xp: Any, g: Array, x: Array) -> Array:
    """The gradient of distinct values, which goes to the first element that has the value."""
    places = plain(xp.unique_all(x).indices)
    return xp.reshape(xp.put_zeros(g, (places,), (math.prod(x.shape),)), x.shape)


@primitive(math="y = the distinct x, in order", result="any", samples=_SETS)
def unique_values(xp: Any, x: Array, /) -> Array:
    """The distinct values in ascending order."""
    return xp.unique_counts(x).values


@unique_values.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return _to_first(xp, g, x)


@primitive(math="values, counts = the distinct x, how often", outputs=2, result="any", samples=_SETS)
def unique_counts(xp: Any, x: Array, /) -> tuple[Array, Array]:
    """The distinct values in ascending order, and how often each occurs.

    Returns:
        A named tuple ``(values, counts)``.
    """
    return xp.unique_counts(x)


@unique_counts.vjp("x")
def _(xp: Any, g: tuple[Array, Array], x: Array) -> Array:
    return _to_first(xp, g[0], x)


@primitive(math="x = values[inverse_indices]", outputs=2, result="any", samples=_SETS)
def unique_inverse(xp: Any, x: Array, /) -> tuple[Array, Array]:
    """The distinct values in ascending order, and for each element which of them it is.

    Returns:
        A named tuple ``(values, inverse_indices)``.
    """
    return xp.unique_inverse(x)


@unique_inverse.vjp("x")
def _(xp: Any, g: tuple[Array, Array], x: Array) -> Array:
    return _to_first(xp, g[0], x)


@primitive(
    math="values = x.flat[indices]; x = values[inverse_indices]", outputs=4, result="any", samples=_SETS
)
def unique_all(xp: Any, x: Array, /) -> tuple[Array, Array, Array, Array]:
    """The distinct values in ascending order, and all that is known of them.

    Returns:
        A named tuple ``(values, indices, inverse_indices, counts)``: where each occurs first in the
        flattened array, which of them each element is, and how often each occurs.
    """
    return xp.unique_all(x)


@unique_all.vjp("x")
def _(xp: Any, g: tuple[Array, Array, Array, Array], x: Array) -> Array:
    return _to_first(xp, g[0], x)
