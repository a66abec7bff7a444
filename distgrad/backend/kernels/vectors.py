"""Products with a vector: of each row, of each column, and of all pairs.

Each result is added up in an order of its own, whichever part of the matrix a thread has.
"""

from __future__ import annotations

from typing import Any

from distgrad.backend.kernels.support import kernel
from distgrad.backend.threads import Calls, run_parts

__all__ = ["outer", "times_vector"]

_COLUMNS = 64  # of a block: whole vectors of the processor, so that only the last block has a rest
_BYTE_NS = 0.1  # of one thread, which waits for memory


@kernel("x2 x1 x1", writes="y")
def _rows(w: Any, x: Any, y: Any) -> None:
    """``y[i] = Σ_j w[i, j] x[j]``."""
    for i in range(len(w)):
        row, total = w[i], x.dtype.type(0)
        for j in range(row.size):
            total += row[j] * x[j]
        y[i] = total


@kernel("x2 x1 x1 i i", writes="y")
def _columns(w: Any, x: Any, y: Any, start: int, stop: int) -> None:
    """``y[j] = Σ_i x[i] w[i, j]`` for columns from ``start`` to ``stop``, four rows at a time."""
    out = y[start:stop]
    for j in range(out.size):
        out[j] = 0
    whole = len(w) - len(w) % 4
    for i in range(0, whole, 4):
        p, q, r, s = x[i], x[i + 1], x[i + 2], x[i + 3]
        a, b, c, d = (
            w[i, start:stop],
            w[i + 1, start:stop],
            w[i + 2, start:stop],
            w[i + 3, start:stop],
        )
        for j in range(out.size):
            out[j] += (p * a[j] + q * b[j]) + (r * c[j] + s * d[j])
    for i in range(whole, len(w)):
        p, a = x[i], w[i, start:stop]
        for j in range(out.size):
            out[j] += p * a[j]


@kernel("x1 x1 x2", writes="y", elementwise=True)
def _outer(left: Any, right: Any, y: Any) -> None:
    for i in range(left.size):
        value, row = left[i], y[i]
        for j in range(right.size):
            row[j] = value * right[j]


def times_vector(w: Any, x: Any, y: Any) -> None:
    """``y = w x`` for a matrix whose rows or columns are contiguous, and contiguous vectors."""
    if w.flags.c_contiguous:
        run_parts(lambda a, b: [(_rows, w[a:b], x, y[a:b])], len(w), w.shape[1] * w.itemsize * _BYTE_NS)
        return
    turned, blocks = w.T, -(-len(w) // _COLUMNS)

    def part(start: int, stop: int) -> Calls:
        return [(_columns, turned, x, y, start * _COLUMNS, min(stop * _COLUMNS, len(w)))]

    run_parts(part, blocks, _COLUMNS * w.shape[1] * w.itemsize * _BYTE_NS)


def outer(left: Any, right: Any, y: Any) -> None:
    """``y[i, j] = left[i] right[j]`` for contiguous arrays."""
    run_parts(lambda a, b: [(_outer, left[a:b], right, y[a:b])], len(left), right.nbytes * _BYTE_NS)
