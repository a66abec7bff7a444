"""Products that are scaled and added to something, under the names of PyTorch's and of the BLAS."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.ops.shape_rules import broadcast_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import ShapeError


def check_axes(where: str, **arrays: tuple[Array, int]) -> None:
    """Each array must have as many axes as stands beside it.

    Raises:
        ShapeError: one has not.
    """
    for name, (x, count) in arrays.items():
        if len(x.shape) != count:
            raise ShapeError(f"{where}: {name} must have {count} axes, got {list(x.shape)}")


def _added(x: Array, product: Array, beta: float, alpha: float, where: str) -> Array:
    """``beta x + alpha product``; x must fit into the product, and counts for nothing at ``beta = 0``."""
    shape = tuple(product.shape)
    try:
        fits = np.broadcast_shapes(tuple(x.shape), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"{where}: x is {list(x.shape)}, which does not broadcast to {list(shape)}")
    product = product if alpha == 1 else product * alpha
    if beta == 0:
        return product
    return product + (x if beta == 1 else x * beta)


_SCALED = {"alpha": 0.6, "beta": 0.2}


@composite(
    math="y = beta x + alpha a b",
    dtypes="numeric",
    samples=[
        Sample(((2, 3), (2, 4), (4, 3))),
        Sample(((3,), (2, 4), (4, 3)), _SCALED, note="broadcast"),
        Sample(((2, 3), (2, 0), (0, 3)), note="empty"),
    ],
    rejects=[
        Reject(((2, 3), (2, 4), (3, 3)), ShapeError, "matmul"),
        Reject(((2, 3), (4,), (4, 3)), ShapeError, "addmm: a must have 2 axes"),
        Reject(((4, 3), (2, 4), (4, 3)), ShapeError, "addmm: x is [4, 3]"),
    ],
)
def addmm(xp: Any, x: Array, a: Array, b: Array, /, *, beta: float = 1, alpha: float = 1) -> Array:
    """A matrix product added to a matrix.

    Args:
        x: broadcasts to ``[n, m]``.
        a, b: ``[n, k]`` and ``[k, m]``.
        beta, alpha: what ``x`` and the product are multiplied by; at ``beta=0`` it does not matter what
            ``x`` holds.
    """
    check_axes("addmm", a=(a, 2), b=(b, 2))
    return _added(x, xp.matmul(a, b), beta, alpha, "addmm")


@composite(
    math="y = beta x + alpha a b",
    dtypes="numeric",
    samples=[Sample(((2,), (2, 4), (4,))), Sample(((), (2, 4), (4,)), _SCALED, note="broadcast")],
    rejects=[Reject(((2,), (2, 4), (4, 1)), ShapeError, "addmv: b must have 1 axes")],
)
def addmv(xp: Any, x: Array, a: Array, b: Array, /, *, beta: float = 1, alpha: float = 1) -> Array:
    """The product of a matrix ``[n, k]`` and a vector ``[k]`` added to a vector; else as ``addmm``."""
    check_axes("addmv", a=(a, 2), b=(b, 1))
    return _added(x, xp.matmul(a, b), beta, alpha, "addmv")


@composite(
    math="y = beta x + alpha a bᵀ",
    dtypes="numeric",
    samples=[Sample(((2, 3), (2,), (3,))), Sample(((), (2,), (3,)), _SCALED, note="broadcast")],
    rejects=[Reject(((2, 3), (2, 1), (3,)), ShapeError, "addr: a must have 1 axes")],
)
def addr(xp: Any, x: Array, a: Array, b: Array, /, *, beta: float = 1, alpha: float = 1) -> Array:
    """All products of an element of ``a`` and one of ``b`` added to a matrix; else as ``addmm``."""
    check_axes("addr", a=(a, 1), b=(b, 1))
    return _added(x, xp.expand_dims(a, axis=1) * b, beta, alpha, "addr")


@composite(
    math="y = beta x + alpha Σ_i a_i b_i",
    dtypes="numeric",
    samples=[Sample(((2, 3), (5, 2, 4), (5, 4, 3))), Sample(((3,), (5, 2, 4), (5, 4, 3)), _SCALED)],
    rejects=[Reject(((2, 3), (5, 2, 4), (4, 4, 3)), ShapeError, "bmm: expected [B, N, K]")],
)
def addbmm(xp: Any, x: Array, a: Array, b: Array, /, *, beta: float = 1, alpha: float = 1) -> Array:
    """The sum of a stack of matrix products added to a matrix; else as ``addmm``."""
    return _added(x, xp.sum(xp.bmm(a, b), axis=0), beta, alpha, "addbmm")


@composite(
    math="y_i = beta x_i + alpha a_i b_i",
    dtypes="numeric",
    samples=[Sample(((5, 2, 3), (5, 2, 4), (5, 4, 3))), Sample(((3,), (5, 2, 4), (5, 4, 3)), _SCALED)],
    rejects=[Reject(((2, 3), (5, 2, 4), (4, 4, 3)), ShapeError, "bmm: expected [B, N, K]")],
)
def baddbmm(xp: Any, x: Array, a: Array, b: Array, /, *, beta: float = 1, alpha: float = 1) -> Array:
    """A stack of matrix products added to a stack of matrices; else as ``addmm``."""
    return _added(x, xp.bmm(a, b), beta, alpha, "baddbmm")


@composite(
    math="y = x + value x1 x2",
    shape=broadcast_shape,
    dtypes="numeric",
    samples=[Sample(((3, 4), (3, 1), (4,))), Sample(((), (3, 4), (4,)), {"value": 3.14})],
    rejects=[Reject(((3, 4), (3,), (4,)), ShapeError, "broadcast")],
)
def addcmul(xp: Any, x: Array, x1: Array, x2: Array, /, *, value: float = 1) -> Array:
    """A product, an element at a time, times a number, added."""
    product = x1 * x2
    return x + (product if value == 1 else value * product)


@composite(
    math="y = x + value x1 / x2",
    shape=broadcast_shape,
    dtypes="floating-point",
    domain=(0.5, 2.0),
    samples=[Sample(((3, 4), (3, 1), (4,))), Sample(((), (3, 4), (4,)), {"value": 3.14})],
    rejects=[Reject(((3, 4), (3,), (4,)), ShapeError, "broadcast")],
)
def addcdiv(xp: Any, x: Array, x1: Array, x2: Array, /, *, value: float = 1) -> Array:
    """A quotient, an element at a time, times a number, added."""
    quotient = x1 / x2
    return x + (quotient if value == 1 else value * quotient)


@composite(
    math="y = x1 + weight (x2 - x1)",
    shape=broadcast_shape,
    dtypes="floating-point",
    samples=[Sample(((3, 4), (4,), 0.3), note="a number"), Sample(((3, 1), (4,), (3, 4)))],
    rejects=[Reject(((3, 4), (3,), (4,)), ShapeError, "broadcast")],
)
def lerp(xp: Any, x1: Array, x2: Array, weight: Array, /) -> Array:
    """The point between two, 0 at the first and 1 at the second."""
    return x1 + weight * (x2 - x1)


@composite(
    math="y = Σ_i x1_i x2_i",
    dtypes="numeric",
    samples=[Sample(((4,), (4,))), Sample(((0,), (0,)), note="empty")],
    rejects=[
        Reject(((4,), (3,)), ShapeError, "dot: expected two vectors of one length, got [4] and [3]"),
        Reject(((2, 2), (2, 2)), ShapeError, "dot: x1 must have 1 axes"),
    ],
)
def dot(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The sum of the products of two vectors; neither is conjugated."""
    return xp.vecdot(xp.conj(_vector(x1, x2, "dot")), x2)


@composite(
    math="y = Σ_i x1_i* x2_i",
    dtypes="numeric",
    samples=[Sample(((4,), (4,)))],
    rejects=[Reject(((4,), (3,)), ShapeError, "vdot: expected two vectors of one length")],
)
def vdot(xp: Any, x1: Array, x2: Array, /) -> Array:
    """The inner product of two vectors; the first is conjugated."""
    return xp.vecdot(_vector(x1, x2, "vdot"), x2)


def _vector(x1: Array, x2: Array, where: str) -> Array:
    check_axes(where, x1=(x1, 1), x2=(x2, 1))
    if x1.shape != x2.shape:
        raise ShapeError(
            f"{where}: expected two vectors of one length, got {list(x1.shape)} and {list(x2.shape)}"
        )
    return x1


@composite(
    math="y = x_1 x_2 … x_n",
    source="Cormen, Leiserson and Rivest, Introduction to Algorithms, 1990 (the order of products)",
    dtypes="numeric",
    samples=[
        Sample(((2, 4), (4, 3), (3, 5))),
        Sample(((4,), (4, 3), (3, 2), (2,)), note="vectors at the ends"),
        Sample(((2, 4), (4, 3)), note="two"),
    ],
    rejects=[
        Reject(((2, 4),), ShapeError, "multi_dot: expected at least two arrays, got 1"),
        Reject(((2, 4), (4,), (4, 3)), ShapeError, "multi_dot: expected matrices between"),
        Reject(((2, 4), (3, 4)), ShapeError, "multi_dot: [2, 4] and [3, 4] do not fit"),
    ],
)
def multi_dot(xp: Any, *arrays: Array) -> Array:
    """The product of several matrices, in the order of pairs that takes the fewest multiplications.

    Args:
        *arrays: matrices; the first and the last may be vectors, a row and a column.
    """
    if len(arrays) < 2:
        raise ShapeError(f"multi_dot: expected at least two arrays, got {len(arrays)}")
    ends = (len(arrays[0].shape), len(arrays[-1].shape))
    if any(len(x.shape) != 2 for x in arrays[1:-1]) or not {*ends} <= {1, 2}:
        raise ShapeError(
            "multi_dot: expected matrices between two matrices or vectors, got "
            f"{[list(x.shape) for x in arrays]}"
        )
    chain = list(arrays)
    chain[0] = chain[0] if ends[0] == 2 else xp.expand_dims(chain[0], axis=0)
    chain[-1] = chain[-1] if ends[1] == 2 else xp.expand_dims(chain[-1], axis=1)
    for left, right in itertools.pairwise(chain):
        if left.shape[1] != right.shape[0]:
            raise ShapeError(f"multi_dot: {list(left.shape)} and {list(right.shape)} do not fit")
    y = _product(xp, chain, _best_splits([x.shape[0] for x in chain] + [chain[-1].shape[1]]), 0, len(chain))
    keep = [n for n, end in zip(y.shape, ends, strict=True) if end == 2]
    return xp.reshape(y, tuple(keep))


def _best_splits(lengths: Sequence[int]) -> dict[tuple[int, int], int]:
    """Where to cut each part of a chain of matrices, whose sides are ``lengths``."""
    count = len(lengths) - 1
    costs = {(i, i + 1): 0 for i in range(count)}
    splits: dict[tuple[int, int], int] = {}
    for size in range(2, count + 1):
        for start in range(count - size + 1):
            stop = start + size
            found = [
                (costs[start, k] + costs[k, stop] + lengths[start] * lengths[k] * lengths[stop], k)
                for k in range(start + 1, stop)
            ]
            costs[start, stop], splits[start, stop] = min(found)
    return splits


def _product(xp: Any, chain: Sequence[Array], splits: Any, start: int, stop: int) -> Array:
    if stop - start == 1:
        return chain[start]
    cut = splits[start, stop]
    return xp.matmul(_product(xp, chain, splits, start, cut), _product(xp, chain, splits, cut, stop))
