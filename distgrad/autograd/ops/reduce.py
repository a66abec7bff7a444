"""Reductions over axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.shape_rules import (
    Axis,
    count_over,
    in_float32,
    normalize_axes,
    reduced_shape,
    restore_axes,
    total_dtype,
)
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import AxisError

_SAMPLES = [
    Sample(((3, 4),)),
    Sample(((3, 4),), {"axis": 1}),
    Sample(((2, 3, 4),), {"axis": (0, -1), "keepdims": True}),
    Sample(((),), note="no axes"),
]
_EMPTY = Sample(((0, 3),), {"axis": 0}, note="empty")
_REJECTS = [Reject(((3, 4),), AxisError, "axis 2", {"axis": 2})]


@primitive(
    math="y = Σ x", shape=reduced_shape, result=total_dtype, samples=[*_SAMPLES, _EMPTY], rejects=_REJECTS
)
def sum(xp: Any, x: Array, /, axis: Axis = None, *, dtype: Any = None, keepdims: bool = False) -> Array:
    """Sum over axes.

    Args:
        x: any shape.
        axis: the axes to sum over; None means all.
        dtype: of the result; None means that of ``x``, or the default integer for small integers.
        keepdims: keep the axes summed over, with length 1.
    """
    return xp.sum(x, axis=axis, dtype=dtype, keepdims=keepdims)


@sum.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, axis: Axis, keepdims: bool) -> Array:
    return restore_axes(xp, g, x_shape, axis, keepdims)


@primitive(
    math="y = Σ x / n", shape=reduced_shape, dtypes="floating-point", samples=_SAMPLES, rejects=_REJECTS
)
def mean(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Mean over axes; of no elements it is NaN, as NumPy's and PyTorch's."""
    count = count_over(x.shape, axis)
    share = 1.0 / count if count else float("nan")
    if x.dtype.itemsize > 2:
        return xp.sum(x, axis=axis, keepdims=keepdims) * share
    total = xp.sum(x, axis=axis, dtype=np.float32, keepdims=keepdims)  # beyond what 16 bits hold
    return (total * share).astype(x.dtype)


@mean.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, axis: Axis, keepdims: bool) -> Array:
    count = count_over(x_shape, axis)
    return restore_axes(xp, g * (1.0 / count if count else float("nan")), x_shape, axis, keepdims)


def _shared_evenly(xp: Any, g: Array, x: Array, y: Array, axis: Axis, keepdims: bool) -> Array:
    """The gradient of an extremum, split evenly among the elements that reach it."""
    hit = x == restore_axes(xp, y, x.shape, axis, keepdims)
    count = xp.sum(hit, axis=axis, keepdims=True)
    return hit * (restore_axes(xp, g, x.shape, axis, keepdims) / count)


@primitive(math="y = max x", shape=reduced_shape, dtypes="real numeric", samples=_SAMPLES, rejects=_REJECTS)
def max(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Largest element over axes; elements that tie share the gradient evenly."""
    return xp.max(x, axis=axis, keepdims=keepdims)


@max.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array, axis: Axis, keepdims: bool) -> Array:
    return _shared_evenly(xp, g, x, y, axis, keepdims)


@primitive(math="y = min x", shape=reduced_shape, dtypes="real numeric", samples=_SAMPLES, rejects=_REJECTS)
def min(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Smallest element over axes; elements that tie share the gradient evenly."""
    return xp.min(x, axis=axis, keepdims=keepdims)


@min.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array, axis: Axis, keepdims: bool) -> Array:
    return _shared_evenly(xp, g, x, y, axis, keepdims)


@primitive(
    math="y = Σ (x - mean x)² / (n - correction)",
    shape=reduced_shape,
    dtypes="real floating-point",
    samples=[*_SAMPLES[:3], Sample(((3, 4),), {"axis": 0, "correction": 1})],
    rejects=_REJECTS,
)
def var(xp: Any, x: Array, /, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Array:
    """Variance over axes.

    Args:
        x: any shape.
        axis: the axes to reduce over; None means all.
        correction: taken from the count in the divisor: 0 for a population, 1 for a sample.
        keepdims: keep the axes reduced over, with length 1.
    """
    return in_float32(xp.var, x, axis=axis, correction=correction, keepdims=keepdims)


@var.vjp("x")
def _(xp: Any, g: Array, x: Array, axis: Axis, correction: float, keepdims: bool) -> Array:
    degrees = count_over(x.shape, axis) - correction
    scale = 2.0 / degrees if degrees else float("nan")  # as the variance of too few
    deviation = x - xp.mean(x, axis=axis, keepdims=True)
    return restore_axes(xp, g, x.shape, axis, keepdims) * (scale * deviation)


@primitive(
    math="y = √(Σ (x - mean x)² / (n - correction))",
    shape=reduced_shape,
    dtypes="real floating-point",
    samples=[*_SAMPLES[:3], Sample(((3, 4),), {"axis": 0, "correction": 1}), Sample(((),), grad=False)],
    rejects=_REJECTS,
)
def std(xp: Any, x: Array, /, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Array:
    """Standard deviation over axes; arguments as in ``var``. Where it is 0, the gradient is 0."""
    return xp.sqrt(in_float32(xp.var, x, axis=axis, correction=correction, keepdims=keepdims))


@std.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array, axis: Axis, correction: float, keepdims: bool) -> Array:
    count = count_over(x.shape, axis) - correction
    deviation = x - xp.mean(x, axis=axis, keepdims=True)
    spread = restore_axes(xp, y, x.shape, axis, keepdims)
    slope = deviation / (count * xp.where(spread == 0, 1.0, spread))
    return restore_axes(xp, g, x.shape, axis, keepdims) * slope


@primitive(
    math="y = Π x",
    shape=reduced_shape,
    result=total_dtype,
    dtypes="numeric",
    samples=[
        *_SAMPLES,
        _EMPTY,
        Sample((np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 5.0], [1.5, 2.0, 0.5]]),), {"axis": 1}, note="zeros"),
    ],
    rejects=_REJECTS,
)
def prod(xp: Any, x: Array, /, axis: Axis = None, *, dtype: Any = None, keepdims: bool = False) -> Array:
    """Product over axes.

    Args:
        x: any shape.
        axis: the axes to multiply over; None means all.
        dtype: of the result; None means that of ``x``, or the default integer for small integers.
        keepdims: keep the axes multiplied over, with length 1.
    """
    return in_float32(xp.prod, x, axis=axis, dtype=dtype, keepdims=keepdims)


@prod.vjp("x")
def _(xp: Any, g: Array, x: Array, axis: Axis, keepdims: bool) -> Array:
    axes = normalize_axes(axis, len(x.shape), "prod")
    kept = tuple(i for i in range(len(x.shape)) if i not in axes)
    order = kept + axes
    moved = xp.permute_dims(x, order)
    rows = xp.reshape(moved, (*moved.shape[: len(kept)], count_over(x.shape, axis)))
    before = xp.cumulative_prod(rows, axis=-1, include_initial=True)[..., :-1]
    after = xp.flip(xp.cumulative_prod(xp.flip(rows, axis=-1), axis=-1, include_initial=True), axis=-1)[
        ..., 1:
    ]
    others = xp.reshape(before * after, moved.shape)  # no division: x may hold zeros
    back = tuple(order.index(i) for i in range(len(order)))
    return restore_axes(xp, g, x.shape, axis, keepdims) * xp.permute_dims(others, back)


# -- no gradient


@primitive(
    math="y = index of the largest x",
    shape=reduced_shape,
    dtypes="real numeric",
    result="int64",
    samples=[Sample(((3, 4),)), Sample(((3, 4),), {"axis": 1, "keepdims": True})],
    rejects=_REJECTS,
)
def argmax(xp: Any, x: Array, /, axis: int | None = None, *, keepdims: bool = False) -> Array:
    """Index of the largest element, the first of several; into the flattened array for ``axis=None``."""
    return xp.argmax(x, axis=axis, keepdims=keepdims)


@primitive(
    math="y = index of the smallest x",
    shape=reduced_shape,
    dtypes="real numeric",
    result="int64",
    samples=[Sample(((3, 4),)), Sample(((3, 4),), {"axis": 1, "keepdims": True})],
    rejects=_REJECTS,
)
def argmin(xp: Any, x: Array, /, axis: int | None = None, *, keepdims: bool = False) -> Array:
    """Index of the smallest element, the first of several; into the flattened array for ``axis=None``."""
    return xp.argmin(x, axis=axis, keepdims=keepdims)


@primitive(
    math="y = number of x ≠ 0", shape=reduced_shape, result="int64", samples=_SAMPLES, rejects=_REJECTS
)
def count_nonzero(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """How many elements are not 0."""
    return xp.sum(xp.not_equal(x, 0), axis=axis, keepdims=keepdims)


@primitive(math="y = ∀ x", shape=reduced_shape, result="bool", samples=_SAMPLES, rejects=_REJECTS)
def all(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Whether all elements are true (not 0)."""
    return xp.all(x, axis=axis, keepdims=keepdims)


@primitive(math="y = ∃ x", shape=reduced_shape, result="bool", samples=_SAMPLES, rejects=_REJECTS)
def any(xp: Any, x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Whether any element is true (not 0)."""
    return xp.any(x, axis=axis, keepdims=keepdims)
