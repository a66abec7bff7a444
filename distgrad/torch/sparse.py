"""``torch.sparse``: matrices of mostly zeros, which are kept dense; a program is told so once."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.creation import asarray, zeros
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.meanings import kind
from distgrad.autograd.tensor import Tensor
from distgrad.tracebacks import warn_once

__all__ = [
    "FloatTensor", "addmm", "hspmm", "log_softmax", "mm", "softmax", "sparse_coo_tensor", "sparse_csr_tensor",
    "spmm", "sum",
]  # fmt: skip


def _told() -> None:
    warn_once("sparse", "sparse tensors are kept dense: their zeros take memory and time")


def sparse_coo_tensor(
    indices: Any,
    values: Any,
    size: Any = None,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    check_invariants: Any = None,
    is_coalesced: Any = None,
) -> Tensor:
    """The dense tensor with ``values`` at ``indices``; what comes twice is added.

    Args:
        indices: ``[axes, n]``.
        values: ``[n, ...]``.
        size: the shape; None for the smallest that holds all.
        dtype, device, requires_grad: of the result.
        check_invariants, is_coalesced: taken for PyTorch's sake.
    """
    _told()
    places = indices if isinstance(indices, Tensor) else asarray(np.asarray(indices, np.int64))
    wanted = None if dtype is None else kind(dtype)
    if isinstance(values, Tensor):
        numbers = values if wanted is None else ops.astype(values, wanted)
    else:
        numbers = asarray(values, dtype=wanted)
    if size is None:
        size = (*(int(n) + 1 for n in ops.max(places, axis=1)), *numbers.shape[1:])
    shape = tuple(int(n) for n in size)
    rows = places.shape[0]
    flat = ops.sum(
        places * asarray(np.cumprod([1, *shape[rows - 1 : 0 : -1]])[::-1].reshape(-1, 1).copy()), axis=0
    )
    tail = shape[rows:]
    out = zeros((int(np.prod(shape[:rows])), *tail), dtype=numbers.dtype, device=device)
    out = ops.reshape(ops.index_add(out, 0, flat, numbers), shape)
    return out.requires_grad_() if requires_grad else out


def sparse_csr_tensor(
    crow_indices: Any, col_indices: Any, values: Any, size: Any = None, **options: Any
) -> Tensor:
    """The dense matrix of compressed rows; options as in :func:`sparse_coo_tensor`."""
    starts = np.asarray(getattr(crow_indices, "_data", crow_indices))
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    columns = np.asarray(getattr(col_indices, "_data", col_indices))
    return sparse_coo_tensor(np.stack([rows, columns]), values, size, **options)


def mm(mat1: Tensor, mat2: Tensor) -> Any:
    """The product."""
    return ops.matmul(mat1, mat2)


spmm = hspmm = mm


def addmm(mat: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1.0, alpha: float = 1.0) -> Any:
    """beta mat + alpha mat1 mat2."""
    return beta * mat + alpha * ops.matmul(mat1, mat2)


def sum(input: Tensor, dim: Any = None, dtype: Any = None) -> Any:
    """The sum."""
    return ops.sum(input, axis=dim, dtype=None if dtype is None else kind(dtype))


def _nonzero_rows(input: Tensor) -> Any:
    return ops.where(input == 0, -np.inf, input)


def softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Any:
    """Of the elements that are not 0; the others stay 0."""
    found = ops.softmax(_nonzero_rows(input if dtype is None else ops.astype(input, kind(dtype))), axis=dim)
    return ops.where(input == 0, 0.0, found)


def log_softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Any:
    """Of the elements that are not 0; the others stay 0."""
    x = _nonzero_rows(input if dtype is None else ops.astype(input, kind(dtype)))
    return ops.where(input == 0, 0.0, ops.log_softmax(x, axis=dim))


def _typed(dtype: Any) -> Any:
    def create(indices: Any = None, values: Any = None, size: Any = None) -> Tensor:
        return sparse_coo_tensor(indices, values, size, dtype=dtype)

    create.__doc__ = f"As ``sparse_coo_tensor``, of {dtype}."
    return create


FloatTensor, DoubleTensor, LongTensor = (_typed(each) for each in ("float32", "float64", "int64"))
