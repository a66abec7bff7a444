"""Matrix products of host arrays on several threads of our own, each with NumPy's BLAS for its part."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.backend.blas import find_blas, single_threaded
from distgrad.backend.threads import get_num_threads, run_parts

__all__ = ["matmul", "run_blocks", "run_stack"]

_WORTH = 1 << 20  # multiplications that are worth a thread: 23 µs at 90 GFLOP/s; one is awake after 7


@functools.lru_cache(maxsize=1024)
def _blocks(rows: int, columns: int, number: int) -> list[tuple[slice, slice]]:
    """A matrix cut into blocks, as square as they come: each side of a product is read once a block."""
    grids = [(number // n, n) for n in range(1, number + 1) if number % n == 0]
    down, across = min(grids, key=lambda grid: rows / grid[0] + columns / grid[1])
    cuts = [
        [slice(length * i // parts, length * (i + 1) // parts) for i in range(parts)]
        for length, parts in ((rows, down), (columns, across))
    ]
    return [(some, others) for some in cuts[0] for others in cuts[1]]


def run_blocks(rows: int, columns: int, terms: int, run: Callable[[slice, slice], None]) -> None:
    """Call ``run(some_rows, some_columns)``, once a thread: blocks that cover a product of ``terms`` terms.

    More blocks than threads, for whoever is ready, were no faster.
    """
    number = min(get_num_threads(), rows * columns * terms // _WORTH)
    if number < 2 or find_blas().set_threads is None:
        run(slice(0, rows), slice(0, columns))
        return
    blocks = _blocks(rows, columns, number)

    def run_some(start: int, stop: int) -> None:
        for block in blocks[start:stop]:
            run(*block)

    run_stack(run_some, number, _WORTH)


def run_stack(run: Callable[[int, int], None], length: int, work: int) -> None:
    """Call ``run(start, stop)`` on parts of ``length`` products that need ``work`` multiplications each."""
    if get_num_threads() == 1 or length == 1 or find_blas().set_threads is None:
        run(0, length)
        return
    with single_threaded:
        run_parts(run, length, -(-_WORTH // max(work, 1)))


def _of_matrices(x1: Any, x2: Any, y: Any) -> Any:
    def run(rows: slice, columns: slice) -> None:
        np.matmul(x1[rows], x2[:, columns], out=y[rows, columns])

    run_blocks(len(x1), x2.shape[1], x1.shape[1], run)
    return y


def matmul(x1: Any, x2: Any, out: Any = None) -> Any:
    """``np.matmul``, whose large products of two matrices all threads share."""
    if x2.ndim == 2 and x1.ndim > 1:
        if x1.ndim > 2 and out is None and x1.flags.c_contiguous and x1.size:
            rows = matmul(x1.reshape(-1, x1.shape[-1]), x2)  # NumPy would multiply each matrix of the stack
            return rows.reshape(*x1.shape[:-1], x2.shape[1])
        shape = (len(x1), x2.shape[1])
        if x1.size * shape[1] >= 2 * _WORTH and x1.ndim == 2 and len(x2) == x1.shape[1]:
            y = np.empty(shape, np.result_type(x1, x2)) if out is None else out
            overlaps = np.may_share_memory(y, x1) or np.may_share_memory(y, x2)
            if y.shape == shape and not overlaps:  # NumPy copies what overlaps; blocks would not
                return _of_matrices(x1, x2, y)
    return np.matmul(x1, x2, out=out)
