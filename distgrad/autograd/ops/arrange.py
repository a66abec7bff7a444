"""Arrays put together from others: diagonals, blocks, combinations, windows, and parts replaced by others."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.ops.linalg_products import diagonal_key
from distgrad.autograd.ops.shape_rules import Shape, first_shape, normalize_axes
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import plain
from distgrad.errors import AxisError, OptionError, OutOfBoundsError, ShapeError


def along(axis: int, part: Any) -> tuple[Any, ...]:
    """The key of a part of one axis; ``axis`` is not negative."""
    return (*(slice(None),) * axis, part)


def one_axis(axis: int, ndim: int, where: str) -> int:
    """An axis as a non-negative number; an array without axes counts as having one.

    Raises:
        AxisError: an axis outside.
    """
    return normalize_axes(axis, max(ndim, 1), where)[0]


def _two_axes(axis1: int, axis2: int, ndim: int, where: str) -> tuple[int, int]:
    first, second = (normalize_axes(axis, ndim, where)[0] for axis in (axis1, axis2))
    if first == second:
        raise AxisError(f"{where}: axis1 and axis2 are both axis {first}")
    return first, second


# -- diagonals and blocks


@composite(
    math="y[…, i, i + offset] = x[…, i], else 0",
    samples=[
        Sample(((2, 3),)),
        Sample(((2, 3),), {"offset": -1, "axis1": 0, "axis2": 2}),
        Sample(((3,),), {"offset": 2}),
    ],
    rejects=[
        Reject(((2, 3),), AxisError, "diag_embed: axis1 and axis2 are both axis 1", {"axis1": 1, "axis2": 1}),
        Reject(((2, 3),), AxisError, "axis 3", {"axis1": 3}),
        Reject(((),), ShapeError, "diag_embed: expected at least one axis"),
    ],
)
def diag_embed(xp: Any, x: Array, /, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Array:
    """Matrices with the last axis of an array on a diagonal.

    Args:
        x: at least one axis.
        offset: how far above the main diagonal.
        axis1, axis2: where the rows and columns stand in the result.
    """
    if not len(x.shape):
        raise ShapeError("diag_embed: expected at least one axis, got an array without")
    ndim = len(x.shape) + 1
    first, second = _two_axes(axis1, axis2, ndim, "diag_embed")
    size = x.shape[-1] + abs(offset)
    shape = (*x.shape[:-1], size, size)
    y = xp.put_zeros(x, diagonal_key(xp, shape, offset), shape)
    return xp.moveaxis(y, (ndim - 2, ndim - 1), (first, second))


@composite(
    math="y = x but source on a diagonal",
    shape=first_shape,
    samples=[
        Sample(((3, 4), (3,))),
        Sample(((2, 3, 4), (3, 1)), {"offset": -1, "axis1": 0, "axis2": 2}),
    ],
    rejects=[
        Reject(((3, 4), (2,)), ShapeError, "diagonal_scatter: source must be [3], got [2]"),
        Reject(((3, 4), (3,)), AxisError, "axis 2", {"axis2": 2}),
    ],
)
def diagonal_scatter(
    xp: Any, x: Array, source: Array, /, offset: int = 0, axis1: int = 0, axis2: int = 1
) -> Array:
    """The array with a diagonal replaced.

    Args:
        x: at least two axes.
        source: the other axes of ``x``, and the diagonal's length.
        offset: how far above the main diagonal.
        axis1, axis2: the rows and columns.
    """
    ndim = len(x.shape)
    first, second = _two_axes(axis1, axis2, ndim, "diagonal_scatter")
    turned = xp.moveaxis(x, (first, second), (ndim - 2, ndim - 1))
    key = diagonal_key(xp, turned.shape, offset)
    _must_be("diagonal_scatter", source, (*turned.shape[:-2], *key[1].shape))
    return xp.moveaxis(xp.setitem(turned, source, key), (ndim - 2, ndim - 1), (first, second))


def _must_be(where: str, source: Array, shape: Sequence[int]) -> None:
    if tuple(source.shape) != tuple(shape):
        raise ShapeError(f"{where}: source must be {list(shape)}, got {list(source.shape)}")


@composite(
    math="y = diag(x_1, x_2, …)",
    samples=[Sample(((1, 2), (3, 2))), Sample(((2,), (), (1, 1)), note="vectors"), Sample(((0, 2), (1, 1)))],
    rejects=[Reject(((1, 2, 3),), ShapeError, "block_diag: expected at most two axes")],
)
def block_diag(xp: Any, *arrays: Array) -> Array:
    """A matrix with the given ones along its diagonal, zeros elsewhere; a vector counts as a row."""
    if any(len(x.shape) > 2 for x in arrays):
        raise ShapeError(f"block_diag: expected at most two axes, got {[list(x.shape) for x in arrays]}")
    blocks = [xp.reshape(x, ((1, 1) + tuple(x.shape))[-2:]) for x in arrays]
    width, start, rows = sum(block.shape[1] for block in blocks), 0, []
    for block in blocks:
        stop = start + block.shape[1]
        rows.append(xp.put_zeros(block, (slice(None), slice(start, stop)), (block.shape[0], width)))
        start = stop
    return xp.concat(rows, axis=0)


@composite(
    math="y_k = the k-th choice of r elements of x",
    samples=[Sample(((4,),)), Sample(((3,),), {"r": 3, "with_replacement": True}), Sample(((2,),), {"r": 3})],
    rejects=[
        Reject(((2, 2),), ShapeError, "combinations: expected one axis, got [2, 2]"),
        Reject(((3,),), OptionError, "combinations: r must be 0 or more, got -1", {"r": -1}),
    ],
)
def combinations(xp: Any, x: Array, /, r: int = 2, with_replacement: bool = False) -> Array:
    """All choices of ``r`` elements of a vector, in the order of ``itertools``.

    Args:
        x: one axis.
        r: how many are chosen.
        with_replacement: whether an element may be chosen several times.

    Returns:
        ``[number of choices, r]``.
    """
    if len(x.shape) != 1:
        raise ShapeError(f"combinations: expected one axis, got {list(x.shape)}")
    if r < 0:
        raise OptionError(f"combinations: r must be 0 or more, got {r}")
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    chosen = np.array(list(choose(range(x.shape[0]), r)), dtype=np.int64).reshape(-1, r)
    return xp.getitem(x, (_there(xp, chosen),))


def _there(xp: Any, index: np.ndarray) -> Any:
    """Indices where the computation takes place."""
    return plain(xp.asarray(index))


@composite(
    math="y = all (x_1[i], x_2[j], …)",
    samples=[Sample(((2,), (3,))), Sample(((3,),), note="one")],
    rejects=[Reject(((2, 2), (3,)), ShapeError, "meshgrid: expected arrays with one axis")],
)
def cartesian_prod(xp: Any, *arrays: Array) -> Array:
    """All choices of one element from each of several vectors, the last running fastest; one by itself."""
    grids = xp.meshgrid(*arrays, indexing="ij")
    columns = [xp.reshape(grid, (-1,)) for grid in grids]
    return xp.stack(columns, axis=1) if len(columns) > 1 else xp.positive(columns[0])


# -- windows and any other walk through memory


@composite(
    math="y[…, i, …, k] = x[…, i step + k, …]",
    samples=[Sample(((5, 2), 0, 3, 1)), Sample(((2, 6), -1, 2, 3)), Sample(((), 0, 1, 1), note="no axes")],
    rejects=[
        Reject(((5, 2), 0, 6, 1), ShapeError, "unfold: size 6 is longer than axis 0 of [5, 2]"),
        Reject(((5, 2), 0, 2, 0), OptionError, "unfold: step must be at least 1, got 0"),
        Reject(((5, 2), 2, 2, 1), AxisError, "axis 2"),
    ],
)
def unfold_axis(xp: Any, x: Array, /, axis: int, size: int, step: int) -> Array:
    """Windows along an axis, as a new last axis; PyTorch's method ``unfold``.

    Args:
        x: any shape.
        axis: where the windows lie.
        size: their length.
        step: from one to the next.
    """
    place = one_axis(axis, len(x.shape), "unfold")
    if step < 1:
        raise OptionError(f"unfold: step must be at least 1, got {step}")
    if not len(x.shape):
        return xp.reshape(x, (size,)) if size == 1 else x[None][:0]
    if not 0 <= size <= x.shape[place]:
        raise ShapeError(f"unfold: size {size} is longer than axis {place} of {list(x.shape)}")
    return xp.windows(x, window=(size,), axes=(place,), stride=(step,), dilation=(1,))


def _walk(size: Sequence[int], stride: Sequence[int], start: int, length: int, where: str) -> np.ndarray:
    """The places that a walk with strides visits, in the flat array."""
    if len(size) != len(stride):
        raise ShapeError(f"{where}: size {tuple(size)} and stride {tuple(stride)} must have one length")
    if min((*size, *stride, start), default=0) < 0:
        raise OptionError(
            f"{where}: size, stride and storage_offset must not be negative, got {tuple(size)}, "
            f"{tuple(stride)} and {start}"
        )
    grids = np.meshgrid(*[np.arange(n) * s for n, s in zip(size, stride, strict=True)], indexing="ij")
    places = np.asarray(sum(grids, np.full(tuple(size), start)))
    if places.size and places.max() >= length:
        raise OutOfBoundsError(f"{where}: element {places.max()} is asked for, but there are {length}")
    return places


@composite(
    math="y[i, j, …] = x.flat[storage_offset + i stride_0 + j stride_1 + …]",
    shape=lambda x, size, stride, storage_offset=0: size,
    samples=[
        Sample(((3, 3),), {"size": (2, 2), "stride": (1, 2), "storage_offset": 1}),
        Sample(((16,),), {"size": (2, 2, 3), "stride": (1, 1, 1)}, note="overlapping"),
    ],
    rejects=[
        Reject(
            ((3,),),
            OutOfBoundsError,
            "take_strided: element 3 is asked for, but there are 3",
            {"size": (2, 2), "stride": (1, 2)},
        ),
        Reject(
            ((3,),), ShapeError, "take_strided: size (2,) and stride (1, 2)", {"size": (2,), "stride": (1, 2)}
        ),
        Reject(
            ((3,),),
            OptionError,
            "take_strided: size, stride and storage_offset",
            {"size": (2,), "stride": (-1,)},
        ),
    ],
)
def take_strided(
    xp: Any, x: Array, /, size: Shape, stride: Shape, storage_offset: int | None = None
) -> Array:
    """The elements in row order read with other strides; a copy, into which gradients add up.

    Args:
        x: any shape.
        size: the result's.
        stride: how many elements further the next one along each axis is.
        storage_offset: the first element; None is 0.
    """
    places = _walk(size, stride, storage_offset or 0, int(np.prod(x.shape)), "take_strided")
    return xp.getitem(xp.reshape(x, (-1,)), (_there(xp, places),))


@composite(
    math="y = x but y.flat[storage_offset + i stride_0 + …] = source[i, …]",
    shape=first_shape,
    samples=[Sample(((3, 3), (2, 2)), {"size": (2, 2), "stride": (1, 2), "storage_offset": 1})],
    rejects=[
        Reject(
            ((3, 3), (2,)), ShapeError, "source must be [2, 2], got [2]", {"size": (2, 2), "stride": (1, 2)}
        )
    ],
)
def put_strided(
    xp: Any, x: Array, source: Array, /, size: Shape, stride: Shape, storage_offset: int | None = None
) -> Array:
    """The array with the elements replaced that ``take_strided`` reads."""
    places = _walk(size, stride, storage_offset or 0, int(np.prod(x.shape)), "put_strided")
    _must_be("put_strided", source, size)
    flat = xp.setitem(xp.reshape(x, (-1,)), source, (_there(xp, places),))
    return xp.reshape(flat, x.shape)


# -- parts replaced


@composite(
    math="y = x but y[…, index, …] = source",
    shape=first_shape,
    samples=[Sample(((2, 3, 4), (2, 4), 1, -1))],
    rejects=[
        Reject(((2, 3), (2,), 1, 3), OutOfBoundsError, "select_scatter: index 3 is outside axis 1 of [2, 3]"),
        Reject(((2, 3), (3,), 1, 0), ShapeError, "select_scatter: source must be [2], got [3]"),
    ],
)
def select_scatter(xp: Any, x: Array, source: Array, /, axis: int, index: int) -> Array:
    """The array with what one index selects along an axis replaced."""
    place = normalize_axes(axis, len(x.shape), "select_scatter")[0]
    if not -x.shape[place] <= index < x.shape[place]:
        raise OutOfBoundsError(f"select_scatter: index {index} is outside axis {place} of {list(x.shape)}")
    _must_be("select_scatter", source, (*x.shape[:place], *x.shape[place + 1 :]))
    return xp.setitem(x, source, along(place, index))


@composite(
    math="y = x but y[…, start:end:step, …] = source",
    shape=first_shape,
    samples=[Sample(((2, 6), (2, 2), 1, 1, 5, 2)), Sample(((4, 3), (2, 3)), {"start": -2})],
    rejects=[
        Reject(((2, 3), (2, 2), 1), ShapeError, "slice_scatter: source must be [2, 3], got [2, 2]"),
        Reject(((2, 3), (2, 3), 1, 0, 3, 0), OptionError, "slice_scatter: step must be at least 1"),
    ],
)
def slice_scatter(
    xp: Any,
    x: Array,
    source: Array,
    /,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Array:
    """The array with a slice along an axis replaced."""
    place = normalize_axes(axis, len(x.shape), "slice_scatter")[0]
    if step < 1:
        raise OptionError(f"slice_scatter: step must be at least 1, got {step}")
    part = slice(start, end, step)
    length = len(range(*part.indices(x.shape[place])))
    _must_be("slice_scatter", source, (*x.shape[:place], length, *x.shape[place + 1 :]))
    return xp.setitem(x, source, along(place, part))
