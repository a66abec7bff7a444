"""Rows of a table added up by index."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.kernels.support import is_plain, jit


@jit
def _add_rows(rows: Any, index: Any, out: Any) -> bool:
    """Add each row to the one that its index names; stops at an index outside the table."""
    for i in range(index.size):
        at = index[i]
        if at < 0 or at >= out.shape[0]:
            return False
        row, to = rows[i], out[at]
        for j in range(row.size):
            to[j] += row[j]
    return True


def embedding_weight(cotangent: Any, index: Any, *, num_embeddings: int) -> Any:
    """Forward; in the order of the rows, so that it repeats itself, and on one thread."""
    width = cotangent.shape[-1]
    if not is_plain(cotangent) or cotangent.shape[:-1] != index.shape or index.dtype.kind not in "iu":
        return None
    out = np.zeros((num_embeddings, width), cotangent.dtype)
    positions = np.ascontiguousarray(index).reshape(-1).astype(np.intp, copy=False)
    return out if _add_rows(cotangent.reshape(-1, width), positions, out) else None
