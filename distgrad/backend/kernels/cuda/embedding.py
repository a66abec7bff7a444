"""Rows of a table added up by index."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.scatter import sum_by_index


def _add_up(cotangent: Any, index: Any, num_rows: int, out: Any) -> Any:
    """In the order of the rows, so that it repeats itself; an index outside the table adds nothing."""
    if cotangent.__class__ is not index.__class__ or cotangent.shape[:-1] != index.shape:
        return None
    if index.size == 0 or index.dtype.kind not in "iu" or cotangent.ndim == 0:
        return None
    rows = cotangent.reshape(math.prod(index.shape), cotangent.shape[-1])
    return sum_by_index(rows, index.reshape(-1).astype(np.int64, copy=False), num_rows, out)


def embedding_weight(cotangent: Any, index: Any, *, num_embeddings: int) -> Any:
    """Forward."""
    return _add_up(cotangent, index, num_embeddings, None)


def embedding_gradient(g: Any, index: Any, weight_shape: Any, padding_idx: int | None, into: Any) -> Any:
    """Gradient in the table."""
    home, num_rows = into[0], weight_shape[0]
    fits = home is not None and home.dtype == g.dtype and home.flags.c_contiguous
    if padding_idx is not None:  # its place becomes one outside the table
        index = index + (index == padding_idx % num_rows) * num_rows
    return _add_up(g, index, num_rows, home if fits else None)
