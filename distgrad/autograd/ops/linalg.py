"""Matrix products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.shape_rules import Into, Shape, mixed_dtypes
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import ShapeError


def _product_shape(x1: Shape, x2: Shape) -> Shape:
    if not x1 or not x2 or x1[-1] != x2[-2:][0]:
        raise ValueError("the last axis of the first must be as long as the last but one of the second")
    rows = x1[-2:-1]
    columns = x2[-1:] if len(x2) > 1 else ()
    return (*np.broadcast_shapes(x1[:-2], x2[:-2]), *rows, *columns)


def _rows(xp: Any, x: Array) -> Array:
    """All vectors of the last axis, as the rows of one matrix."""
    return xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


_OUTER = 1 << 15  # elements of an outer product from which on threads share it


def sum_of_products(xp: Any, left: Array, right: Array, into: Array | None) -> Array:
    """``Σ_r left[r, i] right[r, j]``, in ``into`` if it is given and of that dtype."""
    written = {"out": into} if into is not None and into.dtype == left.dtype == right.dtype else {}
    if len(left) == 1 and left.size * right.size < _OUTER:  # NumPy has no fast product for one
        return xp.multiply(xp.matrix_transpose(left), right, **written)
    return xp.matmul(xp.matrix_transpose(left), right, **written)


@primitive(
    math="y[…, i, j] = Σ_k x1[…, i, k] x2[…, k, j]",
    shape=_product_shape,
    dtypes="numeric",
    samples=[
        Sample(((3, 4), (4, 2))),
        Sample(((2, 3, 4), (4, 2)), note="a stack and a matrix"),
        Sample(((5, 1, 3, 4), (2, 4, 2)), note="broadcast stacks"),
        Sample(((4,), (4,)), note="vectors"),
        Sample(((3, 4), (4,)), note="matrix and vector"),
        Sample(((4,), (2, 4, 3)), note="vector and stack"),
        Sample(((0, 4), (4, 2)), note="empty"),
    ],
    rejects=[Reject(((3, 4), (3, 4)), ShapeError, "matmul"), Reject(((), (3,)), ShapeError, "matmul")],
)
def matmul(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Matrix product over the last two axes; vectors count as a row on the left, a column on the right."""
    return xp.matmul(x1, x2)


@matmul.vjp("x1")
def _(xp: Any, g: Array, x1_shape: Shape, x2: Array) -> Array:
    if len(x2.shape) == 1:
        return xp.expand_dims(g, axis=-1) * x2
    if len(x1_shape) == 1:
        return xp.matmul(xp.expand_dims(g, axis=-2), xp.matrix_transpose(x2))[..., 0, :]
    return xp.matmul(g, xp.matrix_transpose(x2))


@matmul.vjp("x2")
def _(xp: Any, g: Array, x1: Array, x2_shape: Shape, into: Into) -> Array:
    if len(x1.shape) == 1:
        return g * x1 if len(x2_shape) == 1 else xp.expand_dims(x1, axis=-1) * xp.expand_dims(g, axis=-2)
    if len(x2_shape) == 1:
        product = xp.matmul(xp.matrix_transpose(x1), xp.expand_dims(g, axis=-1))[..., 0]
        return xp.sum(product, axis=tuple(range(len(product.shape) - 1)))
    if len(x2_shape) == 2:  # one large product instead of a stack that is summed
        return sum_of_products(xp, _rows(xp, x1), _rows(xp, g), into[0])
    return xp.matmul(xp.matrix_transpose(x1), g)


def _linear_shape(x: Shape, weight: Shape, bias: Shape | None = None) -> Shape:
    return (*x[:-1], weight[0])


@primitive(
    math="y = x weightᵀ + bias",
    shape=_linear_shape,
    dtypes="floating-point",
    samples=[
        Sample(((3, 4), (2, 4), (2,))),
        Sample(((2, 3, 4), (5, 4))),
        Sample(((4,), (2, 4), (2,)), note="a vector"),
        Sample(((0, 4), (2, 4), (2,)), note="empty"),
    ],
    rejects=[
        Reject(((32, 128), (10, 64)), ShapeError, "linear: x is [32, 128] but weight expects in_features=64"),
        Reject(((3, 4), (2, 4), (3,)), ShapeError, "linear: bias is [3] but weight has out_features=2"),
    ],
)
def linear(xp: Any, x: Array, weight: Array, bias: Array | None = None, /) -> Array:
    """An affine map of the last axis.

    Args:
        x: ``[..., in_features]``.
        weight: ``[out_features, in_features]``.
        bias: ``[out_features]``, or None.

    Returns:
        ``[..., out_features]``.
    """
    if x.ndim == 0 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        if weight.ndim != 2:
            raise ShapeError(f"linear: weight must be [out_features, in_features], got {list(weight.shape)}")
        raise ShapeError(
            f"linear: x is {list(x.shape)} but weight expects in_features={weight.shape[1]}; "
            f"pass x with last axis {weight.shape[1]}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"linear: bias is {list(bias.shape)} but weight has out_features={weight.shape[0]}")
    if x.dtype != weight.dtype:
        raise mixed_dtypes("linear", x, weight)
    y = xp.matmul(_rows(xp, x), xp.matrix_transpose(weight))
    if bias is not None:
        y += bias
    return xp.reshape(y, (*x.shape[:-1], weight.shape[0]))


@linear.vjp("x")
def _(xp: Any, g: Array, weight: Array) -> Array:
    return xp.reshape(xp.matmul(_rows(xp, g), weight), (*g.shape[:-1], weight.shape[1]))


@linear.vjp("weight", "bias")
def _(xp: Any, g: Array, x: Array, needs: Any, into: Into) -> tuple[Array | None, Array | None]:
    rows = _rows(xp, g)
    written = {"out": into[1]} if into[1] is not None and into[1].dtype == g.dtype else {}
    return (
        sum_of_products(xp, rows, _rows(xp, x), into[0]) if needs[0] else None,
        xp.sum(rows, axis=0, **written) if needs[1] else None,
    )
