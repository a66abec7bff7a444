"""Pooling to a given size: windows of a length, or two that differ by one, that cover an axis evenly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.conv import Sizes
from distgrad.autograd.ops.pool import at_places
from distgrad.autograd.ops.shape_rules import Shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import ShapeError


def _sizes(where: str, x: Shape, output_size: Any) -> Sizes:
    """A length for each spatial axis; None keeps the input's."""
    spatial = x[2:]
    wanted = (output_size,) * len(spatial) if isinstance(output_size, int | None) else tuple(output_size)
    if len(x) < 3 or len(wanted) != len(spatial):
        raise ShapeError(
            f"{where}: x is {list(x)} and output_size {output_size}; expected one for each axis but [N, C]"
        )
    sizes = tuple(n if size is None else int(size) for n, size in zip(spatial, wanted, strict=True))
    if min(sizes) < 1 or min(spatial) < 1:
        raise ShapeError(f"{where}: cannot pool {list(spatial)} to {list(sizes)}; lengths must be at least 1")
    return sizes


def _bounds(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First element of each window, and one past its last."""
    places = np.arange(size)
    return places * length // size, -(-(places + 1) * length // size)


def along_axis(xp: Any, x: Array, matrix: np.ndarray, axis: int) -> Array:
    """A matrix ``[out, in]`` times every vector of one axis."""
    order = [*(i for i in range(len(x.shape)) if i != axis), axis]
    y = xp.matmul(xp.permute_dims(x, tuple(order)), xp.asarray(matrix.T.astype(x.dtype)))
    return xp.permute_dims(y, tuple(order.index(i) for i in range(len(order))))


_SAMPLES = [
    Sample(((2, 3, 5), 2)),
    Sample(((2, 3, 4, 7),), {"output_size": (2, 3)}),
    Sample(((2, 1, 3, 4),), {"output_size": (None, 5)}, note="longer than the input"),
    Sample(((1, 2, 3, 4, 2), 1), note="three dimensions"),
    Sample(((1, 2, 6, 4),), {"output_size": (3, 2)}, note="windows of one length"),
    Sample(((0, 3, 5), 2), note="empty"),
]
_REJECTS = [
    Reject(((2, 3), 2), ShapeError, "one for each axis"),
    Reject(((2, 3, 5), 0), ShapeError, "at least 1"),
]


@composite(
    math="y[n, c, p] = mean of x[n, c, ⌊p n/size⌋ … ⌈(p + 1) n/size⌉ - 1]",
    dtypes="real floating-point",
    samples=_SAMPLES,
    rejects=_REJECTS,
)
def adaptive_avg_pool(xp: Any, x: Array, /, output_size: Any) -> Array:
    """Means of windows that cover each spatial axis evenly.

    Args:
        x: ``[N, C, *spatial]``.
        output_size: lengths of the result's spatial axes, or one for all; None keeps an axis.
    """
    sizes = _sizes("adaptive_avg_pool", x.shape, output_size)
    if max(sizes) > 1 and not any(n % size for n, size in zip(x.shape[2:], sizes, strict=True)):
        return xp.avg_pool(x, tuple(n // size for n, size in zip(x.shape[2:], sizes, strict=True)))
    for axis, size in enumerate(sizes, start=2):
        start, stop = _bounds(x.shape[axis], size)
        places = np.arange(x.shape[axis])
        inside = (places >= start[:, None]) & (places < stop[:, None])
        x = along_axis(xp, x, inside / (stop - start)[:, None], axis)
    return x


@primitive(
    math="y = place of each window's maximum",
    shape=lambda x, output_size: (*x[:2], *output_size),
    dtypes="real numeric",
    result="int64",
    samples=[Sample(((2, 3, 4, 7),), {"output_size": (2, 3)})],
)
def adaptive_argmax_pool(xp: Any, x: Array, /, *, output_size: Sizes) -> Array:
    """Index of each window's maximum in its channel's flattened plane, the first of several."""
    spatial, count = x.shape[2:], len(output_size)
    key: list[Any] = []
    flat = xp.zeros((), dtype=xp.int64)
    for axis, (n, size) in enumerate(zip(spatial, output_size, strict=True)):
        start, stop = _bounds(n, size)
        places = start[:, None] + np.arange((stop - start).max())
        places = np.minimum(places, stop[:, None] - 1)  # a shorter window names its last element again
        shape = [1] * (2 * count)
        shape[axis], shape[count + axis] = places.shape
        key.append(xp.asarray(places).reshape(shape))
        flat = flat + key[-1] * math.prod(spatial[axis + 1 :])
    windows = x[(slice(None), slice(None), *key)]
    windows = windows.reshape(*x.shape[:2], *output_size, math.prod(windows.shape[2 + count :]))
    best = xp.argmax(windows, axis=-1)[..., None]
    flat = xp.broadcast_to(flat.reshape(*output_size, windows.shape[-1]), windows.shape)
    return xp.take_along_axis(flat, best, -1)[..., 0]


@composite(
    math="y[n, c, p] = max of x[n, c, ⌊p n/size⌋ … ⌈(p + 1) n/size⌉ - 1], and its place",
    dtypes="real numeric",
    samples=_SAMPLES,
    rejects=_REJECTS,
)
def adaptive_max_pool(xp: Any, x: Array, /, output_size: Any) -> tuple[Array, Array]:
    """Largest elements of windows that cover each spatial axis evenly, and their indices.

    Args:
        x: ``[N, C, *spatial]``.
        output_size: lengths of the result's spatial axes, or one for all; None keeps an axis.

    Returns:
        values, places in the channel's flattened plane.
    """
    sizes = _sizes("adaptive_max_pool", x.shape, output_size)
    index = xp.adaptive_argmax_pool(x, output_size=sizes)
    return at_places(xp, x, index), index
