"""Attention in blocks of queries: products by cuBLAS, one kernel between them, no scores but a block's.

The backward pass computes a block's weights again. A causal block meets no keys behind its last query. Scores
of 16-bit queries and keys, and gradients of their weights, are kept in float32.
Source: Dao et al., NeurIPS 2022, for computing again; blocks here span all keys, so that a softmax is whole.
"""

from __future__ import annotations

import math
from typing import Any

from distgrad.backend import cudnn_attention
from distgrad.backend.cublas import readable
from distgrad.backend.kernels.cuda.launch import arithmetic, empty, over_rows
from distgrad.backend.kernels.cuda.stacks import Stacks, is_readable, laid_out_as
from distgrad.backend.neighbours import as_one

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
    return arrays if all(map(is_readable, arrays)) else readable(*arrays)


def _blocks(query: Any, key: Any) -> list[tuple[int, int]]:
    """First query and one past the last of each block."""
    length = query.shape[-2]
    rows = max(1, _BLOCK_ELEMENTS // (math.prod(query.shape[:-2]) * key.shape[-2]))
    return [(first, min(first + rows, length)) for first in range(0, length, rows)]


def _scores(query: Any, key: Any) -> tuple[Any, Any]:
    """Where scores of a block go, in the type that kernels compute in, and weights, which may be the same."""
    scores = empty(query, (*query.shape[:-1], key.shape[-2]), arithmetic(query.dtype.char))
    return scores, scores if scores.dtype == query.dtype else empty(query, scores.shape)


def _weigh(first: int, scores: Any, weights: Any, is_causal: bool) -> None:
    """Weights of queries from the first one on, in place of their scores or beside them."""
    rows, seen = scores.shape[-2:]
    sizes = (scores.size // seen, seen, weights.dtype.char)
    over_rows("attention", "attention_weights", *sizes, rows, first, int(is_causal), scores, weights)


def _seen(key: Any, stop: int, is_causal: bool) -> int:
    """How many keys one of the queries before ``stop`` sees."""
    return min(key.shape[-2], stop) if is_causal else key.shape[-2]


def attention(query: Any, key: Any, value: Any, *, scale: float, is_causal: bool) -> Any:
    """Forward."""
    taken = _taken(query, key, value)
    if taken is None:
        return None
    query, key, value = taken
    y = laid_out_as(query, value.shape[-1])
    for first, stop in _blocks(query, key):
        part, seen = query[..., first:stop, :], _seen(key, stop, is_causal)
        keys, values = (x[..., :seen, :] for x in (key, value))
        scores, weights = _scores(part, keys)
        stacks = Stacks(part, keys, values, scores, weights, y[..., first:stop, :])
        stacks.multiply(0, 1, 3, turn=(False, True), scale=scale)
        _weigh(first, scores, weights, is_causal)
        stacks.multiply(4, 2, 5)
    return y


def _gradients(query: Any, key: Any, value: Any) -> list[Any]:
    """Arrays for the gradients, which lie as their inputs do: in one array where those are parts of one."""
    whole = as_one((query, key, value), 0)
    if whole is None:
        return [laid_out_as(x, x.shape[-1]) for x in (query, key, value)]
    return list(laid_out_as(whole, whole.shape[-1]))


def attention_gradient(
    g: Any, query: Any, key: Any, value: Any, scale: float, is_causal: bool, needs: Any
) -> Any:
    """Gradients in query, key and value."""
    taken = _taken(query, key, value, g)
    if taken is None:
        return None
    query, key, value, g = taken
    g_query, g_key, g_value = _gradients(query, key, value)
    blocks = _blocks(query, key)
    several = len(blocks) > 1 or (
        is_causal and blocks[0][1] < key.shape[-2]
    )  # keys that a block does not meet
    if several:
        g_key[...] = 0
        g_value[...] = 0
    for first, stop in blocks:
        seen = _seen(key, stop, is_causal)
        part, up, g_part = (x[..., first:stop, :] for x in (query, g, g_query))
        keys, values, g_keys, g_values = (x[..., :seen, :] for x in (key, value, g_key, g_value))
        scores, weights = _scores(part, keys)
        slopes = empty(query, scores.shape, scores.dtype)
        stacks = Stacks(part, keys, values, up, scores, weights, slopes, g_part, g_keys, g_values)
        stacks.multiply(0, 1, 4, turn=(False, True), scale=scale)
        _weigh(first, scores, weights, is_causal)
        stacks.multiply(5, 3, 9, turn=(True, False), add=several)
        stacks.multiply(3, 2, 6, turn=(False, True))
        arguments = (float(scale), slopes, weights)
        over_rows("attention", "attention_slopes", weights.size // seen, seen, query.dtype.char, *arguments)
        stacks.multiply(5, 1, 7)
        stacks.multiply(5, 0, 8, turn=(True, False), add=several)
    return g_query, g_key, g_value


def attention_with_statistics(
    query: Any, key: Any, value: Any, bias: Any = None, kept: Any = None, *, scale: float, is_causal: bool
) -> Any:
    """Forward, by cuDNN, with what its gradients are computed from."""
    y, statistics = laid_out_as(query, value.shape[-1]), empty(query, (*query.shape[:-1], 1), "f")
    how = {"bias": bias, "kept": kept, "scale": scale, "is_causal": is_causal}
    is_there = cudnn_attention.compute((query, key, value), (y,), statistics, **how)
    return (y, statistics) if is_there else None


def gradient_from_statistics(
    g: Any,
    query: Any,
    key: Any,
    value: Any,
    bias: Any,
    kept: Any,
    y: Any,
    scale: float,
    is_causal: bool,
    needs: Any,
) -> Any:
    """Gradients in query, key and value, by cuDNN."""
    out, statistics = y
    if g[0] is None or g[1] is not None or any(needs[3:]) or statistics.dtype.char != "f":
        return None
    slope = g[0]
    if (slope.dtype, slope.strides) != (out.dtype, out.strides):  # as the plan expects it
        slope = laid_out_as(out, out.shape[-1])
        slope[...] = g[0]
    found = _gradients(query, key, value)
    how = {"bias": bias, "kept": kept, "scale": scale, "is_causal": is_causal}
    is_there = cudnn_attention.compute((query, key, value), found, statistics, (out, slope), **how)
    return (*found, None, None) if is_there else None
