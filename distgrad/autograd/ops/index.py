"""Reading and writing parts of an array."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.rules import Shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import ShapeError

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
    samples=[Sample(((3, 4),), {"key": key}, note=note) for note, key in _KEYS],
    rejects=[Reject(((3, 4),), IndexError, "getitem", {"key": 3})],
)
def getitem(xp: Any, x: Array, /, key: Key) -> Array:
    """A part of an array: a view for numbers and slices, a copy for arrays of indices."""
    return x[key]


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
    out = x.copy()
    out[key] = value
    return out


@setitem.vjp("x")
def _(xp: Any, g: Array, key: Key) -> Array:
    return xp.setitem(g, 0.0, key)


@setitem.vjp("value")
def _(xp: Any, g: Array, key: Key) -> Array:
    return xp.getitem(g, key)
