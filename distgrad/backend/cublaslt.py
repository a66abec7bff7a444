"""Products by cuBLASLt, with a bias or its gradient in the same launch.

The library comes with cuBLAS. Whatever it has no algorithm for, by type, layout or device, is answered with
None, and the caller's own kernels compute; that is noted by shape. Any other answer is an error.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import threading
from typing import Any, NamedTuple

from distgrad.backend.cublas import TYPES, compute_type, loaded_library, scalar
from distgrad.env import read
from distgrad.errors import DeviceError

__all__ = ["add_bias", "with_bias_gradient"]

_FLOAT32 = 0  # cudaDataType
_CHARS = "feE"
_WORKSPACE = 32 << 20  # bytes at most
_MOST = (1 << 31) - 1
_NOT_SUPPORTED, _INVALID_VALUE = 15, 7
_TURN_A, _TURN_B, _EPILOGUE, _BIAS_AT = 3, 4, 7, 8  # cublasLtMatmulDescAttributes
_ADD_BIAS, _SUM_B = 4, 512  # cublasLtEpilogue: BIAS, BGRADB
_SIZE_PREFERENCE, _ALIGNMENT_PREFERENCE = 1, 5  # of the workspace; of A, and B, C, D behind it
_ALIGNED = 256  # bytes, that heuristics ask after
_LEAST_ALIGNED = 16  # bytes, of a bias, which they do not ask after


class _Answer(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


class _Key(NamedTuple):
    """What a plan is for; sizes are rows, columns and terms in cuBLAS's column order."""

    device: int
    char: str
    compute: int
    epilogue: int
    turned: tuple[bool, bool]
    sizes: tuple[int, int, int]
    alignments: tuple[int, ...]


class _Plan(NamedTuple):
    """A product that cuBLASLt has an algorithm for; the lock is held while it has a bias."""

    description: ctypes.c_void_p
    layouts: tuple[ctypes.c_void_p, ...]
    algorithm: Any
    workspace: int
    lock: threading.Lock


@functools.cache
def _library() -> Any:
    """The library that cuBLAS has loaded; None if it is not to be used, or not there."""
    return loaded_library("cublasLt") if read().gpu_libraries else None


def _check(call: str, status: int) -> None:
    if status:
        raise DeviceError(f"{call}: cuBLASLt answers {status}; DISTGRAD_GPU_LIBRARIES=0 does without it")


def _made(call: str, *arguments: Any) -> ctypes.c_void_p:
    """A new object of the library."""
    handle = ctypes.c_void_p()
    _check(call, getattr(_library(), call)(ctypes.byref(handle), *arguments))
    return handle


def _set(call: str, handle: ctypes.c_void_p, attribute: int, value: Any) -> None:
    size = ctypes.c_size_t(ctypes.sizeof(value))
    _check(call, getattr(_library(), call)(handle, attribute, ctypes.byref(value), size))


def _alignment(array: Any) -> int:
    """The largest power of two that the address is a multiple of, up to what heuristics ask after."""
    return min(array.data.ptr & -array.data.ptr, _ALIGNED)


@functools.lru_cache(maxsize=4096)
def _plan(key: _Key) -> _Plan | None:
    """How to compute a product; None where the library has no algorithm."""
    m, n, k = key.sizes
    described = _made("cublasLtMatmulDescCreate", key.compute, _FLOAT32)
    for attribute, value in (
        *zip((_TURN_A, _TURN_B), map(int, key.turned), strict=True),
        (_EPILOGUE, key.epilogue),
    ):
        _set("cublasLtMatmulDescSetAttribute", described, attribute, ctypes.c_int32(value))
    kind = TYPES[key.char]
    shapes = [(rows, columns) if not turn else (columns, rows)
              for (rows, columns), turn in zip(((m, k), (k, n)), key.turned, strict=True)]  # fmt: skip
    layouts = tuple(
        _made("cublasLtMatrixLayoutCreate", kind, ctypes.c_uint64(rows), ctypes.c_uint64(columns),
              ctypes.c_int64(rows))
        for rows, columns in (*shapes, (m, n))
    )  # fmt: skip
    wishes = _made("cublasLtMatmulPreferenceCreate")
    sought = "cublasLtMatmulPreferenceSetAttribute"
    _set(sought, wishes, _SIZE_PREFERENCE, ctypes.c_uint64(_WORKSPACE))
    a, b, d = key.alignments
    for place, alignment in enumerate((a, b, d, d)):
        _set(sought, wishes, _ALIGNMENT_PREFERENCE + place, ctypes.c_uint32(alignment))
    found, count = _Answer(), ctypes.c_int(0)
    status = _library().cublasLtMatmulAlgoGetHeuristic(
        *(ctypes.c_void_p(_handle()), described, layouts[0], layouts[1], layouts[2], layouts[2], wishes),
        *(1, ctypes.byref(found), ctypes.byref(count)),
    )
    _library().cublasLtMatmulPreferenceDestroy(wishes)
    if status not in (0, _NOT_SUPPORTED, _INVALID_VALUE):
        _check("cublasLtMatmulAlgoGetHeuristic", status)
    if status or not count.value or found.state:
        return None
    return _Plan(described, layouts, found.algorithm, found.workspace, threading.Lock())


def _handle() -> int:
    """cuBLAS's handle of the current device, which stands for one of cuBLASLt."""
    return int(importlib.import_module("cupy.cuda.device").get_cublas_handle())


def _product(a: Any, b: Any, d: Any, bias: Any, turned: tuple[bool, bool], epilogue: int, sizes: Any) -> bool:
    """``d = op(a) op(b)`` in cuBLAS's column order, with the epilogue; False where there is no algorithm."""
    char = d.dtype.char
    if (
        char not in _CHARS
        or bias.data.ptr % _LEAST_ALIGNED
        or _library() is None
        or min(sizes) < 1
        or max(sizes) > _MOST
    ):
        return False
    cuda = importlib.import_module("cupy").cuda
    alignments = tuple(map(_alignment, (a, b, d)))
    key = _Key(cuda.Device().id, char, compute_type(char), epilogue, turned, sizes, alignments)
    plan = _plan(key)
    if plan is None:
        return False
    room = cuda.alloc(plan.workspace) if plan.workspace else None
    one, nothing = (ctypes.c_void_p(scalar(value, char)[1]) for value in (1.0, 0.0))
    pointers = [ctypes.c_void_p(x.data.ptr) for x in (a, b, d)]
    with plan.lock:
        at = ctypes.c_uint64(bias.data.ptr)
        _set("cublasLtMatmulDescSetAttribute", plan.description, _BIAS_AT, at)
        status = _library().cublasLtMatmul(
            *(ctypes.c_void_p(_handle()), plan.description, one),
            *(pointers[0], plan.layouts[0], pointers[1], plan.layouts[1], nothing),
            *(pointers[2], plan.layouts[2], pointers[2], plan.layouts[2], ctypes.byref(plan.algorithm)),
            *(ctypes.c_void_p(room.ptr if room else 0), ctypes.c_size_t(plan.workspace)),
            ctypes.c_void_p(cuda.get_current_stream().ptr),
        )
    _check("cublasLtMatmul", status)
    return True


def add_bias(x: Any, weight: Any, bias: Any) -> Any:
    """``x weightᵀ + bias``, of ``[rows, inputs]``, ``[outputs, inputs]`` and ``[outputs]`` in row order.

    Returns:
        A new array ``[rows, outputs]``; None where there is no algorithm.
    """
    sizes = len(weight), len(x), x.shape[1]
    y = x.__class__((len(x), len(weight)), x.dtype)
    return y if _product(weight, x, y, bias, (True, False), _ADD_BIAS, sizes) else None


def with_bias_gradient(g: Any, x: Any, weight: Any, bias: Any) -> bool:
    """Write ``gᵀ x`` and the sum of g's rows into ``[outputs, inputs]`` and ``[outputs]``, in row order.

    Returns:
        False where there is no algorithm.
    """
    if len(g) < 2:  # which older versions refuse
        return False
    sizes = x.shape[1], g.shape[1], len(g)
    return _product(x, g, weight, bias, (False, True), _SUM_B, sizes)
