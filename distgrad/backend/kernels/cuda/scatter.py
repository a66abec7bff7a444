"""Elements and rows added up by index, in the order in which they come: sums repeat themselves to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.launch import THREADS, empty, launch, over_elements, over_planes, prepare

__all__ = ["add_at", "sum_by_index"]

_DIGIT_BITS = 8  # as scatter.cu has it, and the next
_RUN = 1024


def _sorted(index: Any, rows: int, char: str) -> tuple[Any, Any]:
    """The indices in order, and where each stood; those outside 0 … rows − 1 come last, as ``rows``."""
    n = index.size
    keys, order, others = (empty(index, n, np.int64) for _ in range(3))
    over_elements("scatter", "start_order", n, char, rows, index, keys, order)
    runs = -(-n // _RUN)
    counts = empty(index, (1 << _DIGIT_BITS, runs), np.int64)
    other_order = empty(index, n, np.int64)
    for shift in range(0, rows.bit_length(), _DIGIT_BITS):
        launch("scatter", "count_digits", char, (runs,), THREADS, (n, shift, keys, counts))
        launch("scatter", "sum_counts", char, (1,), THREADS, (counts.size, counts))
        arguments = (n, shift, keys, order, counts, others, other_order)
        launch("scatter", "place_digits", char, (runs,), THREADS, arguments)
        keys, others, order, other_order = others, keys, other_order, order
    return keys, order


def sum_by_index(values: Any, index: Any, rows: int, out: Any = None) -> Any:
    """``out[r] = Σ values[i] over index[i] = r``; an index outside the rows adds nothing.

    Args:
        values: ``[n]`` or ``[n, width]``, n at least 1.
        index: int64 ``[n]``.
        rows: of the result.
        out: where it is written, contiguous; None takes a new array.
    """
    char = values.dtype.char
    values, index = prepare(values)[0], prepare(index)[0]
    if out is None:
        out = empty(values, (rows, *values.shape[1:]))
    if out.size == 0:
        return out
    keys, order = _sorted(index, rows, char)
    starts = empty(index, rows + 1, np.int64)
    launch(
        "scatter", "find_rows", char, (-(-(rows + 1) // THREADS),), THREADS, (index.size, rows, keys, starts)
    )
    if values.ndim == 1:
        over_elements("scatter", "sum_elements", rows, char, values, order, starts, out)
    else:
        width = values.shape[1]
        over_planes("scatter", "sum_rows", rows, width, char, rows, width, values, order, starts, out)
    return out


def add_at(x: Any, key: Any, values: Any) -> Any:
    """``x[key] += values`` in place, where elements named twice add up; returns x."""
    places = _places(x, key)
    if places is None or places.size == 0 or not x.flags.c_contiguous or values.__class__ is not x.__class__:
        return None
    spread = empty(x, places.shape)
    spread[...] = values
    flat = x.reshape(-1)
    flat += sum_by_index(spread.reshape(-1), places.reshape(-1), x.size)
    return x


def _places(x: Any, key: Any) -> Any:
    """The places in the flattened x that a key names."""
    if key.__class__ is x.__class__ and x.ndim == 1 and key.dtype.kind in "iu":
        return key.astype(np.int64, copy=False) % x.size if x.size else None
    numbers = x.__class__(x.shape, np.int64)
    over_elements("scatter", "count_up", x.size, x.dtype.char, numbers)
    return numbers[key]
