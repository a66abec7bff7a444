"""Group and instance norm: a sample's group of channels at a time, whose elements lie in one piece."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.support import is_plain, jit, kernel, writable
from distgrad.backend.memory import host_memory
from distgrad.backend.threads import run_parts

_ELEMENT_NS = 1.0  # of one thread, for each element


@jit
def _moments(rows: Any, eps: Any) -> Any:
    """Mean of a group's ``[channels, places]``, and one over the deviation; sums of rows are added up."""
    count = rows.size
    mean = rows[0, 0] * 0
    for c in range(len(rows)):
        row = rows[c]
        part = mean * 0
        for j in range(row.size):
            part += row[j]
        mean += part / count
    total = mean * 0
    for c in range(len(rows)):
        row = rows[c]
        part = mean * 0
        for j in range(row.size):
            d = row[j] - mean
            part += d * d
        total += part / count
    return mean, 1 / math.sqrt(total + eps)


@kernel("i i x3 x2 x2 x x3", writes="y")
def _forward(start: int, stop: int, x: Any, weight: Any, bias: Any, eps: Any, y: Any) -> None:
    for i in range(start, stop):
        group = i % len(weight)
        mean, rate = _moments(x[i], eps)
        for c in range(x.shape[1]):
            row, out = x[i, c], y[i, c]
            scale, shift = rate * weight[group, c], bias[group, c]
            for j in range(row.size):
                out[j] = (row[j] - mean) * scale + shift


@kernel("i i x3 x3 x2 x x3 x3", writes="g_x g_affine")
def _backward(start: int, stop: int, g: Any, x: Any, weight: Any, eps: Any, g_x: Any, g_affine: Any) -> None:
    count = x.shape[1] * x.shape[2]
    for i in range(start, stop):
        group = i % len(weight)
        mean, rate = _moments(x[i], eps)
        first = mean * 0
        second = mean * 0
        for c in range(x.shape[1]):
            row, up = x[i, c], g[i, c]
            part = mean * 0
            other = mean * 0
            for j in range(row.size):
                part += up[j]
                other += up[j] * (row[j] - mean)
            other *= rate
            g_affine[0, i, c], g_affine[1, i, c] = other, part
            first += part * weight[group, c]
            second += other * weight[group, c]
        first /= count
        slope = second * rate / count
        for c in range(x.shape[1]):
            row, up, out = x[i, c], g[i, c], g_x[i, c]
            scale = weight[group, c]
            for j in range(row.size):
                out[j] = (up[j] * scale - first - (row[j] - mean) * slope) * rate


def _groups(x: Any, num_groups: int, *parameters: Any) -> Any:
    """x as ``[N groups, channels, places]`` if the kernels take it."""
    if x.ndim < 2 or x.size == 0 or x.shape[1] % num_groups or not is_plain(x, *parameters):
        return None
    if any(each is not None and each.shape != x.shape[1:2] for each in parameters):
        return None
    return x.reshape(len(x) * num_groups, x.shape[1] // num_groups, -1)


def _affine(value: Any, fill: float, like: Any, num_groups: int) -> Any:
    """A parameter as ``[groups, channels]``."""
    shape = (num_groups, like.shape[1])
    return host_memory.full(shape, fill, like.dtype) if value is None else value.reshape(shape)


def group_norm(x: Any, weight: Any, bias: Any, *, num_groups: int, eps: float) -> Any:
    """Forward."""
    rows = _groups(x, num_groups, weight, bias)
    if rows is None:
        return None
    y = host_memory.empty_like(rows)
    scale, shift = _affine(weight, 1, rows, num_groups), _affine(bias, 0, rows, num_groups)
    run_parts(
        lambda *part: [(_forward, *part, rows, scale, shift, x.dtype.type(eps), y)],
        len(rows),
        x.size // len(rows) * _ELEMENT_NS,
    )
    return y.reshape(x.shape)


def group_norm_gradient(
    g: Any, x: Any, weight: Any, num_groups: int, eps: float, needs: Any, into: Any
) -> Any:
    """Gradients in x, weight and bias; those of the parameters are summed over samples in their order."""
    rows = _groups(x, num_groups, weight)
    if rows is None or not is_plain(x, g) or g.shape != x.shape:
        return None
    g_x, g_affine = host_memory.empty_like(rows), host_memory.empty((2, *rows.shape[:2]), x.dtype)
    upper, scale = g.reshape(rows.shape), _affine(weight, 1, rows, num_groups)
    run_parts(
        lambda *part: [(_backward, *part, upper, rows, scale, x.dtype.type(eps), g_x, g_affine)],
        len(rows),
        x.size // len(rows) * _ELEMENT_NS,
    )
    parameters = [writable(home, x.shape[1:2], x.dtype) for home in into[1:]]
    for sums, parts in zip(parameters, g_affine.reshape(2, len(x), x.shape[1]), strict=True):
        np.add.reduce(parts, axis=0, out=sums)
    results = (g_x.reshape(x.shape), *parameters)
    return tuple(each if need else None for each, need in zip(results, needs, strict=True))


def instance_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    """Forward: every channel is a group."""
    return group_norm(x, weight, bias, num_groups=x.shape[1], eps=eps) if x.ndim > 1 and x.size else None


def instance_norm_gradient(g: Any, x: Any, weight: Any, eps: float, needs: Any, into: Any) -> Any:
    """Gradients in x, weight and bias."""
    return group_norm_gradient(g, x, weight, x.shape[1], eps, needs, into) if x.size else None
