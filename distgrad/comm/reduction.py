"""Arithmetic of the reductions: in the order of the ranks, in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["UFUNCS", "is_narrow", "reduce_arrays"]

UFUNCS: dict[str, np.ufunc] = {"sum": np.add, "min": np.minimum, "max": np.maximum, "prod": np.multiply}
_BLOCK_BYTES = 1 << 18  # of one array: with a neighbour's it fits into a core's second-level cache


def is_narrow(dtype: np.dtype) -> bool:
    """Whether reductions of ``dtype`` are done in float32 and rounded once, at their end."""
    return dtype.itemsize == 2 and dtype.kind not in "iu"


def reduce_arrays(arrays: Sequence[NDArray[Any]], outs: Sequence[NDArray[Any]], op: str) -> None:
    """Write ``arrays[0] op arrays[1] op ...`` into every one of ``outs``.

    Args:
        arrays: flat, of one length and dtype.
        outs: of that length and dtype; may be the arrays themselves.
        op: ``sum``, ``min``, ``max`` or ``prod``.
    """
    length, step = arrays[0].size, _BLOCK_BYTES // arrays[0].itemsize
    with np.errstate(all="ignore"):  # an overflow is the caller's to find
        if length <= step:
            _reduce_block(arrays, outs, op)
        else:
            for start in range(0, length, step):
                block = slice(start, start + step)
                _reduce_block([array[block] for array in arrays], [out[block] for out in outs], op)


def _reduce_block(arrays: Sequence[NDArray[Any]], outs: Sequence[NDArray[Any]], op: str) -> None:
    first, *rest = arrays
    if is_narrow(first.dtype):
        total = first.astype(np.float32)
        for array in rest:
            UFUNCS[op](total, array.astype(np.float32), out=total)
        for out in outs:
            np.copyto(out, total, casting="unsafe")
        return
    total = outs[0]
    if any(np.may_share_memory(total, array) for array in rest[1:]):  # which are yet to be read
        total = np.empty_like(first)
        outs = [total, *outs]
    if not rest:
        np.copyto(total, first)
    for array in rest:
        UFUNCS[op](first, array, out=total)
        first = total
    for out in outs[1:]:
        np.copyto(out, total)
