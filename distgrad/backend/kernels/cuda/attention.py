"""Attention in blocks of queries: products by cuBLAS, one kernel between them, no scores but a block's.

The backward pass computes a block's weights again. A causal block meets no keys behind its last query.
Source: Dao et al., NeurIPS 2022, for computing again; blocks here span all keys, so that a softmax is whole.
"""

from __future__ import annotations

import math
from typing import Any

from distgrad.backend.cupy import matmul
from distgrad.backend.kernels.cuda.launch import empty, over_rows, prepare

_BLOCK_ELEMENTS = 1 << 26  # of scores, over all heads; the backward pass holds two such blocks


def _taken(query: Any, key: Any, value: Any, *more: Any) -> Any:
    """The arrays prepared, if the kernels take them: the same leading axes, and nothing empty."""
    arrays = (query, key, value, *more)
    if any(x.ndim < 2 or x.size == 0 or x.shape[:-2] != query.shape[:-2] for x in arrays):
        return None
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        return None
    return prepare(*arrays)


def _blocks(query: Any, key: Any) -> list[tuple[int, int]]:
    """First query and one past the last of each block."""
    length = query.shape[-2]
    rows = max(1, _BLOCK_ELEMENTS // (math.prod(query.shape[:-2]) * key.shape[-2]))
    return [(first, min(first + rows, length)) for first in range(0, length, rows)]


def _weights(query: Any, key: Any, first: int, stop: int, scale: float, is_causal: bool) -> Any:
    """Weights of queries first … stop − 1 over the keys that one of them sees."""
    seen = min(key.shape[-2], stop) if is_causal else key.shape[-2]
    part = (query[..., first:stop, :] * scale).astype(query.dtype, copy=False)  # CuPy widens bfloat16
    (scores,) = prepare(matmul(part, key[..., :seen, :].swapaxes(-1, -2)))
    over_rows(
        "attention",
        "attention_weights",
        scores.size // seen,
        seen,
        scores.dtype.char,
        stop - first,
        first,
        int(is_causal),
        scores,
    )
    return scores


def attention(query: Any, key: Any, value: Any, *, scale: float, is_causal: bool) -> Any:
    """Forward."""
    taken = _taken(query, key, value)
    if taken is None:
        return None
    query, key, value = taken
    y = empty(query, (*query.shape[:-1], value.shape[-1]))
    for first, stop in _blocks(query, key):
        weights = _weights(query, key, first, stop, scale, is_causal)
        y[..., first:stop, :] = matmul(weights, value[..., : weights.shape[-1], :])
    return y


def attention_gradient(
    g: Any, query: Any, key: Any, value: Any, scale: float, is_causal: bool, needs: Any
) -> Any:
    """Gradients in query, key and value."""
    taken = _taken(query, key, value, g)
    if taken is None:
        return None
    query, key, value, g = taken
    g_query, g_key, g_value = (empty(x, x.shape) for x in (query, key, value))
    g_key[...] = 0
    g_value[...] = 0
    for first, stop in _blocks(query, key):
        weights = _weights(query, key, first, stop, scale, is_causal)
        seen, up = weights.shape[-1], g[..., first:stop, :]
        g_value[..., :seen, :] += matmul(weights.swapaxes(-1, -2), up)
        (slopes,) = prepare(matmul(up, value[..., :seen, :].swapaxes(-1, -2)))
        arguments = (float(scale), weights, slopes)
        over_rows("attention", "attention_slopes", slopes.size // seen, seen, slopes.dtype.char, *arguments)
        g_query[..., first:stop, :] = matmul(slopes, key[..., :seen, :])
        g_key[..., :seen, :] += matmul(slopes.swapaxes(-1, -2), query[..., first:stop, :])
    return g_query, g_key, g_value
