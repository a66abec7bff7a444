"""Integrals and derivatives of what is sampled at points, and the polynomials through it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.ops.shape_rules import normalize_axes
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import AxisError, OptionError, ShapeError

_POINTS = np.array([0.0, 0.5, 1.5, 1.75])
_AREAS = [
    Sample(((3, 4),)),
    Sample(((3, 4),), {"dx": 0.5, "axis": 0}),
    Sample(((3, 4), _POINTS), note="points"),
]
_AREA_REJECTS = [
    Reject(((3, 4),), AxisError, "axis 2", {"axis": 2}),
    Reject(((3, 4), (3,)), ShapeError, "points has length 3 but values 4"),
]


def _along(axis: int, part: Any) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, part)


def _steps(xp: Any, values: Array, points: Array | None, dx: float, axis: int, where: str) -> Array:
    """The area between each point along an axis and the next."""
    pair = values[_along(axis, slice(1, None))] + values[_along(axis, slice(None, -1))]
    if points is None:
        return pair * (0.5 * dx)
    behind = len(values.shape) - axis - 1
    if len(points.shape) == 1:
        points = xp.reshape(points, (-1, *(1,) * behind))
    place = len(points.shape) - behind - 1
    if place < 0 or points.shape[place] != values.shape[axis]:
        raise ShapeError(
            f"{where}: points has length {points.shape[place]} but values {values.shape[axis]} "
            f"along axis {axis}"
        )
    width = points[_along(place, slice(1, None))] - points[_along(place, slice(None, -1))]
    return pair * width * 0.5


@composite(
    math="y = Σ_i (p_{i+1} - p_i)(v_i + v_{i+1}) / 2",
    dtypes="real numeric",
    samples=_AREAS,
    rejects=_AREA_REJECTS,
)
def trapezoid(xp: Any, values: Array, points: Array | None = None, dx: float = 1.0, axis: int = -1) -> Array:
    """The integral along an axis by the trapezoidal rule.

    Args:
        values: the function's values.
        points: where they were taken, one axis or as many as ``values``; None means every ``dx``.
        dx: the step between two points, where ``points`` is not given.
        axis: to integrate along.
    """
    place = normalize_axes(axis, len(values.shape), "trapezoid")[0]
    return xp.sum(_steps(xp, values, points, dx, place, "trapezoid"), axis=place)


@composite(
    math="y_k = Σ_{i ≤ k} (p_{i+1} - p_i)(v_i + v_{i+1}) / 2",
    dtypes="real numeric",
    samples=_AREAS,
    rejects=_AREA_REJECTS,
)
def cumulative_trapezoid(
    xp: Any, values: Array, points: Array | None = None, dx: float = 1.0, axis: int = -1
) -> Array:
    """The running integral along an axis, one element shorter; arguments as in ``trapezoid``."""
    place = normalize_axes(axis, len(values.shape), "cumulative_trapezoid")[0]
    return xp.cumulative_sum(_steps(xp, values, points, dx, place, "cumulative_trapezoid"), axis=place)


@composite(
    math="y_i = (x_{i+1} - x_{i-1}) / 2h, and one-sided at the ends",
    source="Fornberg, Mathematics of Computation, 1988 (uneven points)",
    dtypes="floating-point",
    samples=[
        Sample(((4, 5),)),
        Sample(((4, 5),), {"axis": 1, "spacing": 0.5, "edge_order": 2}),
        Sample(((4, 3),), {"axis": 0, "spacing": [_POINTS], "edge_order": 2}, note="points"),
    ],
    rejects=[
        Reject(((4, 1),), ShapeError, "gradient: axis 1 has length 1, but edge_order=1 needs 2"),
        Reject(((4, 5),), OptionError, "edge_order must be 1 or 2", {"edge_order": 3}),
        Reject(((4, 5),), AxisError, "axis 2", {"axis": 2}),
        Reject(((4, 5),), ShapeError, "expected 2 spacings", {"spacing": [1.0, 2.0, 3.0]}),
    ],
)
def gradient(xp: Any, x: Array, /, *, spacing: Any = None, axis: Any = None, edge_order: int = 1) -> Any:
    """Derivatives along axes of a function given by its values.

    Args:
        x: the values.
        spacing: the step between points: a number, or one for each axis, or the points themselves; None
            is 1.
        axis: the axes to differentiate along; None means all.
        edge_order: 1 or 2, the order of the one-sided differences at the ends.

    Returns:
        One array an axis.
    """
    if edge_order not in (1, 2):
        raise OptionError(f"gradient: edge_order must be 1 or 2, got {edge_order!r}")
    axes = normalize_axes(axis, len(x.shape), "gradient")
    if not isinstance(spacing, list | tuple):
        spacing = [1.0 if spacing is None else spacing] * len(axes)
    if len(spacing) != len(axes):
        raise ShapeError(f"gradient: expected {len(axes)} spacings, one an axis, got {len(spacing)}")
    return tuple(
        _derivative(xp, x, place, points, edge_order) for place, points in zip(axes, spacing, strict=True)
    )


def _derivative(xp: Any, x: Array, axis: int, points: Any, edge_order: int) -> Array:
    length = x.shape[axis]
    if length < edge_order + 1:
        raise ShapeError(
            f"gradient: axis {axis} has length {length}, but edge_order={edge_order} needs {edge_order + 1}"
        )
    points = points.tolist() if hasattr(points, "tolist") else points
    at = np.asarray(points if isinstance(points, list) else np.arange(length) * points, np.float64)
    weights = np.zeros((length, length))
    for i in range(length):
        first = min(max(i - 1, 0), max(length - 3, 0))
        near = range(first, min(first + 3, length))
        if i in (0, length - 1) and edge_order == 1:
            near = range(2) if i == 0 else range(length - 2, length)
        weights[i, list(near)] = _stencil(at[list(near)] - at[i])
    turned = xp.moveaxis(x, axis, -1)
    dtype = np.float32 if x.dtype.char in "eE" else x.dtype
    y = xp.matmul(xp.astype(turned, dtype), xp.asarray(weights.T, dtype=dtype))
    return xp.moveaxis(xp.astype(y, x.dtype, copy=False), -1, axis)


def _stencil(offsets: np.ndarray) -> np.ndarray:
    """The weights of values at offsets that give the first derivative at 0 of the polynomial through them."""
    powers = np.vander(offsets, increasing=True).T
    wanted = np.zeros(len(offsets))
    wanted[1] = 1.0
    return np.linalg.solve(powers, wanted)


@composite(
    math="y[…, i, j] = x[…, i]^(N-1-j), or ^j",
    dtypes="numeric",
    samples=[Sample(((4,),)), Sample(((2, 3),), {"N": 5, "increasing": True}), Sample(((3,),), {"N": 0})],
    rejects=[Reject(((3,),), OptionError, "N must be 0 or more", {"N": -1})],
)
def vander(xp: Any, x: Array, /, N: int | None = None, increasing: bool = False) -> Array:
    """Powers of every element, along a new last axis.

    Args:
        x: any shape.
        N: how many powers; None means as many as the last axis is long.
        increasing: from the 0th up, rather than down to it.
    """
    count = math.prod(x.shape[-1:]) if N is None else N
    if count < 0:
        raise OptionError(f"vander: N must be 0 or more, got {N}")
    column = xp.expand_dims(x, axis=-1)
    repeated = xp.broadcast_to(column, (*x.shape, max(count - 1, 0)))
    powers = xp.cumulative_prod(repeated, axis=-1, include_initial=True)[..., :count]
    return powers if increasing else xp.flip(powers, axis=-1)
