"""Matrices on which an algorithm fails, told beside the result, and the tolerances of a rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.creation import asarray, eye
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.failures import LinAlgError
from distgrad.autograd.matrices import mirrored, solved
from distgrad.autograd.tensor import Tensor


class InverseInfo(NamedTuple):
    """What ``linalg.inv_ex`` returns."""

    inverse: Any
    info: Any


class SolutionInfo(NamedTuple):
    """What ``linalg.solve_ex`` returns."""

    result: Any
    info: Any


class CholeskyInfo(NamedTuple):
    """What ``linalg.cholesky_ex`` returns."""

    L: Any
    info: Any


class LUInfo(NamedTuple):
    """What ``linalg.lu_factor_ex`` returns."""

    LU: Any
    pivots: Any
    info: Any


def _checked(
    compute: Callable[[Any], Any],
    probe: Callable[[Any], Any],
    place: Callable[[Any], int],
    x: Any,
    strict: bool,
    axes: int = 2,
) -> tuple[Any, Any]:
    """A result with nan where a matrix fails, and for each matrix 0 or where it fails.

    Args:
        compute: from matrices to the result, one element for each matrix along the first axes.
        probe: raises for a matrix on which ``compute`` fails.
        place: of a matrix that fails, where, counting from 1.
        x: ``[..., n, n]``.
        strict: whether a failure is an error.
        axes: of the result for one matrix.
    """
    stack = tuple(x.shape[:-2])
    try:
        return compute(x), asarray(np.zeros(stack, np.int32), device=x.device)
    except np.linalg.LinAlgError:
        if strict or len(x.shape) < 2 or x.shape[-1] != x.shape[-2]:
            raise
    info = np.zeros(stack, np.int32)
    for index in np.ndindex(*stack):
        matrix = x.detach()[index]
        info[index] = 0 if _passes(probe, matrix) else place(matrix)
    failed = asarray(info != 0, device=x.device)
    whole = eye(x.shape[-1], dtype=x.dtype, device=x.device)
    y = compute(ops.where(ops.reshape(failed, (*stack, 1, 1)), whole, x))
    failed = ops.reshape(failed, (*stack, *(1,) * axes))
    return ops.where(failed, np.nan, y), asarray(info, device=x.device)


def _passes(probe: Callable[[Any], Any], matrix: Tensor) -> bool:
    try:
        probe(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


def _zero_pivots(lu: Any) -> Any:
    """Of each matrix the first 0 on the diagonal of U, counting from 1, or 0."""
    empty = ops.equal(lu.diagonal(dim1=-2, dim2=-1), 0)
    if empty.shape[-1] == 0:
        return ops.zeros(empty.shape[:-1], dtype=np.int32, device=lu.device)
    first = ops.add(ops.argmax(ops.astype(empty, np.int32), axis=-1), 1)
    return ops.astype(ops.where(ops.any(empty, axis=-1), first, 0), np.int32)


def _singular_at(matrix: Tensor) -> int:
    return int(_zero_pivots(ops.lu_factor(matrix)[0]).item()) or int(matrix.shape[-1])


def inverse_with_info(x: Any, strict: bool) -> InverseInfo:
    """Inverses, nan of singular matrices, and where the pivot is 0."""
    return InverseInfo(*_checked(ops.inv, ops.inv, _singular_at, x, strict))


def solution_with_info(a: Any, b: Any, left: bool, strict: bool) -> SolutionInfo:
    """Solutions, nan for singular matrices, and where the pivot is 0."""
    axes = 1 if b.ndim == 1 or b.shape == a.shape[:-1] else 2
    return SolutionInfo(*_checked(lambda x: solved(x, b, left), ops.inv, _singular_at, a, strict, axes))


def factored(x: Any, upper: bool) -> Any:
    """Cholesky's factor of matrices of which one triangle is given."""
    return ops.cholesky(mirrored(x, "U" if upper else "L"), upper=upper)


def cholesky_with_info(x: Any, upper: bool, strict: bool) -> CholeskyInfo:
    """Cholesky's factors, nan of matrices that are not positive definite, and the first minor that is not."""

    def factor(matrix: Any) -> Any:
        return factored(matrix, upper)

    def place(matrix: Any) -> int:
        n = int(matrix.shape[-1])
        return next((k for k in range(1, n) if not _passes(factor, matrix[:k, :k])), n)

    return CholeskyInfo(*_checked(factor, factor, place, x, strict))


def lu_with_info(x: Any, pivot: bool, strict: bool) -> LUInfo:
    """The packed LU decomposition, and the first pivot that is 0.

    Raises:
        LinAlgError: one is, and ``strict`` is given.
    """
    lu, pivots = ops.lu_factor(x, pivot=pivot)
    info = _zero_pivots(lu.detach())
    if strict and bool(ops.any(info != 0)):
        raise LinAlgError(f"lu_factor_ex: expected no pivot that is 0, got info {info!r}")
    return LUInfo(lu, pivots, info)


def share_of(x: Any, atol: Any, rtol: Any, hermitian: bool) -> Any:
    """The share of the largest singular value that is negligible, for a limit of max(atol, rtol max S)."""
    if atol is None:
        return rtol
    values = ops.svdvals(mirrored(x.detach(), "L") if hermitian else x.detach())
    largest = ops.sum(values[..., :1], axis=-1)  # 0 of an empty matrix
    atol = asarray(atol, dtype=largest.dtype, device=largest.device)
    share = ops.where(largest > 0, atol / ops.where(largest > 0, largest, 1.0), 0.0)
    if rtol is None:  # PyTorch's default, where only a positive atol stands alone
        rtol = max(x.shape[-2:]) * float(np.finfo(x.dtype).eps)
        return ops.where(atol > 0, share, rtol)
    return ops.maximum(share, asarray(rtol, dtype=largest.dtype, device=largest.device))
