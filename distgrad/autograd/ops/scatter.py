"""Choosing and adding elements by index: gather, scatter, top k, masks.

``gather_elements`` reads one element an index and ``scatter_elements`` adds one there; each is linear and the
other's gradient. The rest is made of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import Shape, broadcast_shape, first_dtype, normalize_axes
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import at_hand
from distgrad.errors import AxisError, DTypeError, OutOfBoundsError, ShapeError

_INDEX = np.array([[2, 0, 2, 1], [0, 0, 1, 2]])
_ROWS = np.array([2, 0, 2])


def check_index(where: str, index: Array, length: int) -> None:
    """Indices must be whole numbers in 0 … length − 1; those on a device are not read, as it would wait.

    Raises:
        DTypeError: indices that are no integers.
        OutOfBoundsError: one outside.
    """
    if index.dtype.kind not in "iu":
        raise DTypeError(f"{where}: index must hold integers, got {index.dtype}")
    if at_hand(index) and index.size and (index.min() < 0 or index.max() >= length):
        bad = index[(index < 0) | (index >= length)].reshape(-1)[0]
        raise OutOfBoundsError(f"{where}: index holds {bad}, but the axis has length {length}")


def key_of_elements(xp: Any, where: str, index: Array, shape: Shape, axis: int) -> tuple[Any, ...]:
    """The key of the elements of an array of ``shape`` that ``index`` names along ``axis``."""
    place = normalize_axes(axis, len(shape), where)[0]
    fits = len(index.shape) == len(shape) and all(
        n <= m for i, (n, m) in enumerate(zip(index.shape, shape, strict=True)) if i != place
    )
    if not fits:
        raise ShapeError(
            f"{where}: index is {list(index.shape)} but the array is {list(shape)}; it needs as many axes "
            f"and be no longer, except on axis {axis}"
        )
    check_index(where, index, shape[place])
    grid: list[Any] = list(xp.ogrid[tuple(slice(n) for n in index.shape)])
    grid[place] = index
    return tuple(grid)


def add_at_positions(xp: Any, size: int, positions: Array, values: Array) -> Array:
    """A flat array of zeros with values added at positions; equal positions add up in order."""
    out = xp.zeros(size, dtype=values.dtype)
    return xp.add_at(out, positions.reshape(-1), values.reshape(-1))  # one axis is add.at's fast case


@primitive(
    math="y[i, j, …] = x[i, index[i, j, …], …]",
    shape=lambda x, index, axis: index,
    result=first_dtype,
    samples=[
        Sample(((3, 4), _INDEX), {"axis": 0}),
        Sample(((2, 5), _INDEX), {"axis": -1}),
        Sample(((4, 5, 3), _INDEX[:, :, None]), {"axis": 1}, note="a shorter index"),
        Sample(((2, 4), _INDEX[:0]), {"axis": 0}, note="empty"),
    ],
    rejects=[
        Reject(((2, 4), _INDEX), OutOfBoundsError, "index holds 2", {"axis": 0}),
        Reject(((3, 4), _ROWS), ShapeError, "as many axes", {"axis": 0}),
        Reject(((3, 4), _INDEX), AxisError, "axis 2", {"axis": 2}),
        Reject(((3, 4), _INDEX * 1.0), DTypeError, "must hold integers", {"axis": 0}),
    ],
)
def gather_elements(xp: Any, x: Array, index: Array, /, *, axis: int) -> Array:
    """One element an index, along an axis; the other coordinates are the index's own."""
    return x[key_of_elements(xp, "gather", index, x.shape, axis)]


@gather_elements.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape, index: Array, axis: int) -> Array:
    return xp.scatter_elements(g, index, axis=axis, shape=x_shape)


@primitive(
    math="y[i, index[i, j, …], …] = Σ source[i, j, …]",
    shape=lambda source, index, axis, shape: shape,
    result=first_dtype,
    samples=[
        Sample(((2, 4), _INDEX), {"axis": 0, "shape": (3, 4)}),
        Sample(((2, 4), _INDEX), {"axis": -1, "shape": (2, 5)}),
        Sample(((2, 4, 1), _INDEX[:, :, None]), {"axis": 1, "shape": (4, 5, 3)}, note="a shorter index"),
        Sample(((0, 4), _INDEX[:0]), {"axis": 0, "shape": (2, 4)}, note="empty"),
    ],
    rejects=[
        Reject(((3, 4), _INDEX), ShapeError, "source is [3, 4]", {"axis": 0, "shape": (3, 4)}),
        Reject(((2, 4), _INDEX), OutOfBoundsError, "index holds 2", {"axis": 0, "shape": (2, 4)}),
    ],
)
def scatter_elements(xp: Any, source: Array, index: Array, /, *, axis: int, shape: Shape) -> Array:
    """Zeros with each element of ``source`` added where its index points; the transpose of gathering."""
    if source.shape != index.shape:
        raise ShapeError(f"scatter: source is {list(source.shape)} but index {list(index.shape)}")
    grid = key_of_elements(xp, "scatter", index, shape, axis)
    positions = sum(part * math.prod(shape[i + 1 :]) for i, part in enumerate(grid))
    return add_at_positions(xp, math.prod(shape), positions, source).reshape(shape)


@scatter_elements.vjp("source")
def _(xp: Any, g: Array, index: Array, axis: int) -> Array:
    return xp.gather_elements(g, index, axis=axis)


# -- PyTorch's names


@composite(
    math="y[i, j, …] = x[i, index[i, j, …], …]",
    samples=[
        Sample(((3, 4), 0, _INDEX)),
        Sample(((4, 5, 3), 1, _INDEX[:, :, None])),
        Sample(((5,), 0, np.zeros((2, 0), np.int64)), note="no index"),
        Sample(((), 0, np.zeros(3, np.int64)), note="no axes"),
    ],
    rejects=[Reject(((2, 4), 0, _INDEX), OutOfBoundsError, "index holds 2")],
)
def gather(xp: Any, x: Array, /, axis: int, index: Array) -> Array:
    """One element an index, along an axis.

    Args:
        x: any shape.
        axis: the axis that indices count along.
        index: integers; as many axes as ``x``, no longer than it on any but ``axis``; or none at all. An
            ``x`` without axes counts as one element.

    Returns:
        The index's shape.
    """
    if not math.prod(index.shape):
        return xp.take(xp.reshape(x, (-1,)), index, axis=0)
    if not len(x.shape):
        found = xp.gather_elements(xp.reshape(x, (1,)), xp.reshape(index, (-1,)), axis=axis)
        return xp.reshape(found, index.shape)
    return xp.gather_elements(x, index, axis=axis)


@composite(
    math="y[i, index[i, j, …], …] = x + Σ source[i, j, …]",
    samples=[
        Sample(((3, 4), 0, _INDEX, (2, 4))),
        Sample(((4, 5), 1, _INDEX, (3, 6)), note="more source than index"),
    ],
    rejects=[Reject(((2, 4), 0, _INDEX, (2, 4)), OutOfBoundsError, "index holds 2")],
)
def scatter_add(xp: Any, x: Array, /, axis: int, index: Array, source: Array) -> Array:
    """``x`` with each element of ``source`` added where its index points.

    Args:
        x: any shape.
        axis: the axis that indices count along.
        index: integers; as many axes as ``x``, no longer than it on any but ``axis``.
        source: at least as long as ``index`` on every axis.
    """
    used = source[tuple(slice(n) for n in index.shape)]
    return x + xp.scatter_elements(used, index, axis=axis, shape=x.shape)


@composite(
    math="y = x[:, index, …]",
    samples=[
        Sample(((3, 4), 0, _ROWS)),
        Sample(((2, 3, 4), -2, _ROWS)),
        Sample(((3, 4), 0, _ROWS[:0]), note="empty"),
    ],
    rejects=[
        Reject(((2, 4), 0, _ROWS), OutOfBoundsError, "index holds 2"),
        Reject(((3, 4), 0, _INDEX), ShapeError, "one axis"),
    ],
)
def index_select(xp: Any, x: Array, /, axis: int, index: Array) -> Array:
    """Parts of an axis, in any order.

    Args:
        x: any shape.
        axis: the axis to choose from.
        index: integers ``[n]``.
    """
    return xp.gather_elements(x, _along(xp, "index_select", index, x.shape, axis), axis=axis)


def _along(xp: Any, where: str, index: Array, shape: Shape, axis: int) -> Array:
    """An index with one axis, repeated over the other axes of an array of ``shape``."""
    place = normalize_axes(axis, len(shape), where)[0]
    if len(index.shape) != 1:
        raise ShapeError(f"{where}: index must have one axis, got {list(index.shape)}")
    column = xp.reshape(index, (-1, *(1,) * (len(shape) - place - 1)))
    return xp.broadcast_to(column, (*shape[:place], *index.shape, *shape[place + 1 :]))


@composite(
    math="y[:, index[n], …] = x + alpha Σ source[:, n, …]",
    samples=[
        Sample(((3, 4), 0, _ROWS, (3, 4))),
        Sample(((2, 3, 4), 1, _ROWS, (2, 3, 4)), {"alpha": 0.5}),
    ],
    rejects=[
        Reject(((2, 4), 0, _ROWS, (3, 4)), OutOfBoundsError, "index holds 2"),
        Reject(((3, 4), 0, _ROWS, (2, 4)), ShapeError, "source is [2, 4]"),
    ],
)
def index_add(xp: Any, x: Array, /, axis: int, index: Array, source: Array, *, alpha: float = 1) -> Array:
    """``x`` with parts of ``source`` added to the parts of an axis that ``index`` names.

    Args:
        x: any shape.
        axis: the axis that indices count along.
        index: integers ``[n]``; one that comes twice adds twice.
        source: as ``x``, with length n on ``axis``.
        alpha: what ``source`` is multiplied by.
    """
    spread = _along(xp, "index_add", index, x.shape, axis)
    added = xp.scatter_elements(source, spread, axis=axis, shape=x.shape)
    return x + (added if alpha == 1 else alpha * added)


@composite(
    math="y = value where mask, else x",
    shape=lambda x, mask, value: broadcast_shape(x, mask),
    samples=[
        Sample(((2, 3), np.array([True, False, True]), 2.0), note="a number"),
        Sample(((2, 3), np.array([[True], [False]]), ())),
    ],
)
def masked_fill(xp: Any, x: Array, mask: Array, value: Array, /) -> Array:
    """Elements replaced by one value where a mask is true.

    Args:
        x: any shape.
        mask: booleans that broadcast with ``x``.
        value: a number or an array without axes.
    """
    return xp.where(mask, value, x)


@composite(
    math="y = the x where mask, one after another",
    samples=[
        Sample(((2, 3), np.array([True, False, True]))),
        Sample(((2, 3), np.array([[True], [False]]))),
        Sample(((2, 3), np.array(False)), note="nothing"),
    ],
)
def masked_select(xp: Any, x: Array, mask: Array, /) -> Array:
    """The elements for which a mask is true, as one axis."""
    shape = np.broadcast_shapes(x.shape, mask.shape)
    return xp.broadcast_to(x, shape)[xp.broadcast_to(mask, shape)]


# -- the largest


@primitive(
    math="y = indices of the k largest (smallest) x",
    shape=lambda x, k, axis=-1, **attributes: tuple(k if i == axis % len(x) else n for i, n in enumerate(x)),
    dtypes="real numeric",
    result="int64",
    samples=[
        Sample(((3, 4),), {"k": 2}),
        Sample(((5, 3),), {"k": 5, "axis": 0, "largest": False}),
        Sample((np.array([3, 1, 3, 2], dtype=np.uint8),), {"k": 3}, note="ties"),
        Sample(((3, 4),), {"k": 0}, note="none"),
    ],
    rejects=[
        Reject(((3, 4),), ShapeError, "k must be in 0 ... 4, got 5", {"k": 5}),
        Reject(((3, 4),), AxisError, "axis 2", {"k": 1, "axis": 2}),
    ],
)
def argtopk(xp: Any, x: Array, /, k: int, *, axis: int = -1, largest: bool = True) -> Array:
    """Indices of the largest or smallest elements along an axis, best first."""
    place = normalize_axes(axis, x.ndim, "topk")[0]
    length = x.shape[place]
    if not 0 <= k <= length:
        raise ShapeError(f"topk: k must be in 0 ... {length}, got {k}")
    edge = min(max(length - k if largest else k - 1, 0), length - 1)
    index = xp.argpartition(x, edge, axis=place) if k else xp.argsort(x, axis=place)
    index = index[(*(slice(None),) * place, slice(length - k, None) if largest else slice(k))]
    index = xp.sort(index, axis=place)  # equal ones come in one order on every device
    order = xp.argsort(xp.take_along_axis(x, index, place), axis=place, kind="stable")
    index = xp.take_along_axis(index, order, place)
    return xp.flip(index, axis=place) if largest else index


@composite(
    math="y = the k largest (smallest) x, and their indices",
    dtypes="real numeric",
    samples=[
        Sample(((3, 4), 2)),
        Sample(((5, 3), 2), {"axis": 0, "largest": False}),
        Sample(((3, 4), 4), note="all"),
    ],
    rejects=[Reject(((3, 4), 5), ShapeError, "k must be in 0 ... 4, got 5")],
)
def topk(xp: Any, x: Array, /, k: int, axis: int = -1, largest: bool = True) -> tuple[Array, Array]:
    """The largest or smallest elements along an axis, best first.

    Args:
        x: any shape.
        k: how many.
        axis: where they compete.
        largest: False for the smallest.

    Returns:
        values, indices.
    """
    index = xp.argtopk(x, k, axis=axis, largest=largest)
    return xp.gather_elements(x, index, axis=axis), index


@primitive(
    math="y[…, c] = 1 where x = c, else 0",
    shape=lambda x, num_classes, **attributes: (*x, num_classes),
    dtypes="integer",
    result="any",
    samples=[
        Sample((_ROWS,), {"num_classes": 4}),
        Sample((_INDEX,), {"num_classes": 3, "dtype": np.dtype(np.float32)}),
    ],
    rejects=[
        Reject((_ROWS,), OutOfBoundsError, "index holds 2", {"num_classes": 2}),
        Reject((_ROWS * 1.0,), DTypeError, "x must be integer", {"num_classes": 3}),
    ],
)
def one_hot(xp: Any, x: Array, /, num_classes: int = -1, *, dtype: Any = np.int64) -> Array:
    """A one at each class number, zeros elsewhere, on a new last axis.

    Args:
        x: class numbers, any shape.
        num_classes: length of the new axis; −1 means the largest number plus one.
        dtype: of the result.
    """
    if num_classes == -1:
        num_classes = int(x.max()) + 1 if x.size else 0
    check_index("one_hot", x, num_classes)
    return (x[..., None] == xp.arange(num_classes)).astype(dtype)
