"""Products of vectors, and what is read off a matrix's diagonal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import Shape, reduced_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import plain
from distgrad.errors import AxisError, ShapeError

_TWO_ORDERS = Reject(((2, 3), (3,)), AxisError, "vecdot: axis must be negative", {"axis": 0})


def _dotted(x1: Shape, x2: Shape, axis: int = -1) -> Shape:
    if x1[axis] != x2[axis]:
        raise ValueError(f"axis {axis} has {x1[axis]} and {x2[axis]} elements")
    return reduced_shape(np.broadcast_shapes(x1, x2), axis=axis)


@primitive(
    math="y = Σ_i x1_i* x2_i",
    shape=_dotted,
    dtypes="numeric",
    samples=[
        Sample(((3, 4), (3, 4))),
        Sample(((2, 3, 4), (4,)), note="broadcast"),
        Sample(((3, 4), (3, 4)), {"axis": -2}),
        Sample(((3, 4), (3, 4)), {"axis": 0}),
        Sample(((3, 0), (3, 0)), note="empty"),
    ],
    rejects=[Reject(((3,), (4,)), ShapeError, "vecdot"), _TWO_ORDERS],
)
def vecdot(xp: Any, x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """Inner products of vectors along an axis; the first is conjugated.

    Args:
        x1, x2: the same length along the axis; the other axes broadcast.
        axis: negative where the two have different numbers of axes.
    """
    if axis >= 0 and x1.ndim != x2.ndim:
        raise AxisError(
            f"vecdot: axis must be negative for arrays with {x1.ndim} and {x2.ndim} axes, got {axis}"
        )
    return xp.vecdot(x1, x2, axis=axis)


@vecdot.vjp("x1")
def _(xp: Any, g: Array, x2: Array, axis: int) -> Array:
    return xp.conj(xp.expand_dims(g, axis=axis) * x2)


@vecdot.vjp("x2")
def _(xp: Any, g: Array, x1: Array, axis: int) -> Array:
    return xp.expand_dims(g, axis=axis) * xp.conj(x1)


@composite(
    math="y[i.., j..] = Σ_k.. x1[i.., k..] x2[k.., j..]",
    dtypes="numeric",
    samples=[
        Sample(((2, 3, 4), (3, 4, 5))),
        Sample(((2, 3), (4, 5)), {"axes": 0}, note="outer product"),
        Sample(((2, 3, 4), (4, 2, 5)), {"axes": ((0, 2), (1, 0))}),
        Sample(((2, 3), (3, 2)), {"axes": ((-1, 0), (0, 1))}, note="to a number"),
        Sample(((2, 0), (0, 3)), {"axes": 1}, note="empty"),
    ],
    rejects=[
        Reject(
            ((2, 3), (4, 3)), ShapeError, "tensordot: axes (1,) of [2, 3] and (0,) of [4, 3]", {"axes": 1}
        ),
        Reject(((2, 3), (3,)), AxisError, "axis 2", {"axes": ((2,), (0,))}),
    ],
)
def tensordot(xp: Any, x1: Array, x2: Array, /, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Array:
    """Sum of products over several axes at once.

    Args:
        x1, x2: any shapes.
        axes: how many last axes of ``x1`` go with as many first axes of ``x2``, or the axes of each.
    """
    chosen = (range(-axes, 0), range(axes)) if isinstance(axes, int | np.integer) else axes
    first, second = (_in_order(part, len(x.shape)) for part, x in zip(chosen, (x1, x2), strict=True))
    kept1 = [i for i in range(len(x1.shape)) if i not in first]
    kept2 = [i for i in range(len(x2.shape)) if i not in second]
    if [x1.shape[i] for i in first] != [x2.shape[i] for i in second]:
        raise ShapeError(
            f"tensordot: axes {tuple(first)} of {list(x1.shape)} and {tuple(second)} of {list(x2.shape)} "
            "must have the same lengths"
        )
    inner = math.prod(x1.shape[i] for i in first)
    rows, columns = tuple(x1.shape[i] for i in kept1), tuple(x2.shape[i] for i in kept2)
    left = xp.reshape(xp.permute_dims(x1, (*kept1, *first)), (math.prod(rows), inner))
    right = xp.reshape(xp.permute_dims(x2, (*second, *kept2)), (inner, math.prod(columns)))
    return xp.reshape(xp.matmul(left, right), rows + columns)


def _in_order(axes: Sequence[int], ndim: int) -> list[int]:
    for axis in axes:
        if not -ndim <= axis < ndim:
            raise AxisError(f"tensordot: axis {axis} is outside an array with {ndim} axes")
    return [axis % ndim for axis in axes]


@composite(
    math="y[i, j] = x1_i x2_j",
    dtypes="numeric",
    samples=[Sample(((3,), (4,))), Sample(((0,), (4,)), note="empty")],
    rejects=[Reject(((3, 2), (4,)), ShapeError, "outer: expected two arrays with one axis")],
)
def outer(xp: Any, x1: Array, x2: Array, /) -> Array:
    """All products of an element of one vector with one of another."""
    if len(x1.shape) != 1 or len(x2.shape) != 1:
        raise ShapeError(
            f"outer: expected two arrays with one axis, got {list(x1.shape)} and {list(x2.shape)}"
        )
    return xp.expand_dims(x1, axis=1) * x2


@composite(
    math="y_i = x1_{i+1} x2_{i+2} - x1_{i+2} x2_{i+1}, indices modulo 3",
    dtypes="numeric",
    samples=[
        Sample(((2, 3), (2, 3))),
        Sample(((4, 1, 3), (2, 3)), note="broadcast"),
        Sample(((3, 2), (3, 2)), {"axis": 0}),
    ],
    rejects=[
        Reject(((2,), (2,)), ShapeError, "cross: expected length 3 along axis -1"),
        Reject(((3,), (3,)), AxisError, "axis 1", {"axis": 1}),
    ],
)
def cross(xp: Any, x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """Cross products of vectors with three elements along an axis.

    Args:
        x1, x2: length 3 along the axis; the other axes broadcast.
        axis: of the vectors.
    """
    for x in (x1, x2):
        if not -len(x.shape) <= axis < len(x.shape):
            raise AxisError(f"cross: axis {axis} is outside an array with {len(x.shape)} axes")
        if x.shape[axis] != 3:
            raise ShapeError(f"cross: expected length 3 along axis {axis}, got {list(x.shape)}")
    ahead, behind = ((xp.roll(x, -1, axis=axis), xp.roll(x, -2, axis=axis)) for x in (x1, x2))
    return ahead[0] * behind[1] - ahead[1] * behind[0]


def diagonal_key(xp: Any, shape: Shape, offset: int) -> tuple[Any, ...]:
    """The key of a diagonal of matrices.

    Raises:
        ShapeError: fewer than two axes.
    """
    if len(shape) < 2:
        raise ShapeError(f"diagonal: expected at least two axes, got {list(shape)}")
    down, right = max(-offset, 0), max(offset, 0)
    steps = plain(xp.arange(max(min(shape[-2] - down, shape[-1] - right), 0)))
    return (..., steps + down, steps + right)


def _diagonal_shape(x: Shape, offset: int = 0) -> Shape:
    return (*x[:-2], max(min(x[-2] - max(-offset, 0), x[-1] - max(offset, 0)), 0))


@primitive(
    math="y_i = x[i, i + offset]",
    shape=_diagonal_shape,
    view=True,
    samples=[Sample(((3, 4),)), Sample(((2, 3, 3),), {"offset": 1}), Sample(((4, 3),), {"offset": -2})],
    rejects=[Reject(((3,),), ShapeError, "diagonal: expected at least two axes")],
)
def diagonal(xp: Any, x: Array, /, *, offset: int = 0) -> Array:
    """A diagonal of matrices, as a view: the main one, or one that many above it."""
    if len(x.shape) < 2:
        raise ShapeError(f"diagonal: expected at least two axes, got {list(x.shape)}")
    return xp.writable_diagonal(x, offset)


@diagonal.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape, offset: int) -> Array:
    return xp.put_zeros(g, diagonal_key(xp, x_shape, offset), x_shape)


@composite(
    math="y = Σ_i x[i, i + offset]",
    dtypes="numeric",
    samples=[Sample(((3, 4),)), Sample(((2, 3, 3),), {"offset": -1})],
    rejects=[Reject(((3,),), ShapeError, "diagonal: expected at least two axes")],
)
def trace(xp: Any, x: Array, /, *, offset: int = 0, dtype: Any = None) -> Array:
    """The sum of a diagonal of matrices; ``dtype`` as in ``sum``."""
    return xp.sum(xp.getitem(x, diagonal_key(xp, x.shape, offset)), axis=-1, dtype=dtype)
