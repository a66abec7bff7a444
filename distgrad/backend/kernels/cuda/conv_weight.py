"""A convolution's gradients in weight and bias, written home."""

from __future__ import annotations

from typing import Any

from distgrad.backend.kernels.cuda.conv import weight_into
from distgrad.backend.kernels.cuda.launch import arithmetic, writable


def weight_gradient(
    g: Any, x: Any, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int, into: Any
) -> Any:
    """Gradient in weight."""
    return weight_into(g, x, weight_shape, stride, padding, dilation, groups, into[0])


def bias_gradient(g: Any, into: Any) -> Any:
    """Gradient in the bias."""
    if g.ndim < 2 or g.size == 0:
        return None
    b = writable(into[0], g, g.shape[1])
    axes, wide = (0, *range(2, g.ndim)), arithmetic(g.dtype.char)
    if b.dtype.char == wide:
        g.sum(axis=axes, out=b)
    else:
        b[...] = g.sum(axis=axes, dtype=wide)
    return b
