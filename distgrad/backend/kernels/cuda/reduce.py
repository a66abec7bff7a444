"""Norm, finiteness and clipping of whole slices: results stay on the device, the host waits for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.launch import THREADS, empty, launch, over_elements
from distgrad.backend.kernels.cuda.source import TYPES

_SMALLEST_RUN = 4096  # elements to a block of threads
_RUNS = 1024  # blocks to a slice

Arrays = tuple[Any, ...]


def _are_slices(arrays: Arrays) -> bool:
    """Whether each lies in one piece, on this side and of a dtype that there are kernels for."""
    kind = arrays[0].__class__
    return all(x.__class__ is kind and x.flags.c_contiguous and x.dtype.char in TYPES for x in arrays)


def _over_slices(name: str, arrays: Arrays, *numbers: Any) -> Any:
    """One launch a slice, and one for all that they left: float64, without axes."""
    if not _are_slices(arrays):
        return None
    slices = [x for x in arrays if x.size]
    runs = [max(_SMALLEST_RUN, -(-x.size // _RUNS)) for x in slices]
    blocks = [-(-x.size // run) for x, run in zip(slices, runs, strict=True)]
    parts, total = empty(arrays[0], sum(blocks), np.float64), empty(arrays[0], (), np.float64)
    first = 0
    for x, run, count in zip(slices, runs, blocks, strict=True):
        arguments = (x.size, run, x, parts[first : first + count], *numbers)
        launch("reduce", name, x.dtype.char, (count,), THREADS, arguments)
        first += count
    launch("reduce", "sum_parts", "f", (1,), THREADS, (first, parts, total))
    return total


def sum_squares(arrays: Arrays) -> Any:
    """The sum of the squares of all elements of several arrays, float64 without axes."""
    return _over_slices("square_parts", arrays)


def unscale(arrays: Arrays, factor: Any) -> Any:
    """Multiply arrays in place; how many of their elements were infinite or NaN, float64 without axes.

    The factor is a number, or float64 ``[1]`` on the device.
    """
    is_live = isinstance(factor, arrays[0].__class__)
    return _over_slices("unscale_parts", arrays, *((0.0, factor) if is_live else (float(factor), None)))


def clip_by_norm(arrays: Arrays, norm: Any, most: float) -> Any:
    """Scale arrays in place so that a norm that was ``norm``, an array without axes, becomes ``most``."""
    if not _are_slices(arrays) or norm.__class__ is not arrays[0].__class__:
        return None
    wide = norm.astype(np.float64, copy=False)
    for x in arrays:
        over_elements("reduce", "clip_by_norm", x.size, x.dtype.char, wide, float(most), x)
    return arrays
