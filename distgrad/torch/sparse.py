"""``torch.sparse``: makers of matrices of mostly zeros, and what is done with their places alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.creation import asarray, zeros
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.meanings import kind
from distgrad.autograd.naming import find
from distgrad.autograd.sparse import SparseTensor, sparse_product
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, parse_device
from distgrad.errors import OutOfBoundsError
from distgrad.tracebacks import warn_once

__all__ = [
    "ByteTensor", "CharTensor", "DoubleTensor", "FloatTensor", "HalfTensor", "IntTensor", "LongTensor",
    "ShortTensor", "SparseTensor", "addmm", "hspmm", "log_softmax", "matmul", "mm", "softmax",
    "sparse_coo_tensor", "sparse_csr_tensor", "spmm", "sum",
]  # fmt: skip


def _product(name: str) -> Callable[..., Any]:
    """PyTorch's function of that name, which goes over the places of a sparse matrix alone."""
    dense: Any = find(name)

    @functools.wraps(dense)
    def product(*args: Any, **options: Any) -> Any:
        for each in args:
            if each.__class__ is SparseTensor:
                return sparse_product(*args, **options)
        return dense(*args, **options)

    return product


mm, matmul = _product("mm"), _product("matmul")
spmm = hspmm = sparse_product


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
    """The tensor with ``values`` at ``indices``, 0 elsewhere; what comes twice is added.

    A matrix whose values are outside the graph is a :class:`SparseTensor`; others are dense.

    Args:
        indices: ``[axes, n]``.
        values: ``[n, ...]``.
        size: the shape; None for the smallest that holds all.
        dtype, device, requires_grad: of the result.
        check_invariants, is_coalesced: taken for PyTorch's sake.
    """
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
    constant = numbers._node is None and len(shape) == rows == 2 and numbers.device == CPU
    if constant and not requires_grad and parse_device(device or CPU) == CPU:
        return _without_repetition(np.asarray(places._data), np.asarray(numbers._data), shape)
    warn_once("sparse", "a sparse tensor was made dense: its zeros take memory and time")
    flat = ops.sum(
        places * asarray(np.cumprod([1, *shape[rows - 1 : 0 : -1]])[::-1].reshape(-1, 1).copy()), axis=0
    )
    tail = shape[rows:]
    out = zeros((int(np.prod(shape[:rows])), *tail), dtype=numbers.dtype, device=device)
    out = ops.reshape(ops.index_add(out, 0, flat, numbers), shape)
    return out.requires_grad_() if requires_grad else out


def _without_repetition(places: Any, numbers: Any, shape: tuple[int, ...]) -> SparseTensor:
    """What comes twice is added; in the order of rows.

    Raises:
        OutOfBoundsError: a place outside.
    """
    for axis, length in enumerate(shape):
        if places.shape[1] and (places[axis].min() < 0 or places[axis].max() >= length):
            raise OutOfBoundsError(
                f"sparse_coo_tensor: indices of axis {axis} must be from 0 to {length - 1}, got "
                f"{places[axis].min()} … {places[axis].max()}"
            )
    flat, where = np.unique(places[0] * shape[1] + places[1], return_inverse=True)
    sums = np.zeros(flat.shape, numbers.dtype)
    np.add.at(sums, where, numbers)
    return SparseTensor(np.stack(np.divmod(flat, shape[1])), asarray(sums), shape)


def sparse_csr_tensor(
    crow_indices: Any, col_indices: Any, values: Any, size: Any = None, **options: Any
) -> Tensor:
    """The dense matrix of compressed rows; options as in :func:`sparse_coo_tensor`."""
    starts = np.asarray(getattr(crow_indices, "_data", crow_indices))
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    columns = np.asarray(getattr(col_indices, "_data", col_indices))
    return sparse_coo_tensor(np.stack([rows, columns]), values, size, **options)


def addmm(mat: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1.0, alpha: float = 1.0) -> Any:
    """beta mat + alpha mat1 mat2."""
    return beta * mat + alpha * sparse_product(mat1, mat2)


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


FloatTensor, DoubleTensor, HalfTensor = (_typed(each) for each in ("float32", "float64", "float16"))
LongTensor, IntTensor, ShortTensor = (_typed(each) for each in ("int64", "int32", "int16"))
CharTensor, ByteTensor = (_typed(each) for each in ("int8", "uint8"))
