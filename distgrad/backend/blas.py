"""The BLAS library that NumPy was built with: its thread count, and its matrix products' addresses.

NumPy's own ``matmul`` does small products. The addresses are for threads of ours, which share large ones, and
for kernels that multiply blocks inside a loop, where a call through Python would cost more than the product.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Blas", "find_blas"]

_PRODUCTS = (
    "scipy_cblas_{}gemm64_",
    "cblas_{}gemm64_",
)  # those whose integers have 64 bits, as in the wheels
_THREADS = (
    "scipy_openblas_{}_num_threads64_",
    "scipy_openblas_{}_num_threads",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)


class Blas(NamedTuple):
    """What was found; None or 0 stands for what was not.

    Args:
        set_threads, get_threads: of the library.
        sgemm, dgemm: addresses of ``cblas_sgemm`` and ``cblas_dgemm``, with 64-bit integers.
    """

    set_threads: Any = None
    get_threads: Any = None
    sgemm: int = 0
    dgemm: int = 0


@functools.cache
def find_blas() -> Blas:
    """Look into the library behind NumPy's extension module, and into those that it loaded."""
    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return Blas()
    setter = getter = None
    for name in _THREADS:
        if hasattr(library, name.format("set")):
            setter, getter = library[name.format("set")], library[name.format("get")]
            setter.argtypes, setter.restype = [ctypes.c_int], None
            break
    for name in _PRODUCTS:
        if hasattr(library, name.format("s")):
            return Blas(setter, getter, *(_address(library[name.format(kind)]) for kind in "sd"))
    return Blas(setter, getter)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
