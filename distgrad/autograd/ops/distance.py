"""Norms, and distances between vectors; at 0, where a norm has no gradient, it is taken as 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.ops.shape_rules import Axis, broadcast_shape, normalize_axes, not_zero
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import widened
from distgrad.errors import AxisError, OptionError, ShapeError


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
        Sample(((3, 4),), {"ord": "nuc"}, note="sum of singular values"),
        Sample((np.zeros((2, 3)),), {"axis": 1}, note="at 0", grad=False),
    ],
    rejects=[
        Reject(((3, 4),), AxisError, "axis 2", {"axis": 2}),
        Reject(((3, 4),), OptionError, "ord must be", {"ord": "nil"}),
        Reject(((2, 3, 4),), ShapeError, "give axis", {"ord": 1}),
    ],
)
def norm(xp: Any, x: Array, /, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Array:
    """Norm of vectors or matrices, with NumPy's arguments.

    Args:
        x: any shape.
        ord: None for the 2-norm of all elements or of vectors and the Frobenius norm of matrices; a number
            for the p-norm of vectors; for matrices what ``matrix_norm`` takes.
        axis: one for vectors, two for matrices; None means all of an array with one or two axes, or, where
            ``ord`` is None, of any array.
        keepdims: keep the axes reduced over, with length 1.
    """
    if axis is None and (ord is None or len(x.shape) == 1):
        return xp.vector_norm(x, keepdims=keepdims, ord=2 if ord is None else ord)
    axes = tuple(range(len(x.shape))) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    places = [normalize_axes(each, len(x.shape), "norm")[0] for each in axes]
    if len(places) == 1:
        return xp.vector_norm(x, axis=places[0], keepdims=keepdims, ord=2 if ord is None else ord)
    if len(places) != 2:
        raise ShapeError(f"norm: a norm of {list(x.shape)} over {len(places)} axes; give axis as one or two")
    others = [i for i in range(len(x.shape)) if i not in places]
    y = xp.matrix_norm(xp.permute_dims(x, (*others, *places)), ord=ord)
    return xp.expand_dims(y, axis=tuple(sorted(places))) if keepdims else y


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
    if not len(x.shape):  # a vector of one element
        return xp.reshape(xp.normalize(xp.reshape(x, (1,)), p, axis, eps), ())
    return x / xp.maximum(xp.norm(x, ord=p, axis=axis, keepdims=True), not_zero(eps, x.dtype))


def _alike_along(xp: Any, x1: Array, x2: Array, axis: int) -> tuple[Array, Array]:
    """Both with as many axes and, along one of them, as many elements; the other axes stay as they are."""
    shape = broadcast_shape(x1.shape, x2.shape)
    (axis,) = normalize_axes(axis, len(shape), "cosine_similarity")
    out = []
    for x in (x1, x2):
        full = (1,) * (len(shape) - len(x.shape)) + tuple(x.shape)
        whole = (*full[:axis], shape[axis], *full[axis + 1 :])
        out.append(xp.broadcast_to(xp.reshape(x, full), whole))
    return out[0], out[1]


@composite(
    math="y = Σ x1 x2 / (max(‖x1‖, eps) max(‖x2‖, eps))",
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4), (3, 4))),
        Sample(((2, 3, 4), (3, 4)), {"axis": -1}, note="broadcast"),
        Sample(((1, 2, 3), (2, 1, 3)), {"axis": -2}, note="vectors that are broadcast"),
        Sample(((2, 3), (4, 2, 3)), {"axis": 1}, note="another number of axes"),
        Sample((np.zeros((2, 3)), np.ones((2, 3))), note="at 0", grad=False),
    ],
)
def cosine_similarity(xp: Any, x1: Array, x2: Array, /, axis: int = 1, eps: float = 1e-8) -> Array:
    """Cosine of the angle between vectors along an axis of the shape to which both are broadcast."""
    if not len(x1.shape) and not len(x2.shape):  # vectors of one element
        return xp.cosine_similarity(xp.reshape(x1, (1,)), xp.reshape(x2, (1,)), axis, eps)
    dtype = x1.dtype if x1.dtype == x2.dtype else None  # of two dtypes it is the product's
    x1, x2 = widened(x1, x2)
    if x1.shape != x2.shape:
        x1, x2 = _alike_along(xp, x1, x2, axis)
    length1 = xp.maximum(xp.norm(x1, axis=axis), not_zero(eps, x1.dtype))
    length2 = xp.maximum(xp.norm(x2, axis=axis), not_zero(eps, x2.dtype))
    y = xp.sum(x1 * x2, axis=axis) / length1 / length2
    return y if dtype is None else y.astype(dtype, copy=False)


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
