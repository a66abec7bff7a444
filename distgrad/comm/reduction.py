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
    ufunc, narrow = UFUNCS[op], is_narrow(arrays[0].dtype)
    length = arrays[0].size
    step = _BLOCK_BYTES // arrays[0].itemsize
    with np.errstate(all="ignore"):  # an overflow is the caller's to find
        for start in range(0, length, step):
            if length > step:
                parts = [array[start : start + step] for array in arrays]
                targets = [out[start : start + step] for out in outs]
            else:
                parts, targets = list(arrays), list(outs)
            total = parts[0].astype(np.float32) if narrow else targets[0]
            if len(parts) == 1:
                np.copyto(total, parts[0])
            for i in range(1, len(parts)):
                part = parts[i].astype(np.float32) if narrow else parts[i]
                ufunc(parts[0] if i == 1 and not narrow else total, part, out=total)
            for target in targets if narrow else targets[1:]:
                np.copyto(target, total, casting="unsafe")
