"""Rows of a table added up by index."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.kernels.support import is_plain, jit, writable


@jit
def _add_rows(rows: Any, index: Any, unused: int, out: Any) -> bool:
    """Add each row to the one that its index names, but ``unused``; stops at an index outside the table."""
    for i in range(index.size):
        at = index[i]
        if at < 0 or at >= out.shape[0]:
            return False
        if at != unused:
            row, to = rows[i], out[at]
            for j in range(row.size):
                to[j] += row[j]
    return True


def _add_up(cotangent: Any, index: Any, unused: int, out: Any) -> Any:
    """``out``, overwritten; in the order of the rows, so that it repeats itself, and on one thread."""
    fits = cotangent.dtype == out.dtype and cotangent.shape == (*index.shape, out.shape[1])
    if not fits or not is_plain(out) or index.dtype.kind not in "iu":
        return None
    rows = np.ascontiguousarray(cotangent).reshape(index.size, out.shape[1])
    positions = np.ascontiguousarray(index).reshape(-1).astype(np.intp, copy=False)
    out.fill(0)
    return out if _add_rows(rows, positions, unused, out) else None


def embedding_weight(cotangent: Any, index: Any, *, num_embeddings: int) -> Any:
    """Forward."""
    out = np.empty((num_embeddings, cotangent.shape[-1]), cotangent.dtype)
    return _add_up(cotangent, index, -1, out)


def embedding_gradient(g: Any, index: Any, weight_shape: Any, padding_idx: int | None, into: Any) -> Any:
    """Gradient in the table."""
    out = writable(into[0], weight_shape, g.dtype)
    return _add_up(g, index, -1 if padding_idx is None else padding_idx % weight_shape[0], out)
