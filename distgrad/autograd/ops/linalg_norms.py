"""Norms of vectors and matrices."""

from __future__ import annotations

import functools
import math
from typing import Any

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import Axis, in_float32, real_dtype, reduced_shape, restore_axes
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import AxisError, OptionError, ShapeError

_MATRIX_ORDERS = (1, -1, 2, -2, math.inf, -math.inf, "fro", "nuc")


@primitive(
    math="y = (Σ |x|^ord)^(1/ord), and its limits for ord = 0, ∞ and -∞",
    shape=lambda x, ord=2, **attributes: reduced_shape(x, **attributes),
    dtypes="floating-point",
    result=real_dtype,
    samples=[
        Sample(((3, 4),)),
        Sample(((3, 4),), {"axis": 1, "keepdims": True}),
        *[
            Sample(((2, 3, 4),), {"axis": (0, -1), "ord": each})
            for each in (1, 3, -2, 0.5, math.inf, -math.inf)
        ],
        Sample(((3, 4),), {"ord": 0}, note="number of elements that are not 0"),
        Sample(((0, 3),), {"axis": 0}, note="empty"),
    ],
    rejects=[Reject(((3, 4),), AxisError, "axis 2", {"axis": 2})],
)
def vector_norm(xp: Any, x: Array, /, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Array:
    """The length of vectors.

    Args:
        x: any shape.
        axis: the axes that hold a vector; None takes the whole array as one.
        keepdims: keep those axes, with length 1.
        ord: 2 the Euclidean norm, 1 the sum of magnitudes, ``inf`` the largest magnitude, ``-inf`` the
            smallest, 0 the number of elements that are not 0, or any other power. At the vector 0, and at
            zeros for powers below 1, its gradient is 0; magnitudes that tie share that of ``inf`` evenly.
    """
    return in_float32(functools.partial(_length, xp, ord=ord), x, axis=axis, keepdims=keepdims)


def _length(xp: Any, x: Array, axis: Axis, keepdims: bool, ord: float) -> Array:
    size = xp.abs(x)
    if ord == math.inf or ord == -math.inf:
        return (xp.max if ord > 0 else xp.min)(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return xp.sum(size != 0, axis=axis, keepdims=keepdims).astype(size.dtype)
    if ord == 1:
        return xp.sum(size, axis=axis, keepdims=keepdims)
    if ord == 2:
        return xp.sqrt(xp.sum(size * size, axis=axis, keepdims=keepdims))
    return xp.sum(size**ord, axis=axis, keepdims=keepdims) ** (1 / ord)


@vector_norm.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array, axis: Axis, keepdims: bool, ord: float) -> Array:
    if ord == 0:
        return xp.zeros_like(x)
    g, y = restore_axes(xp, g, x.shape, axis, keepdims), restore_axes(xp, y, x.shape, axis, keepdims)
    size, sign = xp.abs(x), xp.sign(x)
    if ord == math.inf or ord == -math.inf:
        hit = size == y
        return hit * (sign * g) / xp.sum(hit, axis=axis, keepdims=True)
    if ord == 1:
        return sign * g
    safe = xp.where(y == 0, 1.0, y)
    if ord == 2:
        return x / safe * g
    if ord > 1:
        return sign * (size / safe) ** (ord - 1) * g
    zero = (size == 0) | (y == 0)  # the slope is infinite at a zero, of which 0 is taken
    return xp.where(zero, 0.0, sign * xp.where(zero, 1.0, size / safe) ** (ord - 1) * g)


@composite(
    math="y = ‖x‖ over the last two axes",
    shape=lambda x, keepdims=False, **attributes: (*x[:-2], 1, 1) if keepdims else x[:-2],
    dtypes="floating-point",
    result="any",
    samples=[
        Sample(((3, 4),)),
        *[Sample(((2, 3, 4),), {"ord": each, "keepdims": True}) for each in _MATRIX_ORDERS],
    ],
    rejects=[
        Reject(((3,),), ShapeError, "matrix_norm: expected at least two axes"),
        Reject(((3, 4),), OptionError, "matrix_norm: ord must be one of", {"ord": 3}),
    ],
)
def matrix_norm(xp: Any, x: Array, /, *, keepdims: bool = False, ord: float | str | None = "fro") -> Array:
    """The norm of matrices.

    Args:
        x: ``[..., m, n]``.
        keepdims: keep the last two axes, with length 1.
        ord: ``"fro"`` (or None) root of the sum of squares, ``"nuc"`` sum of the singular values, 2 (−2) the
            largest (smallest) of them, 1 (−1) the largest (smallest) column sum of magnitudes, ``inf``
            (``-inf``) row sum.
    """
    if len(x.shape) < 2:
        raise ShapeError(f"matrix_norm: expected at least two axes, got {list(x.shape)}")
    if ord is None or ord == "fro":
        return xp.vector_norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord not in _MATRIX_ORDERS:
        raise OptionError(f"matrix_norm: ord must be one of {_MATRIX_ORDERS} or None, got {ord!r}")
    if ord in ("nuc", 2, -2):
        sizes = xp.svdvals(x)
    else:
        sizes = xp.sum(xp.abs(x), axis=-2 if abs(ord) == 1 else -1)  # type: ignore[arg-type]
    if ord == "nuc":
        y = xp.sum(sizes, axis=-1)
    else:
        y = (xp.max if ord > 0 else xp.min)(sizes, axis=-1)  # type: ignore[operator]
    return xp.reshape(y, (*y.shape, 1, 1)) if keepdims else y
