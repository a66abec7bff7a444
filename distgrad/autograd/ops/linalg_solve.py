"""Linear systems, inverses and determinants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.failures import LinAlgError
from distgrad.autograd.ops.parts import decline_complex
from distgrad.autograd.ops.shape_rules import Shape, real_dtype, square_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import ShapeError

REGULAR = np.array([[2.0, 0.3, -0.1], [0.4, -1.5, 0.2], [0.1, 0.6, 1.2]])
SINGULAR = np.array([[1.0, 2.0], [2.0, 4.0]])
_STACK = np.stack([REGULAR, REGULAR.T + 0.5])
_SQUARE = [Sample((REGULAR,)), Sample((_STACK,), note="a stack"), Sample(((0, 0),), note="empty")]
_NOT_SQUARE = Reject(((2, 3),), LinAlgError, "square")


def _solve_shape(x1: Shape, x2: Shape) -> Shape:
    rows = square_shape(x1)[-1]
    if rows != x2[-2:][0]:
        raise ValueError(f"a matrix of {rows} rows cannot meet {list(x2)}")
    if len(x2) == 1:
        return x1[:-1]
    return (*np.broadcast_shapes(x1[:-2], x2[:-2]), *x2[-2:])


@primitive(
    math="x1 y = x2",
    shape=_solve_shape,
    dtypes="floating-point",
    samples=[
        Sample((REGULAR, (3,)), note="a vector"),
        Sample((REGULAR, (3, 2))),
        Sample((_STACK, (3,)), note="a stack and a vector"),
        Sample((REGULAR, (2, 3, 1)), note="broadcast"),
    ],
    rejects=[
        Reject(((2, 3), (2,)), LinAlgError, "square"),
        Reject(((3, 3), (2,)), ShapeError, "solve"),
    ],
)
def solve(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The solution of linear systems.

    Args:
        x1: ``[..., n, n]``, of full rank.
        x2: ``[n]``, or ``[..., n, k]`` for k right-hand sides.

    Returns:
        ``[..., n]`` or ``[..., n, k]``.
    """
    return xp.linalg.solve(x1, x2)


def _solve_transposed(xp: Any, g: Array, x1: Array, x2_shape: Shape) -> Array:
    turned = xp.matrix_transpose(x1)
    if len(x2_shape) == 1:
        return xp.solve(turned, xp.expand_dims(g, axis=-1))[..., 0]
    return xp.solve(turned, g)


@solve.vjp("x1", "x2")
def _(xp: Any, g: Array, x1: Array, x2_shape: Shape, y: Array) -> tuple[Array, Array]:
    right = _solve_transposed(xp, g, x1, x2_shape)
    if len(x2_shape) == 1:
        return -xp.expand_dims(right, axis=-1) * xp.expand_dims(y, axis=-2), right
    return -xp.matmul(right, xp.matrix_transpose(y)), right


@primitive(
    math="y x = x y = 1",
    shape=square_shape,
    dtypes="floating-point",
    samples=_SQUARE,
    rejects=[_NOT_SQUARE, Reject((SINGULAR,), LinAlgError, "inv: Singular matrix")],
)
def inv(xp: Any, x: Array, /) -> Array:
    """The inverse of square matrices."""
    return xp.linalg.inv(x)


@inv.vjp("x")
def _(xp: Any, g: Array, y: Array) -> Array:
    turned = xp.matrix_transpose(y)
    return -xp.matmul(xp.matmul(turned, g), turned)


@primitive(
    math="y = det x",
    shape=lambda x: square_shape(x)[:-2],
    dtypes="floating-point",
    samples=[*_SQUARE, Sample((SINGULAR,), note="singular")],
    rejects=[_NOT_SQUARE],
)
def det(xp: Any, x: Array, /) -> Array:
    """The determinant of square matrices; its gradient is the matrix of cofactors, singular or not.

    That of a complex matrix goes through its inverse.
    """
    return xp.linalg.det(x)


@det.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array) -> Array:
    if x.dtype.kind == "c":
        return xp.reshape(g * y, (*g.shape, 1, 1)) * xp.matrix_transpose(xp.inv(x))
    return xp.reshape(g, (*g.shape, 1, 1)) * xp.cofactors(x)


@primitive(
    math="y = det(x) x⁻ᵀ, and its limit where x is singular",
    shape=lambda x: x,
    dtypes="real floating-point",
    samples=_SQUARE,
    rejects=[Reject(((2, 3),), ShapeError, "cofactors: expected square matrices")],
)
def cofactors(xp: Any, x: Array, /) -> Array:
    """The matrix of cofactors of square matrices; its gradient holds for singular ones too."""
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"cofactors: expected square matrices, got {list(x.shape)}")
    hole, (u, s, vh) = _decomposed(xp, x)
    handed = xp.linalg.det(u) * xp.linalg.det(vh)
    return xp.where(hole, math.nan, (u * (handed[..., None] * _products_of_others(xp, s))[..., None, :]) @ vh)


def _decomposed(xp: Any, x: Array) -> tuple[Array, Any]:
    """Which matrices have elements that are not finite, and the singular values of the others."""
    hole = xp.any(~xp.isfinite(x), axis=(-2, -1), keepdims=True)
    return hole, xp.linalg.svd(xp.where(hole, 0.0, x))


def _products_of_others(xp: Any, s: Array) -> Array:
    """For each number the product of all others along the last axis, without a division."""
    turned = xp.flip(s, axis=-1)
    before = xp.cumulative_prod(s, axis=-1, include_initial=True)[..., :-1]
    after = xp.flip(xp.cumulative_prod(turned, axis=-1, include_initial=True), axis=-1)[..., 1:]
    return before * after


@cofactors.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return xp.cofactors_vjp(x, g)


@primitive(
    math="y_ij = Σ g_kl ∂c_kl/∂x_ij, with c the cofactors of x",
    shape=lambda x, v: x,
    dtypes="real floating-point",
    samples=[Sample((REGULAR, (3, 3))), Sample((_STACK, (2, 3, 3)), note="a stack")],
)
def cofactors_vjp(xp: Any, x: Array, v: Array, /) -> Array:
    """The second derivative of the determinant times a matrix, for singular matrices too.

    C(U S Vᵀ) = det(U) det(V) U C(S) Vᵀ; and next to a diagonal S, with p_ij the product of all s but s_i and
    s_j, a step E changes C_ii by Σ_j p_ij E_jj, and C_ij by -p_ij E_ji.
    """
    hole, (u, s, vh) = _decomposed(xp, x)
    one = xp.eye(x.shape[-1], dtype=x.dtype)
    others = _products_of_others(xp, s[..., None, :] * (1 - one) + one) * (1 - one)
    handed = (xp.linalg.det(u) * xp.linalg.det(vh))[..., None, None]
    turned = handed * (u.mT @ v @ vh.mT)
    diagonal = xp.linalg.diagonal(turned)[..., None]
    return xp.where(hole, math.nan, u @ (one * (others @ diagonal) - others * turned.mT) @ vh)


@cofactors_vjp.vjp("v")
def _(xp: Any, g: Array, x: Array) -> Array:
    return xp.cofactors_vjp(x, g)  # second derivatives commute


@cofactors_vjp.vjp("x")
def _(xp: Any, g: Array, x: Array, v: Array, y: Array) -> Array:
    # of y = (⟨v, c⟩ c - c vᵀ c) / det x, which is the same where x is regular
    c, turn = xp.cofactors(x), xp.matrix_transpose
    size = xp.reshape(xp.det(x), (*x.shape[:-2], 1, 1))
    along = _inner(xp, g, c) * v + _inner(xp, v, c) * g
    across = xp.matmul(xp.matmul(g, turn(c)), v) + xp.matmul(xp.matmul(v, turn(c)), g)
    return (xp.cofactors_vjp(x, along - across) - _inner(xp, g, y) * c) / size


def _inner(xp: Any, a: Array, b: Array) -> Array:
    return xp.sum(a * b, axis=(-2, -1), keepdims=True)


@primitive(
    math="sign, logabsdet = sign(det x), log |det x|",
    shape=lambda x: (square_shape(x)[:-2], x[:-2]),
    result=lambda x: (x, real_dtype(x)),
    dtypes="floating-point",
    outputs=2,
    samples=_SQUARE,
    rejects=[_NOT_SQUARE],
)
def slogdet(xp: Any, x: Array, /) -> tuple[Array, Array]:
    """Sign and logarithm of the magnitude of determinants, which may be too large or small themselves.

    Returns:
        A named tuple ``(sign, logabsdet)``.
    """
    return xp.linalg.slogdet(x)


@slogdet.vjp("x")
def _(xp: Any, g: tuple[Array, Array], x: Array) -> Array:
    decline_complex("slogdet", x)
    return xp.reshape(g[1], (*x.shape[:-2], 1, 1)) * xp.matrix_transpose(xp.inv(x))


@composite(
    math="y = xⁿ",
    shape=lambda x, n: x,
    dtypes="floating-point",
    samples=[
        Sample((REGULAR, 3)),
        Sample((_STACK, 6), note="a stack"),
        Sample((REGULAR, -2)),
        Sample((REGULAR, 1)),
        Sample((REGULAR, 0)),
    ],
    rejects=[Reject(((2, 3), 2), ShapeError, "matrix_power: expected square matrices")],
)
def matrix_power(xp: Any, x: Array, n: int, /) -> Array:
    """Square matrices multiplied with themselves; inverted first for negative ``n``.

    Args:
        x: ``[..., m, m]``.
        n: a whole number.
    """
    if len(x.shape) < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"matrix_power: expected square matrices, got {list(x.shape)}")
    power = xp.inv(x) if n < 0 else x
    y = power * 0.0 + xp.eye(x.shape[-1], dtype=x.dtype) if n == 0 else None
    n = abs(n)
    while n:
        if n % 2:
            y = power if y is None else xp.matmul(y, power)
        n //= 2
        if n:
            power = xp.matmul(power, power)
    return xp.positive(y)  # a copy, for n = 1
