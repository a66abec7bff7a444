"""``torch.sparse``: matrices of mostly zeros, of which places and values are kept.

Products with dense matrices, transposes, and moves are done with those. Everything else is done with the
dense tensor, which is made when it is first asked for; a program is told so once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.creation import asarray, zeros
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.function import Function
from distgrad.autograd.meanings import kind
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, parse_device
from distgrad.errors import ShapeError
from distgrad.tracebacks import warn_once

__all__ = [
    "FloatTensor", "SparseTensor", "addmm", "hspmm", "log_softmax", "matmul", "mm", "softmax",
    "sparse_coo_tensor", "sparse_csr_tensor", "spmm", "sum",
]  # fmt: skip


_elements: Any = Tensor.__dict__["_data"]  # the slot itself


_Base: Any = Tensor  # of whose methods some are narrower here


class SparseTensor(_Base):
    """A matrix whose elements are 0 but for those at some places.

    Args:
        places: ``[2, n]``, whole numbers on the host, in the order of rows and without repetition.
        numbers: ``[n]``, outside the graph.
        shape: rows and columns.
    """

    __slots__ = ("_extent", "_numbers", "_places", "_turned")

    _turned: SparseTensor | None

    def __init__(self, places: Any, numbers: Tensor, shape: tuple[int, ...]) -> None:
        self._places, self._numbers, self._extent = places, numbers, shape
        self._turned = None  # until it is asked for
        for name, value in (("_version", [0]), ("_node", None), ("_leaf", None), ("_aliases", None)):
            setattr(self, name, value)

    @property
    def _data(self) -> Any:
        try:
            return _elements.__get__(self)
        except AttributeError:
            warn_once("sparse", "a sparse tensor was made dense: its zeros take memory and time")
        dense = np.zeros(self._extent, self._numbers.dtype)
        dense[tuple(self._places)] = self._numbers._data
        _elements.__set__(self, dense)
        return dense

    @_data.setter
    def _data(self, value: Any) -> None:
        _elements.__set__(self, value)

    shape = property(lambda self: Shape(self._extent))
    dtype = property(lambda self: self._numbers.dtype)
    ndim = property(lambda self: len(self._extent))
    device = property(lambda self: self._numbers.device)
    is_sparse = property(lambda self: True)
    layout = property(lambda self: "sparse_coo")

    def indices(self) -> Tensor:
        """The places, ``[2, n]``."""
        return asarray(self._places)

    def values(self) -> Tensor:
        """What stands there, ``[n]``."""
        return self._numbers

    _indices, _values = indices, values

    def _nnz(self) -> int:
        return int(self._places.shape[1])

    def coalesce(self) -> SparseTensor:
        """Itself: places do not repeat."""
        return self

    def to_dense(self, dtype: Any = None, **options: Any) -> Tensor:
        """The dense tensor."""
        dense = np.zeros(self._extent, self._numbers.dtype)
        dense[tuple(self._places)] = self._numbers._data
        return asarray(dense, dtype=None if dtype is None else kind(dtype))

    def t(self) -> SparseTensor:
        """The transpose."""
        if self._turned is None:
            order = np.lexsort(self._places)
            numbers = asarray(self._numbers._data[order])
            self._turned = SparseTensor(self._places[::-1, order].copy(), numbers, self._extent[::-1])
        return self._turned

    def transpose(self, dim0: int, dim1: int) -> SparseTensor:
        """The transpose."""
        return self if dim0 % 2 == dim1 % 2 else self.t()

    T = property(t)

    def to(self, *args: Any, **options: Any) -> SparseTensor:
        """With its values in another dtype."""
        return SparseTensor(self._places, self._numbers.to(*args, **options), self._extent)

    def cpu(self, *args: Any, **options: Any) -> SparseTensor:
        """Itself: it lies on the host."""
        return self

    def matmul(self, other: Any) -> Any:
        """The product with a dense matrix or vector."""
        return mm(self, other)

    __matmul__ = mm = spmm = matmul


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
    if _is_constant(numbers, shape, rows) and not requires_grad and parse_device(device or CPU) == CPU:
        return _without_repetition(np.asarray(places._data), np.asarray(numbers._data), shape)
    warn_once("sparse", "a sparse tensor was made dense: its zeros take memory and time")
    flat = ops.sum(
        places * asarray(np.cumprod([1, *shape[rows - 1 : 0 : -1]])[::-1].reshape(-1, 1).copy()), axis=0
    )
    tail = shape[rows:]
    out = zeros((int(np.prod(shape[:rows])), *tail), dtype=numbers.dtype, device=device)
    out = ops.reshape(ops.index_add(out, 0, flat, numbers), shape)
    return out.requires_grad_() if requires_grad else out


def _is_constant(numbers: Tensor, shape: tuple[int, ...], rows: int) -> bool:
    return numbers._node is None and len(shape) == rows == 2 and numbers.device == CPU


def _without_repetition(places: Any, numbers: Any, shape: tuple[int, ...]) -> SparseTensor:
    """What comes twice is added; in the order of rows.

    Raises:
        IndexError: a place outside.
    """
    for axis, length in enumerate(shape):
        if places.shape[1] and (places[axis].min() < 0 or places[axis].max() >= length):
            raise IndexError(
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


def mm(mat1: Tensor, mat2: Tensor) -> Any:
    """The product; of a sparse matrix and a dense one, ``y[i] = Σ a[i, j] x[j]`` over its places alone.

    Raises:
        ShapeError: lengths that do not fit.
    """
    if not isinstance(mat1, SparseTensor):
        return ops.matmul(mat1, mat2.to_dense() if isinstance(mat2, SparseTensor) else mat2)
    if isinstance(mat2, SparseTensor):
        mat2 = mat2.to_dense()
    if mat2.ndim not in (1, 2) or mat1.shape[1] != mat2.shape[0]:
        raise ShapeError(
            f"mm: a sparse matrix {list(mat1.shape)} times {list(mat2.shape)}; the inner lengths must be "
            "equal, and the second a matrix or a vector"
        )
    if mat2.ndim == 1:
        return ops.squeeze(_Product.apply(ops.expand_dims(mat2, axis=1), mat1), 1)
    return _Product.apply(mat2, mat1)


class _Product(Function):
    """y = A x for a sparse A, and ∂L/∂x = Aᵀ ∂L/∂y."""

    @staticmethod
    def forward(ctx: Any, x: Any, matrix: SparseTensor) -> Any:
        """Sum the terms of each row, which lie side by side."""
        ctx.matrix = matrix
        rows, columns = matrix._places
        terms = matrix._numbers._data[:, None] * x._data[columns]
        out = np.zeros((matrix.shape[0], x.shape[1]), terms.dtype)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        if starts.size:
            out[rows[starts]] = np.add.reduceat(terms, starts, axis=0)
        return Tensor(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The product with the transpose."""
        return mm(ctx.matrix.t(), gradients[0]), None


matmul = spmm = hspmm = mm


def addmm(mat: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1.0, alpha: float = 1.0) -> Any:
    """beta mat + alpha mat1 mat2."""
    return beta * mat + alpha * mm(mat1, mat2)


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
