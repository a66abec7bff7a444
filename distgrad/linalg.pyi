"""Signatures for type checkers and editors; written by tests/write_stubs.py."""

# fmt: off
# ruff: noqa
from builtins import bool as _bool
from collections.abc import Sequence as _Sequence
from typing import Any as _Any

import numpy as _np

from distgrad.autograd.tensor import Tensor as _Tensor
from distgrad.backend.rng import Generator as _Generator

_Array = _Tensor | _np.ndarray[_Any, _Any] | _np.generic | complex
_Lengths = int | _Sequence[int]


__all__ = [
    "cholesky",
    "cofactors",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
    "cholesky_inverse",
    "cholesky_solve",
    "eig",
    "eigvals",
    "householder_product",
    "lstsq",
    "lu",
    "lu_factor",
    "lu_solve",
    "lu_unpack",
    "matrix_exp",
    "matrix_sqrth",
    "multi_dot",
    "ormqr",
    "pca_lowrank",
    "polar_decomposition",
    "solve_triangular",
    "svd_lowrank",
    "tensorinv",
    "tensorsolve",
    "triangular_solve",
]

def cholesky(x: _Array, /, *, upper: _bool = ...) -> _Tensor:
    """The triangular factor of symmetric (Hermitian) positive definite matrices; others are symmetrized."""
def cholesky_inverse(x: _Array, /, upper: _bool = ...) -> _Tensor:
    """The inverse of a positive definite matrix from its Cholesky factor; arguments as ``cholesky`` gives."""
def cholesky_solve(b: _Array, a: _Array, /, upper: _bool = ...) -> _Tensor:
    """The solution of linear systems with a positive definite matrix, from its Cholesky factor ``a``."""
def cofactors(x: _Array, /) -> _Tensor:
    """The matrix of cofactors of square matrices; its gradient holds for singular ones too."""
def cross(x1: _Array, x2: _Array, /, *, axis: int = ...) -> _Tensor:
    """Cross products of vectors with three elements along an axis."""
def det(x: _Array, /) -> _Tensor:
    """The determinant of square matrices; its gradient is the matrix of cofactors, singular or not."""
def diagonal(x: _Array, /, *, offset: int = ...) -> _Tensor:
    """A diagonal of matrices, as a view: the main one, or one that many above it."""
def eig(x: _Array, /) -> tuple[_Tensor, _Tensor]:
    """Eigenvalues and eigenvectors of any square matrices, complex numbers."""
def eigh(x: _Array, /) -> tuple[_Tensor, _Tensor]:
    """Eigenvalues in ascending order and eigenvectors of symmetric (Hermitian) matrices."""
def eigvals(x: _Array, /) -> _Tensor:
    """Eigenvalues of any square matrices, complex numbers."""
def eigvalsh(x: _Array, /) -> _Tensor:
    """Eigenvalues in ascending order of symmetric (Hermitian) matrices; of others, of the symmetric part."""
def householder_product(x: _Array, tau: _Array, /) -> _Tensor:
    """The orthonormal matrix of a QR decomposition, from its reflections."""
def inv(x: _Array, /) -> _Tensor:
    """The inverse of square matrices."""
def lstsq(a: _Array, b: _Array, /, rtol: float | None = ...) -> _Tensor:
    """The solution of linear systems by least squares; singular values below ``rtol`` count as 0."""
def lu(x: _Array, /, *, pivot: _bool = ...) -> tuple[_Tensor, _Tensor, _Tensor]:
    """The LU decomposition: a permutation, a lower and an upper triangular matrix."""
def lu_factor(x: _Array, /, *, pivot: _bool = ...) -> tuple[_Tensor, _Tensor]:
    """The LU decomposition with partial pivoting, packed."""
def lu_solve(packed: _Array, pivots: _Any, b: _Array, /, *, left: _bool = ..., adjoint: _bool = ...) -> _Tensor:
    """The solution of linear systems by an LU decomposition that is at hand."""
def lu_unpack(packed: _Array, pivots: _Any, /, unpack_data: _bool = ..., unpack_pivots: _bool = ...) -> tuple[_Tensor, _Tensor, _Tensor]:
    """The factors of an LU decomposition from their packed form."""
def matmul(x1: _Array, x2: _Array, /) -> _Tensor:
    """Matrix product over the last two axes; vectors count as a row on the left, a column on the right."""
def matrix_exp(x: _Array, /) -> _Tensor:
    """The exponential of square matrices, by scaling, a rational approximation, and squaring."""
def matrix_norm(x: _Array, /, *, keepdims: _bool = ..., ord: float | str | None = ...) -> _Tensor:
    """The norm of matrices."""
def matrix_power(x: _Array, n: int, /) -> _Tensor:
    """Square matrices multiplied with themselves; inverted first for negative ``n``."""
def matrix_rank(x: _Array, /, *, rtol: _Any = ...) -> _Tensor:
    """The rank of matrices: how many singular values are not negligible."""
def matrix_sqrth(x: _Array, /) -> _Tensor:
    """The positive square root of symmetric (Hermitian) positive definite matrices."""
def matrix_transpose(x: _Array, /) -> _Tensor:
    """Matrices turned over, as a view."""
def multi_dot(*arrays: _Array) -> _Tensor:
    """The product of several matrices, in the order of pairs that takes the fewest multiplications."""
def ormqr(x: _Array, tau: _Array, x2: _Array, /, left: _bool = ..., transpose: _bool = ...) -> _Tensor:
    """A product with the whole orthonormal matrix of a QR decomposition, from its reflections."""
def outer(x1: _Array, x2: _Array, /) -> _Tensor:
    """All products of an element of one vector with one of another."""
def pca_lowrank(x: _Array, /, q: int | None = ..., center: _bool = ...) -> tuple[_Tensor, _Tensor, _Tensor]:
    """Principal components of rows; arguments as in ``svd_lowrank``, the columns' means taken off before."""
def pinv(x: _Array, /, *, rtol: _Any = ...) -> _Tensor:
    """The Moore-Penrose inverse; ``rtol`` as in ``matrix_rank``."""
def polar_decomposition(x: _Array, /) -> tuple[_Tensor, _Tensor]:
    """A matrix as an orthonormal one times a positive one."""
def qr(x: _Array, /, *, mode: str = ...) -> tuple[_Tensor, _Tensor]:
    """Orthonormal columns times an upper triangle."""
def slogdet(x: _Array, /) -> tuple[_Tensor, _Tensor]:
    """Sign and logarithm of the magnitude of determinants, which may be too large or small themselves."""
def solve(x1: _Array, x2: _Array, /) -> _Tensor:
    """The solution of linear systems."""
def solve_triangular(a: _Array, b: _Array, /, *, upper: _bool, left: _bool = ..., unitriangular: _bool = ...) -> _Tensor:
    """The solution of linear systems with triangular matrices."""
def svd(x: _Array, /, *, full_matrices: _bool = ...) -> tuple[_Tensor, _Tensor, _Tensor]:
    """Singular values in descending order, with orthonormal vectors on either side."""
def svd_lowrank(x: _Array, /, q: int | None = ..., m: _Any = ...) -> tuple[_Tensor, _Tensor, _Tensor]:
    """The largest singular values and their vectors; of the full decomposition, with no error of sampling."""
def svdvals(x: _Array, /) -> _Tensor:
    """Singular values in descending order."""
def tensordot(x1: _Array, x2: _Array, /, axes: int | tuple[_Sequence[int], _Sequence[int]] = ...) -> _Tensor:
    """Sum of products over several axes at once."""
def tensorinv(x: _Array, /, ind: int = ...) -> _Tensor:
    """The inverse of a tensor as a map from its last axes to the first ``ind``."""
def tensorsolve(a: _Array, b: _Array, /, axes: _Any = ...) -> _Tensor:
    """The solution of a linear system whose unknown is a tensor."""
def trace(x: _Array, /, *, offset: int = ..., dtype: _Any = ...) -> _Tensor:
    """The sum of a diagonal of matrices; ``dtype`` as in ``sum``."""
def triangular_solve(b: _Array, a: _Array, /, upper: _bool = ..., transpose: _bool = ..., unitriangular: _bool = ...) -> tuple[_Tensor, _Tensor]:
    """The solution of a triangular system, with the arguments that PyTorch's function of old has."""
def vecdot(x1: _Array, x2: _Array, /, *, axis: int = ...) -> _Tensor:
    """Inner products of vectors along an axis; the first is conjugated."""
def vector_norm(x: _Array, /, *, axis: _Lengths | None = ..., keepdims: _bool = ..., ord: float = ...) -> _Tensor:
    """The length of vectors."""
