"""What cuDNN's operations compute, in float64 by NumPy, from their definitions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np


def _offsets(weight: Any, out: Any, stride: Any, dilation: Any) -> Any:
    """Each place of the kernel, and the elements of the padded x that it meets."""
    for place in itertools.product(*map(range, weight[2:])):
        steps = zip(place, out, stride, dilation, strict=True)
        yield place, tuple(slice(i * d, i * d + s * (n - 1) + 1, s) for i, n, s, d in steps)


def _padded(x: Any, padding: Any) -> np.ndarray:
    return np.pad(x, [(0, 0), (0, 0), *((n, n) for n in padding)])


def _groups(x: np.ndarray, weight_shape: Any) -> int:
    return x.shape[1] // weight_shape[1]


def conv_fprop(x: Any, weight: Any, shape: Any, padding: Any, stride: Any, dilation: Any) -> np.ndarray:
    """The forward pass, ``[N, O, *out]``."""
    groups, padded = _groups(x, weight.shape), _padded(x, padding)
    y = np.zeros((len(x), groups, len(weight) // groups, *shape[2:]))
    wide = padded.reshape(len(x), groups, -1, *padded.shape[2:])
    filters = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
    for place, offset in _offsets(weight.shape, shape[2:], stride, dilation):
        y += np.einsum("ngc...,goc->ngo...", wide[(..., *offset)], filters[(..., *place)])
    return y.reshape(shape)


def conv_dgrad(g: Any, weight: Any, shape: Any, padding: Any, stride: Any, dilation: Any) -> np.ndarray:
    """The gradient in x."""
    groups = shape[1] // weight.shape[1]
    lengths = [n + 2 * p for n, p in zip(shape[2:], padding, strict=True)]
    padded = np.zeros((shape[0], groups, weight.shape[1], *lengths))
    rows = g.reshape(len(g), groups, -1, *g.shape[2:])
    filters = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
    for place, offset in _offsets(weight.shape, g.shape[2:], stride, dilation):
        padded[(..., *offset)] += np.einsum("ngo...,goc->ngc...", rows, filters[(..., *place)])
    inside = tuple(slice(p, p + n) for n, p in zip(shape[2:], padding, strict=True))
    return padded[(..., *inside)].reshape(shape)


def conv_wgrad(x: Any, g: Any, shape: Any, padding: Any, stride: Any, dilation: Any) -> np.ndarray:
    """The gradient in weight."""
    groups, padded = _groups(x, shape), _padded(x, padding)
    wide = padded.reshape(len(x), groups, -1, *padded.shape[2:])
    rows = g.reshape(len(g), groups, shape[0] // groups, -1)
    weight = np.zeros((groups, shape[0] // groups, *shape[1:]))
    for place, offset in _offsets(shape, g.shape[2:], stride, dilation):
        met = wide[(..., *offset)].reshape(*wide.shape[:3], -1)
        weight[(..., *place)] = np.einsum("ngop,ngcp->goc", rows, met)
    return weight.reshape(shape)


def _heads(x: np.ndarray, heads: int) -> np.ndarray:
    return np.repeat(x, heads // x.shape[1], axis=1)


def _shared(x: np.ndarray, heads: int) -> np.ndarray:
    return x.reshape(x.shape[0], heads, -1, *x.shape[2:]).sum(axis=2)


def _scores(q: Any, k: Any, scale: float, is_causal: bool, bias: Any) -> np.ndarray:
    scores = q @ _heads(k, q.shape[1]).swapaxes(-1, -2) * scale
    if bias is not None:
        scores = scores + bias
    return np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -math.inf) if is_causal else scores


def sdpa(q: Any, k: Any, v: Any, scale: float, is_causal: bool, bias: Any, kept: Any) -> list[np.ndarray]:
    """Attention and the logarithm of each query's sum; NaN where a query sees nothing."""
    scores = _scores(q, k, scale, is_causal, bias)
    most = scores.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        sums = np.exp(scores - most).sum(axis=-1, keepdims=True)
        weights = np.exp(scores - most) / sums
    return [(weights * kept) @ _heads(v, q.shape[1]), most + np.log(sums)]


def sdpa_backward(
    q: Any, k: Any, v: Any, o: Any, g: Any, stats: Any, scale: float, is_causal: bool, bias: Any, kept: Any
) -> list[np.ndarray]:
    """The gradients in q, k and v, from the result and the statistics that the forward pass has left."""
    weights = np.exp(_scores(q, k, scale, is_causal, bias) - stats)
    slopes = (g @ _heads(v, q.shape[1]).swapaxes(-1, -2)) * kept
    slopes = weights * (slopes - (g * o).sum(axis=-1, keepdims=True)) * scale
    heads = k.shape[1]
    return [
        slopes @ _heads(k, q.shape[1]),
        _shared(slopes.swapaxes(-1, -2) @ q, heads),
        _shared((weights * kept).swapaxes(-1, -2) @ g, heads),
    ]
