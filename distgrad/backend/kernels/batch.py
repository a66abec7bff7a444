"""Batch norm: a channel at a time, over rows that are contiguous."""

from __future__ import annotations

import math
from typing import Any

from distgrad.backend.kernels.support import is_plain, jit, kernel, writable
from distgrad.backend.memory import host_memory
from distgrad.backend.threads import run_parts

_ELEMENT_NS = 1.0  # of one thread, for each element


@jit
def _moments(x: Any, c: int) -> Any:
    """Mean and variance of a channel; sums of rows are added up in float64."""
    real = x.dtype.type
    count = x.shape[0] * x.shape[2]
    total = 0.0
    for n in range(x.shape[0]):
        row = x[n, c]
        part = real(0)
        for j in range(row.size):
            part += row[j]
        total += part
    mean = real(total / count)
    total = 0.0
    for n in range(x.shape[0]):
        row = x[n, c]
        part = real(0)
        for j in range(row.size):
            d = row[j] - mean
            part += d * d
        total += part
    return mean, real(total / count)


@kernel("i i x3 x1 x1 x x3 x2", writes="y moments")
def _forward(start: int, stop: int, x: Any, weight: Any, bias: Any, eps: Any, y: Any, moments: Any) -> None:
    for c in range(start, stop):
        mean, variance = _moments(x, c)
        moments[0, c], moments[1, c] = mean, variance
        scale = weight[c] / math.sqrt(variance + eps)
        shift = bias[c]
        for n in range(x.shape[0]):
            row, out = x[n, c], y[n, c]
            for j in range(row.size):
                out[j] = (row[j] - mean) * scale + shift


@kernel("i i x3 x3 x1 x x3 x1 x1", writes="g_x g_weight g_bias")
def _backward(
    start: int, stop: int, g: Any, x: Any, weight: Any, eps: Any, g_x: Any, g_weight: Any, g_bias: Any
) -> None:
    real = x.dtype.type
    count = x.shape[0] * x.shape[2]
    for c in range(start, stop):
        mean, variance = _moments(x, c)
        rate = 1.0 / math.sqrt(variance + eps)
        first = 0.0
        second = 0.0
        for n in range(x.shape[0]):
            row, up = x[n, c], g[n, c]
            part = real(0)
            other = real(0)
            for j in range(row.size):
                part += up[j]
                other += up[j] * (row[j] - mean)
            first += part
            second += other
        second *= rate
        g_bias[c] = first
        g_weight[c] = second
        scale = real(rate * weight[c])
        slope = real(second * rate / count)
        average = real(first / count)
        for n in range(x.shape[0]):
            row, up, out = x[n, c], g[n, c], g_x[n, c]
            for j in range(row.size):
                out[j] = (up[j] - average - (row[j] - mean) * slope) * scale


def _channels(x: Any, *parameters: Any) -> Any:
    """x as ``[N, C, rest]`` if the kernels take it."""
    if x.ndim < 2 or x.size == 0 or not is_plain(x, *parameters):
        return None
    if any(each is not None and each.shape != x.shape[1:2] for each in parameters):
        return None
    return x.reshape(*x.shape[:2], -1)


def batch_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    """Forward, with the mean and variance of each channel."""
    rows = _channels(x, weight, bias)
    if rows is None:
        return None
    y, moments = host_memory.empty_like(rows), host_memory.empty((2, rows.shape[1]), x.dtype)
    channels = rows.shape[1]
    scale = host_memory.ones(channels, x.dtype) if weight is None else weight
    shift = host_memory.zeros(channels, x.dtype) if bias is None else bias
    run_parts(
        lambda *part: [(_forward, *part, rows, scale, shift, x.dtype.type(eps), y, moments)],
        channels,
        x.size // channels * _ELEMENT_NS,
    )
    return y.reshape(x.shape), moments[0], moments[1]


def batch_norm_gradient(gradients: Any, x: Any, weight: Any, eps: float, needs: Any, into: Any) -> Any:
    """Gradients in x, weight and bias; those of the statistics must be 0, as they nearly always are."""
    g, *statistics = gradients
    rows = _channels(x, weight)
    if rows is None or g is None or not is_plain(x, g):
        return None
    if any(each is not None and each.any() for each in statistics):
        return None
    channels = rows.shape[1]
    scale = host_memory.ones(channels, x.dtype) if weight is None else weight
    g_x = host_memory.empty_like(rows)
    g_weight, g_bias = (writable(home, (channels,), x.dtype) for home in into[1:])
    upper = g.reshape(rows.shape)
    run_parts(
        lambda *part: [(_backward, *part, upper, rows, scale, x.dtype.type(eps), g_x, g_weight, g_bias)],
        channels,
        x.size // channels * _ELEMENT_NS,
    )
    results = (g_x.reshape(x.shape), g_weight, g_bias)
    return tuple(each if need else None for each, need in zip(results, needs, strict=True))
