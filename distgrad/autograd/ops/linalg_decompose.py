"""Decompositions of matrices, and what is computed from them.

Gradients are those of the real case, but for eigenvalues and singular values. A gradient of single vectors
where singular values or eigenvalues coincide does not exist; there, only what does not depend on the choice
of the vectors has one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.failures import LinAlgError
from distgrad.autograd.ops.linalg_solve import REGULAR
from distgrad.autograd.ops.parts import decline_complex
from distgrad.autograd.ops.shape_rules import Shape, real_dtype, square_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import plain
from distgrad.errors import GraphError, OptionError

_SYMMETRIC = REGULAR @ REGULAR.T + np.diag([0.0, 0.5, 1.0])
_POSITIVE = [
    Sample((_SYMMETRIC,)),
    Sample((np.stack([_SYMMETRIC, _SYMMETRIC + np.eye(3)]),), note="a stack"),
    Sample(((0, 0),), note="empty"),
]
_NOT_SQUARE = Reject(((2, 3),), LinAlgError, "square")
_RECTANGLES = [
    Sample(((3, 3),)),
    Sample(((2, 4, 3),), note="a tall stack"),
    Sample(((3, 5),), note="wide"),
]


def _hermitian(xp: Any, x: Array) -> Array:
    """The Hermitian part: of a Hermitian matrix, the matrix itself."""
    if len(x.shape) < 2 or x.shape[-1] != x.shape[-2]:
        return x  # what follows refuses it
    return x * 0.5 + xp.conj(xp.matrix_transpose(x)) * 0.5  # halves first: large numbers must not overflow


def _inverse_or_zero(xp: Any, x: Array) -> Array:
    return xp.where(x == 0, 0.0, 1.0 / xp.where(x == 0, 1.0, x))


def _gaps(xp: Any, values: Array) -> Array:
    """1 / (values_j - values_i), and 0 where they coincide."""
    return _inverse_or_zero(xp, xp.expand_dims(values, axis=-2) - xp.expand_dims(values, axis=-1))


# -- Cholesky


@primitive(
    math="x = y yᴴ (lower) or yᴴ y (upper)",
    shape=square_shape,
    dtypes="floating-point",
    samples=[*_POSITIVE, Sample((_SYMMETRIC,), {"upper": True})],
    rejects=[_NOT_SQUARE, Reject((-np.eye(2),), LinAlgError, "positive definite")],
)
def cholesky(xp: Any, x: Array, /, *, upper: bool = False) -> Array:
    """The triangular factor of symmetric (Hermitian) positive definite matrices; others are symmetrized.

    Source: Murray, "Differentiation of the Cholesky decomposition", 2016 (the gradient).
    """
    return xp.linalg.cholesky(_hermitian(xp, x), upper=upper)


@cholesky.vjp("x")
def _(xp: Any, g: Array, y: Array, upper: bool) -> Array:
    decline_complex("cholesky", y)
    if upper:
        g, y = xp.matrix_transpose(g), xp.matrix_transpose(y)
    turned = xp.matrix_transpose(y)
    product = xp.matmul(turned, g)
    half = (xp.tril(product) + xp.tril(product, k=-1)) * 0.5
    return _hermitian(xp, xp.matrix_transpose(xp.solve(turned, xp.matrix_transpose(xp.solve(turned, half)))))


# -- QR


def _qr_shape(x: Shape, mode: str = "reduced") -> tuple[Shape, Shape]:
    inner = x[-2] if mode == "complete" else min(x[-2:])
    return (*x[:-1], inner), (*x[:-2], inner, x[-1])


@primitive(
    math="x = Q R",
    shape=_qr_shape,
    dtypes="floating-point",
    outputs=2,
    samples=[*_RECTANGLES, Sample(((3, 4),), {"mode": "complete"})],
    rejects=[Reject(((3, 3),), OptionError, "mode", {"mode": "full"})],
)
def qr(xp: Any, x: Array, /, *, mode: str = "reduced") -> tuple[Array, Array]:
    """Orthonormal columns times an upper triangle.

    Args:
        x: ``[..., m, n]``.
        mode: ``"reduced"``: Q is ``[..., m, min(m, n)]``; ``"complete"``: ``[..., m, m]``.

    Returns:
        A named tuple ``(Q, R)``.
    """
    if mode not in ("reduced", "complete"):
        raise OptionError(f"qr: mode must be 'reduced' or 'complete', got {mode!r}")
    return xp.linalg.qr(x, mode=mode)


@qr.vjp("x")
def _(xp: Any, g: tuple[Array, Array], x: Array, y: tuple[Array, Array], mode: str) -> Array:
    decline_complex("qr", x)
    rows, columns = x.shape[-2:]
    if mode == "complete" and rows > columns:
        raise GraphError("qr: mode='complete' has no gradient for more rows than columns; use 'reduced'")
    (g_q, g_r), (q, r) = g, y
    if rows >= columns:
        return _qr_gradient(xp, g_q, g_r, q, r)
    rest = x[..., rows:]  # x = [q r_left, rest] with rest = q r_right
    g_q = g_q + xp.matmul(rest, xp.matrix_transpose(g_r[..., rows:]))
    left = _qr_gradient(xp, g_q, g_r[..., :rows], q, r[..., :rows])
    return xp.concat([left, xp.matmul(q, g_r[..., rows:])], axis=-1)


def _qr_gradient(xp: Any, g_q: Array, g_r: Array, q: Array, r: Array) -> Array:
    inner = xp.matmul(r, xp.matrix_transpose(g_r)) - xp.matmul(xp.matrix_transpose(g_q), q)
    mirrored = xp.tril(inner) + xp.matrix_transpose(xp.tril(inner, k=-1))
    return xp.matrix_transpose(xp.solve(r, xp.matrix_transpose(g_q + xp.matmul(q, mirrored))))


# -- eigenvalues


@primitive(
    math="x = V diag(λ) Vᴴ",
    shape=lambda x: (square_shape(x)[:-1], x),
    dtypes="floating-point",
    result=lambda x: (real_dtype(x), x),
    outputs=2,
    samples=_POSITIVE,
    rejects=[_NOT_SQUARE],
)
def eigh(xp: Any, x: Array, /) -> tuple[Array, Array]:
    """Eigenvalues in ascending order and eigenvectors of symmetric (Hermitian) matrices.

    Args:
        x: ``[..., n, n]``; its symmetric part is taken.

    Returns:
        A named tuple ``(eigenvalues, eigenvectors)``; the vectors are columns.
    """
    return xp.linalg.eigh(_hermitian(xp, x))


@eigh.vjp("x")
def _(xp: Any, g: tuple[Array, Array], y: tuple[Array, Array]) -> Array:
    (g_values, g_vectors), (values, vectors) = g, y
    turned = xp.matrix_transpose(vectors)
    inner = _gaps(xp, values) * xp.matmul(turned, g_vectors)
    outside = xp.conj(vectors)
    along = xp.matmul(outside * xp.expand_dims(g_values, axis=-2), turned)
    return _hermitian(xp, along + xp.matmul(xp.matmul(outside, inner), turned))


@primitive(
    math="y = λ where x = V diag(λ) Vᴴ",
    shape=lambda x: square_shape(x)[:-1],
    dtypes="floating-point",
    result=real_dtype,
    samples=_POSITIVE,
    rejects=[_NOT_SQUARE],
)
def eigvalsh(xp: Any, x: Array, /) -> Array:
    """Eigenvalues in ascending order of symmetric (Hermitian) matrices; of others, of the symmetric part."""
    return xp.linalg.eigvalsh(_hermitian(xp, x))


@eigvalsh.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    vectors = xp.eigh(x)[1]
    return xp.matmul(vectors * xp.expand_dims(g, axis=-2), xp.conj(xp.matrix_transpose(vectors)))


# -- singular values


def _svd_shape(x: Shape, full_matrices: bool = True) -> tuple[Shape, Shape, Shape]:
    rows, columns = x[-2:]
    inner = min(rows, columns)
    left, right = (rows, columns) if full_matrices else (inner, inner)
    return (*x[:-1], left), (*x[:-2], inner), (*x[:-2], right, columns)


@primitive(
    math="x = U diag(S) Vh",
    shape=_svd_shape,
    dtypes="floating-point",
    result=lambda x, **attributes: (x, real_dtype(x), x),
    outputs=3,
    samples=[Sample(((3, 3),)), *[Sample(s.args, {"full_matrices": False}, s.note) for s in _RECTANGLES]],
)
def svd(xp: Any, x: Array, /, *, full_matrices: bool = True) -> tuple[Array, Array, Array]:
    """Singular values in descending order, with orthonormal vectors on either side.

    Args:
        x: ``[..., m, n]``; k = min(m, n).
        full_matrices: square U and Vh, whose vectors beyond the k-th have no gradient.

    Returns:
        A named tuple ``(U, S, Vh)``: ``[..., m, k]`` (or m), ``[..., k]``, ``[..., k, n]`` (or n).
    """
    return xp.linalg.svd(x, full_matrices=full_matrices)


@svd.vjp("x")
def _(xp: Any, g: Any, x: Array, y: Any, full_matrices: bool) -> Array:
    decline_complex("svd", x)
    (g_u, g_s, g_vh), (u, s, vh) = g, y
    inner = min(x.shape[-2:])
    if full_matrices and x.shape[-2] != x.shape[-1]:
        if plain(g_u)[..., inner:].any() or plain(g_vh)[..., inner:, :].any():
            raise GraphError("svd: the vectors beyond min(m, n) have no gradient; pass full_matrices=False")
        g_u, u, g_vh, vh = g_u[..., :inner], u[..., :inner], g_vh[..., :inner, :], vh[..., :inner, :]
    left = xp.matmul(xp.matrix_transpose(u), g_u)
    right = xp.matmul(vh, xp.matrix_transpose(g_vh))
    row, column, gaps = xp.expand_dims(s, axis=-2), xp.expand_dims(s, axis=-1), _gaps(xp, s * s)
    middle = (left - xp.matrix_transpose(left)) * gaps * row + column * gaps * (
        right - xp.matrix_transpose(right)
    )
    inverse = _inverse_or_zero(xp, s)
    y_u = xp.matmul(u, middle) + u * xp.expand_dims(g_s, axis=-2)
    y_u = y_u + (g_u - xp.matmul(u, left)) * xp.expand_dims(inverse, axis=-2)
    rest = g_vh - xp.matmul(xp.matrix_transpose(right), vh)
    return xp.matmul(y_u, vh) + xp.matmul(u * xp.expand_dims(inverse, axis=-2), rest)


@primitive(
    math="y = S where x = U diag(S) Vh",
    shape=lambda x: (*x[:-2], min(x[-2:])),
    dtypes="floating-point",
    result=real_dtype,
    samples=_RECTANGLES,
)
def svdvals(xp: Any, x: Array, /) -> Array:
    """Singular values in descending order."""
    return xp.linalg.svdvals(x)


@svdvals.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    u, _, vh = xp.svd(x, full_matrices=False)
    return xp.matmul(u * xp.expand_dims(g, axis=-2), vh)


def _tolerance(xp: Any, x: Array, rtol: Any) -> Any:
    """The singular values below this share of the largest count as 0."""
    return max(x.shape[-2:]) * float(xp.finfo(x.dtype).eps) if rtol is None else plain(rtol)


@primitive(
    math="y = number of S above rtol max S",
    shape=lambda x, **attributes: x[:-2],
    dtypes="floating-point",
    result="int64",
    samples=[
        *_RECTANGLES,
        Sample((np.ones((2, 3, 3)),), {"rtol": np.array([0.1, 0.2])}, note="a tolerance each"),
    ],
)
def matrix_rank(xp: Any, x: Array, /, *, rtol: Any = None) -> Array:
    """The rank of matrices: how many singular values are not negligible.

    Args:
        x: ``[..., m, n]``.
        rtol: what share of the largest is negligible, a number or one for each matrix; None means
            max(m, n) times the dtype's relative spacing.
    """
    values = xp.linalg.svdvals(x)
    limit = xp.max(values, axis=-1, initial=0.0) * _tolerance(xp, x, rtol)
    return xp.sum(values > limit[..., None], axis=-1)


@primitive(
    math="y = V diag(1 / S) Uᴴ over the S that are not negligible",
    shape=lambda x, **attributes: (*x[:-2], x[-1], x[-2]),
    dtypes="floating-point",
    samples=[*_RECTANGLES, Sample(((3, 2),), {"rtol": 1e-3})],
    source="Golub and Pereyra, SIAM Journal on Numerical Analysis, 1973 (the gradient)",
)
def pinv(xp: Any, x: Array, /, *, rtol: Any = None) -> Array:
    """The Moore-Penrose inverse; ``rtol`` as in ``matrix_rank``."""
    return xp.linalg.pinv(x, rtol=_tolerance(xp, x, rtol))


@pinv.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array) -> Array:
    decline_complex("pinv", x)
    turned, g_turned = xp.matrix_transpose(y), xp.matrix_transpose(g)
    columns = xp.matmul(xp.matmul(g_turned, y), turned)
    rows = xp.matmul(xp.matmul(turned, y), g_turned)
    result = columns - xp.matmul(x, xp.matmul(y, columns)) + rows - xp.matmul(xp.matmul(rows, y), x)
    return result - xp.matmul(xp.matmul(turned, g), turned)
