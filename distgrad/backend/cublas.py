"""Products of stacks of matrices, each by one call of cuBLAS, which reads operands where they lie.

CuPy's own ``matmul`` copies what is transposed within a stack, makes arrays of pointers for what is
broadcast, multiplies stacks of 16-bit numbers as float32, and lets no stack use TF32.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import math
import os
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.graphs import graph_recording, refuse
from distgrad.backend.neighbours import as_one, evenly_apart
from distgrad.backend.precision import get_float32_matmul_precision
from distgrad.errors import CaptureError, DeviceError

__all__ = [
    "TYPES",
    "Addressed",
    "compute_type",
    "current_queue",
    "lines",
    "loaded_library",
    "matmul",
    "multiply_addressed",
    "readable",
    "scalar",
]

#: cudaDataType by NumPy's character: CUDA_R_16F, 32F, 64F, 16BF
TYPES = {"e": 2, "f": 0, "d": 1, "E": 14}
_SUMS = {"e": "f", "f": "f", "d": "d", "E": "f"}
_FLOAT32, _TF32, _FLOAT64 = 68, 77, 70  # cublasComputeType: 32F, 32F_FAST_TF32, 64F
_DEFAULT_ALGORITHM = -1
_MOST = (1 << 31) - 1  # cuBLAS's int


@functools.cache
def _library() -> tuple[Any, Any]:
    """CuPy's binding, and what finds the current device's handle."""
    binding = importlib.import_module("cupy_backends.cuda.libs.cublas")
    return binding.gemmStridedBatchedEx, importlib.import_module("cupy.cuda.device").get_cublas_handle


def loaded_library(name: str) -> ctypes.CDLL | None:
    """The library of CUDA 13 or 12 that this process has loaded; None if it has not."""
    for version in (13, 12):
        try:
            return ctypes.CDLL(f"lib{name}.so.{version}", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:
            continue
    return None


@functools.cache
def _loaded() -> ctypes.CDLL:
    """The library that CuPy has loaded."""
    library = loaded_library("cublas")
    if library is None:
        raise CaptureError(
            "matmul: no libcublas.so.12 or .13 is loaded, which a step that is written down calls by itself"
        )
    kinds: dict[str, Any] = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_longlong}
    library.cublasGemmStridedBatchedEx.argtypes = [kinds[x] for x in "piiiiippiilpiilppiiliii"]
    library.cublasGemmBatchedEx.argtypes = [kinds[x] for x in "piiiiippiipiippiiiii"]
    library.cublasSetStream_v2.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return library


def _recorded(handle: int, *arguments: Any) -> None:
    """The product in a step that is written down, where CuPy's binding refuses every call of cuBLAS."""
    library, stream = _loaded(), importlib.import_module("cupy").cuda.get_current_stream().ptr
    for status in (
        library.cublasSetStream_v2(handle, stream),
        library.cublasGemmStridedBatchedEx(handle, *arguments),
    ):
        if status:
            raise CaptureError(f"matmul: cuBLAS answers {status} while a step is written down")


class _Matrices(NamedTuple):
    """How a stack of matrices lies in memory, in elements.

    Args:
        turned: whether columns, not rows, are contiguous.
        lead: from one row (column) to the next.
        step: from one matrix to the next; 0 where one serves all.
    """

    turned: int
    lead: int
    step: int


def _matrices(x: Any, stack: tuple[int, ...]) -> _Matrices | None:
    """The layout of ``x``, broadcast to ``stack``; None where cuBLAS cannot read it so."""
    step, found = _step(x, stack), lines(x)
    return None if step is None or found is None else _Matrices(*found, step)


def lines(x: Any) -> tuple[int, int] | None:
    """How the matrices of the last two axes lie: whether they are turned, and from one line to the next."""
    size, (rows, columns), (down, across) = x.itemsize, x.shape[-2:], x.strides[-2:]
    if (across == size or columns == 1) and (rows == 1 or (down >= size * columns and down % size == 0)):
        return 0, down // size if rows > 1 else columns
    if (down == size or rows == 1) and (columns == 1 or (across >= size * rows and across % size == 0)):
        return 1, across // size if columns > 1 else rows
    return None


def _step(x: Any, stack: tuple[int, ...]) -> int | None:
    """Elements from one matrix of the stack to the next, if they are evenly apart."""
    shape, strides = x.shape[:-2], x.strides[:-2]
    ahead = len(stack) - len(shape)
    step, expected = 0, None
    for axis in reversed(range(len(stack))):
        if stack[axis] == 1:
            continue
        stride = strides[axis - ahead] if axis >= ahead and shape[axis - ahead] > 1 else 0
        if expected is None:
            step = stride
        elif stride != expected:
            return None
        expected = stride * stack[axis]
    return step // x.itemsize if step >= 0 and step % x.itemsize == 0 else None


@functools.cache
def scalar(value: float, char: str) -> tuple[np.ndarray, int]:
    """A factor for arrays of a dtype in the host's memory, and its address."""
    array = np.array(value, _SUMS[char])
    return array, array.ctypes.data


def compute_type(char: str) -> int:
    """What sums are computed in, by the dtype and the precision that is set."""
    if char == "d":
        return _FLOAT64
    return _TF32 if char == "f" and get_float32_matmul_precision() != "highest" else _FLOAT32


def matmul(a: Any, b: Any, out: Any = None, scale: float = 1.0, add: bool = False) -> Any:
    """``scale`` times the product of matrices, or of stacks of them, as ``numpy.matmul`` has it.

    Args:
        a, b: ``[..., M, K]`` and ``[..., K, N]``; stacks broadcast. Sums of 16-bit numbers are float32.
        out: ``[..., M, N]``, where the product is written; None makes an array in row order. One of float32
            takes products of 16-bit numbers too.
        scale: the factor.
        add: add to what is in ``out``.
    """
    product = _multiply(a, b, out, scale, add)
    if product is not None:
        return product
    cp = importlib.import_module("cupy")  # which multiplies whole and complex numbers, and vectors
    product = None if out is None else _multiply(a, b, None, scale, False)
    if product is None:
        refuse(f"a product of {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}, no floating matrices")
        product = cp.matmul(a, b)
        if scale != 1.0:
            product *= scale
    if out is None:
        return product
    cp.copyto(out, out + product if add else product, casting="same_kind")
    return out


def _multiply(a: Any, b: Any, out: Any, scale: float, add: bool) -> Any:
    """The product by one call of cuBLAS; None where these arrays are not for it."""
    char = a.dtype.char
    if char not in TYPES or b.dtype != a.dtype or a.ndim < 2 or b.ndim < 2:
        return None
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    (rows, terms), columns, count = a.shape[-2:], b.shape[-1], math.prod(stack)
    if b.shape[-2] != terms or min(rows, terms, columns, count) < 1 or count > _MOST:
        return None
    if max(rows, terms, columns) > _MOST or (out is not None and out.dtype.char not in {char, _SUMS[char]}):
        return None
    a, one = _readable(a, stack)
    b, two = _readable(b, stack)
    if out is None:
        out = a.__class__((*stack, rows, columns), a.dtype)
    there = _matrices(out, stack)
    if there is None or there.turned or out.shape != (*stack, rows, columns):
        return None
    if two.step == 0 and one.step == one.lead * rows and not one.turned and there.step == there.lead * rows:
        rows, count = rows * count, 1  # one product of a long matrix
    if max(one.lead, two.lead, there.lead, rows) > _MOST:
        return None
    call, handle = _library()
    if graph_recording() is not None:
        call = _recorded
    # In cuBLAS's column order all are transposed: yᵀ = bᵀ aᵀ.
    call(
        *(handle(), two.turned, one.turned, columns, rows, terms),
        scalar(scale, char)[1],
        *(b.data.ptr, TYPES[char], two.lead, two.step),
        *(a.data.ptr, TYPES[char], one.lead, one.step),
        scalar(float(add), char)[1],
        *(out.data.ptr, TYPES[out.dtype.char], there.lead, there.step),
        *(count, compute_type(char), _DEFAULT_ALGORITHM),
    )
    return out


class Addressed(NamedTuple):
    """The matrices of a stack, each by its address.

    Args:
        addresses: where an array of these lies on the device.
        char: the elements' dtype.
        rows, columns: of a matrix.
        turned, lead: how it lies, as :func:`lines` has it.
    """

    addresses: int
    char: str
    rows: int
    columns: int
    turned: int
    lead: int

    def transposed(self) -> Addressed:
        """The transposes of the same matrices."""
        rows, columns = self.columns, self.rows
        return self._replace(rows=rows, columns=columns, turned=1 - self.turned)


def current_queue() -> tuple[int, int]:
    """The current device, and the address of its current stream."""
    cuda = importlib.import_module("cupy").cuda
    return cuda.Device().id, cuda.get_current_stream().ptr


def multiply_addressed(
    a: Addressed, b: Addressed, out: Addressed, count: int, scale: float = 1.0, add: bool = False
) -> None:
    """As :func:`matmul` with ``out``, for ``count`` matrices that lie anywhere.

    Raises:
        DeviceError: cuBLAS refuses.
    """
    library, (_, handle) = _loaded(), _library()
    stream = importlib.import_module("cupy").cuda.get_current_stream().ptr
    for status in (
        library.cublasSetStream_v2(handle(), stream),
        library.cublasGemmBatchedEx(
            *(handle(), b.turned, a.turned, b.columns, a.rows, a.columns, scalar(scale, a.char)[1]),
            *(b.addresses, TYPES[b.char], b.lead, a.addresses, TYPES[a.char], a.lead),
            *(scalar(float(add), a.char)[1], out.addresses, TYPES[out.char], out.lead),
            *(count, compute_type(a.char), _DEFAULT_ALGORITHM),
        ),
    ):
        if status:
            raise DeviceError(f"matmul: cuBLAS answers {status} to a product of {count} matrices by address")


def readable(*arrays: Any) -> list[Any]:
    """Matrices as products can read them, copied once if they lie otherwise: for arrays of several products.

    Views that lie evenly apart in one array, as queries, keys and values do, are copied together.
    """
    found = [x if _matrices(x, x.shape[:-2]) is not None else None for x in arrays]
    others = [x for x, there in zip(arrays, found, strict=True) if there is None]
    copies: list[Any] = []
    while len(copies) < len(others):
        group = others[len(copies) :]
        group = group[: evenly_apart(group)[0]]
        both = as_one(group, 0)
        copies.extend([group[0].copy()] if both is None else list(both.copy()))
    rest = iter(copies)
    return [next(rest) if x is None else x for x in found]


def _readable(x: Any, stack: tuple[int, ...]) -> tuple[Any, _Matrices]:
    """The array and its layout, copied where cuBLAS cannot read it: one matrix, or all of the stack."""
    found = _matrices(x, stack)
    if found is None:
        copy = x.__class__((*(stack if math.prod(x.shape[:-2]) > 1 else ()), *x.shape[-2:]), x.dtype)
        copy[...] = x if copy.ndim > 2 else x.reshape(x.shape[-2:])
        x, found = copy, _matrices(copy, stack)
    assert found is not None  # an array in row order is readable
    return x, found
