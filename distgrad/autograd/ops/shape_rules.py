"""Shape rules, and the few helpers that several families' gradients share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.casting import DEFAULTS, limits, result_dtype
from distgrad.autograd.failures import LinAlgError
from distgrad.errors import AxisError, DTypeError, OptionError, ShapeError

__all__ = [
    "Axis",
    "Before",
    "Into",
    "Shape",
    "added",
    "along_axis",
    "broadcast_shape",
    "complex_dtype",
    "count_over",
    "first_dtype",
    "first_shape",
    "fraction_dtype",
    "highest",
    "in_float32",
    "last_dtype",
    "mixed_dtypes",
    "normalize_axes",
    "not_zero",
    "pairs",
    "real_dtype",
    "reduced_shape",
    "restore_axes",
    "same_shape",
    "square_shape",
    "total_dtype",
]

Shape = tuple[int, ...]
Axis = int | tuple[int, ...] | None
#: For each input of a vjp the array that its gradient may be written into and returned as; None: a new one.
Into = tuple[Any, ...]
#: One element: the gradient that came to a vjp's first input on other paths, to be added to its own, or None.
Before = tuple[Any, ...]


def same_shape(x: Shape, **attributes: Any) -> Shape:
    """The output has the input's shape."""
    return x


def first_shape(x: Shape, *others: Any, **attributes: Any) -> Shape:
    """The output has the first input's shape."""
    return x


def along_axis(x: Shape, axis: Any = None, **attributes: Any) -> Shape:
    """The output has the input's shape, and ``axis`` names axes of it."""
    normalize_axes(axis, len(x), "axis")
    return x


def square_shape(x: Shape, **attributes: Any) -> Shape:
    """The output has the input's shape, that of square matrices."""
    if len(x) < 2 or x[-1] != x[-2]:
        raise LinAlgError("Last 2 dimensions of the array must be square")
    return x


def complex_dtype(x: np.dtype, **attributes: Any) -> np.dtype:
    """The result is complex, of the input's precision."""
    return np.result_type(x, np.complex64)


def real_dtype(x: np.dtype, **attributes: Any) -> np.dtype:
    """The result is real, of the input's precision."""
    return x.type(0).real.dtype if x.kind == "c" else np.dtype(x)


def first_dtype(x: Any, *others: Any, **attributes: Any) -> Any:
    """The result has the first input's dtype."""
    return x


def last_dtype(*inputs: Any, **attributes: Any) -> Any:
    """The result has the last input's dtype."""
    return inputs[-1]


def fraction_dtype(*inputs: Any, **attributes: Any) -> np.dtype:
    """The result is what the inputs promote to, and of whole numbers the default float."""
    found = result_dtype(*inputs)
    return DEFAULTS[float] if found.kind in "biu" else found


def total_dtype(x: np.dtype, **attributes: Any) -> np.dtype:
    """The result of whole numbers has 64 bits."""
    return np.result_type(x, np.uint64 if x.kind == "u" else np.int64) if x.kind in "biu" else x


def added(g: Any, before: Any) -> Any:
    """A gradient and, if there is one, that of other paths."""
    return g if before is None else before + g


def broadcast_shape(*shapes: Shape | None, **attributes: Any) -> Shape:
    """The output has the shape that the inputs broadcast to."""
    return np.broadcast_shapes(*[shape for shape in shapes if shape is not None])


def mixed_dtypes(where: str, x: Any, weight: Any, name: str = "weight") -> DTypeError:
    """The error for data of another dtype than the weights', which would make the rest of a model promote."""
    return DTypeError(
        f"{where}: x is {x.dtype} but {name} {weight.dtype}; convert the data with "
        f"x.astype(dg.{weight.dtype}), or the model with model.to(dg.{x.dtype})"
    )


def normalize_axes(axis: int | Sequence[int] | None, ndim: int, where: str) -> tuple[int, ...]:
    """Axes as sorted non-negative numbers; None means all.

    Raises:
        AxisError: an axis outside −ndim … ndim−1, or one named twice.
    """
    if axis is None:
        return tuple(range(ndim))
    axes = (axis,) if isinstance(axis, int | np.integer) else tuple(axis)
    out = []
    for each in axes:
        if not -ndim <= each < ndim:
            raise AxisError(f"{where}: axis {each} is outside an array with {ndim} axes")
        out.append(int(each) % ndim)
    if len(set(out)) != len(out):
        raise AxisError(f"{where}: axis {axis} names an axis twice")
    return tuple(sorted(out))


def reduced_shape(x: Shape, *, axis: Any = None, keepdims: bool = False, **attributes: Any) -> Shape:
    """The output lacks the axes reduced over, or has length 1 there."""
    axes = normalize_axes(axis, len(x), "shape")
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(x))
    return tuple(n for i, n in enumerate(x) if i not in axes)


def highest(xp: Any, x: Any, axis: Any) -> Any:
    """The largest element over axes, which are kept with length 1; −∞ of none."""
    if x.size or count_over(x.shape, axis):
        return xp.max(x, axis=axis, keepdims=True)
    return xp.full(reduced_shape(x.shape, axis=axis, keepdims=True), -math.inf, dtype=x.dtype)


def restore_axes(xp: Any, g: Any, x_shape: Shape, axis: Any, keepdims: bool) -> Any:
    """Broadcast a reduction's result (or its gradient) back over the input's shape."""
    if axis is not None and not keepdims:
        g = xp.reshape(g, reduced_shape(x_shape, axis=axis, keepdims=True))
    return xp.broadcast_to(g, x_shape)


def count_over(x_shape: Shape, axis: Any) -> int:
    """How many elements are reduced into one."""
    if axis is None:
        return math.prod(x_shape)
    return math.prod(x_shape[i] for i in normalize_axes(axis, len(x_shape), "count"))


def in_float32(reduction: Any, x: Any, *, dtype: Any = None, **options: Any) -> Any:
    """``reduction(x)``, computed in float32 where ``x`` or ``dtype`` has 16 bits: steps there would round."""
    wanted = x.dtype if dtype is None else np.dtype(dtype)
    if wanted.char in "eE":
        return reduction(x.astype(np.float32), **options).astype(wanted)
    return reduction(x, **options) if dtype is None else reduction(x, dtype=dtype, **options)


def not_zero(eps: float, dtype: Any) -> float:
    """``eps``, or the smallest normal number of a dtype in which it would be 0 (1e-12 would in float16)."""
    return max(eps, float(limits(dtype).tiny))


def pairs(value: int | Sequence[int], count: int, where: str, name: str, least: float = 1) -> tuple[int, ...]:
    """One number a spatial axis, from one number for all or a sequence of them.

    Raises:
        ShapeError: a sequence of another length.
        OptionError: a number that is not whole, or below ``least``.
    """
    values = (value,) if isinstance(value, int | float | np.number) else tuple(value)
    values = values * count if len(values) == 1 else values
    if len(values) != count:
        raise ShapeError(f"{where}: {name} needs {count} numbers, one a spatial axis, got {value}")
    if any(each != int(each) or each < least for each in values):
        raise OptionError(f"{where}: {name} must be whole numbers of at least {least}, got {value}")
    return tuple(int(each) for each in values)
