"""An affine map whose product is added to the bias that its memory is filled with."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.kernels.product import product, product_address
from distgrad.backend.kernels.support import is_plain, jit


@jit
def _linear(address: int, one: Any, x: Any, weight: Any, bias: Any, y: Any) -> None:
    rows, columns = y.shape
    inner = x.shape[1]
    for i in range(rows):
        for j in range(columns):
            y[i, j] = bias[j]
    left, right = (x.ctypes.data, inner), (weight.ctypes.data, inner)
    product(address, (False, True), rows, columns, inner, one, left, right, one, (y.ctypes.data, columns))


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """Forward."""
    address = product_address(x.dtype)
    if bias is None or not address or weight.ndim != 2 or not is_plain(x, weight, bias) or not weight.size:
        return None
    if x.shape[-1:] != weight.shape[1:] or bias.shape != weight.shape[:1]:
        return None
    if x.size <= weight.shape[1]:  # of one row NumPy makes a product with a vector, in a fifth of the time
        return None
    y = np.empty((*x.shape[:-1], len(weight)), x.dtype)
    _linear(address, x.dtype.type(1), x.reshape(-1, x.shape[-1]), weight, bias, y.reshape(-1, len(weight)))
    return y
