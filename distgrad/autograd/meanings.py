"""What the lines of :mod:`distgrad.names.functions` call where PyTorch means something else.

Reductions, order, comparison and choice; where axes and memory are concerned see ``layouts.py``.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.casting import DEFAULTS, bfloat16
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.info import result_type
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, to_device
from distgrad.errors import DTypeError, OptionError, ShapeError
from distgrad.tracebacks import warn_once

__all__ = ["Extremum", "MinMax"]


class Extremum(NamedTuple):
    """Elements, and where they stand along the axis."""

    values: Tensor
    indices: Tensor


class MinMax(NamedTuple):
    """The smallest and the largest elements."""

    min: Tensor
    max: Tensor


class _Svd(NamedTuple):
    U: Tensor
    S: Tensor
    V: Tensor


# -- dtypes


def kind(dtype: Any) -> Any:
    """A dtype as NumPy has it; None stays None."""
    if dtype is None or dtype.__class__ is np.dtype:
        return dtype
    if dtype == "bfloat16":
        return bfloat16()
    if isinstance(dtype, type):  # NumPy's scalar types have a descriptor of that name
        return _PYTHON.get(dtype) or np.dtype(dtype)
    return np.dtype(getattr(dtype, "dtype", dtype))


_PYTHON = {float: DEFAULTS[float], int: DEFAULTS[int], bool: DEFAULTS[bool], complex: DEFAULTS[complex]}


def typed(x: Any, dtype: Any) -> Any:
    """The tensor in a dtype, itself where it has it or the dtype is None."""
    if dtype is None:
        return x
    dtype = kind(dtype)
    return x if x.dtype == dtype else ops.astype(x, dtype)


def of_type(x: Any, dtype: Any) -> Any:
    """The name of the tensor's type, or the tensor in another one; a type says, as no dtype does, where."""
    if dtype is None:
        return f"torch.{'' if x.device == CPU else 'cuda.'}{_TYPES[x.dtype.name]}"
    place = getattr(dtype, "_place", None)
    if isinstance(dtype, str):
        names = {f"torch.{name}": each for each, name in _TYPES.items()}
        place = ("cuda" if ".cuda." in dtype else "cpu") if dtype.endswith("Tensor") else None
        dtype = names.get(dtype.replace(".cuda.", "."), dtype)
    return typed(x if place in (None, x.device.kind) else x.to(place), dtype)


_TYPES = {
    "float32": "FloatTensor", "float64": "DoubleTensor", "float16": "HalfTensor",
    "bfloat16": "BFloat16Tensor",
    "int64": "LongTensor", "int32": "IntTensor", "int16": "ShortTensor", "int8": "CharTensor",
    "uint8": "ByteTensor", "bool": "BoolTensor", "complex64": "ComplexFloatTensor",
    "complex128": "ComplexDoubleTensor",
}  # fmt: skip


def total_kind(x: Any, dtype: Any) -> Any:
    """The dtype of a sum or product: that given; of whole numbers without a sign int64."""
    return np.dtype(np.int64) if dtype is None and x.dtype.kind in "bu" else kind(dtype)


def as_double(x: Any) -> Any:
    """In float64, or complex128 where it is complex; Python numbers as they are."""
    if not hasattr(x, "dtype"):
        return x
    return ops.astype(x, np.dtype(np.complex128 if x.dtype.kind == "c" else np.float64))


def _wide(x: Any) -> Any:
    """Whole numbers as the default float."""
    return typed(x, DEFAULTS[float]) if x.dtype.kind in "biu" else x


# -- arithmetic


def scaled(x: Any, value: Any) -> Any:
    """``value x``."""
    return x if isinstance(value, int | float) and value == 1 else ops.multiply(x, value)


def wide(x: Any, *others: Any) -> Any:
    """In the dtype of what it meets, of 16 bits in float32: for steps of which the last alone is rounded."""
    if not isinstance(x, Tensor) or x._data.dtype.char not in "eEfd":
        return x
    dtype = x._data.dtype
    if any(isinstance(each, Tensor) and each._data.dtype != dtype for each in others):
        dtype = result_type(x, *others)
    if dtype.char in "eE":
        dtype = np.dtype(np.float32)
    return x if dtype == x._data.dtype else ops.astype(x, dtype)


def once(y: Any, *inputs: Any) -> Any:
    """What :func:`wide` inputs gave, in the dtype of the inputs themselves."""
    return typed(y, result_type(*inputs)) if any(map(_is_narrow, inputs)) else y


def times(x: Any, factor: Any, *inputs: Any) -> Any:
    """``factor x`` for :func:`once`; a number has the inputs' digits, as PyTorch's kernels have it."""
    if _is_narrow(x) and all(map(_is_narrow, inputs)) and not isinstance(factor, Tensor):
        factor = float(np.asarray(factor).astype(x.dtype))
    return ops.multiply(wide(x, *inputs), factor)


def _is_narrow(x: Any) -> bool:
    return isinstance(x, Tensor) and x._data.dtype.char in "eE"


def weighted(x: Any, product: Any, beta: Any, alpha: Any) -> Any:
    """``beta x + alpha product``; for beta = 0 nothing of x counts, NaN neither."""
    product = scaled(product, alpha)
    if isinstance(beta, int | float) and beta == 0:
        return ops.broadcast_to(product, np.broadcast_shapes(x.shape, product.shape))
    return ops.add(scaled(x, beta), product)


def quotient(x: Any, y: Any, rounding_mode: str | None) -> Any:
    """``x / y``, rounded towards 0 (``"trunc"``) or down (``"floor"``) if asked."""
    if rounding_mode is None:
        return ops.divide(x, y)
    if rounding_mode == "floor":
        return ops.floor_divide(x, y)
    if rounding_mode != "trunc":
        raise OptionError(f"div: rounding_mode must be None, 'trunc' or 'floor', got {rounding_mode!r}")
    return typed(ops.trunc(ops.divide(x, y)), _common(x, y))


def _common(x: Any, y: Any) -> np.dtype[Any]:
    """The dtype of a sum of the two."""
    return ops.add(_one(x), _one(y)).dtype


def _one(x: Any) -> Any:
    return Tensor(np.zeros((1,) * x.ndim, x.dtype)) if hasattr(x, "dtype") else x


def leftover(x: Any, y: Any) -> Any:
    """``x − y trunc(x / y)``, which has the sign of x."""
    if getattr(x, "dtype", np.dtype(int)).kind in "iu" and getattr(y, "dtype", np.dtype(int)).kind in "iu":
        rest = ops.remainder(ops.abs(x), ops.abs(y) if hasattr(y, "dtype") else abs(y))
        return ops.multiply(ops.sign(x), rest) if hasattr(x, "dtype") else rest
    return ops.subtract(x, ops.multiply(y, ops.trunc(ops.divide(x, y))))


def log_odds(x: Any, eps: float | None) -> Any:
    """``log(x / (1 − x))``, x brought into [eps, 1 − eps]."""
    x = _wide(x)
    if eps is None:
        return ops.logit(x)
    low = ops.less(x, eps)  # where the bounds cross, the lower one counts below it
    return ops.logit(ops.where(low, eps, ops.where(ops.greater(x, 1 - eps), 1 - eps, x)))


def rounded(x: Any, decimals: int) -> Any:
    """To so many places behind the point."""
    if decimals == 0:
        return ops.round(x)
    scale = 10.0 ** abs(decimals)
    if decimals > 0:
        return ops.divide(ops.round(ops.multiply(x, scale)), scale)
    return ops.multiply(ops.round(ops.divide(x, scale)), scale)


def clamped(x: Any, low: Any, high: Any) -> Any:
    """Between two bounds; None for one that is not there."""
    if low.__class__ is float and high.__class__ is float and x._data.dtype.kind == "f":
        return ops.clip(x, low, high)
    if low is None and high is None:
        raise OptionError("clamp: at least one of min and max must be given")
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        x = x if low is None else ops.maximum(x, low)
        return x if high is None else ops.minimum(x, high)
    if x._data.dtype.kind in "iu" and (isinstance(low, float) or isinstance(high, float)):
        x = typed(x, DEFAULTS[float])
    return ops.clip(x, low, high)


def numbers_for_nan(x: Any, nan: float, posinf: float | None, neginf: float | None) -> Any:
    """Finite numbers in the place of NaN and infinities."""
    if x.dtype.kind not in "fcV":
        return ops.positive(x)
    limits = np.finfo(x.dtype)
    x = ops.where(ops.isnan(x), 0.0 if nan is None else nan, x)
    infinite = ops.isinf(x)
    top = float(limits.max) if posinf is None else posinf
    bottom = float(limits.min) if neginf is None else neginf
    return ops.where(infinite, ops.where(ops.signbit(x), bottom, top), x)


def imaginary(x: Any) -> Any:
    """The imaginary part, 0 of a real number."""
    return ops.imag(x) if x.dtype.kind == "c" else ops.multiply(x, 0)


def angle(x: Any) -> Any:
    """The angle of a complex number; of a real one 0 or π."""
    if x.dtype.kind == "c":
        return ops.atan2(ops.imag(x), ops.real(x))
    x = _wide(x)
    return ops.where(ops.isnan(x), x, ops.where(ops.less(x, 0), math.pi, ops.multiply(x, 0.0)))


def other_than_nan(choose: Callable[..., Any], x: Any, y: Any) -> Any:
    """The larger or smaller of two, the other where one is NaN."""
    if all(getattr(each, "dtype", np.dtype(int)).kind != "f" for each in (x, y)):
        return choose(x, y)
    x, y = ops.where(ops.isnan(x), y, x), ops.where(ops.isnan(y), x, y)
    return choose(x, y)


def between(x: Any, end: Any, weight: Any) -> Any:
    """``x + weight (end − x)``, which is exactly ``end`` for weight 1."""
    return ops.add(x, ops.multiply(weight, ops.subtract(end, x)))


# -- products


def two_axes(x: Any, where: str) -> Any:
    """The matrix itself.

    Raises:
        ShapeError: not two axes.
    """
    if x.ndim != 2:
        raise ShapeError(f"{where}: expected matrices, got {list(x.shape)}; use matmul")
    return x


def dot_product(x: Any, y: Any) -> Any:
    """``Σ x y`` of two vectors."""
    if x.ndim != 1 or y.ndim != 1 or x.shape != y.shape:
        raise ShapeError(f"dot: expected two vectors of one length, got {list(x.shape)} and {list(y.shape)}")
    return ops.matmul(x, y)


def inner_product(x: Any, y: Any) -> Any:
    """Sums of products over the last axes."""
    if not (x.ndim and y.ndim):
        return ops.multiply(x, y)
    return ops.tensordot(x, y, axes=((-1,), (-1,)))


def log_determinant(x: Any) -> Any:
    """``log det x``, NaN where the determinant is negative."""
    sign, size = ops.slogdet(x)
    return ops.where(ops.less(sign, 0), math.nan, size)


def svd_with_v(x: Any, some: bool, compute_uv: bool) -> _Svd:
    """PyTorch's older svd, whose last result is V rather than Vᵀ."""
    u, s, vh = ops.svd(x, full_matrices=not some)
    if not compute_uv:
        u, vh = ops.multiply(u, 0.0), ops.multiply(vh, 0.0)
    return _Svd(u, s, ops.conj(ops.matrix_transpose(vh)) if x.dtype.kind == "c" else ops.matrix_transpose(vh))


# -- reductions


def axes_of(x: Any, dim: Any) -> Any:
    """Axes as operations take them: a list as a tuple, none for all, and of a number 0 and −1 as all."""
    if dim.__class__ is int and x.ndim:
        return dim
    if dim is None or (dim.__class__ in (tuple, list) and not dim):
        return None
    if not x.ndim and all(each in (0, -1) for each in (dim if isinstance(dim, tuple | list) else (dim,))):
        return None
    return tuple(dim) if isinstance(dim, list) else dim


def all_for(dim: Any) -> Any:
    """An axis, or all where the argument's place holds PyTorch's ``unbiased``."""
    return None if isinstance(dim, bool) else dim


def spread(
    operation: Callable[..., Any], x: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any
) -> Any:
    """Standard deviation or variance, by n − 1 unless said otherwise."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    if x.dtype.kind == "c":
        parts = [ops.var(part(x), axis=axes_of(x, dim), keepdims=keepdim, correction=correction) for part in
                 (ops.real, ops.imag)]  # fmt: skip
        total = ops.add(*parts)
        return total if operation is ops.var else ops.sqrt(total)
    return operation(x, axis=axes_of(x, dim), keepdims=keepdim, correction=correction)


def length(x: Any, p: Any, dim: Any, keepdim: bool, dtype: Any) -> Any:
    """The p-norm of vectors; the Frobenius and nuclear norm of matrices."""
    x = typed(x, dtype)
    if p == "nuc":
        return ops.norm(x, ord="nuc", axis=None if dim is None else tuple(dim), keepdims=keepdim)
    order = 2 if p in ("fro", None) else p
    if x.dtype.kind == "c":
        x = ops.abs(x)
    return ops.vector_norm(x, axis=axes_of(x, dim), keepdims=keepdim, ord=order)


def softmax_axis(x: Any, dim: int | None, where: str) -> int:
    """The axis that PyTorch takes where none is given, with a warning: 0 for 0, 1 or 3 axes, else 1."""
    if dim is not None:
        return dim
    axis = 0 if x.ndim in (0, 1, 3) else 1
    warn_once(
        f"{where} without dim",
        f"{where}: no dim was given, and axis {axis} is taken for {x.ndim} axes as PyTorch does (0 for 0, 1 "
        "or 3 axes, else 1); pass dim=...",
    )
    return axis


# -- complex numbers


def from_parts(real: Any, imag: Any) -> Any:
    """Complex numbers from their parts, which are of one floating-point dtype."""
    kinds = [each.dtype.kind if isinstance(each, Tensor) else None for each in (real, imag)]
    if kinds != ["f", "f"] or real.dtype != imag.dtype:
        got = " and ".join(str(getattr(each, "dtype", type(each).__name__)) for each in (real, imag))
        raise DTypeError(f"complex: expected two tensors of one floating-point dtype, got {got}")
    return ops.from_parts(real, imag)


# -- comparison and choice


def all_equal(x: Any, y: Any) -> bool:
    """Whether two tensors have one shape and equal elements."""
    return x.shape == y.shape and bool(ops.all(ops.equal(x, y)))


def close(x: Any, y: Any, rtol: float, atol: float, equal_nan: bool) -> Any:
    """Whether ``|x − y| ≤ atol + rtol |y|``, an element at a time."""
    if rtol < 0 or atol < 0:
        raise OptionError(f"isclose: rtol and atol must be 0 or more, got {rtol} and {atol}")
    found = np.isclose(to_device(x._data, CPU), to_device(y._data, CPU), rtol, atol, equal_nan)
    return Tensor(to_device(np.asarray(found), x.device))


def all_close(x: Any, y: Any, rtol: float, atol: float, equal_nan: bool) -> bool:
    """Whether all elements are :func:`close`."""
    return bool(close(x, y, rtol, atol, equal_nan)._data.all())


def places(x: Any, as_tuple: bool) -> Any:
    """Where elements are not 0: a row of indices each, or an array of indices an axis."""
    found = ops.nonzero(x) if x.ndim else (ops.nonzero(ops.reshape(x, (1,))))
    if as_tuple:
        return found
    if not x.ndim:
        return Tensor(np.zeros((len(found[0]), 0), np.int64))
    return ops.stack(found, axis=1)


def chosen(condition: Any, x: Any, y: Any) -> Any:
    """``x`` where the condition holds, else ``y``; without them, where it holds."""
    if x is None and y is None:
        return places(condition, True)
    if condition.dtype.kind != "b":
        raise DTypeError(f"where: expected a condition of bool, got {condition.dtype}")
    return ops.where(condition, x, y)


def number(x: Any) -> int:
    """How many elements."""
    return int(x._data.size)


def several(function: Callable[..., Any], tensors: Sequence[Any], *options: Any) -> Any:
    """A function of one tensor, or of each of several."""
    if len(tensors) == 1 and isinstance(tensors[0], Tensor):
        return function(tensors[0], *options)
    return tuple(function(each, *options) for each in sequence(tensors))


def sequence(tensors: Sequence[Any]) -> Sequence[Any]:
    """The tensors, given one at a time or as one sequence."""
    return tensors[0] if len(tensors) == 1 and isinstance(tensors[0], tuple | list) else tensors


def shared_in_place(tensor: Tensor) -> Tensor:
    """The tensor, in memory that processes share which get it from here on."""
    importlib.import_module("distgrad.autograd.sharing").share([tensor])  # loads multiprocessing
    return tensor


def lies_shared(tensor: Tensor) -> bool:
    """Whether it lies in such memory."""
    return bool(importlib.import_module("distgrad.autograd.sharing").is_shared(tensor))
