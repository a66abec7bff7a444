"""Arrays that lie evenly apart in one piece of memory, as the parts of one do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.backend.array_module import HOST_ARRAYS
from distgrad.backend.device import memory_of

__all__ = ["as_one", "evenly_apart"]


def _address(x: Any) -> int:
    return int(x.__array_interface__["data"][0] if x.__class__ in HOST_ARRAYS else x.data.ptr)


def _memory(x: Any) -> Any:
    return memory_of(x) if x.__class__ in HOST_ARRAYS else x.data.mem


def evenly_apart(arrays: Sequence[Any]) -> tuple[int, int]:
    """How many of the arrays, from the first on, lie alike and each as far behind the last.

    Args:
        arrays: at least one, of the host or of CuPy.

    Returns:
        Their number, and how many bytes are from one to the next; 0 bytes for one.
    """
    first, count, step = arrays[0], 1, 0
    for x in arrays[1:]:
        if x.__class__ is not first.__class__ or (x.shape, x.strides) != (first.shape, first.strides):
            break
        if x.dtype != first.dtype or _memory(x) is not _memory(first):
            break
        behind = _address(x) - _address(first)
        if behind <= 0 or behind % first.itemsize or (count > 1 and behind != count * step):
            break
        step = behind // count
        count += 1
    return count, step


def _has_address(x: Any) -> bool:
    return x.__class__ in HOST_ARRAYS or hasattr(getattr(x, "data", None), "mem")


def as_one(parts: Sequence[Any], axis: int) -> Any:
    """The array whose parts along an axis these are; None where they lie otherwise, or are fewer than two."""
    if len(parts) < 2 or not all(map(_has_address, parts)):
        return None
    first = parts[0]
    count, step = evenly_apart(parts)
    if count < len(parts):
        return None
    where = axis % (first.ndim + 1)
    shape = (*first.shape[:where], count, *first.shape[where:])
    strides = (*first.strides[:where], step, *first.strides[where:])
    if first.__class__ in HOST_ARRAYS:
        return np.lib.stride_tricks.as_strided(first, shape, strides)
    return first.__class__(shape, first.dtype, first.data, strides)
