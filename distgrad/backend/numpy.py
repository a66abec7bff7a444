"""The NumPy backend: the array module ``xp`` that every formula is written against, on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad import env
from distgrad.backend.array_module import ArrayModule, register_array_module
from distgrad.backend.memory import keep_freed_memory
from distgrad.backend.products import matmul
from distgrad.backend.threads import share_cores

__all__ = ["numpy_module", "widen_products"]

if env.read().keep_memory:
    keep_freed_memory()
share_cores()


# The calls inside np.sum, np.max and np.min, less their wrappers.
_reduce: Callable[..., Any] = np.add.reduce
_reduce_max: Callable[..., Any] = np.maximum.reduce
_reduce_min: Callable[..., Any] = np.minimum.reduce


def _sum(x: Any, axis: Any = None, keepdims: bool = False, dtype: Any = None, out: Any = None) -> Any:
    if dtype is None and x.dtype.char in "eE":  # of 16 bits: a sum rounds small terms away, or overflows
        total = _reduce(x, axis, np.float32, None, keepdims).astype(x.dtype)
        return total if out is None else _copyto(out, total)
    return _reduce(x, axis, dtype, out, keepdims)


def _add_at(x: np.ndarray, indices: Any, values: Any) -> np.ndarray:
    """``x[indices] += values`` with repeated indices added up, in place; returns x."""
    if x.dtype.char in "eE":  # of 16 bits: adding to a large sum rounds small terms away
        wide = x.astype(np.float32)
        np.add.at(wide, indices, np.asarray(values, np.float32))
        x[...] = wide
    else:
        np.add.at(x, indices, values)
    return x


def _copyto(x: np.ndarray, values: Any) -> np.ndarray:
    np.copyto(x, values, casting="same_kind")
    return x


def _broadcast_to(x: Any, shape: tuple[int, ...]) -> np.ndarray:
    """As NumPy's, at a quarter of its cost (0.9 for 3.3 µs), for the shapes that gradients of sums have."""
    ours = x.shape
    added = len(shape) - len(ours)
    if x.size == 0 or not x.flags.c_contiguous or added < 0:
        return np.broadcast_to(x, shape)
    strides = list(x.strides)
    for i, n in enumerate(ours):
        if n != shape[added + i]:
            if n != 1:
                return np.broadcast_to(x, shape)  # which raises
            strides[i] = 0
    out: np.ndarray = np.ndarray(shape, x.dtype, x, 0, (0,) * added + tuple(strides))
    out.flags.writeable = False
    return out


def _as_strided(x: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """A view of ``x`` with any shape and strides, not to be written."""
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)


def _writable_diagonal(x: Any, offset: int) -> Any:
    """NumPy's as a view that can be written, since its elements are no others' copies."""
    out = x.diagonal(offset, -2, -1)
    out.flags.writeable = x.flags.writeable
    return out


# NumPy's functions of these names go through wrappers that cost five times what the methods do.


def _reshape(x: Any, shape: Any, copy: bool | None = None) -> Any:
    return x.reshape(shape) if copy is None else np.reshape(x, shape, copy=copy)


def _matrix_transpose(x: Any) -> Any:
    return x.mT if x.ndim > 1 else np.matrix_transpose(x)  # which raises


def _permute_dims(x: Any, axes: Any = None) -> Any:
    return x.transpose(axes)


def _max(x: Any, axis: Any = None, keepdims: bool = False, **options: Any) -> Any:
    return _reduce_max(x, axis, None, None, keepdims, **options)


def _min(x: Any, axis: Any = None, keepdims: bool = False, **options: Any) -> Any:
    return _reduce_min(x, axis, None, None, keepdims, **options)


def _widened_matmul(x1: Any, x2: Any, out: Any = None) -> Any:
    if x1.dtype.char not in "eE" or x1.dtype != x2.dtype:
        return matmul(x1, x2, out)
    product = matmul(x1.astype(np.float32), x2.astype(np.float32)).astype(x1.dtype)
    return product if out is None else _copyto(out, product)


def widen_products() -> None:
    """Compute products of 16-bit numbers in float32 by BLAS from now on, and round the result.

    NumPy has loops of its own for them, tens of times slower. It is done once somebody works with 16 bits, as
    other products would pay for looking at the dtype.
    """
    numpy_module.__dict__["matmul"] = _widened_matmul


_functions = {name: value for name, value in vars(np).items() if not name.startswith("_")}
_functions |= {"fft": np.fft, "sum": _sum, "add_at": _add_at, "copyto": _copyto, "as_strided": _as_strided}
_functions |= {"broadcast_to": _broadcast_to, "reshape": _reshape, "max": _max, "min": _min}
_functions |= {"matmul": matmul, "writable_diagonal": _writable_diagonal}
_functions |= {"matrix_transpose": _matrix_transpose, "permute_dims": _permute_dims}

numpy_module = ArrayModule("numpy", np.ndarray, _functions)
register_array_module(numpy_module)
