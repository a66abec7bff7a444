"""Running sums and products along an axis, and differences."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import Shape, in_float32, normalize_axes, total_dtype
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import AxisError, ShapeError

_SAMPLES = [
    Sample(((4,),)),
    Sample(((3, 4),), {"axis": 0}),
    Sample(((2, 3, 4),), {"axis": -2, "include_initial": True}),
    Sample(((0, 3),), {"axis": 0}, note="empty"),
]
_REJECTS = [
    Reject(((3, 4),), AxisError, "axis 2", {"axis": 2}),
    Reject(((3, 4),), ShapeError, "axis", {}),
]


def _running_shape(x: Shape, *, axis: Any = None, include_initial: bool = False, **attributes: Any) -> Shape:
    places = normalize_axes(axis, len(x), "shape")
    if len(places) != 1:
        raise ValueError("several axes: axis must name one of them")
    where = places[0]
    return tuple(n + (include_initial and i == where) for i, n in enumerate(x))


def _along(axis: int, part: slice) -> tuple[Any, ...]:
    """The key of a part of one axis; ``axis`` is not negative."""
    return (*(slice(None),) * axis, part)


def _reversed_sum(xp: Any, g: Array, axis: int | None, include_initial: bool) -> Array:
    """Running sums from the end, of the gradient without the initial element."""
    where = 0 if axis is None else axis % len(g.shape)
    if include_initial:
        g = xp.getitem(g, _along(where, slice(1, None)))
    return xp.flip(xp.cumulative_sum(xp.flip(g, axis=where), axis=where), axis=where)


@primitive(
    math="y_i = Σ_{j ≤ i} x_j",
    shape=_running_shape,
    result=total_dtype,
    dtypes="numeric",
    samples=_SAMPLES,
    rejects=_REJECTS,
)
def cumulative_sum(
    xp: Any,
    x: Array,
    /,
    axis: int | None = None,
    *,
    dtype: Any = None,
    include_initial: bool = False,
) -> Array:
    """Running sums along an axis.

    Args:
        x: at least one axis.
        axis: the axis to run along; None is enough for an array with one axis.
        dtype: of the result; None means that of ``x``, or the default integer for small integers.
        include_initial: start with a 0, which makes the axis one longer.
    """
    return in_float32(xp.cumulative_sum, x, axis=axis, dtype=dtype, include_initial=include_initial)


@cumulative_sum.vjp("x")
def _(xp: Any, g: Array, axis: int | None, include_initial: bool) -> Array:
    return _reversed_sum(xp, g, axis, include_initial)


@primitive(
    math="y_i = a_i y_{i-1} + b_i along the last axis",
    shape=lambda a, b: b,
    dtypes="floating-point",
    samples=[
        Sample(((3, 4), (3, 4))),
        Sample((np.array([2.0, 0.0, 0.5, 0.0, 0.0]), (5,)), note="zeros"),
        Sample(((2, 0), (2, 0)), note="empty"),
        Sample(((1,), (1,)), note="one element"),
    ],
    rejects=[Reject(((3, 4), (4,)), ShapeError, "linear_recurrence: a is [3, 4] but b is [4]")],
)
def linear_recurrence(xp: Any, a: Array, b: Array, /) -> Array:
    """First-order linear recurrence along the last axis, which starts from 0; a and b have one shape.

    Steps are joined in pairs, then in fours and so on: log₂ n passes over the array.

    Source: Hillis and Steele, "Data parallel algorithms", CACM 1986.
    """
    if a.shape != b.shape:
        raise ShapeError(
            f"linear_recurrence: a is {list(a.shape)} but b is {list(b.shape)}; pass two arrays of one shape"
        )
    steps, y, stride = a.copy(), b.copy(), 1
    while stride < y.shape[-1]:
        y[..., stride:] += steps[..., stride:] * y[..., :-stride]
        steps[..., stride:] *= steps[..., :-stride].copy()
        stride *= 2
    return y


def _reversed_recurrence(xp: Any, g: Array, a: Array) -> Array:
    """w_i = g_i + a_{i+1} w_{i+1}: what a change of b_i changes in the end."""
    following = xp.concat([a[..., 1:], xp.zeros_like(a[..., :1])], axis=-1)
    return xp.flip(xp.linear_recurrence(xp.flip(following, axis=-1), xp.flip(g, axis=-1)), axis=-1)


@linear_recurrence.vjp("a")
def _(xp: Any, g: Array, a: Array, y: Array) -> Array:
    previous = xp.concat([xp.zeros_like(y[..., :1]), y[..., :-1]], axis=-1)
    return _reversed_recurrence(xp, g, a) * previous


@linear_recurrence.vjp("b")
def _(xp: Any, g: Array, a: Array) -> Array:
    return _reversed_recurrence(xp, g, a)


@primitive(
    math="y_i = Π_{j ≤ i} x_j",
    shape=_running_shape,
    result=total_dtype,
    dtypes="numeric",
    samples=[
        *_SAMPLES,
        Sample((np.array([[2.0, 0.0, 3.0, 0.0, 1.5]]),), {"axis": 1}, note="zeros"),
    ],
    rejects=_REJECTS,
)
def cumulative_prod(
    xp: Any,
    x: Array,
    /,
    axis: int | None = None,
    *,
    dtype: Any = None,
    include_initial: bool = False,
) -> Array:
    """Running products along an axis; arguments as in ``cumulative_sum``, and it starts with a 1."""
    return in_float32(xp.cumulative_prod, x, axis=axis, dtype=dtype, include_initial=include_initial)


@cumulative_prod.vjp("x")
def _(xp: Any, g: Array, x: Array, axis: int | None, include_initial: bool) -> Array:
    where = 0 if axis is None else axis % len(x.shape)
    if include_initial:
        g = xp.getitem(g, _along(where, slice(1, None)))
    order = [i for i in range(len(x.shape)) if i != where] + [where]
    x, g = xp.permute_dims(x, tuple(order)), xp.permute_dims(g, tuple(order))
    before = xp.cumulative_prod(x, axis=-1, include_initial=True)[..., :-1]
    back = tuple(order.index(i) for i in range(len(order)))
    return xp.permute_dims(before * _reversed_recurrence(xp, g, x), back)  # no division: x may hold zeros


@composite(
    math="y_i = x_{i+1} - x_i, n times",
    dtypes="numeric",
    samples=[
        Sample(((3, 4),)),
        Sample(((5,),), {"n": 2}),
        Sample(((3, 4),), {"axis": 0, "prepend": np.ones((1, 4)), "append": np.ones((2, 4))}),
        Sample(((3, 1),), {"n": 3}, note="empty"),
    ],
    rejects=[
        Reject(((3, 4),), AxisError, "axis 2", {"axis": 2}),
        Reject(((3,),), ShapeError, "n", {"n": -1}),
    ],
)
def diff(
    xp: Any,
    x: Array,
    /,
    n: int = 1,
    axis: int = -1,
    *,
    prepend: Any = None,
    append: Any = None,
) -> Array:
    """Differences of neighbours along an axis.

    Args:
        x: at least one axis.
        axis: the axis to step along.
        n: how often differences are taken; 0 gives ``x`` itself.
        prepend, append: arrays joined to ``x`` before, along the axis.
    """
    if n < 0:
        raise ShapeError(f"diff: n must be 0 or more, got n={n}")
    where = normalize_axes(axis, len(x.shape), "diff")[0]
    parts = [part for part in (prepend, x, append) if part is not None] if n else [x]  # as NumPy
    y = x if len(parts) == 1 else xp.concat(parts, axis=where)
    for _ in range(n):
        y = xp.getitem(y, _along(where, slice(1, None))) - xp.getitem(y, _along(where, slice(None, -1)))
    return y
