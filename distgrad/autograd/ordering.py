"""What the lines of :mod:`distgrad.names.functions` call where elements are ordered, ranked or counted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.creation import tensor as make
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.meanings import Extremum, typed
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, to_device
from distgrad.errors import DTypeError, OptionError, ShapeError


class Histogram(NamedTuple):
    """What ``histogram`` returns."""

    hist: Tensor
    bin_edges: Tensor


def extremum(name: str, x: Any, dim: Any, keepdim: bool) -> Any:
    """The largest or smallest of all, along an axis with its place, or of two tensors."""
    if dim is None:
        return getattr(ops, name)(x)
    if isinstance(dim, Tensor):
        return (ops.maximum if name == "max" else ops.minimum)(x, dim)
    index = getattr(ops, f"arg{name}")(
        x if x.dtype.kind != "b" else typed(x, "uint8"), axis=dim, keepdims=True
    )
    return _picked(x, index, dim, keepdim)


def _picked(x: Any, index: Any, dim: int, keepdim: bool) -> Extremum:
    values = ops.take_along_axis(x, index, axis=dim)
    return Extremum(values, index) if keepdim else Extremum(ops.squeeze(values, dim), ops.squeeze(index, dim))


def middle(x: Any, dim: Any, keepdim: bool, skips_nan: bool = False) -> Any:
    """The smaller one in the middle, along an axis with its place."""
    if dim is None:
        found = middle(ops.reshape(x, (-1,)), 0, False, skips_nan)[0]
        return _shared_by_equals(x, found.detach()) if found.requires_grad else found
    order = ops.argsort(x, axis=dim, stable=True)
    length = x.shape[dim]
    if x.dtype.kind == "f":
        hole = ops.isnan(x)
        count = ops.sum(ops.astype(ops.logical_not(hole), np.dtype(np.int64)), axis=dim, keepdims=True)
        poisoned = ops.any(hole, axis=dim, keepdims=True)
        place = ops.maximum(ops.floor_divide(ops.subtract(count, 1), 2), 0)
        if not skips_nan:
            place = ops.where(poisoned, count, place)  # NaN sorts to the end
        place = ops.minimum(place, length - 1)
    else:
        shape = list(x.shape)
        shape[dim] = 1
        place = make(np.full(shape, (length - 1) // 2), device=x.device)
    index = ops.take_along_axis(order, ops.astype(place, np.dtype(np.int64)), axis=dim)
    return _picked(x, index, dim, keepdim)


def _shared_by_equals(x: Any, value: Any) -> Any:
    """An element's value, with its gradient shared evenly by all that equal it: the largest not above it."""
    hole = ops.logical_and(ops.isnan(x), ops.logical_not(ops.isnan(value)))
    return ops.max(ops.where(ops.logical_or(ops.greater(x, value), hole), -np.inf, x))


def quantile_at(x: Any, q: Any, dim: Any, keepdim: bool, method: str, skips_nan: bool = False) -> Any:
    """Quantiles; between two elements, the gradient of ``q`` is their distance times the number of steps."""
    find = _quantile_of_numbers if skips_nan else _quantile
    y = find(x, q, dim, keepdim, method)
    if method != "linear" or not (isinstance(q, Tensor) and q.requires_grad):
        return y
    plain, steps = x.detach(), ops.logical_not(ops.isnan(x.detach())) if skips_nan else ops.ones_like(x)
    gap = ops.subtract(*[find(plain, q, dim, keepdim, side) for side in ("higher", "lower")])
    count = ops.sum(ops.astype(steps, x.dtype), axis=dim, keepdims=keepdim)
    moved = ops.reshape(ops.subtract(q, q.detach()), (*q.shape, *(1,) * count.ndim))
    return ops.add(y, ops.multiply(ops.multiply(gap, ops.subtract(count, 1)), moved))


def _quantile(x: Any, q: Any, dim: Any, keepdim: bool, method: str) -> Any:
    return ops.quantile(x, q, axis=dim, keepdims=keepdim, method=method)


def _quantile_of_numbers(x: Any, q: Any, dim: Any, keepdim: bool, method: str) -> Any:
    """Quantiles of what is not NaN, a row at a time."""
    keepdim = keepdim and bool(x.ndim)
    x = ops.reshape(x, (-1,)) if dim is None else ops.moveaxis(x, dim, -1)
    rows = ops.unstack(ops.reshape(x, (-1, x.shape[-1])))
    found = [
        ops.quantile(row[~np.isnan(row._data)], q, method=method)
        if not np.isnan(row._data).all()
        else ops.multiply(ops.sum(row), ops.reshape(make(q), (-1,)) if np.ndim(q) else 1.0)
        for row in rows
    ]
    y = ops.reshape(ops.stack(found, axis=-1), (*np.shape(getattr(q, "_data", q)), *x.shape[:-1]))
    if not keepdim:
        return y
    return ops.expand_dims(
        y, axis=-1 if dim is None else (dim if dim < 0 else dim + np.ndim(getattr(q, "_data", q)))
    )


def ordered(x: Any, dim: int, descending: bool) -> Extremum:
    """In order along an axis, and where each stood."""
    index = ops.argsort(x, axis=dim, descending=descending, stable=True)
    return Extremum(ops.take_along_axis(x, index, axis=dim), index)


def places_in(row: Any, x: Any, right: bool, side: str | None, sorter: Any, narrow: bool) -> Any:
    """Where elements would have to be inserted, in each row of its own where there are several."""
    chosen: Any = side or ("right" if right else "left")
    dtype = np.int32 if narrow else np.int64
    row, values = row._data, x._data if isinstance(x, Tensor) else np.asarray(x)
    if row.ndim != 1 and (row.shape[:-1] != values.shape[:-1]):
        raise ShapeError(
            f"searchsorted: rows are {list(row.shape)} and what is looked for {list(values.shape)}"
        )
    if row.ndim == 1:
        found = np.searchsorted(row, values, chosen, None if sorter is None else sorter._data)
        return Tensor(np.asarray(found).astype(dtype))
    if sorter is not None:
        row = np.take_along_axis(row, sorter._data, -1)
    flat, wanted = row.reshape(-1, row.shape[-1]), values.reshape(-1, values.shape[-1])
    rows = [np.searchsorted(each, one, chosen) for each, one in zip(flat, wanted, strict=True)]
    return Tensor(np.asarray(rows).reshape(values.shape).astype(dtype))


def distinct(x: Any, return_inverse: bool, return_counts: bool, dim: int | None) -> Any:
    """The distinct elements, or slices along an axis, in order."""
    data = to_device(x._data, CPU)
    found = np.unique(data, return_inverse=True, return_counts=True, axis=dim)
    inverse = found[1].reshape(data.shape if dim is None else -1)
    return _counts(x, found[0], inverse, found[2], return_inverse, return_counts)


def runs(x: Any, return_inverse: bool, return_counts: bool, dim: int | None) -> Any:
    """The first of each run of equal elements, or of equal slices along an axis."""
    data = to_device(x._data, CPU)
    rows = data.reshape(-1, 1) if dim is None else np.moveaxis(data, dim, 0)
    flat = rows.reshape(len(rows), -1)
    starts = np.ones(len(rows), bool)
    starts[1:] = (flat[1:] != flat[:-1]).any(axis=1)
    first = np.flatnonzero(starts)
    values = rows[first].reshape(-1) if dim is None else np.moveaxis(rows[first], 0, dim)
    inverse = (np.cumsum(starts) - 1).reshape(data.shape if dim is None else -1)
    return _counts(x, values, inverse, np.diff(first, append=len(rows)), return_inverse, return_counts)


def _counts(x: Any, values: Any, inverse: Any, counts: Any, with_inverse: bool, with_counts: bool) -> Any:
    parts = [values, *([inverse] if with_inverse else []), *([counts] if with_counts else [])]
    tensors = [Tensor(to_device(part, x.device)) for part in parts]
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def counted(x: Any, weights: Any, minlength: int) -> Any:
    """How often each whole number from 0 on occurs."""
    data = to_device(x._data, CPU)
    if data.size and data.min() < 0:
        raise OptionError(f"bincount: expected numbers from 0 on, got {data.min()}")
    found = np.bincount(data, None if weights is None else to_device(weights._data, CPU), minlength)
    return Tensor(to_device(found if weights is None else found.astype(weights.dtype), x.device))


def are_among(elements: Any, among: Any, invert: bool) -> Tensor:
    """Whether each element is one of others."""
    place = next(each.device for each in (elements, among) if isinstance(each, Tensor))
    data = [to_device(each._data, CPU) if isinstance(each, Tensor) else each for each in (elements, among)]
    return Tensor(to_device(np.asarray(np.isin(data[0], data[1], invert=invert)), place))


def histogram_between(x: Any, bins: int, low: Any, high: Any) -> Tensor:
    """How many elements lie in each of ``bins`` parts between bounds, the elements' own if they are equal."""
    data = to_device(x._data, CPU).reshape(-1)
    low, high = (getattr(each, "_data", each) for each in (low, high))
    if bins < 1 or low > high:
        raise OptionError(f"histc: expected bins from 1 on and min up to max, got {bins}, {low} and {high}")
    if low == high and data.size:
        low, high = data.min(), data.max()
    if low == high:
        low, high = low - 1, high + 1
    found = np.histogram(data.astype(np.float64), bins, (float(low), float(high)))[0]
    return Tensor(to_device(found.astype(x.dtype), x.device))


def histogram_of(x: Any, bins: Any, bounds: Any, weight: Any, density: bool) -> Histogram:
    """How many elements, or what weight, lies in each part; ``bins`` is their number, or their edges."""
    edges = to_device(bins._data, CPU) if isinstance(bins, Tensor) else bins
    weights = None if weight is None else to_device(weight._data, CPU).reshape(-1)
    found = np.histogram(to_device(x._data, CPU).reshape(-1), edges, bounds, density, weights)
    return Histogram(*[Tensor(to_device(each.astype(x.dtype), x.device)) for each in found])


def whole_pair(name: str, x: Any, y: Any) -> Tensor:
    """The greatest common divisor or least common multiple of whole numbers."""
    data = [to_device(each._data, CPU) if isinstance(each, Tensor) else each for each in (x, y)]
    if any(np.asarray(each).dtype.kind not in "iub" for each in data) or x.dtype.kind == "b":
        raise DTypeError(f"{name}: expected whole numbers, got {x.dtype} and {getattr(y, 'dtype', y)}")
    return Tensor(to_device(np.asarray(getattr(np, name)(*data)), x.device))
