"""An affine map: one product of matrices, however many axes x has, and the bias added in place."""

from __future__ import annotations

from typing import Any

from distgrad.backend.cublas import matmul
from distgrad.backend.kernels.cuda.launch import over_planes, prepare


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
    y = matmul(x.reshape(-1, x.shape[-1]), weight.T)
    if bias is not None:
        over_planes("linear", "add_bias", *y.shape, y.dtype.char, *y.shape, bias, y)
    return y.reshape(*x.shape[:-1], len(weight))
