"""A small tile of a matrix product, held in the processor's vector registers.

NumPy's BLAS multiplies matrices that lie in memory as matrices. Where the right side is something else — the
shifted rows of an image — it would have to be copied into one first, and BLAS copies it once more. The tile
reads each row of the right side where it lies. On matrices it has nothing to win: with AVX2 OpenBLAS
reaches 80 to 90 GFLOP/s of the 98 that a loop of multiplications in registers does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from distgrad.backend.memory import host_memory

__all__ = ["ROWS", "VECTOR_BYTES", "Tile", "multiply_tile", "pack_rows", "tile_columns"]


def _vector_bytes() -> int:
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx") else 16


VECTOR_BYTES = _vector_bytes()
#: Rows of a tile: with three vectors a row, 12 sums of the 16 registers (24 of 32 with AVX-512).
ROWS = 8 if VECTOR_BYTES == 64 else 4
_COLUMN_VECTORS = 3
_UNROLL = 4  # terms to a round of the loop; 1, 4 and 8 were equally fast


def tile_columns(dtype: Any) -> int:
    """Columns of a tile."""
    return _COLUMN_VECTORS * VECTOR_BYTES // int(dtype.itemsize)


def pack_rows(matrix: Any) -> Any:
    """``[..., rows, terms]`` as a tile reads its left side: ``[..., tiles, terms, ROWS]``, zeros below."""
    *outer, rows, terms = matrix.shape
    tiles = -(-rows // ROWS)
    padded = host_memory.zeros((*outer, tiles * ROWS, terms), matrix.dtype)
    padded[..., :rows, :] = matrix
    return np.ascontiguousarray(padded.reshape(*outer, tiles, ROWS, terms).swapaxes(-1, -2))


class Tile:
    """Writes the code of one tile.

    Args:
        builder: of the function that it becomes a part of.
        real: the elements' type.
        itemsize: their bytes.
        rows: of the tile.
        vectors: columns of the tile, by vectors.
    """

    def __init__(self, builder: Any, real: Any, itemsize: int, rows: int, vectors: int) -> None:
        self.builder = builder
        self.real = real
        self.itemsize = itemsize
        self.lanes = VECTOR_BYTES // itemsize
        self.vector = ir.VectorType(real, self.lanes)
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        self.sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(rows)]

    def number(self, value: int) -> Any:
        """A constant of 64 bits."""
        return ir.Constant(ir.IntType(64), value)

    def vector_at(self, address: Any, vectors: int = 0) -> Any:
        """A pointer to the vector that stands some vectors behind an address."""
        place = self.builder.add(address, self.number(vectors * VECTOR_BYTES))
        return self.builder.inttoptr(place, self.vector.as_pointer())

    def spread(self, value: Any) -> Any:
        """A vector of one value."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        index = ir.IntType(32)
        first = self.builder.insert_element(undefined, value, ir.Constant(index, 0))
        lanes = ir.Constant(ir.VectorType(index, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def add_term(self, factors: list[Any], start: Any) -> None:
        """The products of a column of the left side, at pointers, with a row of the right, at an address."""
        b = self.builder
        row = [b.load(self.vector_at(start, v), align=self.itemsize) for v in range(len(self.sums[0]))]
        for place, sums in zip(factors, self.sums, strict=True):
            factor = self.spread(b.load(place))
            for right, into in zip(row, sums, strict=True):
                product = b.fmul(factor, right, flags=("contract",))
                b.store(b.fadd(b.load(into), product, flags=("contract",)), into)

    def add_terms(self, terms: Any, places: Callable[[Any], tuple[list[Any], Any]]) -> None:
        """All of them, some to a round; ``places`` gives :meth:`add_term`'s arguments."""
        b = self.builder
        rounds = b.udiv(terms, self.number(_UNROLL))
        with cgutils.for_range(b, rounds) as loop:
            first = b.mul(loop.index, self.number(_UNROLL))
            for i in range(_UNROLL):
                self.add_term(*places(b.add(first, self.number(i))))
        done = b.mul(rounds, self.number(_UNROLL))
        with cgutils.for_range(b, b.sub(terms, done)) as loop:
            self.add_term(*places(b.add(done, loop.index)))

    def store(self, to: Any, row_bytes: Any, add: Any) -> None:
        """The sums into memory, or added to what it holds."""
        b = self.builder
        places = []
        for i, sums in enumerate(self.sums):
            start = b.add(to, b.mul(row_bytes, self.number(i)))
            places += [(self.vector_at(start, v), total) for v, total in enumerate(sums)]
        with b.if_else(b.trunc(add, ir.IntType(1))) as (adding, writing):
            with adding:
                for place, total in places:
                    before = b.load(place, align=self.itemsize)
                    b.store(b.fadd(before, b.load(total)), place, align=self.itemsize)
            with writing:
                for place, total in places:
                    b.store(b.load(total), place, align=self.itemsize)


@intrinsic
def multiply_tile(
    typing_context: Any, left: Any, offsets: Any, right: Any, terms: Any, to: Any, row_bytes: Any, add: Any,
    one: Any,
) -> Any:  # fmt: skip
    """``to[i, j] = Σ_t left[t, i] right_t[j]`` for ``ROWS`` rows and :func:`tile_columns` columns.

    Args:
        left: address of ``[terms, ROWS]``, as :func:`pack_rows` lays them out.
        offsets: address of int64[terms], the bytes from ``right`` to each row of the right side.
        right: an address.
        terms: how many are summed.
        to: address of the result; its rows are ``row_bytes`` apart.
        add: 1 adds to what is there, 0 overwrites it.
        one: a number of the elements' type.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        real = context.get_value_type(one)
        tile = Tile(builder, real, one.bitwidth // 8, ROWS, _COLUMN_VECTORS)
        start = builder.inttoptr(values[0], real.as_pointer())
        table = builder.inttoptr(values[1], ir.IntType(64).as_pointer())

        def places(term: Any) -> tuple[list[Any], Any]:
            row = builder.add(values[2], builder.load(builder.gep(table, [term])))
            column = builder.mul(term, tile.number(ROWS))
            factors = [builder.gep(start, [builder.add(column, tile.number(i))]) for i in range(ROWS)]
            return factors, row

        tile.add_terms(values[3], places)
        tile.store(values[4], values[5], values[6])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7, one), code
