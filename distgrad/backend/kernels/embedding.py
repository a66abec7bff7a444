"""Rows of a table added up by index, and sums of the rows that indices name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.support import is_plain, kernel, writable
from distgrad.backend.memory import host_memory
from distgrad.backend.threads import run_parts

_ELEMENT_NS = 1.0  # of one thread, for each element


@kernel("x2 i1 i x2", writes="out")
def _add_rows(rows: Any, index: Any, unused: int, out: Any) -> bool:
    """Add each row to those that its indices name, but ``unused``; stops at an index outside the table."""
    each = index.size // len(rows) if len(rows) else 1
    for i in range(index.size):
        at = index[i]
        if at < 0 or at >= out.shape[0]:
            return False
        if at != unused:
            row, to = rows[i // each], out[at]
            for j in range(row.size):
                to[j] += row[j]
    return True


def _add_up(cotangent: Any, index: Any, unused: int, out: Any) -> Any:
    """``out``, overwritten; in the order of the rows, so that it repeats itself, and on one thread.

    The cotangent has a row for each index, or for each row of indices.
    """
    fits = cotangent.dtype == out.dtype and cotangent.shape[-1:] == out.shape[1:]
    if not fits or not is_plain(out) or index.dtype.kind not in "iu":
        return None
    if cotangent.shape[:-1] not in (index.shape, index.shape[:-1]):
        return None
    rows = np.ascontiguousarray(cotangent).reshape(math.prod(cotangent.shape[:-1]), out.shape[1])
    positions = np.ascontiguousarray(index).reshape(-1).astype(np.intp, copy=False)
    out.fill(0)
    return out if _add_rows(rows, positions, unused, out) else None


def embedding_weight(cotangent: Any, index: Any, *, num_embeddings: int) -> Any:
    """Forward."""
    out = host_memory.empty((num_embeddings, cotangent.shape[-1]), cotangent.dtype)
    return _add_up(cotangent, index, -1, out)


def embedding_gradient(g: Any, index: Any, weight_shape: Any, padding_idx: int | None, into: Any) -> Any:
    """Gradient in the table."""
    out = writable(into[0], weight_shape, g.dtype, g)
    return _add_up(g, index, -1 if padding_idx is None else padding_idx % weight_shape[0], out)


@kernel("i2 x2 x2 i1", writes="out outside")
def _sum_rows(index: Any, table: Any, out: Any, outside: Any) -> None:
    """Each row of indices to the sum of the rows that it names; says where an index is outside the table."""
    for i in range(len(index)):
        to = out[i]
        for j in range(to.size):
            to[j] = 0
        for at in index[i]:
            if at < 0 or at >= len(table):
                outside[0] = 1
                return
        whole = index.shape[1] - index.shape[1] % 4
        for k in range(0, whole, 4):  # several at once, since the sum is read and written each time
            a, b, c, d = (
                table[index[i, k]],
                table[index[i, k + 1]],
                table[index[i, k + 2]],
                table[index[i, k + 3]],
            )
            for j in range(to.size):
                to[j] += (a[j] + b[j]) + (c[j] + d[j])
        for k in range(whole, index.shape[1]):
            row = table[index[i, k]]
            for j in range(to.size):
                to[j] += row[j]


def embedding_sum(index: Any, weight: Any) -> Any:
    """Forward."""
    if weight.ndim != 2 or weight.dtype.char not in "fd" or not is_plain(weight) or not is_plain(index):
        return None
    count = index.shape[-1] if index.ndim else 0
    if not count:
        return None
    rows, width = index.reshape(-1, count), weight.shape[1]
    y = host_memory.empty((len(rows), width), weight.dtype)
    outside = host_memory.zeros(1, np.int64)
    run_parts(
        lambda start, stop: [(_sum_rows, rows[start:stop], weight, y[start:stop], outside)],
        len(rows),
        count * width * _ELEMENT_NS,
    )
    return y.reshape(*index.shape[:-1], width) if not outside[0] else None


def embedding_sum_gradient(g: Any, index: Any, weight_shape: Any, into: Any) -> Any:
    """Gradient in the table."""
    return _add_up(g, index, -1, writable(into[0], weight_shape, g.dtype, g))
