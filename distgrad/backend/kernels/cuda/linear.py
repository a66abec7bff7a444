"""An affine map: one product of matrices, however many axes x has, and the bias in the same launch.

Where cuBLASLt has no algorithm for that, the bias is added in place by a kernel.
"""

from __future__ import annotations

from typing import Any

from distgrad.backend import cublaslt
from distgrad.backend.cublas import matmul
from distgrad.backend.kernels.cuda.launch import over_planes, prepare, writable


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """Forward."""
    if weight.ndim != 2 or x.ndim == 0 or x.size == 0 or weight.size == 0:
        return None
    if x.shape[-1:] != weight.shape[1:] or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    taken = prepare(x, weight, bias)
    if taken is None:
        return None
    x, weight, bias = taken
    rows = x.reshape(-1, x.shape[-1])
    y = None if bias is None else cublaslt.add_bias(rows, weight, bias)
    if y is None:
        y = matmul(rows, weight.T)
        if bias is not None:
            over_planes("linear", "add_bias", *y.shape, y.dtype.char, *y.shape, bias, y)
    return y.reshape(*x.shape[:-1], len(weight))


def linear_gradient(g: Any, x: Any, needs: Any, into: Any) -> Any:
    """Gradients in weight and bias, where both are wanted."""
    taken = prepare(g, x) if all(needs) and g.size and x.size else None
    if taken is None:
        return None
    g, x = (each.reshape(-1, each.shape[-1]) for each in taken)
    g_weight = writable(into[0], x, (g.shape[1], x.shape[1]))
    g_bias = writable(into[1], g, g.shape[1])
    return (g_weight, g_bias) if cublaslt.with_bias_gradient(g, x, g_weight, g_bias) else None
