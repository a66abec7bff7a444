"""Elements and rows added up by index, in an order that the indices alone decide: sums repeat to the bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.launch import (
    MOST_BLOCKS,
    THREADS,
    arithmetic,
    empty,
    launch,
    over_elements,
    prepare,
    width_of,
)

__all__ = ["add_at", "sum_by_index"]

_DIGIT_BITS = 8  # as scatter.cu has it, and the next two
_RUN = 1024
_PIECE = 32
_TILE = 32  # columns at most of a block that adds up what pieces hold of a run
_SEARCHERS = 2048  # at most, of threads that look for such runs


def _sorted(index: Any, rows: int, out: Any, fresh: bool, char: str) -> tuple[Any, Any]:
    """The indices in order, and where each stood; those outside 0 … rows − 1 come last, as ``rows``."""
    n, digits = index.size, 1 << _DIGIT_BITS
    keys, order, others, other_order = (empty(index, n, np.int64) for _ in range(4))
    zeros = (out.size, out) if fresh else (0, None)
    over_elements("scatter", "start_order", max(n, zeros[0]), char, n, rows, index, keys, order, *zeros)
    runs = -(-n // _RUN)
    counts, totals = empty(index, (digits, runs), np.int64), empty(index, digits, np.int64)
    for shift in range(0, rows.bit_length(), _DIGIT_BITS):
        launch("scatter", "count_digits", char, (runs,), THREADS, (n, shift, keys, counts))
        launch("scatter", "sum_counts", char, (digits,), width_of(runs), (runs, counts, totals))
        arguments = (n, shift, keys, order, counts, totals, others, other_order)
        launch("scatter", "place_digits", char, (runs,), THREADS, arguments)
        keys, others, order, other_order = others, keys, other_order, order
    return keys, order


def _add(values: Any, index: Any, rows: int, out: Any, fresh: bool) -> None:
    """Rows of values added to those of ``out``, which begins from zeros if it is ``fresh``."""
    n, width, char = index.size, values.size // index.size, values.dtype.char
    keys, order = _sorted(index, rows, out, fresh, char)
    pieces = -(-n // _PIECE)
    edges = empty(values, (pieces, 2, width), arithmetic(char))
    blocks = -(-pieces * width // THREADS)
    arguments = (n, rows, width, values, keys, order, out, edges)
    launch("scatter", "sum_pieces", char, (min(blocks, MOST_BLOCKS),), THREADS, arguments)
    tile = min(_TILE, 1 << (width - 1).bit_length())
    grid = (-(-width // tile), min(pieces - 1, _SEARCHERS))
    launch("scatter", "sum_edges", char, grid, THREADS, (n, rows, width, tile, keys, edges, out))


def sum_by_index(values: Any, index: Any, rows: int, out: Any = None) -> Any:
    """``out[r] = Σ values[i] over index[i] = r``; an index outside the rows adds nothing.

    Args:
        values: ``[n]`` or ``[n, width]``, n at least 1.
        index: int64 ``[n]``.
        rows: of the result.
        out: where it is written, contiguous; None takes a new array.
    """
    values, index = prepare(values)[0], prepare(index)[0]
    if out is None:
        out = empty(values, (rows, *values.shape[1:]))
    if out.size:
        _add(values, index, rows, out, fresh=True)
    return out


def add_at(x: Any, key: Any, values: Any) -> Any:
    """``x[key] += values`` in place, where elements named twice add up; returns x.

    What it costs follows from how many elements the key names, not from how many x has.
    """
    if x.size == 0 or not x.flags.c_contiguous or values.__class__ is not x.__class__:
        return None
    places, width, shape = _rows(x, key) or _elements(x, key)
    if places.size == 0:
        return x
    if values.shape != shape or values.dtype != x.dtype or not values.flags.c_contiguous:
        spread = empty(x, shape)
        spread[...] = values
        values = spread
    _add(values, prepare(places)[0].reshape(-1), x.size // width, x, fresh=False)
    return x


def _rows(x: Any, key: Any) -> tuple[Any, int, tuple[int, ...]] | None:
    """Which rows a key of whole numbers for the first axes names, how wide they are, and the shape named."""
    parts = key if isinstance(key, tuple) else (key,)
    arrays = [part for part in parts if part.__class__ is x.__class__ and part.dtype.kind in "iu"]
    numbers = [part for part in parts if isinstance(part, int | np.integer) and not isinstance(part, bool)]
    if not arrays or len(arrays) + len(numbers) < len(parts) or len(parts) > x.ndim:
        return None
    places: Any = None
    for part, length in zip(parts, x.shape, strict=False):
        wide = part.astype(np.int64, copy=False) if part.__class__ is x.__class__ else int(part)
        places = wide % length if places is None else places * length + wide % length
    rest = x.shape[len(parts) :]
    return places, math.prod(rest), (*places.shape, *rest)


def _elements(x: Any, key: Any) -> tuple[Any, int, tuple[int, ...]]:
    """The places in the flattened x that any key names, from those along each axis."""
    places: Any = None
    for axis, length in enumerate(x.shape):
        line = empty(x, length, np.int64)
        step = math.prod(x.shape[axis + 1 :])
        over_elements("scatter", "count_up", length, x.dtype.char, step, line)
        strides = tuple(line.itemsize if each == axis else 0 for each in range(x.ndim))
        some = x.__class__(x.shape, np.int64, memptr=line.data, strides=strides)[key]
        places = some if places is None else places + some
    return places, 1, places.shape
