"""Matrices of mostly zeros, of which places and values are kept: of ``to_sparse`` and ``torch.sparse``.

Products with dense matrices, transposes, and moves are done with those. Everything else is done with the
dense tensor, which is made when it is first asked for; a program is told so once.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from distgrad.autograd.creation import asarray
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.function import Function
from distgrad.autograd.meanings import kind
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU
from distgrad.errors import ShapeError
from distgrad.tracebacks import warn_once

__all__ = ["SparseTensor", "is_constant_matrix", "kept_sparse", "sparse_product"]


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

    def __reduce__(self) -> Any:
        return SparseTensor, (self._places, self._numbers, self._extent)

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseTensor:
        return SparseTensor(self._places, copy.deepcopy(self._numbers, memo), self._extent)

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
        return sparse_product(self, other)

    __matmul__ = mm = spmm = matmul

    def __rmatmul__(self, other: Any) -> Any:
        return sparse_product(other, self)


def is_constant_matrix(x: Tensor) -> bool:
    """Whether only places and values of a tensor may be kept: a matrix on the host, outside the graph."""
    return x._node is None and not x.requires_grad and x.ndim == 2 and x.device == CPU


def kept_sparse(x: Tensor) -> Tensor:
    """The places and values of a matrix that are not 0; what is no matrix, or in the graph, stays dense."""
    if isinstance(x, SparseTensor) or not is_constant_matrix(x):
        return x
    data = np.asarray(x._data)
    places = np.stack(np.nonzero(data))
    return SparseTensor(places, asarray(data[tuple(places)]), data.shape)


def sparse_product(mat1: Tensor, mat2: Tensor) -> Any:
    """The product; of a sparse matrix and a dense one, ``y[i] = Σ a[i, j] x[j]`` over its places alone.

    Raises:
        ShapeError: lengths that do not fit.
    """
    if not isinstance(mat1, SparseTensor):
        if not isinstance(mat2, SparseTensor):
            return ops.matmul(mat1, mat2)
        if mat1.ndim == 1:
            return sparse_product(mat2.t(), mat1)
        return ops.matrix_transpose(sparse_product(mat2.t(), ops.matrix_transpose(mat1)))
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
        """Add up the terms by their rows."""
        ctx.matrix = matrix
        rows, columns = matrix._places
        terms = Tensor(np.multiply(x._data.take(columns, 0), matrix._numbers._data[:, None]))
        return ops.embedding_weight(terms, Tensor(rows), num_embeddings=matrix.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The product with the transpose."""
        return sparse_product(ctx.matrix.t(), gradients[0]), None
