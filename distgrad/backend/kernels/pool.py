"""Pooling over one or two axes, a plane at a time: largest elements and sums, and their transposes.

Windows of 2 × 2 side by side, by far the most used, have kernels of their own for the largest element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.backend.kernels.geometry import output_lengths
from distgrad.backend.kernels.support import is_plain, jit, kernel
from distgrad.backend.memory import host_memory
from distgrad.backend.threads import Calls, run_parts

_ELEMENT_NS = 1.0  # of one thread, for each element of the larger side
_PAIRS = ((2, 2), (2, 2), (0, 0), (1, 1))  # kernel, stride, padding, dilation


@jit
def _leads(a: Any, b: Any) -> Any:
    """Whether the first of two is the larger, or both are alike; NaN is largest, the last of several."""
    return (a >= b) | ((a != a) & (b == b))


@jit
def _larger(a: Any, b: Any) -> Any:
    return a if _leads(a, b) else b


@kernel("x3 x3", writes="y")
def _max_pool(x: Any, y: Any) -> None:
    for n in range(len(x)):
        for i in range(y.shape[1]):
            upper, lower, out = x[n, 2 * i], x[n, 2 * i + 1], y[n, i]
            for j in range(out.size):
                left = _larger(upper[2 * j], lower[2 * j])
                out[j] = _larger(left, _larger(upper[2 * j + 1], lower[2 * j + 1]))


@jit
def _largest_of_pairs(row: Any, top: Any) -> None:
    for k in range(top.size):
        top[k] = _larger(row[2 * k], row[2 * k + 1])


@jit
def _to_larger_row(up: Any, top: Any, share: Any) -> None:
    """Of two rows of pairs, that of the larger element gets ``up``, the upper of equal ones; zeros elsewhere.

    Numbers are loaded before they are compared, since a load in one branch alone is a jump, and what decides
    is one expression, which is none even in the elements that a vector leaves over.
    """
    zero, columns = up.dtype.type(0), up.size
    for j in range(columns):
        value, upper, lower = up[j], top[j], top[columns + j]
        share[j] = value if _leads(upper, lower) else zero
    for j in range(columns):
        value, upper, lower = up[j], top[j], top[columns + j]
        share[columns + j] = zero if _leads(upper, lower) else value


@jit
def _to_larger_of_pair(share: Any, row: Any, out: Any) -> None:
    zero = share.dtype.type(0)
    for k in range(share.size):
        value, left, right = share[k], row[2 * k], row[2 * k + 1]
        first = _leads(left, right)
        out[2 * k] = value if first else zero
        out[2 * k + 1] = zero if first else value


@kernel("x3 x3 x3", writes="out")
def _scatter(g: Any, x: Any, out: Any) -> None:
    """Each element of ``g`` to the first largest of its window; zeros elsewhere.

    What is done to pairs of a row is done to a plane's rows as to one: they may be short.
    """
    columns = g.shape[2]
    top = np.empty(x.shape[1] * columns, x.dtype)
    share = np.empty_like(top)
    for n in range(len(x)):
        _largest_of_pairs(x[n].reshape(-1), top)
        for i in range(g.shape[1]):
            rows = slice(2 * i * columns, 2 * (i + 1) * columns)
            _to_larger_row(g[n, i], top[rows], share[rows])
        _to_larger_of_pair(share, x[n].reshape(-1), out[n].reshape(-1))


# -- windows of any kind; w holds kernel, stride, padding and dilation, a column an axis


@jit
def _reach(w: Any, axis: int, place: int, length: int, count: int) -> Any:
    """The outputs that place ``place`` of the kernel meets inside the input, and where the first is met."""
    stride, offset = w[1, axis], place * w[3, axis] - w[2, axis]
    first = 0 if offset >= 0 else (stride - 1 - offset) // stride
    last = min(count, (length - 1 - offset) // stride + 1) if offset < length else 0
    return first, max(first, last), first * stride + offset


@kernel("i2 x3 x3", writes="y", rare=True)
def _max_windows(w: Any, x: Any, y: Any) -> None:
    lowest = x.dtype.type(-np.inf)
    stride = w[1, 1]
    for n in range(len(x)):
        for i in range(y.shape[1]):
            y[n, i] = lowest
            for a in range(w[0, 0]):
                at = i * w[1, 0] + a * w[3, 0] - w[2, 0]
                if at < 0 or at >= x.shape[1]:
                    continue
                for b in range(w[0, 1]):
                    first, last, start = _reach(w, 1, b, x.shape[2], y.shape[2])
                    out, row = y[n, i, first:last], x[n, at, start:]
                    if stride == 1:  # known numbers make vectors
                        for j in range(out.size):
                            out[j] = _larger(out[j], row[j])
                    elif stride == 2:
                        for j in range(out.size):
                            out[j] = _larger(out[j], row[2 * j])
                    else:
                        for j in range(out.size):
                            out[j] = _larger(out[j], row[stride * j])


@jit
def _inside(w: Any, axis: int, i: int, length: int) -> Any:
    """The input's places that window ``i`` meets: the first, the end, and the step between them."""
    step, start = w[3, axis], i * w[1, axis] - w[2, axis]
    first = start if start >= 0 else start + (step - 1 - start) // step * step
    return first, min(start + w[0, axis] * step, length), step


@jit
def _lead(row: Any, place: int, top: Any, where: Any) -> None:
    """Take note of a row's elements that are larger than those above them; NaN is largest, the last one."""
    for j in range(top.size):
        v, before, at = row[j], top[j], where[j]
        leads = (v > before) | ((v == before) & (at > place)) | (v != v)
        top[j] = v if leads else before
        where[j] = np.int32(place + j) if leads else at


@jit
def _lead_columns(top: Any, where: Any, stride: int, best: Any, place: Any) -> None:
    """The same of every ``stride``-th column's largest, of which the first of equal ones leads."""
    for j in range(best.size):
        v, at, before, first = top[stride * j], where[stride * j], best[j], place[j]
        leads = (v > before) | ((v == before) & (at < first))
        leads |= (v != v) & ((before == before) | (at > first))
        best[j] = v if leads else before
        place[j] = at if leads else first


@kernel("i2 x3 x3 x3", writes="out", rare=True)
def _scatter_windows(w: Any, g: Any, x: Any, out: Any) -> None:
    """Each element of ``g`` to the first largest of its window; NaN is largest, the last one.

    The rows of a window come first, for all columns at once, then its columns for all windows of a row: both
    make vectors.
    """
    length, columns, stride = x.shape[2], g.shape[2], w[1, 1]
    best, place = np.empty(columns, x.dtype), np.empty(columns, np.int32)
    top, where = np.empty(length, x.dtype), np.empty(length, np.int32)
    for n in range(len(x)):
        plane = out[n].reshape(-1)
        plane[:] = 0
        for i in range(g.shape[1]):
            begin, end, step = _inside(w, 0, i, x.shape[1])
            top[:] = -np.inf
            where[:] = np.int32(plane.size)
            for at in range(begin, end, step):
                _lead(x[n, at], at * length, top, where)
            best[:] = -np.inf
            place[:] = np.int32(plane.size)
            for b in range(w[0, 1]):
                first, last, start = _reach(w, 1, b, length, columns)
                to, into = best[first:last], place[first:last]
                if stride == 1:  # known numbers make vectors
                    _lead_columns(top[start:], where[start:], 1, to, into)
                elif stride == 2:
                    _lead_columns(top[start:], where[start:], 2, to, into)
                else:
                    _lead_columns(top[start:], where[start:], stride, to, into)
            for j in range(columns):
                if place[j] < plane.size:
                    plane[place[j]] += g[n, i, j]


@kernel("i2 x3 x3", writes="y", rare=True)
def _sum_windows(w: Any, x: Any, y: Any) -> None:
    stride = w[1, 1]
    for n in range(len(x)):
        for i in range(y.shape[1]):
            y[n, i] = 0
            for a in range(w[0, 0]):
                at = i * w[1, 0] + a * w[3, 0] - w[2, 0]
                if at < 0 or at >= x.shape[1]:
                    continue
                for b in range(w[0, 1]):
                    first, last, start = _reach(w, 1, b, x.shape[2], y.shape[2])
                    out, row = y[n, i, first:last], x[n, at, start:]
                    if stride == 1:
                        for j in range(out.size):
                            out[j] += row[j]
                    elif stride == 2:
                        for j in range(out.size):
                            out[j] += row[2 * j]
                    else:
                        for j in range(out.size):
                            out[j] += row[stride * j]


@kernel("i2 x3 x3", writes="out", rare=True)
def _spread_windows(w: Any, g: Any, out: Any) -> None:
    """The transpose of :func:`_sum_windows`."""
    stride = w[1, 1]
    for n in range(len(out)):
        out[n] = 0
        for i in range(g.shape[1]):
            for a in range(w[0, 0]):
                at = i * w[1, 0] + a * w[3, 0] - w[2, 0]
                if at < 0 or at >= out.shape[1]:
                    continue
                for b in range(w[0, 1]):
                    first, last, start = _reach(w, 1, b, out.shape[2], g.shape[2])
                    up, row = g[n, i, first:last], out[n, at, start:]
                    if stride == 1:
                        for j in range(up.size):
                            row[j] += up[j]
                    elif stride == 2:
                        for j in range(up.size):
                            row[2 * j] += up[j]
                    else:
                        for j in range(up.size):
                            row[stride * j] += up[j]


@kernel("i2 x3 x3", writes="y")
def _sum_blocks(w: Any, x: Any, y: Any) -> None:
    """Windows side by side: first their rows are added up, which makes vectors, then their columns."""
    rows, columns = w[0, 0], w[0, 1]
    line = np.empty(x.shape[2], x.dtype)
    for n in range(len(x)):
        for i in range(y.shape[1]):
            line[:] = x[n, i * rows]
            for a in range(1, rows):
                row = x[n, i * rows + a]
                for j in range(line.size):
                    line[j] += row[j]
            out = y[n, i]
            for j in range(out.size):
                total = line[j * columns]
                for b in range(1, columns):
                    total += line[j * columns + b]
                out[j] = total


@kernel("i2 x3 x3", writes="out", rare=True)
def _spread_blocks(w: Any, g: Any, out: Any) -> None:
    """The transpose of :func:`_sum_blocks`."""
    rows, columns = w[0, 0], w[0, 1]
    for n in range(len(out)):
        for i in range(g.shape[1]):
            up, line = g[n, i], out[n, i * rows]
            for j in range(up.size):
                value = up[j]
                for b in range(columns):
                    line[j * columns + b] = value
            for a in range(1, rows):
                out[n, i * rows + a] = line


# -- what the table names


def _planes(x: Any) -> Any:
    """x as ``[N C, rows, columns]``, one axis as a single row."""
    return x.reshape(-1, x.shape[2] if x.ndim == 4 else 1, x.shape[-1])


def _columns(geometry: Sequence[Any]) -> Any:
    """Kernel, stride, padding and dilation with a column for each of two axes."""
    fills = (1, 1, 0, 1)
    return np.array([(fill, *each)[-2:] for fill, each in zip(fills, geometry, strict=True)], np.int64)


def _fits(x: Any, geometry: Sequence[Any], ceil_mode: bool) -> Any:
    """The output's lengths; None where the formula is to do it, or to say what is wrong."""
    kernel, stride, padding, dilation = geometry
    if not is_plain(x) or x.ndim not in (3, 4) or x.size == 0 or len(kernel) != x.ndim - 2:
        return None
    if any(2 * p > d * (k - 1) + 1 for k, p, d in zip(kernel, padding, dilation, strict=True)):
        return None
    if math.prod(x.shape[2:]) > np.iinfo(np.int32).max:
        return None
    out = output_lengths(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    return out if min(out) > 0 else None


def _are_pairs(x: Any, geometry: Sequence[Any]) -> bool:
    return tuple(tuple(each) for each in geometry) == _PAIRS and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0


def _are_blocks(lengths: Sequence[int], geometry: Sequence[Any]) -> bool:
    """Whether windows lie side by side and leave nothing over."""
    kernel, stride, padding, dilation = (tuple(each) for each in geometry)
    apart = kernel != stride or any(padding) or set(dilation) != {1}
    return not apart and not any(n % k for n, k in zip(lengths, kernel, strict=True))


def _run(kernel: Any, size: int, *arrays: Any, before: tuple[Any, ...] = ()) -> None:
    """The kernel over parts of the arrays' planes, of which the largest has ``size`` elements."""
    planes = [_planes(each) for each in arrays]

    def part(start: int, stop: int) -> Calls:
        return [(kernel, *before, *[x[start:stop] for x in planes])]

    run_parts(part, len(planes[0]), size * _ELEMENT_NS)


def _run_windows(kernel: Any, geometry: Sequence[Any], size: int, *arrays: Any) -> None:
    _run(kernel, size, *arrays, before=(_columns(geometry),))


def max_pool(x: Any, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    """Forward."""
    geometry = (kernel_size, stride, padding, dilation)
    out = _fits(x, geometry, ceil_mode)
    if out is None:
        return None
    y = host_memory.empty((*x.shape[:2], *out), x.dtype)
    size = math.prod(x.shape[2:])
    if _are_pairs(x, geometry):
        _run(_max_pool, size, x, y)
    else:
        _run_windows(_max_windows, geometry, size, x, y)
    return y


def max_pool_scatter(upper: Any, x: Any, *, geometry: Any) -> Any:
    """The transpose of :func:`max_pool` at the places of its maxima."""
    out = _fits(x, geometry[:4], geometry[4])
    if out is None or not is_plain(x, upper) or upper.shape != (*x.shape[:2], *out):
        return None
    result = host_memory.empty_like(x)
    size = math.prod(x.shape[2:])
    if _are_pairs(x, geometry[:4]):
        _run(_scatter, size, upper, x, result)
    else:
        _run_windows(_scatter_windows, geometry[:4], size, upper, x, result)
    return result


def sum_pool(x: Any, *, geometry: Any) -> Any:
    """Forward."""
    out = _fits(x, geometry[:4], geometry[4])
    if out is None:
        return None
    y = host_memory.empty((*x.shape[:2], *out), x.dtype)
    kernel = _sum_blocks if _are_blocks(x.shape[2:], geometry[:4]) else _sum_windows
    _run_windows(kernel, geometry[:4], math.prod(x.shape[2:]), x, y)
    return y


def sum_pool_input(cotangent: Any, *, spatial: Any, geometry: Any) -> Any:
    """The transpose of :func:`sum_pool`."""
    if not is_plain(cotangent) or cotangent.size == 0 or cotangent.ndim != len(spatial) + 2:
        return None
    result = host_memory.empty((*cotangent.shape[:2], *spatial), cotangent.dtype)
    out = _fits(result, geometry[:4], geometry[4])
    if out is None or cotangent.shape[2:] != out:
        return None
    kernel = _spread_blocks if _are_blocks(spatial, geometry[:4]) else _spread_windows
    _run_windows(kernel, geometry[:4], math.prod(spatial), cotangent, result)
    return result
