"""Products of small matrices, too small for BLAS, which packs both sides before it multiplies.

The right side is packed once, into panels of a tile's columns; the left is read where it lies, with any
strides, so that its transpose costs nothing. A product of 64 x 32 x 64, the scores of one head of a small
model, runs at 94 GFLOP/s on a core where NumPy's BLAS does 90 with large matrices.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from distgrad.backend.kernels.support import jit, pointer
from distgrad.backend.kernels.tile import ROWS, VECTOR_BYTES, Tile

__all__ = ["multiply_panels", "pack_panels", "pack_transposed", "panels_for", "row_at"]

_VECTORS = 2  # a panel's columns: with 4 rows 8 sums, as many as two multipliers of 4 cycles keep busy
_PANEL_BYTES = _VECTORS * VECTOR_BYTES
_BLOCK_TERMS = 256  # rows of a panel that stay in the first-level cache


def _by_rows(rows: int) -> Any:
    """A tile of so many rows as a function."""

    @intrinsic
    def multiply(
        typing_context: Any, left: Any, left_row: Any, left_term: Any, right: Any, terms: Any, to: Any,
        to_row: Any, add: Any, one: Any,
    ) -> Any:  # fmt: skip
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            real = context.get_value_type(one)
            tile = Tile(builder, real, one.bitwidth // 8, rows, _VECTORS)
            starts = [builder.add(values[0], builder.mul(values[1], tile.number(i))) for i in range(rows)]

            def places(term: Any) -> tuple[list[Any], Any]:
                ahead = builder.mul(term, values[2])
                factors = [builder.inttoptr(builder.add(each, ahead), real.as_pointer()) for each in starts]
                return factors, builder.add(values[3], builder.mul(term, tile.number(_PANEL_BYTES)))

            tile.add_terms(values[4], places)
            tile.store(values[5], values[6], values[7])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8, one), code

    return multiply


_several_rows, _one_row = _by_rows(ROWS), _by_rows(1)


@jit
def multiply_panels(
    left: Any, rows: int, right: Any, columns: int, terms: int, to: Any, add: int, one: Any
) -> None:
    """``to[i, j] = Σ_t left[i, t] right[t, j]``.

    Args:
        left: (address, bytes from one row to the next, bytes from one term to the next).
        rows, columns, terms: how many.
        right: ``[panels, at least terms, columns of a panel]``.
        to: (address, bytes from one row to the next), with room for all columns of the last panel.
        add: 1 adds to what is there, 0 overwrites it.
        one: a number of the elements' type.
    """
    whole = rows - rows % ROWS
    for start in range(0, terms, _BLOCK_TERMS):
        some, adds = min(_BLOCK_TERMS, terms - start), 1 if start else add
        begin = left[0] + start * left[2]
        for panel in range((columns + right.shape[2] - 1) // right.shape[2]):
            source = right.ctypes.data + (panel * right.shape[1] + start) * _PANEL_BYTES
            into = to[0] + panel * _PANEL_BYTES
            for i in range(0, whole, ROWS):
                a, y = begin + i * left[1], into + i * to[1]
                _several_rows(a, left[1], left[2], source, some, y, to[1], adds, one)
            for i in range(whole, rows):
                a, y = begin + i * left[1], into + i * to[1]
                _one_row(a, left[1], left[2], source, some, y, to[1], adds, one)


@jit
def panels_for(terms: int, columns: int, like: Any) -> Any:
    """Empty panels for a right side ``[terms, columns]`` of an array's dtype."""
    width = _PANEL_BYTES // like.itemsize
    return np.empty(((columns + width - 1) // width, terms, width), like.dtype)


@jit
def row_at(address: int, like: Any, size: int) -> Any:
    """A row in memory as an array that is known to be contiguous, which makes vectors."""
    return numba.carray(pointer(address, like), size)


@jit
def pack_panels(x: Any, terms: int, columns: int, panels: Any) -> None:
    """A right side ``[terms, columns]``, zeros beside it; x is (address, bytes from one row to the next)."""
    width = panels.shape[2]
    for t in range(terms):
        row = row_at(x[0] + t * x[1], panels, columns)
        for p in range(panels.shape[0]):
            part, to = row[p * width :], panels[p, t]
            if part.size >= width:
                for j in range(width):
                    to[j] = part[j]
            else:
                to[:] = 0
                for j in range(part.size):
                    to[j] = part[j]


@jit
def pack_transposed(x: Any, terms: int, columns: int, scale: Any, panels: Any) -> None:
    """A right side whose transpose ``[columns, terms]`` lies at x, times a number."""
    width = panels.shape[2]
    for p in range(panels.shape[0]):
        to = panels[p]
        for j in range(width):
            if p * width + j < columns:
                row = row_at(x[0] + (p * width + j) * x[1], panels, terms)
                for t in range(terms):
                    to[t, j] = row[t] * scale
            else:
                for t in range(terms):
                    to[t, j] = 0
