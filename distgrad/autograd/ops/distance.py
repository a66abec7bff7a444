"""Norms, and distances between vectors; at 0, where a norm has no gradient, it is taken as 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.composite import composite
from distgrad.autograd.dispatch import Array
from distgrad.autograd.ops.rules import Axis, normalize_axes
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import AxisError, ShapeError


def _root(xp: Any, total: Array, p: float) -> Array:
    """The p-th root of a sum of powers, with gradient 0 at 0."""
    zero = total == 0
    safe = xp.where(zero, 1.0, total)
    return xp.where(zero, 0.0, xp.sqrt(safe) if p == 2 else safe ** (1.0 / p))


def _vector_norm(xp: Any, x: Array, p: float, axis: Axis, keepdims: bool) -> Array:
    if p == 2:
        return _root(xp, xp.sum(xp.square(x), axis=axis, keepdims=keepdims), p)
    size = xp.abs(x)
    if p == math.inf:
        return xp.max(size, axis=axis, keepdims=keepdims)
    if p == -math.inf:
        return xp.min(size, axis=axis, keepdims=keepdims)
    if p == 0:
        return xp.sum(xp.astype(x != 0, x.dtype), axis=axis, keepdims=keepdims)
    if p == 1:
        return xp.sum(size, axis=axis, keepdims=keepdims)
    return _root(xp, xp.sum(size**p, axis=axis, keepdims=keepdims), p)


def _sum_norm(xp: Any, x: Array, p: float, summed: int, compared: int) -> Array:
    """The largest (smallest for a negative p) sum of sizes along one axis."""
    sums = xp.sum(xp.abs(x), axis=summed, keepdims=True)
    extremum = xp.max if p > 0 else xp.min
    return extremum(sums, axis=compared, keepdims=True)


def _matrix_norm(xp: Any, x: Array, p: Any, axes: tuple[int, int], keepdims: bool) -> Array:
    rows, columns = axes
    if p in ("fro", None):
        return _vector_norm(xp, x, 2, axes, keepdims)
    if p in (1, -1):
        y = _sum_norm(xp, x, p, rows, columns)
    elif p in (math.inf, -math.inf):
        y = _sum_norm(xp, x, p, columns, rows)
    else:
        raise ValueError(f"norm: of a matrix ord must be 'fro', 1, -1, inf or -inf, got {p!r}")
    return y if keepdims else xp.squeeze(y, axes)


@composite(
    math="y = (Σ |x|^ord)^(1/ord)",
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4),)),
        Sample(((3, 4),), {"axis": 1}),
        Sample(((3, 4),), {"ord": 1, "axis": 0, "keepdims": True}),
        Sample(((3, 4),), {"ord": 3, "axis": -1}),
        Sample(((3, 4),), {"ord": math.inf, "axis": -1}),
        Sample(((3, 4),), {"ord": -math.inf, "axis": -1}),
        Sample(((3, 4),), {"ord": 0, "axis": -1}, grad=False),
        Sample(((2, 3, 4),), {"ord": "fro", "axis": (1, 2)}),
        Sample(((2, 3, 4),), {"ord": 1, "axis": (0, 2), "keepdims": True}, note="largest column sum"),
        Sample(((3, 4),), {"ord": -math.inf}, note="smallest row sum"),
        Sample((np.zeros((2, 3)),), {"axis": 1}, note="at 0", grad=False),
    ],
    rejects=[
        Reject(((3, 4),), AxisError, "axis 2", {"axis": 2}),
        Reject(((3, 4),), ValueError, "ord must be", {"ord": "nil"}),
        Reject(((2, 3, 4),), ShapeError, "give axis", {"ord": 1}),
    ],
)
def norm(xp: Any, x: Array, /, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Array:
    """Norm of vectors or matrices, with NumPy's arguments.

    Args:
        x: any shape.
        ord: None for the 2-norm of all elements or of vectors and the Frobenius norm of matrices; a number
            for the p-norm of vectors; ``"fro"``, ±1 (column sums) or ±∞ (row sums) of matrices.
        axis: one for vectors, two for matrices; None means all of an array with one or two axes, or, where
            ``ord`` is None, of any array.
        keepdims: keep the axes reduced over, with length 1.
    """
    if axis is None:
        if ord is None or len(x.shape) == 1:
            return _vector_norm(xp, x, 2 if ord is None else ord, None, keepdims)
        axis = tuple(range(len(x.shape)))
    if isinstance(axis, int):
        place = normalize_axes(axis, len(x.shape), "norm")[0]
        return _vector_norm(xp, x, 2 if ord is None else ord, place, keepdims)
    if len(axis) != 2:
        raise ShapeError(f"norm: a norm of {list(x.shape)} over {len(axis)} axes; give axis as one or two")
    rows, columns = (normalize_axes(each, len(x.shape), "norm")[0] for each in axis)
    return _matrix_norm(xp, x, ord, (rows, columns), keepdims)


@composite(
    math="y = x / max(‖x‖_p, eps)",
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4),)),
        Sample(((2, 3, 4),), {"p": 1, "axis": -1}),
        Sample((np.zeros((2, 3)),), note="at 0", grad=False),
    ],
    rejects=[Reject(((3, 4),), AxisError, "axis 2", {"axis": 2})],
)
def normalize(xp: Any, x: Array, /, p: float = 2.0, axis: int = 1, eps: float = 1e-12) -> Array:
    """Vectors brought to norm 1; shorter ones than ``eps`` are divided by ``eps``."""
    return x / xp.maximum(xp.norm(x, ord=p, axis=axis, keepdims=True), eps)


@composite(
    math="y = Σ x1 x2 / (max(‖x1‖, eps) max(‖x2‖, eps))",
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4), (3, 4))),
        Sample(((2, 3, 4), (3, 4)), {"axis": -1}, note="broadcast"),
        Sample((np.zeros((2, 3)), np.ones((2, 3))), note="at 0", grad=False),
    ],
)
def cosine_similarity(xp: Any, x1: Array, x2: Array, /, axis: int = 1, eps: float = 1e-8) -> Array:
    """Cosine of the angle between vectors along an axis."""
    lengths = xp.maximum(xp.norm(x1, axis=axis), eps) * xp.maximum(xp.norm(x2, axis=axis), eps)
    return xp.sum(x1 * x2, axis=axis) / lengths


@composite(
    math="y = ‖x1 - x2 + eps‖_p",
    dtypes="real floating-point",
    samples=[Sample(((3, 4), (3, 4))), Sample(((3, 4), (4,)), {"p": 1, "keepdims": True})],
)
def pairwise_distance(
    xp: Any, x1: Array, x2: Array, /, p: float = 2.0, eps: float = 1e-6, keepdims: bool = False
) -> Array:
    """Distance of each vector of the last axis to its counterpart.

    Args:
        x1, x2: shapes that broadcast.
        p: order of the norm.
        eps: added to every difference.
        keepdims: keep the last axis, with length 1.
    """
    return xp.norm(x1 - x2 + eps, ord=p, axis=-1, keepdims=keepdims)


@composite(
    math="y[…, i, j] = ‖x1[…, i, :] - x2[…, j, :]‖_p",
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4), (2, 4))),
        Sample(((2, 3, 4), (2, 4)), {"p": 1.0}, note="a stack and a matrix"),
        Sample(((0, 4), (2, 4)), note="empty"),
    ],
    rejects=[Reject(((3, 4), (2, 3)), ShapeError, "cdist: expected [..., P, M] and [..., R, M]")],
)
def cdist(xp: Any, x1: Array, x2: Array, /, p: float = 2.0) -> Array:
    """Distance of every row of one matrix to every row of another.

    Args:
        x1: ``[..., P, M]``.
        x2: ``[..., R, M]``.
        p: order of the norm.

    Returns:
        ``[..., P, R]``.
    """
    if min(len(x1.shape), len(x2.shape)) < 2 or x1.shape[-1] != x2.shape[-1]:
        raise ShapeError(
            f"cdist: expected [..., P, M] and [..., R, M], got {list(x1.shape)} and {list(x2.shape)}"
        )
    difference = xp.expand_dims(x1, axis=-2) - xp.expand_dims(x2, axis=-3)
    return xp.norm(difference, ord=p, axis=-1)
