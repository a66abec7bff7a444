"""What the lines of :mod:`distgrad.names.functions` call in linear algebra and transforms."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import namespace as ops
from distgrad.autograd.layouts import exchanged
from distgrad.autograd.meanings import length, typed
from distgrad.autograd.tensor import Tensor


def norm_of(x: Any, order: Any, dim: Any, keepdim: bool, dtype: Any) -> Any:
    """The norm of vectors (one axis, or all without an order) or of matrices (two axes)."""
    x = typed(x, dtype)
    dim = tuple(dim) if isinstance(dim, list) else dim
    if order is None or (dim is None and x.ndim == 1) or isinstance(dim, int):
        return length(x, 2 if order is None else order, dim, keepdim, None)
    return ops.norm(x, ord=order, axis=dim, keepdims=keepdim)


def solved(a: Any, b: Any, left: bool) -> Any:
    """``x`` with ``a x = b``, or ``x a = b``."""
    if left:
        return ops.solve(a, b)
    turned = ops.solve(ops.matrix_transpose(a), exchanged(b, -1, -2) if b.ndim > 1 else b)
    return exchanged(turned, -1, -2) if b.ndim > 1 else turned


def no_errors(x: Any) -> Tensor:
    """Zeros, a number for each matrix: none of them failed."""
    return Tensor(np.zeros(x.shape[:-2], np.int32))


def condition(x: Any, p: Any) -> Any:
    """The condition number of matrices in a norm."""
    if p in (None, 2, -2):
        values = ops.svdvals(x)
        first, last = values[..., 0], values[..., -1]
        return ops.divide(last, first) if p == -2 else ops.divide(first, last)
    return ops.multiply(ops.norm(x, ord=p, axis=(-2, -1)), ops.norm(ops.inv(x), ord=p, axis=(-2, -1)))


def last_of(x: Any, lengths: Any, dim: Any) -> Any:
    """The axes of a transform: the last ones where lengths are given without axes."""
    if dim is None and lengths is not None:
        return tuple(range(x.ndim - len(lengths), x.ndim))
    return tuple(dim) if isinstance(dim, list) else dim
