"""Matrix products of host arrays on several threads of our own, each with NumPy's BLAS for its part."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.backend.blas import find_blas
from distgrad.backend.flags import exception_flags
from distgrad.backend.kernels.compiler import load_numba
from distgrad.backend.memory import host_memory
from distgrad.backend.recording import as_one_call
from distgrad.backend.threads import Calls, count_parts, cut, run_parts

__all__ = ["SMALL_PRODUCT", "TERM_NS", "matmul", "matmul_stack", "run_blocks"]

TERM_NS = {4: 0.02, 8: 0.04}  #: One thread's time for a multiplication, by bytes of a number
SMALL_PRODUCT = 1 << 20  #: Multiplications; OpenBLAS has other kernels for products of up to 100³
_STEP = 16  # rows and columns that BLAS multiplies at once, or several times less
_VECTOR = 1 << 15  # elements of a matrix from which on its product with a vector is ours


@functools.lru_cache(maxsize=1024)
def _blocks(rows: int, columns: int, terms: int, number: int) -> list[tuple[slice, slice]]:
    """A matrix cut into blocks, as square as they come: each side of a product is read once a block.

    There are fewer than ``number`` where they would be small: BLAS may have another order of terms for small
    products, and for products with a vector.
    """
    grids = [(number // n, n) for n in range(1, number + 1) if number % n == 0]
    grids = [(down, across) for down, across in grids if 2 * down <= rows or down == 1]
    grids = [(down, across) for down, across in grids if 2 * across <= columns or across == 1]
    if grids:
        down, across = min(grids, key=lambda grid: rows / grid[0] + columns / grid[1])
        edges = cut(rows, down, _STEP), cut(columns, across, _STEP)
        cuts = [[slice(*ends) for ends in itertools.pairwise(each)] for each in edges]
        least = min(x.stop - x.start for x in cuts[0]) * min(x.stop - x.start for x in cuts[1])
        if number == 1 or least * terms >= SMALL_PRODUCT:
            return [(some, others) for some in cuts[0] for others in cuts[1]]
    return _blocks(rows, columns, terms, number - 1)


def run_blocks(
    shape: tuple[int, ...], terms: int, calls: Callable[[slice, slice], Calls], *, size: int, times: int = 1
) -> int:
    """Make ``calls(some_rows, some_columns)`` for blocks that cover a matrix, one a thread.

    More blocks than threads, for whoever is ready, were no faster.

    Args:
        shape: rows and columns of the product.
        terms: that each element is the sum of.
        calls: what computes a block.
        size: bytes of a number.
        times: that such a product is computed.

    Returns:
        As :func:`run_parts`.
    """
    rows, columns = shape
    work_ns = rows * columns * terms * times * TERM_NS[size]
    blocks = _blocks(rows, columns, terms, count_parts(work_ns))

    def part(start: int, stop: int) -> Calls:
        if stop - start == len(blocks):  # one thread does everything, and at once
            return calls(slice(0, rows), slice(0, columns))
        return [call for block in blocks[start:stop] for call in calls(*block)]

    return run_parts(part, len(blocks), work_ns / len(blocks))


def _side(x: Any) -> tuple[bool, int] | None:
    """Whether a matrix is stored transposed, and elements from a row to the next; None: BLAS cannot."""
    down, across = x.strides
    size = x.itemsize
    if across == size and down >= size * x.shape[1] and down % size == 0:
        return False, down // size
    if down == size and across >= size * x.shape[0] and across % size == 0:
        return True, across // size
    return None


def _address(x: Any) -> int:
    return int(x.__array_interface__["data"][0])


def _by_address(x1: Any, x2: Any, y: Any) -> bool:
    """Have ``y = x1 x2`` computed by threads; whether it was, without any floating-point exception in them.

    Of a product that met one NumPy is to say what the caller's ``errstate`` wants to hear.
    """
    function = find_blas().sgemm if y.dtype.char == "f" else find_blas().dgemm
    if count_parts(x1.size * y.shape[1] * TERM_NS[y.itemsize]) == 1:
        return False
    sides = _side(x1), _side(x2), _side(y)
    heard = _heard()
    if None in sides or not function or sides[2][0] or heard is None:  # type: ignore[index]
        return False
    places = [_address(x) for x in (x1, x2, y)]
    if places[0] == places[1] and x1.strides == x2.strides[::-1] and x1.shape == x2.shape[::-1]:
        return False  # NumPy computes half of a symmetric matrix
    from distgrad.backend.kernels.stack import multiply

    one, terms, steps = y.dtype.type(1), x1.shape[1], (x1.strides[0], x2.strides[1], y.strides)
    (left, a_row), (right, b_row), (_, c_row) = sides  # type: ignore[misc]

    def calls(rows: slice, columns: slice) -> Calls:
        if (rows.stop - rows.start, columns.stop - columns.start) == y.shape:
            return [(np.matmul, x1, x2, y)]  # this thread does everything: NumPy looks for exceptions itself
        a = places[0] + rows.start * steps[0]
        b = places[1] + columns.start * steps[1]
        c = places[2] + rows.start * steps[2][0] + columns.start * steps[2][1]
        size = (rows.stop - rows.start, columns.stop - columns.start, terms)
        return [(multiply, function, left, right, *size, one, (a, a_row), (b, b_row), (c, c_row), 1, 0, 0, 0)]

    return not run_blocks(y.shape, terms, calls, size=y.itemsize) & heard


def _heard() -> int | None:
    """The floating-point exceptions that NumPy would not ignore now; None if they are not known."""
    handling = [name for name, what in {**np.geterr()}.items() if what != "ignore"]
    known = exception_flags()
    if known is None:
        return None if handling else 0
    return sum(known[name] for name in handling)


@as_one_call(2)
def matmul_stack(matrix: Any, x: Any, y: Any) -> None:
    """``y[i] = matrix x[i]`` for C-ordered stacks, on all threads; ``matrix`` may be transposed."""
    function = find_blas().sgemm if y.dtype.char == "f" else find_blas().dgemm
    side = _side(matrix)
    work_ns = matrix.size * x.shape[-1] * TERM_NS[y.itemsize]
    if side is None or not function or count_parts(len(x) * work_ns) == 1:
        np.matmul(matrix, x, out=y)
        return
    from distgrad.backend.kernels.stack import multiply

    size, one, at = (*matrix.shape[:1], x.shape[-1], matrix.shape[1]), y.dtype.type(1), _address(matrix)

    def part(start: int, stop: int) -> Calls:
        a, b, c = (at, side[1]), (_address(x[start:]), size[1]), (_address(y[start:]), size[1])
        steps = (stop - start, 0, x.strides[0], y.strides[0])
        return [(multiply, function, side[0], False, *size, one, a, b, c, *steps)]

    run_parts(part, len(x), work_ns)


def _are_vectors(x1: Any, x2: Any, y: Any) -> bool:
    """Whether a product with a vector, or of two, is one for our kernels."""
    if 1 not in (*y.shape, x1.shape[1]):
        return False
    lie = [x.flags.c_contiguous or x.flags.f_contiguous for x in (x1, x2, y)]
    return all(lie) and (x1.shape[1] > 1 or y.flags.c_contiguous) and load_numba()


def _with_vector(x1: Any, x2: Any, y: Any) -> None:
    from distgrad.backend.kernels import vectors as kernels

    if x1.shape[1] == 1:
        kernels.outer(x1.reshape(-1), x2.reshape(-1), y)
    elif len(x1) == 1:
        kernels.times_vector(x2.T, x1.reshape(-1), y.reshape(-1))
    else:
        kernels.times_vector(x1, x2.reshape(-1), y.reshape(-1))


@as_one_call(2)
def _multiply(x1: Any, x2: Any, y: Any) -> None:
    """``y = x1 x2`` for matrices of one dtype that do not overlap."""
    if _are_vectors(x1, x2, y):
        _with_vector(x1, x2, y)
    elif 1 in y.shape or not _by_address(x1, x2, y):
        np.matmul(x1, x2, out=y)


def matmul(x1: Any, x2: Any, out: Any = None) -> Any:
    """``np.matmul``, whose large products of two matrices all threads share."""
    if x2.ndim == 2 and x1.ndim > 1:
        if x1.ndim > 2 and out is None and x1.flags.c_contiguous and x1.size:
            rows = matmul(x1.reshape(-1, x1.shape[-1]), x2)  # NumPy would multiply each matrix of the stack
            return rows.reshape(*x1.shape[:-1], x2.shape[1])
        shape, dtype = (len(x1), x2.shape[1]), x1.dtype
        if x1.ndim == 2 and x1.shape[1] == len(x2) and dtype == x2.dtype and dtype.char in "fd":
            terms = x1.size * shape[1]
            if terms >= 2 * SMALL_PRODUCT or (terms >= _VECTOR and 1 in (*shape, len(x2))):
                y = host_memory.empty(shape, dtype) if out is None else out
                overlaps = np.may_share_memory(y, x1) or np.may_share_memory(y, x2)
                if y.shape == shape and y.dtype == dtype and not overlaps:
                    _multiply(x1, x2, y)  # NumPy copies what overlaps; blocks would not
                    return y
    return np.matmul(x1, x2, out=out)
