"""Softmax, its logarithm, and cross entropy, over the last axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.launch import empty, over_rows, prepare


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
