"""Softmax, its logarithm, and cross entropy, over contiguous rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.support import exp, is_plain, jit, kernel, maximum
from distgrad.backend.memory import host_memory
from distgrad.backend.threads import Calls, run_parts

_ELEMENT_NS = 1.0  # of one thread, for each element
F = np.float32


@kernel("x2 x2", dtypes="f", writes="y")
def _softmax(x: Any, y: Any) -> None:
    for i in range(len(x)):
        row, out = x[i], y[i]
        top = maximum(row)
        total = F(0)
        for j in range(row.size):
            e = exp(row[j] - top)
            out[j] = e
            total += e
        rate = F(1) / total
        for j in range(row.size):
            out[j] *= rate


@jit
def _weighted_total(g: Any, y: Any) -> Any:
    total = g.dtype.type(0)
    for j in range(y.size):
        total += g[j] * y[j]
    return total


@kernel("x2 x2 x2", writes="out")
def _softmax_gradient(g: Any, y: Any, out: Any) -> None:
    for i in range(len(g)):
        up, row, to = g[i], y[i], out[i]
        total = _weighted_total(up, row)
        for j in range(row.size):
            to[j] = (up[j] - total) * row[j]


@kernel("x2 x2 x2 x2", writes="out", rare=True)
def _added_softmax_gradient(g: Any, before: Any, y: Any, out: Any) -> None:
    for i in range(len(g)):
        up, other, row, to = g[i], before[i], y[i], out[i]
        total = _weighted_total(up, row)
        for j in range(row.size):
            to[j] = (up[j] - total) * row[j] + other[j]


@jit
def _log_total(row: Any) -> Any:
    """The row's largest element, and log Σ e^x less it."""
    top = maximum(row)
    total = F(0)
    for j in range(row.size):
        total += exp(row[j] - top)
    return top, F(math.log(total))


@kernel("x2 x2", dtypes="f", writes="y")
def _log_softmax(x: Any, y: Any) -> None:
    for i in range(len(x)):
        row, out = x[i], y[i]
        top, log = _log_total(row)
        for j in range(row.size):
            out[j] = row[j] - top - log


@kernel("x2 x2 x2", dtypes="f", writes="out")
def _log_softmax_gradient(g: Any, y: Any, out: Any) -> None:
    for i in range(len(g)):
        up, row, to = g[i], y[i], out[i]
        total = F(0)
        for j in range(row.size):
            total += up[j]
        for j in range(row.size):
            to[j] = up[j] - exp(row[j]) * total


@kernel("x2 i1 x1", dtypes="f", writes="y")
def _cross_entropy(x: Any, target: Any, y: Any) -> None:
    for i in range(len(x)):
        if target[i] < 0:
            y[i] = F(0)
            continue
        top, log = _log_total(x[i])
        y[i] = log + (top - x[i, target[i]])


@kernel("x2 x1 i1 x2", dtypes="f", writes="out")
def _cross_entropy_gradient(x: Any, g: Any, target: Any, out: Any) -> None:
    for i in range(len(x)):
        row, to = x[i], out[i]
        if target[i] < 0:
            to[:] = F(0)
            continue
        top = maximum(row)
        total = F(0)
        for j in range(row.size):
            e = exp(row[j] - top)
            to[j] = e
            total += e
        rate = g[i] / total
        for j in range(row.size):
            to[j] *= rate
        to[target[i]] -= g[i]


def _run(kernel: Any, columns: int, *arrays: Any) -> None:
    """The kernel over parts of the arrays' rows."""

    def part(start: int, stop: int) -> Calls:
        return [(kernel, *[each[start:stop] for each in arrays])]

    run_parts(part, len(arrays[0]), columns * _ELEMENT_NS)


def _over_rows(kernel: Any, axis: int, *arrays: Any) -> Any:
    """The kernel over the rows of the last axis, into a new array."""
    x = arrays[0]
    if not is_plain(*arrays) or x.size == 0 or axis not in (-1, x.ndim - 1) or x.shape != arrays[-1].shape:
        return None
    out = host_memory.empty_like(x)
    columns = x.shape[-1]
    rows = [each.reshape(-1, columns) for each in (*arrays, out)]
    _run(kernel, columns, *rows)
    return out


def softmax(x: Any, *, axis: int) -> Any:
    """Forward."""
    return _over_rows(_softmax, axis, x)


def softmax_gradient(g: Any, y: Any, axis: int, before: Any) -> Any:
    """Gradient in x, from the result."""
    if before[0] is None:
        return _over_rows(_softmax_gradient, axis, g, y)
    return _over_rows(_added_softmax_gradient, axis, g, np.ascontiguousarray(before[0], g.dtype), y)


def log_softmax(x: Any, *, axis: int) -> Any:
    """Forward."""
    return _over_rows(_log_softmax, axis, x)


def log_softmax_gradient(g: Any, y: Any, axis: int) -> Any:
    """Gradient in x, from the result."""
    return _over_rows(_log_softmax_gradient, axis, g, y)


def _classes(logits: Any, target: Any, ignore_index: int | None) -> Any:
    """The classes as the kernels take them, −1 where a row does not count; None: the formula says why."""
    if not (
        logits.ndim == 2
        and logits.size
        and is_plain(logits)
        and isinstance(target, np.ndarray)
        and target.dtype.kind in "iu"
        and target.shape == logits.shape[:1]
    ):
        return None
    classes = target.astype(np.intp)
    ignored = None if ignore_index is None else target == ignore_index
    if ignored is not None:
        classes[ignored] = 0
    if classes.min() < 0 or classes.max() >= logits.shape[1]:
        return None
    if ignored is not None:
        classes[ignored] = -1
    return classes


def softmax_cross_entropy(logits: Any, *, target: Any, ignore_index: int | None = None) -> Any:
    """Forward."""
    classes = _classes(logits, target, ignore_index)
    if classes is None:
        return None
    y = host_memory.empty(len(logits), logits.dtype)
    _run(_cross_entropy, logits.shape[1], logits, classes, y)
    return y


def softmax_cross_entropy_gradient(g: Any, logits: Any, target: Any, ignore_index: int | None = None) -> Any:
    """Gradient in the logits."""
    if logits.size < 512 or g.dtype != logits.dtype:
        return None
    classes = _classes(logits, target, ignore_index)
    if classes is None:
        return None
    out = host_memory.empty_like(logits)
    _run(_cross_entropy_gradient, logits.shape[1], logits, np.ascontiguousarray(g), classes, out)
    return out
