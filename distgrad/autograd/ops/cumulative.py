"""Running sums, products and extrema along an axis, under NumPy's and PyTorch's names."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import normalize_axes, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import AxisError

_SAMPLES = [
    Sample(((3, 4),)),
    Sample(((3, 4),), {"axis": 0}),
    Sample(((2, 3, 2),), {"axis": -2}),
    Sample(((0, 3),), {"axis": 1}, note="empty"),
]
_REJECTS = [Reject(((3, 4),), AxisError, "axis 2", {"axis": 2})]


def _flat(xp: Any, x: Array, axis: int | None) -> tuple[Array, int]:
    """The array and the axis to go along; None flattens first."""
    return (xp.reshape(x, (-1,)), 0) if axis is None else (x, axis)


@composite(math="y[i] = Σ_{j ≤ i} x[j]", dtypes="numeric", samples=_SAMPLES, rejects=_REJECTS)
def cumsum(xp: Any, x: Array, /, axis: int | None = None) -> Array:
    """Running sum along an axis; None flattens first."""
    x, axis = _flat(xp, x, axis)
    return xp.cumulative_sum(x, axis=axis)


@composite(
    math="y[i] = Π_{j ≤ i} x[j]",
    dtypes="numeric",
    samples=[*_SAMPLES, Sample((np.array([1.5, 0.0, 2.0, 0.0, 3.0]),), note="zeros")],
    rejects=_REJECTS,
)
def cumprod(xp: Any, x: Array, /, axis: int | None = None) -> Array:
    """Running product along an axis; None flattens first."""
    x, axis = _flat(xp, x, axis)
    return xp.cumulative_prod(x, axis=axis)


def _last_hits(xp: Any, x: Array, running: Array, axis: int) -> Array:
    """Where each running extremum was last reached; a NaN stays one."""
    place = normalize_axes(axis, x.ndim, "cumulative extremum")[0]
    numbers = xp.arange(x.shape[place]).reshape(-1, *(1,) * (x.ndim - place - 1))
    hit = (x == running) | (x != x)
    return xp.maximum.accumulate(xp.where(hit, numbers, 0), axis=place)


@primitive(
    math="y[i] = the last j ≤ i with the largest x[j]",
    shape=same_shape,
    dtypes="real numeric",
    result="int64",
    samples=[Sample(s.args, {"axis": s.attributes.get("axis", 0)}, s.note) for s in _SAMPLES],
)
def argcummax(xp: Any, x: Array, /, *, axis: int) -> Array:
    """Index of the running maximum along an axis."""
    return _last_hits(xp, x, xp.maximum.accumulate(x, axis=axis), axis)


@primitive(
    math="y[i] = the last j ≤ i with the smallest x[j]",
    shape=same_shape,
    dtypes="real numeric",
    result="int64",
    samples=[Sample(s.args, {"axis": s.attributes.get("axis", 0)}, s.note) for s in _SAMPLES],
)
def argcummin(xp: Any, x: Array, /, *, axis: int) -> Array:
    """Index of the running minimum along an axis."""
    return _last_hits(xp, x, xp.minimum.accumulate(x, axis=axis), axis)


@composite(
    math="y[i] = max_{j ≤ i} x[j], and the last such j",
    dtypes="real numeric",
    samples=[Sample(s.args, {"axis": s.attributes.get("axis", 0)}, s.note) for s in _SAMPLES],
    rejects=_REJECTS,
)
def cummax(xp: Any, x: Array, /, axis: int) -> tuple[Array, Array]:
    """Running maximum along an axis.

    Returns:
        values, indices.
    """
    index = xp.argcummax(x, axis=axis)
    return xp.gather_elements(x, index, axis=axis), index


@composite(
    math="y[i] = min_{j ≤ i} x[j], and the last such j",
    dtypes="real numeric",
    samples=[Sample(s.args, {"axis": s.attributes.get("axis", 0)}, s.note) for s in _SAMPLES],
    rejects=_REJECTS,
)
def cummin(xp: Any, x: Array, /, axis: int) -> tuple[Array, Array]:
    """Running minimum along an axis.

    Returns:
        values, indices.
    """
    index = xp.argcummin(x, axis=axis)
    return xp.gather_elements(x, index, axis=axis), index
