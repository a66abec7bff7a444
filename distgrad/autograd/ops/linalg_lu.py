"""Triangular systems and the LU decomposition, and what is solved with factors that are at hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.linalg_solve import REGULAR
from distgrad.autograd.ops.shape_rules import Shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import ShapeError

_STACK = np.stack([REGULAR, REGULAR.T + 0.5])
_LOWER = np.tril(REGULAR) + np.diag([1.0, 3.0, 1.0])
_PIVOTS = np.array([2, 3, 3], dtype=np.int32)


def _square(where: str, x: Array) -> None:
    if len(x.shape) < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"{where}: expected square matrices, got {list(x.shape)}")


def _unit(xp: Any, x: Array) -> Array:
    """The strictly lower part, with ones on the diagonal."""
    return xp.tril(x, k=-1) + xp.eye(x.shape[-2], x.shape[-1], dtype=x.dtype)


# -- triangular systems


@composite(
    math="a y = b (left) or y a = b, a triangular",
    dtypes="floating-point",
    samples=[
        Sample((REGULAR, (3, 2)), {"upper": True}),
        Sample((_STACK, (2, 2, 3)), {"upper": False, "left": False, "unitriangular": True}),
        Sample((REGULAR, (2, 3, 1)), {"upper": False}, note="broadcast"),
    ],
    rejects=[
        Reject(((2, 3), (2, 1)), ShapeError, "expected square matrices, got [2, 3]", {"upper": True}),
        Reject((REGULAR, (2, 1)), ShapeError, "solve", {"upper": True}),
    ],
)
def solve_triangular(
    xp: Any, a: Array, b: Array, /, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Array:
    """The solution of linear systems with triangular matrices.

    Args:
        a: ``[..., n, n]``; only the triangle that is named is read.
        b: ``[..., n, k]``, or ``[..., k, n]`` for ``left=False``.
        upper: which triangle.
        left: on which side of the unknown the matrix stands.
        unitriangular: the diagonal counts as ones.
    """
    _square("solve_triangular", a)
    if unitriangular:
        one = xp.eye(a.shape[-1], dtype=a.dtype)
        a = (xp.triu(a, k=1) if upper else xp.tril(a, k=-1)) + one
    else:
        a = xp.triu(a) if upper else xp.tril(a)
    if left:
        return xp.solve(a, b)
    return xp.matrix_transpose(xp.solve(xp.matrix_transpose(a), xp.matrix_transpose(b)))


@composite(
    math="a y = b, a triangular, and a",
    dtypes="floating-point",
    samples=[Sample(((3, 2), REGULAR)), Sample(((3, 2), REGULAR), {"upper": False, "transpose": True})],
    rejects=[Reject(((2, 1), (2, 3)), ShapeError, "expected square matrices, got [2, 3]")],
)
def triangular_solve(
    xp: Any,
    b: Array,
    a: Array,
    /,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> tuple[Array, Array]:
    """The solution of a triangular system, with the arguments that PyTorch's function of old has.

    Returns:
        solution, a copy of ``a``.
    """
    _square("triangular_solve", a)
    turned = xp.matrix_transpose(a) if transpose else a
    y = xp.solve_triangular(turned, b, upper=upper != transpose, unitriangular=unitriangular)
    return y, xp.positive(a)


# -- the decomposition


def _lu_shape(x: Shape, pivot: bool = True) -> tuple[Shape, Shape]:
    return x, (*x[:-2], min(x[-2:]))


@primitive(
    math="x = P L U, L - 1 + U in one matrix, and the row that was exchanged in each step",
    source="Golub and Van Loan, Matrix Computations, 1996, section 3.4",
    shape=_lu_shape,
    dtypes="floating-point",
    result=lambda x, **attributes: (x, np.dtype(np.int32)),
    outputs=2,
    samples=[
        Sample((REGULAR,)),
        Sample((np.concatenate([_STACK, _STACK[:, :2] * 0.5], axis=1),), note="a tall stack"),
        Sample((np.concatenate([REGULAR, REGULAR[:, :2] * 0.5], axis=1),), note="wide"),
        Sample((REGULAR,), {"pivot": False}),
        Sample(((0, 0),), note="empty"),
    ],
    rejects=[Reject(((3,),), ShapeError, "lu_factor: expected at least two axes")],
)
def lu_factor(xp: Any, x: Array, /, *, pivot: bool = True) -> tuple[Array, Array]:
    """The LU decomposition with partial pivoting, packed.

    Args:
        x: ``[..., m, n]``; k = min(m, n).
        pivot: exchange rows; without, a zero on the way leaves what is no number.

    Returns:
        ``[..., m, n]`` with U, and L below the diagonal, whose own is 1; ``[..., k]`` int32, the row,
        counting from 1, that each one was exchanged with.
    """
    if x.ndim < 2:
        raise ShapeError(f"lu_factor: expected at least two axes, got {list(x.shape)}")
    if x.dtype.itemsize < 4:
        raise TypeError(f"array type {x.dtype} is unsupported in linalg")
    y, pivots = x.copy(), []
    rows = xp.arange(x.shape[-2])
    with np.errstate(divide="ignore", invalid="ignore"):
        for k in range(min(x.shape[-2:])):
            below = xp.abs(y[..., k:, k])
            best = xp.argmax(below, axis=-1)[..., None] + k if pivot else xp.full((*x.shape[:-2], 1), k)
            order = xp.where(rows == k, best, xp.where(rows == best, k, rows))
            y = xp.take_along_axis(y, order[..., None], axis=-2)
            head = y[..., k : k + 1, k : k + 1]
            column = xp.where(head == 0, 0.0, y[..., k + 1 :, k : k + 1] / xp.where(head == 0, 1.0, head))
            y[..., k + 1 :, k + 1 :] -= column * y[..., k : k + 1, k + 1 :]
            y[..., k + 1 :, k : k + 1] = column
            pivots.append(best[..., 0] + 1)
    shape = (*x.shape[:-2], min(x.shape[-2:]))
    found = xp.stack(pivots, axis=-1) if pivots else xp.zeros(shape)
    return y, found.reshape(shape).astype(np.int32)


@lu_factor.vjp("x")
def _(xp: Any, g: Any, x: Array, y: Any) -> Array:
    (g_y, _), (packed, pivots) = g, y
    rows, columns = x.shape[-2:]
    k, turn = min(rows, columns), xp.matrix_transpose
    lower, upper = _unit(xp, packed[..., :k]), xp.triu(packed[..., :k, :])
    g_lower, g_upper = xp.tril(g_y[..., :k], k=-1), xp.triu(g_y[..., :k, :])
    rest = None
    if rows > columns:  # the rows below follow from U
        rest = turn(xp.solve(upper, turn(g_lower[..., k:, :])))
        g_upper = g_upper - xp.triu(xp.matmul(turn(lower[..., k:, :]), rest))
        lower, g_lower = lower[..., :k, :], g_lower[..., :k, :]
    elif columns > rows:  # the columns to the right follow from L
        rest = xp.solve(turn(lower), g_upper[..., k:])
        g_lower = g_lower - xp.tril(xp.matmul(rest, turn(upper[..., k:])), k=-1)
        upper, g_upper = upper[..., :k], g_upper[..., :k]
    middle = xp.tril(xp.matmul(turn(lower), g_lower), k=-1) + xp.triu(xp.matmul(g_upper, turn(upper)))
    left = xp.solve(turn(lower), middle)
    result = turn(xp.solve(upper, turn(left)))
    if rest is not None:
        result = xp.concat([result, rest], axis=-2 if rows > columns else -1)
    places = xp.expand_dims(xp.argsort(xp.lu_permutation(pivots, rows=rows), axis=-1), axis=-1)
    places = xp.broadcast_to(places, tuple(x.shape))
    return xp.take_along_axis(result, places, axis=-2)


@primitive(
    math="p with x[p] = L U",
    shape=lambda pivots, rows: (*pivots[:-1], rows),
    dtypes="integer",
    result="int64",
    samples=[Sample((_PIVOTS,), {"rows": 3}), Sample((np.array([[1, 2], [3, 3]]),), {"rows": 4})],
)
def lu_permutation(xp: Any, pivots: Array, /, *, rows: int) -> Array:
    """The order of rows that comes of exchanging them one after another."""
    numbers = xp.arange(rows)
    order = xp.broadcast_to(numbers, (*pivots.shape[:-1], rows))
    for k in range(pivots.shape[-1]):
        other = pivots[..., k : k + 1].astype(np.int64) - 1
        step = xp.where(numbers == k, other, xp.where(numbers == other, k, numbers))
        order = xp.take_along_axis(order, step, axis=-1)
    return order.astype(np.int64)


@composite(
    math="P, L, U of what lu_factor packed",
    dtypes="floating-point",
    result="any",
    samples=[Sample((REGULAR, _PIVOTS))],
    rejects=[Reject((REGULAR, np.array([1.0])), ShapeError, "lu_unpack: expected 3 pivots")],
)
def lu_unpack(
    xp: Any, packed: Array, pivots: Any, /, unpack_data: bool = True, unpack_pivots: bool = True
) -> tuple[Array, Array, Array]:
    """The factors of an LU decomposition from their packed form.

    Args:
        packed, pivots: as ``lu_factor`` returns them.
        unpack_data: whether L and U are wanted; else they are empty.
        unpack_pivots: whether P is.

    Returns:
        P ``[..., m, m]``, L ``[..., m, k]``, U ``[..., k, n]``.
    """
    rows, k = packed.shape[-2], min(packed.shape[-2:])
    if tuple(pivots.shape) != (*packed.shape[:-2], k):
        raise ShapeError(f"lu_unpack: expected {k} pivots a matrix, got {list(pivots.shape)}")
    nothing = xp.zeros((0,), dtype=packed.dtype)
    permutation = lower = upper = nothing
    if unpack_pivots:
        order = xp.expand_dims(xp.lu_permutation(pivots, rows=rows), axis=-2)
        numbers = xp.reshape(xp.arange(rows), (rows, 1))
        permutation = xp.astype(xp.equal(order, numbers), packed.dtype)
    if unpack_data:
        lower, upper = _unit(xp, packed[..., :k]), xp.triu(packed[..., :k, :])
    return permutation, lower, upper


@composite(
    math="x = P L U",
    dtypes="floating-point",
    samples=[Sample((REGULAR,)), Sample((_STACK,), {"pivot": False}, note="a stack")],
    rejects=[Reject(((3,),), ShapeError, "lu_factor: expected at least two axes")],
)
def lu(xp: Any, x: Array, /, *, pivot: bool = True) -> tuple[Array, Array, Array]:
    """The LU decomposition: a permutation, a lower and an upper triangular matrix.

    Args:
        x: ``[..., m, n]``; k = min(m, n).
        pivot: exchange rows; without, P is empty.

    Returns:
        P ``[..., m, m]``, L ``[..., m, k]``, U ``[..., k, n]``.
    """
    packed, pivots = xp.lu_factor(x, pivot=pivot)
    return xp.lu_unpack(packed, pivots, True, pivot)


@composite(
    math="x y = b (left) or y x = b, x = P L U; of xᴴ if adjoint",
    dtypes="floating-point",
    samples=[
        Sample((_LOWER + 0.3, _PIVOTS, (3, 2))),
        Sample((_LOWER + 0.3, _PIVOTS, (2, 3)), {"left": False}),
        Sample((_LOWER + 0.3, _PIVOTS, (3, 2)), {"adjoint": True}),
    ],
    rejects=[Reject(((2, 3), _PIVOTS, (2, 1)), ShapeError, "expected square matrices, got [2, 3]")],
)
def lu_solve(
    xp: Any, packed: Array, pivots: Any, b: Array, /, *, left: bool = True, adjoint: bool = False
) -> Array:
    """The solution of linear systems by an LU decomposition that is at hand.

    Args:
        packed, pivots: as ``lu_factor`` returns them for ``[..., n, n]``.
        b: ``[..., n, k]``, or ``[..., k, n]`` for ``left=False``.
        left: on which side of the unknown the matrix stands.
        adjoint: solve with the matrix's conjugate transpose.
    """
    _square("lu_solve", packed)
    permutation, lower, upper = xp.lu_unpack(packed, pivots)
    matrix = xp.matmul(permutation, xp.matmul(lower, upper))
    matrix = xp.conj(xp.matrix_transpose(matrix)) if adjoint else matrix
    if left:
        return xp.solve(matrix, b)
    return xp.matrix_transpose(xp.solve(xp.matrix_transpose(matrix), xp.matrix_transpose(b)))


# -- Cholesky factors


@composite(
    math="y = (x xᴴ)⁻¹, or (xᴴ x)⁻¹",
    dtypes="floating-point",
    samples=[Sample((_LOWER,)), Sample((_LOWER.T.copy(),), {"upper": True})],
    rejects=[Reject(((2, 3),), ShapeError, "expected square matrices, got [2, 3]")],
)
def cholesky_inverse(xp: Any, x: Array, /, upper: bool = False) -> Array:
    """The inverse of a positive definite matrix from its Cholesky factor; arguments as ``cholesky`` gives."""
    _square("cholesky_inverse", x)
    return xp.inv(_from_factor(xp, x, upper))


@composite(
    math="x y = b with x = a aᴴ, or aᴴ a",
    dtypes="floating-point",
    samples=[Sample(((3, 2), _LOWER)), Sample(((3, 2), _LOWER.T.copy()), {"upper": True})],
    rejects=[Reject(((2, 1), (2, 3)), ShapeError, "expected square matrices, got [2, 3]")],
)
def cholesky_solve(xp: Any, b: Array, a: Array, /, upper: bool = False) -> Array:
    """The solution of linear systems with a positive definite matrix, from its Cholesky factor ``a``."""
    _square("cholesky_solve", a)
    return xp.solve(_from_factor(xp, a, upper), b)


def _from_factor(xp: Any, x: Array, upper: bool) -> Array:
    x = xp.triu(x) if upper else xp.tril(x)
    turned = xp.conj(xp.matrix_transpose(x))
    return xp.matmul(turned, x) if upper else xp.matmul(x, turned)
