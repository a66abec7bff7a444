"""Reading and writing parts of an array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.shape_rules import Shape, first_dtype, normalize_axes
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import plain
from distgrad.backend.meta import indexed_shape
from distgrad.errors import AxisError, DTypeError, OutOfBoundsError, ShapeError

Key = Any  # what stands in brackets: numbers, slices, None, ..., arrays of integers or booleans

_KEYS: list[tuple[str, Key]] = [
    ("a number", 1),
    ("slices", (slice(None, None, 2), slice(1, None))),
    ("a new axis and an ellipsis", (None, ..., -1)),
    ("integers, one twice", (np.array([2, 0, 2]),)),
    ("integers on two axes", (np.array([2, 0]), np.array([[1], [3]]))),
    ("booleans", (np.array([True, False, True]),)),
    ("nothing", (slice(0, 0),)),
]


def is_basic(key: Key) -> bool:
    """Whether a key names each element at most once: no arrays of integers in it."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(
        part is None or part is Ellipsis or isinstance(part, int | slice | np.integer) for part in parts
    )


@primitive(
    math="y = x[key]",
    view=True,
    shape=indexed_shape,
    samples=[Sample(((3, 4),), {"key": key}, note=note) for note, key in _KEYS],
    rejects=[Reject(((3, 4),), OutOfBoundsError, "getitem", {"key": 3})],
)
def getitem(xp: Any, x: Array, /, key: Key) -> Array:
    """A part of an array: a view for numbers and slices, a copy for arrays of indices."""
    y = x[key]
    if isinstance(y, np.generic):  # one element; with an ellipsis it is a view too
        y = x[(*key, ...) if isinstance(key, tuple) else (key, ...)]
    return y


@getitem.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape, key: Key) -> Array:
    return xp.put_zeros(g, key, x_shape)


@primitive(
    math="y = 0 with x added at key",
    shape=lambda x, key, shape: shape,
    samples=[
        Sample((np.zeros((3, 4))[key].shape,), {"key": key, "shape": (3, 4)}, note=note)
        for note, key in _KEYS
    ],
)
def put_zeros(xp: Any, x: Array, /, key: Key, shape: Shape) -> Array:
    """Zeros with ``x`` added at ``key``; elements named twice add up. The transpose of reading them."""
    out = xp.zeros(shape, dtype=x.dtype)
    if is_basic(key):
        out[key] = x
        return out
    return xp.add_at(out, key, x)


@put_zeros.vjp("x")
def _(xp: Any, g: Array, key: Key) -> Array:
    return xp.getitem(g, key)


@primitive(
    math="y = x, but value at key",
    shape=lambda x, value, key: x,
    samples=[Sample(((3, 4), ()), {"key": key}, note=note) for note, key in _KEYS if "twice" not in note],
    rejects=[Reject(((3, 4), (3,)), ShapeError, "setitem", {"key": 1})],
)
def setitem(xp: Any, x: Array, value: Array, /, key: Key) -> Array:
    """A copy of an array with a part replaced."""
    out = x.copy() if x.shape else xp.array(x)  # NumPy's number without axes could not be written
    out[key] = value
    return out


@setitem.vjp("x")
def _(xp: Any, g: Array, key: Key) -> Array:
    return xp.setitem(g, 0.0, key)


@setitem.vjp("value")
def _(xp: Any, g: Array, key: Key) -> Array:
    return xp.getitem(g, key)


def _taken(x: Shape, indices: Shape, axis: int | None = None) -> Shape:
    if axis is None:
        return indices
    place = normalize_axes(axis, len(x), "take")[0]
    return (*x[:place], *indices, *x[place + 1 :])


@primitive(
    math="y[…, j, …] = x[…, indices_j, …]",
    shape=_taken,
    result=first_dtype,
    samples=[
        Sample(((4,), np.array([2, 0, 2, -1]))),
        Sample(((3, 4), np.array([3, 0])), {"axis": 1}),
        Sample(((3, 4), np.array([[1, 2], [0, 0]])), {"axis": 0}, note="indices with two axes"),
        Sample(((3, 4), np.array([5, -1])), note="of the flattened array"),
        Sample(((3, 4), np.array([], dtype=np.int64)), {"axis": 0}, note="empty"),
    ],
    rejects=[
        Reject(((3, 4), np.array([4])), OutOfBoundsError, "take", {"axis": 1}),
        Reject(((3, 4), np.array([0])), AxisError, "axis 2", {"axis": 2}),
        Reject(((3,), np.array([0.5])), DTypeError, "take"),
    ],
)
def take(xp: Any, x: Array, indices: Array, /, axis: int | None = None) -> Array:
    """Elements at places along an axis.

    Args:
        x: any shape.
        indices: the places; negative ones count from the end.
        axis: the axis to take from; None takes from the flattened array.
    """
    return xp.take(x, indices, axis=axis)


@take.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape, indices: Array, axis: int | None) -> Array:
    if axis is None:
        return xp.reshape(xp.put_zeros(g, (plain(indices),), (math.prod(x_shape),)), x_shape)
    return xp.put_zeros(g, (*(slice(None),) * (axis % len(x_shape)), plain(indices)), x_shape)


def _taken_along(x: Shape, indices: Shape, axis: int = -1) -> Shape:
    place = normalize_axes(axis, len(x), "take_along_axis")[0]
    around = [(*shape[:place], 1, *shape[place + 1 :]) for shape in (x, indices)]
    shape = np.broadcast_shapes(*around)
    return (*shape[:place], indices[place], *shape[place + 1 :])


@primitive(
    math="y[i, j] = x[i, indices[i, j]] along an axis",
    shape=_taken_along,
    result=first_dtype,
    samples=[
        Sample(((3, 4), np.array([[0, 3], [1, 1], [2, -1]]))),
        Sample(((3, 4), np.array([[0, 2, 1, 1]])), {"axis": 0}),
        Sample(((1, 4), np.array([[0, 3], [1, 1]])), note="x broadcast"),
        Sample(((4,), np.array([1, 1, 0]))),
    ],
    rejects=[
        Reject(((3, 4), np.array([[4], [0], [0]])), OutOfBoundsError, "take_along_axis"),
        Reject(((3, 4), np.array([1])), ShapeError, "take_along_axis"),
    ],
)
def take_along_axis(xp: Any, x: Array, indices: Array, /, axis: int = -1) -> Array:
    """Elements at places of their own for every row along an axis.

    Args:
        x: any shape.
        indices: as many axes as ``x``; the others' lengths broadcast with those of ``x``.
        axis: the axis that the indices point into.
    """
    return xp.take_along_axis(x, indices, axis=axis)


@take_along_axis.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape, indices: Array, axis: int) -> Array:
    where = normalize_axes(axis, len(x_shape), "take_along_axis")[0]
    grid: list[Any] = []
    for i, n in enumerate(g.shape):
        places = plain(xp.arange(n)) * (x_shape[i] != 1)  # an axis of length 1 is at 0
        grid.append(places.reshape((n, *(1,) * (len(g.shape) - 1 - i))))
    grid[where] = plain(indices)
    return xp.put_zeros(g, tuple(grid), x_shape)


@primitive(
    math="y = indices of the elements that are not 0, one array an axis",
    outputs=0,
    result="int64",
    samples=[
        Sample((np.array([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]),), grad=False),
        Sample(((0, 3),), note="empty"),
    ],
    rejects=[Reject(((),), ShapeError, "nonzero")],
)
def nonzero(xp: Any, x: Array, /) -> tuple[Array, ...]:
    """Where elements are not 0: their indices, an array an axis, in row order."""
    return xp.nonzero(x)
