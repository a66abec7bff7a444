"""Rows of a table added up by index, and sums of the rows that indices name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.launch import empty, over_elements, prepare, writable
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
    num_rows = weight_shape[0]
    if padding_idx is not None:  # its place becomes one outside the table
        index = index + (index == padding_idx % num_rows) * num_rows
    return _add_up(g, index, num_rows, writable(into[0], g, weight_shape))


def embedding_sum(index: Any, weight: Any) -> Any:
    """Forward; an index outside the table gives NaN, as finding it here would stop the host."""
    taken = prepare(weight)
    if taken is None or index.__class__ is not weight.__class__ or weight.ndim != 2 or index.size == 0:
        return None
    (rows,) = prepare(index.astype(np.int64, copy=False))
    y = empty(weight, (*index.shape[:-1], weight.shape[1]))
    arguments = (weight.shape[1], index.shape[-1], len(weight), rows, *taken, y)
    over_elements("embedding", "sum_rows", y.size, weight.dtype.char, *arguments)
    return y


def embedding_sum_gradient(g: Any, index: Any, weight_shape: Any, into: Any) -> Any:
    """Gradient in the table."""
    if g.__class__ is not index.__class__ or index.ndim == 0 or g.shape[:-1] != index.shape[:-1]:
        return None
    width = weight_shape[1]
    each = g.reshape(-1, width).repeat(index.shape[-1], axis=0).reshape(*index.shape, width)
    return _add_up(each, index, weight_shape[0], writable(into[0], g, weight_shape))
