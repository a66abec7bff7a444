"""Attention in blocks of queries: a block's scores stay in the cache, and no more of them are ever held.

The backward pass computes a block's weights again. A causal block meets no keys behind its last query.
Source: Dao et al., NeurIPS 2022, for computing again; blocks here span all keys, so that a softmax is whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.kernels.panel import (
    multiply_panels,
    pack_panels,
    pack_transposed,
    panels_for,
    row_at,
)
from distgrad.backend.kernels.support import exp, jit, kernel, maximum
from distgrad.backend.memory import host_memory
from distgrad.backend.products import TERM_NS
from distgrad.backend.threads import Calls, run_parts

_SHORT_KEYS = 128
_BLOCK_ELEMENTS = 1 << 15  # of scores; the backward pass holds two such blocks
F = np.float32
_WEIGHT_TERMS = 50  # that an exponential costs as much as


@jit
def _place(x: Any, b: int, h: int, row: int) -> Any:
    """Address of a row, and bytes from one row to the next."""
    return x.ctypes.data + b * x.strides[0] + h * x.strides[1] + row * x.strides[2], x.strides[2]


@jit
def _left(x: Any, b: int, h: int, row: int) -> Any:
    """The rows from one on as the left side of a product."""
    place = _place(x, b, h, row)
    return place[0], place[1], x.itemsize


@jit
def _blocks(p: Any) -> Any:
    """A block of scores: itself as the left side of a product, its transpose, and as a result."""
    step = p.shape[1] * p.itemsize
    return (p.ctypes.data, step, p.itemsize), (p.ctypes.data, p.itemsize, step), (p.ctypes.data, step)


@jit
def _weights(q: Any, b: int, h: int, first: int, keys: Any, causal: bool, p: Any) -> int:
    """Weights of the queries from ``first`` on into ``p``; returns how many keys they meet.

    Args:
        q, b, h: the queries of one head.
        first: query.
        keys: their number, and panels of their transpose times the scale.
        causal: whether a query meets no later key.
        p: ``[rows, columns]``.
    """
    rows = min(p.shape[0], q.shape[2] - first)
    met = min(keys[0], first + rows) if causal else keys[0]
    multiply_panels(_left(q, b, h, first), rows, keys[1], met, q.shape[3], _blocks(p)[2], 0, F(1))
    for i in range(rows):
        row = p[i, :met]
        if causal:  # all rows of a block are of one length, which vectors divide better
            for j in range(first + i + 1, met):
                row[j] = -np.inf
        top = maximum(row)
        total = F(0)
        for j in range(row.size):
            e = exp(row[j] - top)
            row[j] = e
            total += e
        rate = F(1) / total
        for j in range(row.size):
            row[j] *= rate
    return met


@jit
def _write(result: Any, rows: int, x: Any, b: int, h: int, first: int) -> None:
    """Rows of a result, which have room behind them, to where they belong."""
    start, step = _place(x, b, h, first)
    for i in range(rows):
        row, to = result[i], row_at(start + i * step, result, x.shape[3])
        for j in range(to.size):
            to[j] = row[j]


@jit
def _scores(rows: int, keys: int, like: Any) -> Any:
    """An empty block of scores, with room for whole panels.

    One panel more keeps rows of 2ⁿ keys, of which a transpose reads one column, from meeting in the cache.
    """
    panels = panels_for(1, keys, like)
    return np.empty((rows, (panels.shape[0] + 1) * panels.shape[2]), like.dtype)


@kernel("a4 a4 a4 x b i a4", dtypes="f", writes="y")
def _forward(q: Any, k: Any, v: Any, scale: Any, causal: bool, rows: int, y: Any) -> None:
    keys, inside, width = k.shape[2], q.shape[3], v.shape[3]
    p, result = _scores(rows, keys, q), _scores(rows, width, q)
    turned, values = panels_for(inside, keys, q), panels_for(keys, width, q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            pack_transposed(_place(k, b, h, 0), inside, keys, scale, turned)
            pack_panels(_place(v, b, h, 0), keys, width, values)
            for first in range(0, q.shape[2], rows):
                count = min(rows, q.shape[2] - first)
                met = _weights(q, b, h, first, (keys, turned), causal, p)
                multiply_panels(_blocks(p)[0], count, values, width, met, _blocks(result)[2], 0, F(1))
                _write(result, count, y, b, h, first)


@jit
def _slopes(p: Any, s: Any, rows: int, keys: int, scale: Any) -> None:
    """The gradients of weights in ``s`` become those of scores."""
    for i in range(rows):
        into, row = s[i, :keys], p[i, :keys]
        total = F(0)
        for j in range(keys):
            total += into[j] * row[j]
        for j in range(keys):
            into[j] = (into[j] - total) * (row[j] * scale)


@kernel("a4 a4 a4 a4 x b i a4 a4 a4", dtypes="f", writes="g_q g_k g_v")
def _backward(
    g: Any, q: Any, k: Any, v: Any, scale: Any, causal: bool, rows: int, g_q: Any, g_k: Any, g_v: Any
) -> None:
    keys, inside, width = k.shape[2], q.shape[3], v.shape[3]
    p, s, result = _scores(rows, keys, q), _scores(rows, keys, q), _scores(rows, inside, q)
    turned, values = panels_for(inside, keys, q), panels_for(width, keys, q)
    keys_in, queries, upper = (
        panels_for(keys, inside, q),
        panels_for(rows, inside, q),
        panels_for(rows, width, q),
    )
    to_k, to_v = _scores(keys, inside, q), _scores(keys, width, q)
    one = F(1)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            pack_transposed(_place(k, b, h, 0), inside, keys, scale, turned)
            pack_transposed(_place(v, b, h, 0), width, keys, one, values)
            pack_panels(_place(k, b, h, 0), keys, inside, keys_in)
            to_k[:] = 0
            to_v[:] = 0
            for first in range(0, q.shape[2], rows):
                count = min(rows, q.shape[2] - first)
                met = _weights(q, b, h, first, (keys, turned), causal, p)
                pack_panels(_place(g, b, h, first), count, width, upper)
                pack_panels(_place(q, b, h, first), count, inside, queries)
                multiply_panels(_blocks(p)[1], met, upper, width, count, _blocks(to_v)[2], 1, one)
                multiply_panels(_left(g, b, h, first), count, values, met, width, _blocks(s)[2], 0, one)
                _slopes(p, s, count, met, scale)
                multiply_panels(_blocks(s)[0], count, keys_in, inside, met, _blocks(result)[2], 0, one)
                _write(result, count, g_q, b, h, first)
                multiply_panels(_blocks(s)[1], met, queries, inside, count, _blocks(to_k)[2], 1, one)
            _write(to_k, keys, g_k, b, h, 0)
            _write(to_v, keys, g_v, b, h, 0)


def _block_rows(queries: int, keys: int, causal: bool) -> int:
    """Low blocks of a causal square skip more of its upper half."""
    most = (16 if keys <= _SHORT_KEYS else 32) if causal else 64
    return max(1, min(queries, max(16, min(most, _BLOCK_ELEMENTS // keys))))


def _four_axes(*arrays: Any) -> Any:
    """``[B, H, length, features]`` views of the arrays, rows contiguous; None where that takes a copy."""
    out = []
    for x in arrays:
        if not 2 <= x.ndim <= 4 or x.dtype != arrays[0].dtype or x.size == 0:
            return None
        if x.strides[-1] != x.itemsize or x.strides[-2] < x.shape[-1] * x.itemsize:
            return None
        out.append(x[(None,) * (4 - x.ndim)])
    if any(x.shape[:2] != out[0].shape[:2] for x in out):
        return None
    return out


def _like(x: Any, features: int) -> Any:
    """An empty array with the axes of x, whose memory has the order of x's."""
    batch, heads, length, _ = x.shape
    if x.strides[1] < x.strides[2]:
        return host_memory.empty((batch, length, heads, features), x.dtype).transpose(0, 2, 1, 3)
    return host_memory.empty((batch, heads, length, features), x.dtype)


def _beside_each_other(q: Any, k: Any, v: Any) -> Any:
    """Empty arrays like these; where they are parts of one array, so are the results.

    One product gives query, key and value as a rule, and its gradient needs theirs in one array.
    """
    step = k.ctypes.data - q.ctypes.data
    alike = q.shape == k.shape == v.shape and q.strides == k.strides == v.strides
    if not alike or step <= 0 or v.ctypes.data - k.ctypes.data != step:
        return [_like(x, x.shape[3]) for x in (q, k, v)]
    parts = np.lib.stride_tricks.as_strided(q, (3, *q.shape), (step, *q.strides), writeable=False)
    return list(host_memory.empty_like(parts))


def _batches(start: int, stop: int, heads: int) -> list[tuple[slice, slice]]:
    """The keys of the heads with running numbers from ``start`` to ``stop``: whole batches, and the ends."""
    first, last = -(-start // heads), stop // heads
    if first > last:
        return [(slice(last, last + 1), slice(start % heads, stop % heads))]
    parts = [(slice(first - 1, first), slice(start % heads, heads))] if start % heads else []
    parts += [(slice(first, last), slice(None))] if first < last else []
    return parts + ([(slice(last, last + 1), slice(0, stop % heads))] if stop % heads else [])


def _head_ns(q: Any, k: Any, causal: bool) -> float:
    """Time that one head takes one thread: two products, and the weights."""
    terms = q.shape[2] * k.shape[2] * (2 * q.shape[3] + _WEIGHT_TERMS)
    return float(terms * TERM_NS[4] * (0.5 if causal else 1.0))


def attention(query: Any, key: Any, value: Any, *, scale: float, is_causal: bool) -> Any:
    """Forward."""
    arrays = _four_axes(query, key, value)
    if arrays is None or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        return None
    q, k, v = arrays
    y = _like(q, v.shape[3])
    rows = _block_rows(q.shape[2], k.shape[2], is_causal)

    def part(start: int, stop: int) -> Calls:
        return [
            (_forward, q[some], k[some], v[some], F(scale), is_causal, rows, y[some])
            for some in _batches(start, stop, q.shape[1])
        ]

    run_parts(part, q.shape[0] * q.shape[1], _head_ns(q, k, is_causal))
    return y.reshape(*query.shape[:-1], v.shape[3]) if query.ndim < 4 else y


def attention_gradient(
    g: Any, query: Any, key: Any, value: Any, scale: float, is_causal: bool, needs: Any
) -> Any:
    """Gradients in query, key and value."""
    arrays = _four_axes(np.ascontiguousarray(g) if g.strides[-1] != g.itemsize else g, query, key, value)
    if arrays is None:
        return None
    up, q, k, v = arrays
    results = _beside_each_other(q, k, v)
    rows = _block_rows(q.shape[2], k.shape[2], is_causal)

    def part(start: int, stop: int) -> Calls:
        numbers = (F(scale), is_causal, rows)
        return [
            (_backward, up[some], q[some], k[some], v[some], *numbers, *[x[some] for x in results])
            for some in _batches(start, stop, q.shape[1])
        ]

    run_parts(part, q.shape[0] * q.shape[1], 2.5 * _head_ns(q, k, is_causal))
    shapes = (query.shape, key.shape, value.shape)
    return tuple(
        x if x.shape == shape else x.reshape(shape) for x, shape in zip(results, shapes, strict=True)
    )
