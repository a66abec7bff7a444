"""Softmax, its logarithm, and cross entropy, over the last axis; the mean of the rows that count."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.launch import THREADS, empty, launch, over_rows, prepare

_MOST_ROWS = 1 << 17  # that one block of threads goes over; beyond that several launches are faster


def _over_rows(name: str, axis: int, *arrays: Any) -> Any:
    """The kernel over the rows of the last axis, into a new array."""
    x = arrays[0]
    if x.ndim == 0 or x.size == 0 or axis not in (-1, x.ndim - 1) or x.shape != arrays[-1].shape:
        return None
    taken = prepare(*arrays)
    if taken is None:
        return None
    out, columns = empty(x, x.shape), x.shape[-1]
    over_rows("softmax", name, x.size // columns, columns, x.dtype.char, *taken, out)
    return out


def softmax(x: Any, *, axis: int) -> Any:
    """Forward."""
    return _over_rows("softmax", axis, x)


def softmax_gradient(g: Any, y: Any, axis: int, before: Any) -> Any:
    """Gradient in x, from the result."""
    g_x = _over_rows("softmax_gradient", axis, g, y)
    return g_x if g_x is None or before[0] is None else before[0] + g_x


def log_softmax(x: Any, *, axis: int) -> Any:
    """Forward."""
    return _over_rows("log_softmax", axis, x)


def log_softmax_gradient(g: Any, y: Any, axis: int) -> Any:
    """Gradient in x, from the result."""
    return _over_rows("log_softmax_gradient", axis, g, y)


def _classes(logits: Any, target: Any) -> Any:
    """The targets as the kernels take them; the formula says what is wrong with others."""
    if logits.ndim != 2 or logits.size == 0 or target.__class__ is not logits.__class__:
        return None
    if target.dtype.kind not in "iu" or target.shape != logits.shape[:1]:
        return None
    return prepare(target.astype(np.int64, copy=False))[0]


def _ignored(ignore_index: int | None) -> int:
    """The target that counts nothing; for none a number that no target is."""
    return int(np.iinfo(np.int64).min) if ignore_index is None else ignore_index


def softmax_cross_entropy(logits: Any, *, target: Any, ignore_index: int | None = None) -> Any:
    """Forward; a class that the logits do not have gives NaN, as finding it here would stop the host."""
    classes = _classes(logits, target)
    if classes is None:
        return None
    (x,) = prepare(logits)
    y = empty(x, len(x))
    over_rows("softmax", "cross_entropy", *x.shape, x.dtype.char, x, classes, _ignored(ignore_index), y)
    return y


def softmax_cross_entropy_gradient(g: Any, logits: Any, target: Any, ignore_index: int | None = None) -> Any:
    """Gradient in the logits."""
    classes, taken = _classes(logits, target), prepare(logits, g)
    if classes is None or taken is None:
        return None
    x, g = taken
    out = empty(x, x.shape)
    arguments = (x, g, classes, _ignored(ignore_index), out)
    over_rows("softmax", "cross_entropy_gradient", *x.shape, x.dtype.char, *arguments)
    return out


def _by_one_block(name: str, like: Any, target: Any, ignore_index: int, shape: Any) -> Any:
    """A kernel over all rows by one block of threads, into a new array."""
    if target.__class__ is not like.__class__ or target.dtype.kind not in "iu" or target.ndim != 1:
        return None
    if not 0 < target.size <= _MOST_ROWS:
        return None
    taken = prepare(like)
    (classes,) = prepare(target.astype(np.int64, copy=False))
    out = empty(like, shape)
    arguments = (target.size, *taken, classes, ignore_index, out)
    launch("softmax", name, like.dtype.char, (1,), THREADS, arguments)
    return out


def counted_mean(losses: Any, *, target: Any, ignore_index: int) -> Any:
    """Forward."""
    if losses.shape != target.shape:
        return None
    return _by_one_block("counted_mean", losses, target, ignore_index, ())


def counted_mean_gradient(g: Any, target: Any, ignore_index: int) -> Any:
    """Gradient in the losses."""
    return (
        _by_one_block("counted_mean_gradient", g, target, ignore_index, target.shape) if g.size == 1 else None
    )
