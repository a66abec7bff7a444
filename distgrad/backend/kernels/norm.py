"""Layer and root-mean-square norm over contiguous rows.

A row's statistics are cheaper to compute again in the backward pass than to keep. Gradients of weight and
bias are summed in blocks of rows whose borders do not depend on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.support import is_plain, jit, kernel, writable
from distgrad.backend.memory import host_memory
from distgrad.backend.threads import Calls, run_parts

_ELEMENT_NS = 1.0  # of one thread, for each element
_BLOCK_ROWS = 64


@jit
def _mean(x: Any) -> Any:
    real = x.dtype.type
    total = real(0)
    for j in range(x.size):
        total += x[j]
    return total / real(x.size)


@jit
def _moments(x: Any, eps: Any, centred: bool) -> Any:
    """Mean (0 unless ``centred``), and one over the deviation."""
    real = x.dtype.type
    mean = _mean(x) if centred else real(0)
    total = real(0)
    for j in range(x.size):
        d = x[j] - mean
        total += d * d
    return mean, real(1) / math.sqrt(total / real(x.size) + eps)


@kernel("x2 x1 x1 x b x2", writes="y")
def _forward(x: Any, weight: Any, bias: Any, eps: Any, centred: bool, y: Any) -> None:
    for i in range(len(x)):
        row, out = x[i], y[i]
        mean, rate = _moments(row, eps, centred)
        for j in range(row.size):
            out[j] = (row[j] - mean) * rate * weight[j] + bias[j]


@jit
def _sums(g: Any, x: Any, weight: Any, mean: Any) -> Any:
    """Of a row: sums of squares, of gradients, and of gradients times distances from the mean."""
    real = x.dtype.type
    squares = real(0)
    first = real(0)
    second = real(0)
    for j in range(x.size):
        d = x[j] - mean
        inner = g[j] * weight[j]
        squares += d * d
        first += inner
        second += inner * d
    return squares, first, second


@jit
def _write_input(g: Any, x: Any, weight: Any, rate: Any, slope: Any, level: Any, g_x: Any) -> None:
    for j in range(x.size):
        g_x[j] = g[j] * weight[j] * rate + (x[j] * slope + level)


@jit
def _add_input(g: Any, x: Any, weight: Any, rate: Any, slope: Any, level: Any, before: Any, g_x: Any) -> None:
    for j in range(x.size):
        g_x[j] = g[j] * weight[j] * rate + (x[j] * slope + level) + before[j]


@jit
def _add_affine(g: Any, x: Any, mean: Any, rate: Any, g_weight: Any, g_bias: Any) -> None:
    for j in range(x.size):
        g_weight[j] += g[j] * ((x[j] - mean) * rate)
        g_bias[j] += g[j]


@kernel("x2 x2 x1 x b x2 b x2 x3", writes="g_x g_affine")
def _backward(
    g: Any, x: Any, weight: Any, eps: Any, centred: bool, before: Any, adds: bool, g_x: Any, g_affine: Any
) -> None:
    """A row stays in the nearest cache for all of its loops, of which none looks at more than it needs.

    Unless it ``adds`` it, ``before`` is any array, so that the code is compiled once.
    """
    real = x.dtype.type
    count = real(x.shape[1])
    for block in range(len(g_affine)):
        g_weight, g_bias = g_affine[block, 0], g_affine[block, 1]
        for j in range(x.shape[1]):
            g_weight[j] = 0
            g_bias[j] = 0
        for i in range(block * _BLOCK_ROWS, min((block + 1) * _BLOCK_ROWS, x.shape[0])):
            row, up = x[i], g[i]
            mean = _mean(row) if centred else real(0)
            squares, first, second = _sums(up, row, weight, mean)
            rate = real(1) / math.sqrt(squares / count + eps)
            slope = -second / count * rate * rate * rate
            level = -mean * slope - (first / count * rate if centred else real(0))
            if adds:
                _add_input(up, row, weight, rate, slope, level, before[i], g_x[i])
            else:
                _write_input(up, row, weight, rate, slope, level, g_x[i])
            _add_affine(up, row, mean, rate, g_weight, g_bias)


def _rows(x: Any, parameters: tuple[Any, ...], normalized_shape: Any) -> Any:
    """x as rows if the kernels take it."""
    columns = math.prod(normalized_shape)
    if columns == 0 or x.size == 0 or not is_plain(x, *parameters):
        return None
    shape = tuple(normalized_shape)
    if x.shape[x.ndim - len(shape) :] != shape or any(p is not None and p.shape != shape for p in parameters):
        return None
    return x.reshape(-1, columns)


def _vector(value: Any, fill: float, like: Any) -> Any:
    return host_memory.full(like.shape[1], fill, like.dtype) if value is None else value.reshape(-1)


def _run(x: Any, weight: Any, bias: Any, normalized_shape: Any, eps: float, centred: bool) -> Any:
    rows = _rows(x, (weight, bias), normalized_shape)
    if rows is None:
        return None
    y = host_memory.empty_like(rows)
    scale, shift = _vector(weight, 1, rows), _vector(bias, 0, rows)

    def part(start: int, stop: int) -> Calls:
        numbers = (x.dtype.type(eps), centred)
        return [(_forward, rows[start:stop], scale, shift, *numbers, y[start:stop])]

    run_parts(part, len(rows), rows.shape[1] * _ELEMENT_NS)
    return y.reshape(x.shape)


def _run_gradient(
    g: Any, x: Any, weight: Any, normalized_shape: Any, eps: float, needs: Any, into: Any, before: Any,
    centred: bool,
) -> Any:  # fmt: skip
    rows = _rows(x, (weight,), normalized_shape) if is_plain(x, g) and g.shape == x.shape else None
    if rows is None:
        return None
    blocks = -(-len(rows) // _BLOCK_ROWS)
    g_x = host_memory.empty_like(rows)
    g_affine = host_memory.empty((blocks, 2, rows.shape[1]), x.dtype)
    scale = _vector(weight, 1, rows)
    upper, adds = g.reshape(rows.shape), before is not None
    others = np.ascontiguousarray(before, x.dtype).reshape(rows.shape) if adds else upper

    def part(start: int, stop: int) -> Calls:
        some = slice(start * _BLOCK_ROWS, stop * _BLOCK_ROWS)
        numbers, results = (x.dtype.type(eps), centred), (g_x[some], g_affine[start:stop])
        return [(_backward, upper[some], rows[some], scale, *numbers, others[some], adds, *results)]

    run_parts(part, blocks, 2 * rows.shape[1] * _BLOCK_ROWS * _ELEMENT_NS)
    parameters = []
    for i, (need, home) in enumerate(zip(needs[1:], into[1:], strict=True)):
        parameter = writable(home, normalized_shape, x.dtype) if need else None
        if parameter is not None:
            np.add.reduce(g_affine[:, i], axis=0, out=parameter.reshape(-1))
        parameters.append(parameter)
    return (g_x.reshape(x.shape) if needs[0] else None, *parameters)


def layer_norm(x: Any, weight: Any, bias: Any, *, normalized_shape: Any, eps: float) -> Any:
    """Forward."""
    return _run(x, weight, bias, normalized_shape, eps, True)


def layer_norm_gradient(
    g: Any, x: Any, weight: Any, normalized_shape: Any, eps: float, needs: Any, into: Any, before: Any
) -> Any:
    """Gradients in x, weight and bias."""
    return _run_gradient(g, x, weight, normalized_shape, eps, needs, into, before[0], True)


def rms_norm(x: Any, weight: Any, *, normalized_shape: Any, eps: float | None) -> Any:
    """Forward."""
    return _run(x, weight, None, normalized_shape, _epsilon(x, eps), False)


def rms_norm_gradient(
    g: Any, x: Any, weight: Any, normalized_shape: Any, eps: float | None, needs: Any, into: Any, before: Any
) -> Any:
    """Gradients in x and weight."""
    return _run_gradient(g, x, weight, normalized_shape, _epsilon(x, eps), needs, into, before[0], False)


def _epsilon(x: Any, eps: float | None) -> float:
    return float(np.finfo(x.dtype).eps) if eps is None else eps
