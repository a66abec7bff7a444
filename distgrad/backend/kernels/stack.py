"""Matrix products of a stack, one after the other: what a thread does of a large product."""

from __future__ import annotations

from typing import Any

from distgrad.backend.kernels.product import product
from distgrad.backend.kernels.support import kernel

__all__ = ["multiply"]


@kernel("i b b i i i x p p p i i i i", dtypes="fd", writes="")
def multiply(
    address: int, left: bool, right: bool, m: int, n: int, k: int, one: Any, a: Any, b: Any, c: Any,
    count: int, a_step: int, b_step: int, c_step: int,
) -> None:  # fmt: skip
    """``c[i] = a[i] b[i]`` for ``count`` pairs of matrices.

    Args:
        address: of the BLAS function.
        left, right: whether a and b are stored transposed.
        m, n, k: c is ``[m, n]``, a ``[m, k]``, b ``[k, n]``.
        one: the number 1 of their dtype.
        a, b, c: address of the first matrix, and elements from one row to the next.
        count: of pairs.
        a_step, b_step, c_step: bytes from a matrix to the next.
    """
    for i in range(count):
        ours, theirs = (a[0] + i * a_step, a[1]), (b[0] + i * b_step, b[1])
        to = (c[0] + i * c_step, c[1])
        product(address, (left, right), m, n, k, one, ours, theirs, one - one, to)
