"""The BLAS library that NumPy was built with: its thread count, and its matrix products' addresses.

NumPy's own ``matmul`` does nearly all products. The addresses are for kernels that multiply blocks inside a
loop, where a call through Python would cost more than the product.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Blas", "find_blas", "single_threaded"]

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


class _SingleThreaded:
    """The library computes with one thread while anybody is inside; see :data:`single_threaded`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: set[int] = set()  # threads; the next visit of one that an interrupt left heals it
        self.threads = 1

    def forget(self) -> None:
        """In a fork, to which the threads that are inside do not come along."""
        self.lock = threading.Lock()
        if self.inside:
            self.inside = set()
            find_blas().set_threads(self.threads)

    def set_threads(self, num_threads: int) -> None:
        """The library's threads from now on, or once nobody is inside any longer."""
        with self.lock:
            self.threads = num_threads
            if not self.inside:
                find_blas().set_threads(num_threads)

    def __enter__(self) -> None:
        blas = find_blas()
        with self.lock:
            if not self.inside:
                self.threads = blas.get_threads()
            self.inside.add(threading.get_ident())
            blas.set_threads(1)

    def __exit__(self, *_: object) -> None:
        mine = threading.get_ident()
        with self.lock:
            if self.inside <= {mine}:
                find_blas().set_threads(self.threads)
            self.inside.discard(mine)


#: ``with single_threaded:`` around products that threads of ours share. OpenBLAS's own go on asking for work
#: for 20 ms after each product, and take the core from whoever computes next.
single_threaded = _SingleThreaded()
os.register_at_fork(after_in_child=single_threaded.forget)
