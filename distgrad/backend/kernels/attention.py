"""Attention in blocks of queries: a block's scores stay in the cache, and no more of them are ever held.

The backward pass computes a block's weights again. A causal block meets no keys behind its last query.
Source: Dao et al., NeurIPS 2022, for computing again; blocks here span all keys, so that a softmax is whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.kernels.product import product, product_address
from distgrad.backend.kernels.support import exp, jit, maximum
from distgrad.backend.threads import run_products

_SHORT_KEYS = 128
_BLOCK_ELEMENTS = 1 << 15  # of scores; the backward pass holds two such blocks
F = np.float32


@jit
def _place(x: Any, b: int, h: int, row: int) -> Any:
    """Address of a row, and elements from one row to the next."""
    start = x.ctypes.data + b * x.strides[0] + h * x.strides[1] + row * x.strides[2]
    return start, x.strides[2] // x.itemsize


@jit
def _weights(
    address: int, q: Any, k: Any, b: int, h: int, first: int, scale: Any, causal: bool, p: Any
) -> int:
    """Weights of the queries from ``first`` on into ``p``; returns how many keys they meet."""
    rows = min(p.shape[0], q.shape[2] - first)
    keys = min(k.shape[2], first + rows) if causal else k.shape[2]
    to = (p.ctypes.data, p.shape[1])
    left, right = _place(q, b, h, first), _place(k, b, h, 0)
    product(address, (False, True), rows, keys, q.shape[3], scale, left, right, F(0), to)
    for i in range(rows):
        row = p[i, :keys]
        if causal:  # all rows of a block are of one length, which vectors divide better
            for j in range(first + i + 1, keys):
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
    return keys


@jit
def _forward(address: int, q: Any, k: Any, v: Any, scale: Any, causal: bool, rows: int, y: Any) -> None:
    p = np.empty((rows, k.shape[2]), q.dtype)
    one, nothing = F(1), F(0)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for first in range(0, q.shape[2], rows):
                keys = _weights(address, q, k, b, h, first, scale, causal, p)
                count = min(rows, q.shape[2] - first)
                left = (p.ctypes.data, p.shape[1])
                right, to = _place(v, b, h, 0), _place(y, b, h, first)
                product(address, (False, False), count, v.shape[3], keys, one, left, right, nothing, to)


@jit
def _backward(
    address: int, g: Any, q: Any, k: Any, v: Any, scale: Any, causal: bool, rows: int,
    g_q: Any, g_k: Any, g_v: Any,
) -> None:  # fmt: skip
    p = np.empty((rows, k.shape[2]), q.dtype)
    s = np.empty((rows, k.shape[2]), q.dtype)
    one, nothing = F(1), F(0)
    inside, width = q.shape[3], v.shape[3]
    weights, scores = (p.ctypes.data, p.shape[1]), (s.ctypes.data, s.shape[1])
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            g_k[b, h] = nothing
            g_v[b, h] = nothing
            for first in range(0, q.shape[2], rows):
                count = min(rows, q.shape[2] - first)
                keys = _weights(address, q, k, b, h, first, scale, causal, p)
                up = _place(g, b, h, first)
                to = _place(g_v, b, h, 0)
                product(address, (True, False), keys, width, count, one, weights, up, one, to)
                right = _place(v, b, h, 0)
                product(address, (False, True), count, keys, width, one, up, right, nothing, scores)
                for i in range(count):
                    into, row = s[i, :keys], p[i, :keys]
                    total = nothing
                    for j in range(keys):
                        total += into[j] * row[j]
                    for j in range(keys):
                        into[j] = (into[j] - total) * row[j]
                right, to = _place(k, b, h, 0), _place(g_q, b, h, first)
                product(address, (False, False), count, inside, keys, scale, scores, right, nothing, to)
                right, to = _place(q, b, h, first), _place(g_k, b, h, 0)
                product(address, (True, False), keys, inside, count, scale, scores, right, one, to)


def _block_rows(queries: int, keys: int, causal: bool) -> int:
    """Low blocks of a short causal square skip more of its upper half: 32 rows were fastest for 64 keys."""
    most = 32 if causal and keys <= _SHORT_KEYS else 64
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
        return np.empty((batch, length, heads, features), x.dtype).transpose(0, 2, 1, 3)
    return np.empty((batch, heads, length, features), x.dtype)


def _batches(start: int, stop: int, heads: int) -> list[tuple[slice, slice]]:
    """The keys of the heads with running numbers from ``start`` to ``stop``: whole batches, and the ends."""
    first, last = -(-start // heads), stop // heads
    if first > last:
        return [(slice(last, last + 1), slice(start % heads, stop % heads))]
    parts = [(slice(first - 1, first), slice(start % heads, heads))] if start % heads else []
    parts += [(slice(first, last), slice(None))] if first < last else []
    return parts + ([(slice(last, last + 1), slice(0, stop % heads))] if stop % heads else [])


def attention(query: Any, key: Any, value: Any, *, scale: float, is_causal: bool) -> Any:
    """Forward."""
    arrays = _four_axes(query, key, value)
    address = product_address(query.dtype)
    if arrays is None or not address or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        return None
    q, k, v = arrays
    y = _like(q, v.shape[3])
    rows = _block_rows(q.shape[2], k.shape[2], is_causal)

    def run(start: int, stop: int) -> None:
        for part in _batches(start, stop, q.shape[1]):
            _forward(address, q[part], k[part], v[part], F(scale), is_causal, rows, y[part])

    run_products(run, q.shape[0] * q.shape[1], 1)
    return y.reshape(*query.shape[:-1], v.shape[3]) if query.ndim < 4 else y


def attention_gradient(
    g: Any, query: Any, key: Any, value: Any, scale: float, is_causal: bool, needs: Any
) -> Any:
    """Gradients in query, key and value."""
    arrays = _four_axes(np.ascontiguousarray(g) if g.strides[-1] != g.itemsize else g, query, key, value)
    address = product_address(query.dtype)
    if arrays is None or not address:
        return None
    up, q, k, v = arrays
    results = [_like(x, x.shape[3]) for x in (q, k, v)]
    rows = _block_rows(q.shape[2], k.shape[2], is_causal)

    def run(start: int, stop: int) -> None:
        for part in _batches(start, stop, q.shape[1]):
            into = [x[part] for x in results]
            _backward(address, up[part], q[part], k[part], v[part], F(scale), is_causal, rows, *into)

    run_products(run, q.shape[0] * q.shape[1], 1)
    shapes = (query.shape, key.shape, value.shape)
    return tuple(
        x if x.shape == shape else x.reshape(shape) for x, shape in zip(results, shapes, strict=True)
    )
