"""Reductions and normalisations of the elements where a mask is true: PyTorch's ``torch.masked``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.meanings import axes_of, typed
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DTypeError, ShapeError

__all__ = [
    "amax", "amin", "cumprod", "cumsum", "log_softmax", "logaddexp", "logsumexp", "mean", "median", "norm",
    "normalize", "prod", "softmax", "softmin", "std", "sum", "var",
]  # fmt: skip


def _mask(x: Tensor, mask: Any) -> Any:
    """The mask in the tensor's shape; None for none."""
    if mask is None:
        return None
    if mask.dtype.kind != "b":
        raise DTypeError(f"masked: mask must be bool, got {mask.dtype}")
    if mask.ndim > x.ndim:
        raise ShapeError(f"masked: mask is {list(mask.shape)} but the tensor {list(x.shape)}")
    return ops.broadcast_to(mask, x.shape)


def _kept(x: Tensor, mask: Any, other: float) -> Tensor:
    """The elements where the mask is true, and a number that changes nothing elsewhere."""
    given = _mask(x, mask)
    return x if given is None else ops.where(given, x, other)


def _counted(x: Tensor, dim: Any, keepdim: bool, mask: Any) -> Tensor:
    given = _mask(x, mask)
    ones = ops.astype(given, x.dtype) if given is not None else ops.ones_like(x.detach())
    return ops.sum(ones, axis=axes_of(x, dim), keepdims=keepdim)


def _reduction(name: str, other: float, operation: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(
        input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Any = None
    ) -> Tensor:
        x = typed(input, dtype)
        fill = other
        if math.isinf(other) and x.dtype.kind in "iu":
            limits = np.iinfo(x.dtype)
            fill = limits.max if other > 0 else limits.min
        return operation(_kept(x, mask, fill), axis=axes_of(x, dim), keepdims=keepdim)

    reduce.__name__ = reduce.__qualname__ = name
    reduce.__doc__ = f"``{name}`` of the elements where ``mask`` is true."
    return reduce


sum = _reduction("sum", 0.0, ops.sum)
prod = _reduction("prod", 1.0, ops.prod)
amax = _reduction("amax", -math.inf, ops.max)
amin = _reduction("amin", math.inf, ops.min)


def logsumexp(
    input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Any = None
) -> Tensor:
    """The logarithm of the sum of exponentials where ``mask`` is true."""
    x = typed(input, dtype)
    return ops.logsumexp(_kept(x, mask, -math.inf), axis=axes_of(x, dim), keepdims=keepdim)


def mean(
    input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Any = None
) -> Tensor:
    """The mean of the elements where ``mask`` is true; NaN where there is none."""
    x = typed(input, dtype)
    total = sum(x, dim, keepdim=keepdim, mask=mask)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ops.divide(total, _counted(x, dim, keepdim, mask))


def median(
    input: Tensor, dim: int = -1, *, keepdim: bool = False, dtype: Any = None, mask: Any = None
) -> Tensor:
    """The middle of the elements where ``mask`` is true, the lower of two; NaN where there is none."""
    x = typed(input, dtype)
    return _kept(x, mask, math.nan).nanmedian(dim, keepdim).values


def norm(
    input: Tensor,
    ord: float | None = 2.0,
    dim: Any = None,
    *,
    keepdim: bool = False,
    dtype: Any = None,
    mask: Any = None,
) -> Tensor:
    """The norm of vectors of the elements where ``mask`` is true."""
    x = typed(input, dtype)
    order = 2.0 if ord is None else float(ord)
    kept = _kept(x, mask, 0.0 if order >= 0 else math.inf)
    return ops.vector_norm(kept, axis=axes_of(x, dim), keepdims=keepdim, ord=order)


def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
    dtype: Any = None,
    mask: Any = None,
) -> Tensor:
    """The variance of the elements where ``mask`` is true, by n - 1 unless said otherwise."""
    x = typed(input, dtype)
    if correction is None:
        correction = 1.0 if unbiased is None or unbiased else 0.0
    deviation = ops.subtract(x, mean(x, dim, keepdim=True, mask=mask))
    squares = sum(ops.square(deviation), dim, keepdim=keepdim, mask=mask)
    freedom = ops.subtract(_counted(x, dim, keepdim, mask), correction)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ops.divide(squares, ops.maximum(freedom, 0.0))


def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
    dtype: Any = None,
    mask: Any = None,
) -> Tensor:
    """The standard deviation of the elements where ``mask`` is true; arguments as in ``var``."""
    options = {"correction": correction, "keepdim": keepdim, "dtype": dtype, "mask": mask}
    return ops.sqrt(var(input, dim, unbiased, **options))


def cumsum(input: Tensor, dim: int, *, dtype: Any = None, mask: Any = None) -> Tensor:
    """The running sum; elements where ``mask`` is false count as 0."""
    return _kept(typed(input, dtype), mask, 0.0).cumsum(dim)


def cumprod(input: Tensor, dim: int, *, dtype: Any = None, mask: Any = None) -> Tensor:
    """The running product; elements where ``mask`` is false count as 1."""
    return _kept(typed(input, dtype), mask, 1.0).cumprod(dim)


def softmax(input: Tensor, dim: int, *, dtype: Any = None, mask: Any = None) -> Tensor:
    """The softmax of the elements where ``mask`` is true; 0 elsewhere."""
    return _kept(typed(input, dtype), mask, -math.inf).softmax(dim)


def log_softmax(input: Tensor, dim: int, *, dtype: Any = None, mask: Any = None) -> Tensor:
    """The logarithm of the softmax of the elements where ``mask`` is true; -∞ elsewhere."""
    return _kept(typed(input, dtype), mask, -math.inf).log_softmax(dim)


def softmin(input: Tensor, dim: int, *, dtype: Any = None, mask: Any = None) -> Tensor:
    """The softmax of the negative elements where ``mask`` is true; 0 elsewhere."""
    return ops.negative(_kept(typed(input, dtype), mask, math.inf)).softmax(dim)


def normalize(
    input: Tensor, ord: float, dim: int, *, eps: float = 1e-12, dtype: Any = None, mask: Any = None
) -> Tensor:
    """Vectors of the elements where ``mask`` is true divided by their norm; 0 elsewhere."""
    x = typed(input, dtype)
    length = norm(x, ord, dim, keepdim=True, mask=mask)
    return ops.divide(_kept(x, mask, 0.0), ops.maximum(length, eps))


def logaddexp(
    input: Tensor, other: Tensor, *, dtype: Any = None, input_mask: Any = None, other_mask: Any = None
) -> Tensor:
    """The logarithm of the sum of two exponentials, those left out where their masks are false."""
    x, y = typed(input, dtype), typed(other, dtype)
    return ops.logaddexp(_kept(x, input_mask, -math.inf), _kept(y, other_mask, -math.inf))
