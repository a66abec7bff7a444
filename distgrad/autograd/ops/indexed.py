"""Elements replaced or combined by index: index_fill and its kin, scatter_reduce, masked_scatter, put."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.failures import check_devices
from distgrad.autograd.ops.arrange import along, one_axis
from distgrad.autograd.ops.scatter import add_at_positions, check_index, key_of_elements
from distgrad.autograd.ops.shape_rules import first_dtype, first_shape
from distgrad.autograd.primitive import REGISTRY, Reject, Sample
from distgrad.backend.device import at_hand, plain
from distgrad.errors import AxisError, DTypeError, OptionError, OutOfBoundsError, ShapeError

_INDEX = np.array([[2, 0, 2, 1], [0, 0, 1, 2]])
_ROWS = np.array([2, 0])
_REPEATED = np.array([2, 0, 2])


def _part(where: str, x: Array, axis: int, index: Array) -> tuple[Any, ...]:
    """The key of the parts of an axis that an index with one axis names."""
    place = one_axis(axis, len(x.shape), where)
    if len(index.shape) > 1:
        raise ShapeError(f"{where}: index must have one axis, got {list(index.shape)}")
    index = plain(index)
    check_devices(REGISTRY[where], (plain(x), index))
    check_index(where, index, (*x.shape, 1)[place])
    return along(place, index.reshape(-1))


def _with_axis(xp: Any, x: Array) -> Array:
    return x if len(x.shape) else xp.reshape(x, (1,))


@composite(
    math="y = x but y[…, index, …] = value",
    shape=first_shape,
    samples=[Sample(((3, 4), 0, _ROWS, 2.0)), Sample(((2, 3), -1, _REPEATED, ()), note="an array")],
    rejects=[
        Reject(((2, 4), 0, _ROWS, 1.0), OutOfBoundsError, "index_fill: index holds 2"),
        Reject(((3, 4), 0, _ROWS, (2,)), ShapeError, "index_fill: value must be one number, got [2]"),
        Reject(((3, 4), 0, _INDEX, 1.0), ShapeError, "index_fill: index must have one axis"),
        Reject(((3, 4), 2, _ROWS, 1.0), AxisError, "axis 2"),
    ],
)
def index_fill(xp: Any, x: Array, /, axis: int, index: Array, value: Any) -> Array:
    """The array with one number in the parts of an axis that ``index`` names.

    Args:
        x: any shape.
        axis: the axis that indices count along.
        index: integers ``[n]``.
        value: a number, or an array without axes.
    """
    if getattr(value, "shape", ()):
        raise ShapeError(f"index_fill: value must be one number, got {list(value.shape)}")
    y, key = _with_axis(xp, x), _part("index_fill", x, axis, index)
    ones = xp.ones(key[-1].shape, dtype=np.int64)
    named = xp.put_zeros(ones, key[-1:], y.shape[len(key) - 1 : len(key)]) > 0
    mask = xp.reshape(named, (-1, *(1,) * (len(y.shape) - len(key))))
    value = xp.astype(value, x.dtype) if hasattr(value, "dtype") else value
    return xp.reshape(xp.where(mask, value, y), x.shape)


@composite(
    math="y = x but y[…, index_n, …] = source[…, n, …]",
    shape=first_shape,
    samples=[Sample(((3, 4), 0, _ROWS, (2, 4)))],
    rejects=[
        Reject(((2, 4), 0, _ROWS, (2, 4)), OutOfBoundsError, "index_copy: index holds 2"),
        Reject(((3, 4), 0, _ROWS, (3, 4)), ShapeError, "index_copy: source must be [2, 4], got [3, 4]"),
    ],
)
def index_copy(xp: Any, x: Array, /, axis: int, index: Array, source: Array) -> Array:
    """The array with parts of ``source`` in the places of the parts of an axis that ``index`` names.

    Args:
        x: any shape.
        axis: the axis that indices count along.
        index: integers ``[n]``; of one that comes twice the last counts.
        source: as ``x``, with length n on ``axis``.
    """
    y, key = _with_axis(xp, x), _part("index_copy", x, axis, index)
    shape = (*y.shape[: len(key) - 1], key[-1].shape[0], *y.shape[len(key) :])
    if len(x.shape) and tuple(source.shape) != shape:
        raise ShapeError(f"index_copy: source must be {list(shape)}, got {list(source.shape)}")
    return xp.reshape(xp.setitem(y, xp.reshape(source, shape), key), x.shape)


# -- combining what has one index

_COMBINE: dict[str, Callable[[Any], Any]] = {
    "prod": lambda xp: xp.multiply,
    "amax": lambda xp: xp.maximum,
    "amin": lambda xp: xp.minimum,
}


def _totals(xp: Any, positions: Array, values: Array, size: int, kind: str) -> tuple[Array, Array]:
    """The values of each position combined, and how many there are.

    Values are sorted by position, and those of one position joined in pairs, then in fours and so on.
    """
    order = xp.argsort(positions, kind="stable")
    positions, values = positions[order], values[order]
    combine, stride = _COMBINE[kind](xp), 1
    while stride < positions.shape[0]:
        same = positions[stride:] == positions[:-stride]
        joined = combine(values[stride:], values[:-stride])
        values = xp.concat([values[:stride], xp.where(same, joined, values[stride:])])
        stride *= 2
    last = xp.concat([positions[1:] != positions[:-1], xp.ones(min(positions.shape[0], 1), dtype=bool)])
    counts = add_at_positions(xp, size, positions, xp.ones(positions.shape, dtype=np.int64))
    ends = xp.where(last, values, xp.zeros((), dtype=values.dtype))
    return add_at_positions(xp, size, positions, ends), counts


@primitive(
    math="y[i, index[i, j], …] = x and all source[i, j, …] combined",
    shape=first_shape,
    result=first_dtype,
    dtypes="real numeric",
    samples=[
        *[Sample(((3, 4), (2, 4), _INDEX), {"axis": 0, "kind": kind}) for kind in _COMBINE],
        Sample(((3, 4), (2, 4), _INDEX), {"axis": 0, "kind": "prod", "include_self": False}),
        Sample(((2, 3), (2, 4), _INDEX), {"axis": 1, "kind": "amax", "include_self": False}),
        Sample(
            (np.array([[1.0, 2.0, 0.0]]), np.array([[0.0, 0.0, 3.0, 0.0]]), _INDEX[:1]),
            {"axis": 1, "kind": "prod"},
            note="zeros",
            grad=False,
        ),
        Sample(((3, 4), (0, 4), _INDEX[:0]), {"axis": 0, "kind": "prod"}, note="empty"),
    ],
    rejects=[
        Reject(((2, 4), (2, 4), _INDEX), OutOfBoundsError, "index holds 2", {"axis": 0, "kind": "amax"})
    ],
)
def scatter_combine(
    xp: Any, x: Array, source: Array, index: Array, /, *, axis: int, kind: str, include_self: bool = True
) -> Array:
    """Products or extrema of what has one index; extrema that tie share the gradient evenly."""
    grid = key_of_elements(xp, "scatter_reduce", index, x.shape, axis)
    positions = sum(part * math.prod(x.shape[i + 1 :]) for i, part in enumerate(grid))
    positions = xp.broadcast_to(positions, index.shape).reshape(-1)
    values = source[tuple(slice(n) for n in index.shape)].reshape(-1).astype(x.dtype, copy=False)
    totals, counts = (each.reshape(x.shape) for each in _totals(xp, positions, values, x.size, kind))
    return xp.where(counts == 0, x, _COMBINE[kind](xp)(x, totals) if include_self else totals)


def _used(source: Array, index: Array) -> tuple[Array, tuple[Any, ...]]:
    key = tuple(slice(n) for n in index.shape)
    return source[key], key


def _counts(xp: Any, mask: Array, index: Array, axis: int, like: Array) -> Array:
    """How many elements of a mask go to each place."""
    return xp.scatter_elements(xp.astype(mask, like.dtype), index, axis=axis, shape=like.shape)


def _prod_gradients(xp: Any, g: Array, x: Array, used: Array, index: Array, axis: int, own: bool) -> Any:
    ones, zero = xp.ones_like(x), used == 0
    g_x = g * xp.scatter_combine(ones, used, index, axis=axis, kind="prod")
    filled, base = xp.where(zero, 1.0, used), xp.where(x == 0, 1.0, x) if own else ones
    product = xp.scatter_combine(base, filled, index, axis=axis, kind="prod")
    zeros = _counts(xp, zero, index, axis, x) + (xp.astype(x == 0, x.dtype) if own else 0.0)
    others = xp.gather_elements(zeros, index, axis=axis) - xp.astype(zero, x.dtype)
    rest = xp.gather_elements(g * product, index, axis=axis) / filled
    return g_x, xp.where(others > 0, 0.0, rest)


def _extremum_gradients(
    xp: Any, g: Array, x: Array, y: Array, used: Array, index: Array, axis: int, own: bool
) -> Any:
    hit = used == xp.gather_elements(y, index, axis=axis)
    own_hit = xp.astype(x == y, x.dtype) * (1.0 if own else 0.0)
    number = _counts(xp, hit, index, axis, x) + own_hit
    share = g / xp.where(number == 0, 1.0, number)
    return own_hit * share, hit * xp.gather_elements(share, index, axis=axis)


@scatter_combine.vjp("x", "source")
def _(
    xp: Any,
    g: Array,
    x: Array,
    source: Array,
    index: Array,
    y: Array,
    axis: int,
    kind: str,
    include_self: bool,
) -> tuple[Array, Array]:
    used, key = _used(source, index)
    if kind == "prod":
        g_x, g_used = _prod_gradients(xp, g, x, used, index, axis, include_self)
    else:
        g_x, g_used = _extremum_gradients(xp, g, x, y, used, index, axis, include_self)
    touched = _counts(xp, xp.ones_like(used), index, axis, x) > 0
    g_x = xp.where(touched, g_x if include_self else 0.0, g)
    return g_x, xp.put_zeros(g_used, key, tuple(source.shape))


_REDUCTIONS = ("sum", "prod", "mean", "amax", "amin")


@composite(
    math="y[i, index[i, j], …] = reduce of x and all source[i, j, …]",
    shape=first_shape,
    dtypes="real numeric",
    samples=[
        *[Sample(((3, 4), 0, _INDEX, (2, 5), kind)) for kind in ("sum", "mean", "amax")],
        *[Sample(((2, 3), 1, _INDEX, (2, 4), kind), {"include_self": False}) for kind in ("sum", "mean")],
        Sample(((), 0, np.array(0), (), "prod"), note="no axes"),
    ],
    rejects=[
        Reject(((3, 4), 0, _INDEX, (2, 4), "max"), OptionError, "reduce must be one of"),
        Reject(((2, 4), 0, _INDEX, (2, 4), "sum"), OutOfBoundsError, "index holds 2"),
        Reject(((3, 4), 0, _INDEX, (1, 4), "sum"), ShapeError, "source is [1, 4], shorter than index"),
    ],
)
def scatter_reduce(
    xp: Any, x: Array, /, axis: int, index: Array, source: Array, reduce: str, *, include_self: bool = True
) -> Array:
    """The array with everything combined that an index sends to one place.

    Args:
        x: any shape.
        axis: the axis that indices count along.
        index: integers; as many axes as ``x``, no longer than it on any but ``axis``.
        source: at least as long as ``index`` on every axis.
        reduce: ``"sum"``, ``"prod"``, ``"mean"``, ``"amax"`` or ``"amin"``.
        include_self: whether the element of ``x`` takes part, or gives way to those that come.
    """
    if reduce not in _REDUCTIONS:
        raise OptionError(f"scatter_reduce: reduce must be one of {_REDUCTIONS}, got {reduce!r}")
    if not len(x.shape):
        y = xp.scatter_reduce(
            *(xp.reshape(x, (1,)), 0, xp.reshape(index, (-1,)), xp.reshape(source, (-1,)), reduce),
            include_self=include_self,
        )
        return xp.reshape(y, ())
    one_axis(axis, len(x.shape), "scatter_reduce")
    if any(n > m for n, m in zip(index.shape, source.shape, strict=True)):
        raise ShapeError(
            f"scatter_reduce: source is {list(source.shape)}, shorter than index {list(index.shape)}"
        )
    if reduce in _COMBINE:
        return xp.scatter_combine(x, source, index, axis=axis, kind=reduce, include_self=include_self)
    used, _ = _used(source, index)
    total = xp.scatter_elements(used, index, axis=axis, shape=x.shape)
    if include_self and reduce == "sum":
        return x + total
    count = _counts(xp, xp.ones_like(used), index, axis, x)
    y = total + (x if include_self else xp.where(count == 0, x, 0))
    if reduce == "sum":
        return xp.astype(y, x.dtype, copy=False)
    count = xp.maximum(count + (1 if include_self else 0), 1)
    return xp.floor_divide(y, count) if x.dtype.kind in "iu" else y / count


@composite(
    math="y[…, index_n, …] = reduce of x and all source[…, n, …]",
    shape=first_shape,
    dtypes="real numeric",
    samples=[
        Sample(((3, 4), 0, _REPEATED, (3, 4), "mean")),
        Sample(((2, 3), 1, _REPEATED, (2, 3), "prod"), {"include_self": False}),
    ],
    rejects=[
        Reject(((3, 4), 0, _REPEATED, (2, 4), "prod"), ShapeError, "index_reduce: source must be [3, 4]"),
        Reject(((3, 4), 0, _REPEATED, (3, 4), "sum"), OptionError, "index_reduce: reduce must be one of"),
    ],
)
def index_reduce(
    xp: Any, x: Array, /, axis: int, index: Array, source: Array, reduce: str, *, include_self: bool = True
) -> Array:
    """Parts of ``source`` combined with the parts of an axis that ``index`` names.

    Args:
        x: any shape.
        axis: the axis that indices count along.
        index: integers ``[n]``.
        source: as ``x``, with length n on ``axis``.
        reduce: ``"prod"``, ``"mean"``, ``"amax"`` or ``"amin"``.
        include_self: whether the element of ``x`` takes part, or gives way to those that come.
    """
    if reduce not in _REDUCTIONS[1:]:
        raise OptionError(f"index_reduce: reduce must be one of {_REDUCTIONS[1:]}, got {reduce!r}")
    if not len(x.shape):
        return xp.scatter_reduce(x, 0, index, source, reduce, include_self=include_self)
    place = one_axis(axis, len(x.shape), "index_reduce")
    shape = (*x.shape[:place], *index.shape, *x.shape[place + 1 :])
    if tuple(source.shape) != shape:
        raise ShapeError(f"index_reduce: source must be {list(shape)}, got {list(source.shape)}")
    column = xp.reshape(index, (-1, *(1,) * (len(x.shape) - place - 1)))
    spread = xp.broadcast_to(column, shape)
    return xp.scatter_reduce(x, place, spread, source, reduce, include_self=include_self)


# -- by mask and by flat index


@composite(
    math="y = x, but the next element of source where mask",
    samples=[
        Sample(((2, 3), np.array([[True, False, True], [False, True, True]]), (5,))),
        Sample(((3,), np.array([[True], [False]]), (2, 2)), note="broadcast"),
    ],
    rejects=[
        Reject(((2, 3), np.ones((2, 3), bool), (5,)), ShapeError, "mask is true 6 times, but source has 5"),
        Reject(((2, 3), np.ones((2, 3)), (6,)), DTypeError, "masked_scatter: mask must be bool"),
    ],
)
def masked_scatter(xp: Any, x: Array, mask: Array, source: Array, /) -> Array:
    """The array with elements of another, in row order, where a mask is true.

    Args:
        x: any shape.
        mask: booleans that broadcast with ``x``.
        source: at least as many elements as ``mask`` has true ones.
    """
    if mask.dtype.kind != "b":
        raise DTypeError(f"masked_scatter: mask must be bool, got {mask.dtype}")
    shape = np.broadcast_shapes(tuple(x.shape), tuple(mask.shape))
    mask = xp.broadcast_to(mask, shape)
    count = int(np.count_nonzero(plain(mask))) if at_hand(mask) else 0
    size = math.prod(source.shape)
    if count > size:
        raise ShapeError(f"masked_scatter: mask is true {count} times, but source has {size} elements")
    if size == 0:
        return xp.positive(xp.broadcast_to(x, shape))
    number = xp.cumulative_sum(xp.astype(xp.reshape(mask, (-1,)), np.int64), axis=0) - 1
    number = xp.clip(number, 0, size - 1)
    chosen = xp.reshape(xp.gather_elements(xp.reshape(source, (-1,)), number, axis=0), shape)
    return xp.where(mask, chosen, x)


@composite(
    math="y = x but y.flat[index] = source, or + source",
    shape=first_shape,
    samples=[
        Sample(((3, 4), np.array([[2, -1], [0, 5]]), (2, 2))),
        Sample(((3, 4), np.array([2, 2, 0]), (3,), True), note="added"),
        Sample(((), np.array([0]), (1,)), note="no axes"),
    ],
    rejects=[
        Reject(((3, 4), np.array([12]), (1,)), OutOfBoundsError, "put: index holds 12"),
        Reject(((3, 4), np.array([1]), (2,)), ShapeError, "put: index has 1 elements but source 2"),
        Reject(((3, 4), np.array([1.0]), (1,)), DTypeError, "put: index must hold integers"),
    ],
)
def put(xp: Any, x: Array, index: Array, source: Array, /, accumulate: bool = False) -> Array:
    """The array with elements replaced, or added to, by their place in row order.

    Args:
        x: any shape.
        index: integers; negative ones count from the end.
        source: as many elements as ``index``.
        accumulate: add to what is there.
    """
    size, flat = math.prod(x.shape), plain(index).reshape(-1)
    check_devices(REGISTRY["put"], (plain(x), flat, plain(source)))
    if flat.dtype.kind not in "iu":
        raise DTypeError(f"put: index must hold integers, got {flat.dtype}")
    if flat.shape[0] != math.prod(source.shape):
        raise ShapeError(f"put: index has {flat.shape[0]} elements but source {math.prod(source.shape)}")
    if at_hand(flat) and flat.size and (flat.min() < -size or flat.max() >= size):
        bad = flat[(flat < -size) | (flat >= size)][0]
        raise OutOfBoundsError(f"put: index holds {bad}, but there are {size} elements")
    values, elements = xp.reshape(source, (-1,)), xp.reshape(x, (-1,))
    if accumulate:
        y = elements + xp.put_zeros(values, (flat,), (size,))
    else:
        y = xp.setitem(elements, values, (flat,))
    return xp.reshape(y, x.shape)
