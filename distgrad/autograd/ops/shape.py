"""Operations that move elements without computing: reshape, transpose, join, convert."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.rules import Shape, normalize_axes, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import AxisError, ShapeError


def _reshaped(x: Shape, *, shape: Shape, **attributes: Any) -> Shape:
    known = math.prod(n for n in shape if n != -1)
    return tuple(math.prod(x) // known if n == -1 else n for n in shape)


@primitive(
    math="y = x with another shape",
    shape=_reshaped,
    view=True,
    samples=[Sample(((3, 4),), {"shape": (2, 6)}), Sample(((2, 3, 4),), {"shape": (6, -1)})],
    rejects=[Reject(((3, 4),), ShapeError, "reshape", {"shape": (5, 5)})],
)
def reshape(xp: Any, x: Array, /, shape: Shape, *, copy: bool | None = None) -> Array:
    """The same elements in the same order, in another shape; a view where it can be.

    Args:
        x: any shape.
        shape: the new lengths; one of them may be −1.
        copy: True always copies, False never does (an error where a copy is needed), None as needed.
    """
    return xp.reshape(x, shape, copy=copy)


@reshape.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape) -> Array:
    return xp.reshape(g, x_shape)


@primitive(
    math="y[i, j, …] = x[axes]",
    shape=lambda x, axes: tuple(x[axis] for axis in axes),
    view=True,
    samples=[Sample(((2, 3, 4),), {"axes": (2, 0, 1)}), Sample(((3, 4),), {"axes": (-1, 0)})],
    rejects=[Reject(((3, 4),), ShapeError, "axes", {"axes": (0,)})],
)
def permute_dims(xp: Any, x: Array, /, axes: tuple[int, ...]) -> Array:
    """The axes in another order, as a view."""
    return xp.permute_dims(x, axes)


@permute_dims.vjp("x")
def _(xp: Any, g: Array, axes: tuple[int, ...]) -> Array:
    return xp.permute_dims(g, tuple(int(i) for i in np.argsort([axis % len(axes) for axis in axes])))


@primitive(
    math="y = xᵀ over the last two axes",
    shape=lambda x: (*x[:-2], x[-1], x[-2]),
    view=True,
    samples=[Sample(((3, 4),)), Sample(((2, 3, 4),))],
    rejects=[Reject(((3,),), ShapeError, "matrix_transpose")],
)
def matrix_transpose(xp: Any, x: Array, /) -> Array:
    """Matrices turned over, as a view."""
    return xp.matrix_transpose(x)


@matrix_transpose.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return xp.matrix_transpose(g)


@primitive(
    math="y = x broadcast to shape",
    shape=lambda x, shape: shape,
    view=True,
    samples=[Sample(((3, 1),), {"shape": (2, 3, 4)}), Sample(((),), {"shape": (2,)})],
    rejects=[Reject(((3,),), ShapeError, "broadcast", {"shape": (2, 4)})],
)
def broadcast_to(xp: Any, x: Array, /, shape: Shape) -> Array:
    """The array repeated along new axes and axes of length 1, as a view that cannot be written."""
    return xp.broadcast_to(x, shape)


@broadcast_to.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return g  # the engine undoes the broadcasting


@primitive(
    math="y = x with an axis of length 1",
    view=True,
    samples=[Sample(((3, 4),), {"axis": 1}), Sample(((3,),), {"axis": -1})],
    rejects=[Reject(((3, 4),), AxisError, "axis 4", {"axis": 4})],
)
def expand_dims(xp: Any, x: Array, /, *, axis: int | tuple[int, ...] = 0) -> Array:
    """New axes of length 1, as a view; ``axis`` counts in the result."""
    return xp.expand_dims(x, axis)


@expand_dims.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape) -> Array:
    return xp.reshape(g, x_shape)


@primitive(
    math="y = x without axes of length 1",
    view=True,
    samples=[Sample(((3, 1, 4),), {"axis": 1}), Sample(((1, 3, 1),), {"axis": (0, 2)})],
    rejects=[
        Reject(((3, 4),), ShapeError, "squeeze", {"axis": 1}),
        Reject(((3, 4),), AxisError, "axis 2", {"axis": 2}),
    ],
)
def squeeze(xp: Any, x: Array, /, axis: int | tuple[int, ...]) -> Array:
    """Without the named axes, which must have length 1, as a view."""
    return xp.squeeze(x, axis)


@squeeze.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape) -> Array:
    return xp.reshape(g, x_shape)


@primitive(
    math="y = x1, x2, … one after another along an axis",
    samples=[
        Sample(([(2, 3), (4, 3)],)),
        Sample(([(2, 3), (2, 1), (2, 0)],), {"axis": 1}, note="empty"),
        Sample(([(2, 3), (4,)],), {"axis": None}, note="flattened"),
    ],
    rejects=[Reject(([(2, 3), (2, 4)],), ShapeError, "concat")],
)
def concat(xp: Any, *arrays: Array, axis: int | None = 0) -> Array:
    """Arrays joined along an axis that they have; ``axis=None`` flattens them first."""
    return xp.concat(arrays, axis=axis)


@concat.vjp("arrays")
def _(xp: Any, g: Array, arrays_shape: Any, axis: int | None, needs: Any) -> list[Array | None]:
    where = normalize_axes(axis, len(g.shape), "concat")[0] if axis is not None else 0
    out: list[Array | None] = []
    start = 0
    for shape, needed in zip(arrays_shape, needs, strict=True):
        stop = start + (math.prod(shape) if axis is None else shape[where])
        part = xp.getitem(g, (slice(None),) * where + (slice(start, stop),)) if needed else None
        out.append(xp.reshape(part, shape) if needed and axis is None else part)
        start = stop
    return out


@primitive(
    math="y = x1, x2, … along a new axis",
    samples=[Sample(([(2, 3), (2, 3)],)), Sample(([(2, 3)] * 3,), {"axis": -1})],
    rejects=[Reject(([(2, 3), (3, 2)],), ShapeError, "stack")],
)
def stack(xp: Any, *arrays: Array, axis: int = 0) -> Array:
    """Arrays of one shape joined along a new axis."""
    return xp.stack(arrays, axis=axis)


@stack.vjp("arrays")
def _(xp: Any, g: Array, axis: int, needs: Any) -> list[Array | None]:
    before = (slice(None),) * (axis % len(g.shape))
    return [xp.getitem(g, (*before, i)) if needed else None for i, needed in enumerate(needs)]


@primitive(
    math="y = x as another dtype",
    shape=same_shape,
    result="any",
    view=True,
    samples=[Sample(((3, 4),), {"dtype": np.dtype(np.float64)})],
)
def astype(xp: Any, x: Array, /, dtype: Any, *, copy: bool = True) -> Array:
    """The array converted; ``copy=False`` returns the same memory where the dtype is the same."""
    return x.astype(dtype, copy=copy)


@astype.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return g  # the engine brings it to the input's dtype
