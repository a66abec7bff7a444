"""Eigenvalues of any matrix, functions of matrices, reflections, least squares, and tensors as matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.failures import LinAlgError
from distgrad.autograd.ops.linalg_products import diagonal_key
from distgrad.autograd.ops.linalg_solve import REGULAR
from distgrad.autograd.ops.shape_rules import Shape, complex_dtype, normalize_axes, square_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import OptionError, ShapeError

_STACK = np.stack([REGULAR, REGULAR.T + 0.5])
_POSITIVE = REGULAR @ REGULAR.T + np.diag([0.0, 0.5, 1.0])
_NOT_SQUARE = Reject(((2, 3),), LinAlgError, "square")


def _square(where: str, x: Array) -> None:
    if len(x.shape) < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"{where}: expected square matrices, got {list(x.shape)}")


def _adjoint(xp: Any, x: Array) -> Array:
    return xp.conj(xp.matrix_transpose(x))


def _complex_of(x: Array) -> np.dtype:
    return np.result_type(x.dtype, np.complex64)


# -- eigenvalues


@primitive(
    math="x V = V diag(λ)",
    source="Boeddeker et al., arXiv:1701.00392, 2017 (the gradient)",
    shape=lambda x: (square_shape(x)[:-1], x),
    dtypes="floating-point",
    result=lambda x: (complex_dtype(x), complex_dtype(x)),
    outputs=2,
    samples=[Sample((REGULAR,), grad=False), Sample(((0, 0),), note="empty")],
    rejects=[_NOT_SQUARE],
)
def eig(xp: Any, x: Array, /) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of any square matrices, complex numbers.

    Args:
        x: ``[..., n, n]``.

    Returns:
        A named tuple ``(eigenvalues, eigenvectors)``; the vectors are columns of length 1, of any phase,
        and only what does not depend on it has a gradient.
    """
    found = xp.linalg.eig(x)
    return type(found)(*(each.astype(_complex_of(x), copy=False) for each in found))


@eig.vjp("x")
def _(xp: Any, g: tuple[Array, Array], y: tuple[Array, Array]) -> Array:
    (g_values, g_vectors), (values, vectors) = (xp.conj(g[0]), xp.conj(g[1])), y
    turned = _adjoint(xp, vectors)
    inner = xp.matmul(turned, g_vectors)
    one = xp.eye(vectors.shape[-1], dtype=inner.dtype)
    own = xp.real(xp.getitem(inner, diagonal_key(xp, inner.shape, 0)))
    along = xp.astype(xp.expand_dims(own, axis=-2), inner.dtype)  # kept at length 1
    inner = inner - xp.matmul(turned, vectors) * along
    gaps = xp.expand_dims(values, axis=-2) - xp.expand_dims(values, axis=-1)
    same = gaps == 0
    inner = xp.where(same, 0.0, inner / xp.conj(xp.where(same, 1.0, gaps)))
    inner = inner * (1.0 - one) + one * xp.expand_dims(g_values, axis=-2)
    return xp.conj(xp.solve(turned, xp.matmul(inner, turned)))


@composite(
    math="λ with x V = V diag(λ)",
    shape=lambda x: x[:-1],
    dtypes="floating-point",
    result="any",
    samples=[Sample((REGULAR,)), Sample((_STACK,), note="a stack")],
    rejects=[_NOT_SQUARE],
)
def eigvals(xp: Any, x: Array, /) -> Array:
    """Eigenvalues of any square matrices, complex numbers."""
    return xp.eig(x)[0]


# -- functions of matrices

_PADE = [math.factorial(26 - k) / (math.factorial(k) * math.factorial(13 - k)) for k in range(14)]


@primitive(
    math="y = Σ_k xᵏ / k!",
    source="Higham, SIAM Journal on Matrix Analysis and Applications, 2005",
    shape=lambda x: x,
    dtypes="floating-point",
    samples=[Sample((REGULAR,)), Sample((_STACK * 3.0,), note="a stack"), Sample(((0, 0),), note="empty")],
    rejects=[Reject(((2, 3),), ShapeError, "matrix_exp: expected square matrices, got [2, 3]")],
)
def matrix_exp(xp: Any, x: Array, /) -> Array:
    """The exponential of square matrices, by scaling, a rational approximation, and squaring."""
    _square("matrix_exp", x)
    if x.dtype.itemsize < 4:
        raise TypeError(f"array type {x.dtype} is unsupported in linalg")
    if not x.size:
        return x.copy()
    size = float(xp.max(xp.sum(xp.abs(x), axis=-2)))
    if not math.isfinite(size):
        return x * math.nan
    doublings = max(math.ceil(math.log2(size / 5.37)), 0) if size else 0
    x = x * 2.0**-doublings
    one = xp.eye(x.shape[-1], dtype=x.dtype)
    squared, even, odd = xp.matmul(x, x), _PADE[12] * one, _PADE[13] * one
    for k in range(10, -1, -2):
        even, odd = xp.matmul(even, squared) + _PADE[k] * one, xp.matmul(odd, squared) + _PADE[k + 1] * one
    odd = xp.matmul(odd, x)
    y = xp.linalg.solve(even - odd, even + odd)
    for _ in range(doublings):
        y = xp.matmul(y, y)
    return y


@matrix_exp.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    # the upper right corner of the exponential of [[xᵀ, g], [0, xᵀ]]
    turned, n = xp.matrix_transpose(x), x.shape[-1]
    upper = xp.concat([turned, g], axis=-1)
    lower = xp.concat([xp.zeros_like(turned), turned], axis=-1)
    return xp.matrix_exp(xp.concat([upper, lower], axis=-2))[..., :n, n:]


@composite(
    math="y y = x",
    dtypes="floating-point",
    samples=[Sample((_POSITIVE,))],
    rejects=[_NOT_SQUARE],
)
def matrix_sqrth(xp: Any, x: Array, /) -> Array:
    """The positive square root of symmetric (Hermitian) positive definite matrices."""
    values, vectors = xp.eigh(x)
    return xp.matmul(vectors * xp.expand_dims(xp.sqrt(values), axis=-2), _adjoint(xp, vectors))


@composite(
    math="x = u p, uᴴ u = 1, p positive semidefinite",
    dtypes="real floating-point",
    samples=[Sample((REGULAR,)), Sample(((4, 3),), note="tall")],
    rejects=[Reject(((2, 3),), ShapeError, "polar_decomposition: expected no more columns than rows")],
)
def polar_decomposition(xp: Any, x: Array, /) -> tuple[Array, Array]:
    """A matrix as an orthonormal one times a positive one.

    Returns:
        u ``[..., m, n]``, p ``[..., n, n]``.
    """
    if len(x.shape) < 2 or x.shape[-2] < x.shape[-1]:
        raise ShapeError(f"polar_decomposition: expected no more columns than rows, got {list(x.shape)}")
    u, s, vh = xp.svd(x, full_matrices=False)
    return xp.matmul(u, vh), xp.matmul(xp.matrix_transpose(vh) * xp.expand_dims(s, axis=-2), vh)


# -- reflections


def _reflections(xp: Any, x: Array, tau: Array, where: str) -> list[tuple[Array, Array]]:
    """(v, τ) of each elementary reflection 1 - τ v vᴴ; v has a one at its own place and zeros above."""
    fit = len(x.shape) >= 2 and len(tau.shape) >= 1 and tuple(tau.shape[:-1]) == tuple(x.shape[:-2])
    if not fit or tau.shape[-1] > min(x.shape[-2:]):
        raise ShapeError(f"{where}: x is {list(x.shape)} but tau {list(tau.shape)}")
    rows, count = x.shape[-2], tau.shape[-1]
    columns = xp.tril(x[..., :count], k=-1) + xp.eye(rows, count, dtype=x.dtype)
    return [(columns[..., i : i + 1], xp.reshape(tau[..., i], (*tau.shape[:-1], 1, 1))) for i in range(count)]


def _reflected(xp: Any, y: Array, v: Array, tau: Array) -> Array:
    return y - tau * xp.matmul(v, xp.matmul(_adjoint(xp, v), y))


@composite(
    math="y = H_1 H_2 … H_k, its first n columns, H_i = 1 - τ_i v_i v_iᴴ",
    dtypes="floating-point",
    samples=[Sample(((4, 3), (2,))), Sample(((2, 3, 3), (2, 3)), note="a stack")],
    rejects=[Reject(((3, 2), (3,)), ShapeError, "householder_product: x is [3, 2] but tau [3]")],
)
def householder_product(xp: Any, x: Array, tau: Array, /) -> Array:
    """The orthonormal matrix of a QR decomposition, from its reflections.

    Args:
        x: ``[..., m, n]``, the reflections' vectors below the diagonal.
        tau: ``[..., k]``, their factors, k ≤ n.
    """
    y = xp.broadcast_to(xp.eye(x.shape[-2], x.shape[-1], dtype=x.dtype), tuple(x.shape))
    if not tau.shape[-1]:  # nothing is reflected, and nothing depends on x
        return y + 0.0 * x
    for v, factor in reversed(_reflections(xp, x, tau, "householder_product")):
        y = _reflected(xp, y, v, factor)
    return y


@composite(
    math="y = Q x2, Qᴴ x2, x2 Q or x2 Qᴴ, Q = H_1 H_2 … H_k",
    dtypes="floating-point",
    samples=[
        Sample(((4, 3), (3,), (4, 2))),
        Sample(((4, 3), (3,), (2, 4)), {"left": False, "transpose": True}),
    ],
    rejects=[Reject(((4, 3), (3,), (3, 2)), ShapeError, "matmul")],
)
def ormqr(xp: Any, x: Array, tau: Array, x2: Array, /, left: bool = True, transpose: bool = False) -> Array:
    """A product with the whole orthonormal matrix of a QR decomposition, from its reflections.

    Args:
        x, tau: as in ``householder_product``.
        x2: what is multiplied.
        left: on which side of it Q stands.
        transpose: take Q's conjugate transpose.
    """
    if not left:
        turned = xp.ormqr(x, tau, _adjoint(xp, x2), True, not transpose)
        return _adjoint(xp, turned)
    steps = _reflections(xp, x, tau, "ormqr")
    y = xp.positive(x2)
    for v, factor in steps if transpose else reversed(steps):
        y = _reflected(xp, y, v, xp.conj(factor) if transpose else factor)
    return y


# -- least squares and low rank


@composite(
    math="y = argmin ‖a y - b‖, the shortest of several",
    dtypes="floating-point",
    samples=[Sample(((4, 3), (4, 2))), Sample(((2, 3), (2, 1)), note="wide"), Sample(((3, 3), (3, 1)))],
    rejects=[Reject(((3, 2), (4, 1)), ShapeError, "matmul")],
)
def lstsq(xp: Any, a: Array, b: Array, /, rtol: float | None = None) -> Array:
    """The solution of linear systems by least squares; singular values below ``rtol`` count as 0.

    Args:
        a: ``[..., m, n]``.
        b: ``[..., m, k]``.
        rtol: as in ``matrix_rank``.
    """
    return xp.matmul(xp.pinv(a, rtol=rtol), b)


@composite(
    math="x - m ≈ U diag(S) Vᵀ, the q largest singular values",
    dtypes="real floating-point",
    samples=[Sample(((4, 3),), {"q": 3})],
    rejects=[Reject(((3, 4),), OptionError, "svd_lowrank: q must be in 0 … 3, got 4", {"q": 4})],
)
def svd_lowrank(xp: Any, x: Array, /, q: int | None = 6, m: Any = None) -> tuple[Array, Array, Array]:
    """The largest singular values and their vectors; of the full decomposition, with no error of sampling.

    Args:
        x: ``[..., rows, columns]``.
        q: how many; None is 6, or as many as there are.
        m: what is taken from ``x`` before, None for nothing.

    Returns:
        U ``[..., rows, q]``, S ``[..., q]``, V ``[..., columns, q]``.
    """
    if len(x.shape) < 2:
        raise ShapeError(f"svd_lowrank: expected at least two axes, got {list(x.shape)}")
    most = min(x.shape[-2:])
    q = min(6, most) if q is None else q
    if not 0 <= q <= most:
        raise OptionError(f"svd_lowrank: q must be in 0 … {most}, got {q}")
    u, s, vh = xp.svd(x if m is None else x - m, full_matrices=False)
    return u[..., :q], s[..., :q], xp.matrix_transpose(vh[..., :q, :])


@composite(
    math="x - mean x ≈ U diag(S) Vᵀ",
    dtypes="real floating-point",
    samples=[Sample(((4, 3),), {"q": 3, "center": False})],
    rejects=[Reject(((3, 4),), OptionError, "svd_lowrank: q must be in 0 … 3, got 4", {"q": 4})],
)
def pca_lowrank(
    xp: Any, x: Array, /, q: int | None = None, center: bool = True
) -> tuple[Array, Array, Array]:
    """Principal components of rows; arguments as in ``svd_lowrank``, the columns' means taken off before."""
    if len(x.shape) < 2:
        raise ShapeError(f"pca_lowrank: expected at least two axes, got {list(x.shape)}")
    return xp.svd_lowrank(x, q, xp.mean(x, axis=-2, keepdims=True) if center else None)


# -- tensors as matrices


@composite(
    math="tensordot(y, x, ind) = 1",
    dtypes="floating-point",
    samples=[Sample((REGULAR[:, :, None].repeat(1, axis=2).reshape(3, 1, 3), 2))],
    rejects=[
        Reject(((2, 3, 4), 1), ShapeError, "tensorinv: expected as many elements before axis 1 as behind"),
        Reject(((2, 2), 0), OptionError, "tensorinv: ind must be positive"),
    ],
)
def tensorinv(xp: Any, x: Array, /, ind: int = 2) -> Array:
    """The inverse of a tensor as a map from its last axes to the first ``ind``."""
    if ind < 1:
        raise OptionError(f"tensorinv: ind must be positive, got {ind}")
    rows, columns = tuple(x.shape[:ind]), tuple(x.shape[ind:])
    if math.prod(rows) != math.prod(columns):
        raise ShapeError(
            f"tensorinv: expected as many elements before axis {ind} as behind, got {list(x.shape)}"
        )
    return xp.reshape(xp.inv(xp.reshape(x, (math.prod(rows), -1))), columns + rows)


def _moved_last(shape: Shape, axes: Any) -> tuple[int, ...]:
    last = [normalize_axes(each, len(shape), "tensorsolve")[0] for each in axes]
    return (*(i for i in range(len(shape)) if i not in last), *last)


@composite(
    math="tensordot(a, y) = b",
    dtypes="floating-point",
    samples=[
        Sample((REGULAR.reshape(3, 1, 3), (3, 1))),
        Sample((REGULAR.reshape(3, 3, 1), (3, 1)), {"axes": (1,)}),
    ],
    rejects=[Reject(((2, 3, 4), (2, 3)), ShapeError, "tensorsolve: a is [2, 3, 4] but b [2, 3]")],
)
def tensorsolve(xp: Any, a: Array, b: Array, /, axes: Any = None) -> Array:
    """The solution of a linear system whose unknown is a tensor.

    Args:
        a: the shape of ``b``, then that of the result.
        b: the right-hand side.
        axes: axes of ``a`` that are moved to its end before.
    """
    if axes is not None:
        a = xp.permute_dims(a, _moved_last(tuple(a.shape), axes))
    unknown = tuple(a.shape[len(b.shape) :])
    size = math.prod(unknown)
    if size != math.prod(b.shape) or math.prod(a.shape) != size * size:
        raise ShapeError(f"tensorsolve: a is {list(a.shape)} but b {list(b.shape)}")
    return xp.reshape(xp.solve(xp.reshape(a, (size, size)), xp.reshape(b, (size,))), unknown)
