"""Attention in blocks of queries: products by cuBLAS, one kernel between them, no scores but a block's.

The backward pass computes a block's weights again. A causal block meets no keys behind its last query. Scores
of 16-bit queries and keys, and gradients of their weights, are kept in float32.
Source: Dao et al., NeurIPS 2022, for computing again; blocks here span all keys, so that a softmax is whole.
"""

from __future__ import annotations

import math
from typing import Any

from distgrad.backend.cublas import matmul, readable
from distgrad.backend.kernels.cuda.launch import arithmetic, empty, over_rows

_BLOCK_ELEMENTS = 1 << 26  # of scores, over all heads; the backward pass holds two such blocks


def _taken(query: Any, key: Any, value: Any, *more: Any) -> Any:
    """The arrays as products read them, if they fit: one dtype, the same leading axes, and nothing empty."""
    arrays = (query, key, value, *more)
    if any(x.ndim < 2 or x.size == 0 or x.shape[:-2] != query.shape[:-2] for x in arrays):
        return None
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        return None
    if any(x.__class__ is not query.__class__ or x.dtype != query.dtype for x in arrays):
        return None
    return readable(*arrays)


def _blocks(query: Any, key: Any) -> list[tuple[int, int]]:
    """First query and one past the last of each block."""
    length = query.shape[-2]
    rows = max(1, _BLOCK_ELEMENTS // (math.prod(query.shape[:-2]) * key.shape[-2]))
    return [(first, min(first + rows, length)) for first in range(0, length, rows)]


def _scores(a: Any, b: Any, scale: float = 1.0) -> Any:
    """``scale a bᵀ`` in the type that kernels compute in."""
    shape = (*a.shape[:-1], b.shape[-2])
    return matmul(a, b.swapaxes(-1, -2), empty(a, shape, arithmetic(a.dtype.char)), scale)


def _weights(query: Any, key: Any, first: int, stop: int, scale: float, is_causal: bool) -> Any:
    """Weights of queries first … stop − 1 over the keys that one of them sees."""
    seen = min(key.shape[-2], stop) if is_causal else key.shape[-2]
    scores = _scores(query[..., first:stop, :], key[..., :seen, :], scale)
    weights = scores if scores.dtype == query.dtype else empty(query, scores.shape)
    sizes = (scores.size // seen, seen, query.dtype.char)
    over_rows("attention", "attention_weights", *sizes, stop - first, first, int(is_causal), scores, weights)
    return weights


def attention(query: Any, key: Any, value: Any, *, scale: float, is_causal: bool) -> Any:
    """Forward."""
    taken = _taken(query, key, value)
    if taken is None:
        return None
    query, key, value = taken
    y = empty(query, (*query.shape[:-1], value.shape[-1]))
    for first, stop in _blocks(query, key):
        weights = _weights(query, key, first, stop, scale, is_causal)
        matmul(weights, value[..., : weights.shape[-1], :], y[..., first:stop, :])
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
    blocks = _blocks(query, key)
    several = len(blocks) > 1 or (
        is_causal and blocks[0][1] < key.shape[-2]
    )  # keys that a block does not meet
    if several:
        g_key[...] = 0
        g_value[...] = 0
    for first, stop in blocks:
        weights = _weights(query, key, first, stop, scale, is_causal)
        seen, up, part = weights.shape[-1], g[..., first:stop, :], query[..., first:stop, :]
        matmul(weights.swapaxes(-1, -2), up, g_value[..., :seen, :], add=several)
        arguments = (float(scale), _scores(up, value[..., :seen, :]), weights)
        over_rows("attention", "attention_slopes", weights.size // seen, seen, query.dtype.char, *arguments)
        matmul(weights, key[..., :seen, :], g_query[..., first:stop, :])
        matmul(weights.swapaxes(-1, -2), part, g_key[..., :seen, :], add=several)
    return g_query, g_key, g_value
