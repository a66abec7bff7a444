"""Matrix products inside kernels: a call of NumPy's own BLAS by its address."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from distgrad.backend.blas import find_blas
from distgrad.backend.kernels.support import jit

__all__ = ["product", "product_address"]

_ROW_MAJOR, _AS_IT_IS, _TRANSPOSED = np.int32(101), np.int32(111), np.int32(112)  # cblas.h


@intrinsic
def _call(
    typing_context: Any, address: Any, order: Any, left: Any, right: Any, m: Any, n: Any, k: Any,
    alpha: Any, a: Any, lda: Any, b: Any, ldb: Any, beta: Any, c: Any, ldc: Any,
) -> Any:  # fmt: skip
    flag, size, real = types.int32, types.int64, alpha
    arguments = [flag] * 3 + [size] * 3 + [real, size, size, size, size, real, size, size]

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kinds = [context.get_value_type(each) for each in arguments]
        function = ir.FunctionType(ir.VoidType(), kinds)  # an address is passed as an integer of its size
        builder.call(builder.inttoptr(values[0], function.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(types.int64, *arguments), code


@jit
def product(
    address: int, transpose: Any, m: int, n: int, k: int, alpha: Any, a: Any, b: Any, beta: Any, c: Any
) -> None:
    """``c = alpha a b + beta c``, all in row-major order.

    Args:
        address: of the BLAS function for this dtype.
        transpose: whether ``a`` and ``b`` are stored transposed.
        m, n, k: c is ``[m, n]``, a ``[m, k]``, b ``[k, n]``.
        alpha, beta: factors, of the arrays' dtype.
        a, b, c: (address of the first element, elements from one row to the next).
    """
    left = _TRANSPOSED if transpose[0] else _AS_IT_IS
    right = _TRANSPOSED if transpose[1] else _AS_IT_IS
    _call(address, _ROW_MAJOR, left, right, m, n, k, alpha, a[0], a[1], b[0], b[1], beta, c[0], c[1])


def product_address(dtype: Any) -> int:
    """The address for float32 or float64; 0 where NumPy was built with another library."""
    return find_blas().sgemm if dtype.char == "f" else find_blas().dgemm
