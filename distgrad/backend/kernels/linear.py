"""An affine map whose product is added to the bias that its memory is filled with."""

from __future__ import annotations

from typing import Any

from distgrad.backend.kernels.product import product, product_address
from distgrad.backend.kernels.support import is_plain, kernel
from distgrad.backend.memory import host_memory
from distgrad.backend.products import run_blocks
from distgrad.backend.threads import Calls


@kernel("i x x2 x2 x1 x2 i i i i", writes="y")
def _linear(
    address: int, one: Any, x: Any, weight: Any, bias: Any, y: Any, top: int, rows: int, first: int,
    columns: int,
) -> None:  # fmt: skip
    """One block of ``y``."""
    inner, width = x.shape[1], y.shape[1]
    for i in range(top, top + rows):
        for j in range(first, first + columns):
            y[i, j] = bias[j]
    left = (x.ctypes.data + top * inner * x.itemsize, inner)
    right = (weight.ctypes.data + first * inner * x.itemsize, inner)
    to = (y.ctypes.data + (top * width + first) * x.itemsize, width)
    product(address, (False, True), rows, columns, inner, one, left, right, one, to)


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """Forward."""
    address = product_address(x.dtype)
    if bias is None or not address or weight.ndim != 2 or not is_plain(x, weight, bias) or not weight.size:
        return None
    if x.shape[-1:] != weight.shape[1:] or bias.shape != weight.shape[:1]:
        return None
    if x.size <= weight.shape[1]:  # of one row NumPy makes a product with a vector, in a fifth of the time
        return None
    y = host_memory.empty((*x.shape[:-1], len(weight)), x.dtype)
    arrays = (x.reshape(-1, x.shape[-1]), weight, bias, y.reshape(-1, len(weight)))
    one = x.dtype.type(1)

    def calls(rows: slice, columns: slice) -> Calls:
        block = (rows.start, rows.stop - rows.start, columns.start, columns.stop - columns.start)
        return [(_linear, address, one, *arrays, *block)]

    run_blocks(arrays[3].shape, x.shape[-1], calls, size=x.itemsize)
    return y
