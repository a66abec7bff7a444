"""What the lines of :mod:`distgrad.names.functions` call in linear algebra and transforms."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.layouts import as_pairs, exchanged
from distgrad.autograd.meanings import length, typed
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError


def norm_of(x: Any, order: Any, dim: Any, keepdim: bool, dtype: Any) -> Any:
    """The norm of vectors (one axis, or all without an order) or of matrices (two axes)."""
    x = typed(x, dtype)
    dim = tuple(dim) if isinstance(dim, list) else dim
    if order is None or (dim is None and x.ndim == 1) or isinstance(dim, int):
        return length(x, 2 if order is None else order, dim, keepdim, None)
    return ops.norm(x, ord=order, axis=dim, keepdims=keepdim)


def contracted(a: Any, b: Any, dims: Any) -> Any:
    """Sum of products over pairs of axes; one of length 1 goes with all elements of the other's."""
    if isinstance(dims, int):
        return ops.tensordot(a, b, axes=dims)
    first, second = ((each,) if isinstance(each, int) else tuple(each) for each in dims)
    for i, j in zip(first, second, strict=True):
        if a.shape[i] != b.shape[j] and 1 in (a.shape[i], b.shape[j]):
            wide_first = b.shape[j] == 1
            a = ops.sum(a, axis=i, keepdims=True) if wide_first else a
            b = b if wide_first else ops.sum(b, axis=j, keepdims=True)
    return ops.tensordot(a, b, axes=(first, second))


def solved(a: Any, b: Any, left: bool) -> Any:
    """``x`` with ``a x = b``, or ``x a = b``; a stack of vectors has one axis less than the matrices."""
    if b.ndim > 1 and b.shape == a.shape[:-1]:
        return ops.squeeze(solved(a, ops.expand_dims(b, axis=-1), left), -1)
    if left:
        return ops.solve(a, b)
    turned = ops.solve(ops.matrix_transpose(a), exchanged(b, -1, -2) if b.ndim > 1 else b)
    return exchanged(turned, -1, -2) if b.ndim > 1 else turned


def crossed(x: Any, y: Any, dim: int) -> Any:
    """Cross products along an axis of length 3."""
    if x.ndim != y.ndim or x.shape[dim] != 3 or y.shape[dim] != 3:
        raise ShapeError(
            f"cross: expected as many axes and length 3 along axis {dim}, got {list(x.shape)} and "
            f"{list(y.shape)}"
        )
    return ops.cross(*ops.broadcast_arrays(x, y), axis=dim)


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
    return places_of(dim)


def places_of(dim: Any) -> Any:
    """The axes of a transform, one as well as several."""
    return (dim,) if isinstance(dim, int) else None if dim is None else tuple(dim)


def mirrored(x: Any, triangle: str) -> Any:
    """Hermitian matrices of which one triangle is given; their gradient is Hermitian too."""
    if triangle not in ("L", "U"):
        raise OptionError(f"eigh: UPLO must be 'L' or 'U', got {triangle!r}")
    part, rest = (ops.tril(x), ops.tril(x, k=-1)) if triangle == "L" else (ops.triu(x), ops.triu(x, k=1))
    whole = ops.add(part, ops.conj(ops.matrix_transpose(rest)))
    half = ops.multiply(ops.add(x, ops.conj(ops.matrix_transpose(x))), 0.5)
    return ops.add(half, ops.subtract(whole, half).detach())


def read_as_mirrored(x: Any) -> Any:
    """Hermitian matrices of which the lower triangle is given; their gradient is that of any matrix."""
    return ops.add(x, ops.subtract(mirrored(x, "L"), x).detach())


def windowed_transform(y: Any, return_complex: bool | None) -> Any:
    """The complex result of ``stft``, or its parts along a last axis."""
    return y if return_complex or return_complex is None else as_pairs(y)


def derivative_of_digamma(n: Any, x: Any) -> Any:
    """``polygamma`` as a function, whose order comes first, and as a method, where it comes last."""
    n, x = (x, n) if isinstance(n, Tensor) else (n, x)
    return ops.polygamma(n, x)


def sampled(x: Any, grid: Any, mode: int, padding: int, align_corners: bool) -> Any:
    """``grid_sample`` with its choices as numbers."""
    how = ("bilinear", "nearest", "bicubic")[mode]
    return ops.grid_sample(x, grid, how, ("zeros", "border", "reflection")[padding], align_corners)


class LeastSquares(NamedTuple):
    """What ``linalg.lstsq`` returns."""

    solution: Any
    residuals: Any
    rank: Any
    singular_values: Any


def least_squares(a: Any, b: Any, rcond: Any, driver: str | None) -> LeastSquares:
    """The solution of least squares, with what PyTorch's drivers of LAPACK tell besides."""
    driver = driver or "gelsy"
    if driver not in ("gels", "gelsy", "gelsd", "gelss"):
        raise OptionError(f"lstsq: driver must be gels, gelsy, gelsd or gelss, got {driver!r}")
    column = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    right = ops.expand_dims(b, axis=-1) if column else b
    y = ops.lstsq(a, right, rtol=rcond)
    nothing = Tensor(np.zeros(0, a.dtype))
    rank = Tensor(np.zeros(0, np.int64)) if driver == "gels" else ops.matrix_rank(a, rtol=rcond)
    values = ops.svdvals(a.detach()) if driver in ("gelsd", "gelss") else nothing
    rows, columns = a.shape[-2:]
    residuals = ops.reshape(y, (-1,))[:0]
    if rows > columns and driver != "gelsy" and (driver == "gels" or (rank._data == columns).all()):
        gap = ops.abs(ops.subtract(ops.matmul(a, y), right))
        residuals = ops.sum(ops.multiply(gap, gap), axis=-2)
    return LeastSquares(ops.squeeze(y, -1) if column else y, residuals, rank, values)


class Polar(NamedTuple):
    """What ``linalg.polar`` returns."""

    U: Any
    P: Any


def polar_factors(x: Any) -> Polar:
    """A matrix as an orthonormal one times a positive one."""
    return Polar(*ops.polar_decomposition(x))
