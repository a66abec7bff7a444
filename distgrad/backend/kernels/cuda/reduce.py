"""Norm, finiteness and clipping of whole slices: results stay on the device, the host waits for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.launch import THREADS, empty, launch, over_elements, prepare

__all__ = ["clip_by_norm", "count_nonfinite", "sum_squares"]

_SMALLEST_RUN = 4096  # elements to a block of threads
_RUNS = 1024  # blocks to a slice


def _over_slices(name: str, arrays: Sequence[Any]) -> Any:
    """One launch a slice, and one for all that they left: float64, without axes."""
    slices = [prepare(x)[0] for x in arrays if x.size]
    runs = [max(_SMALLEST_RUN, -(-x.size // _RUNS)) for x in slices]
    blocks = [-(-x.size // run) for x, run in zip(slices, runs, strict=True)]
    parts, total = empty(arrays[0], sum(blocks), np.float64), empty(arrays[0], (), np.float64)
    first = 0
    for x, run, count in zip(slices, runs, blocks, strict=True):
        arguments = (x.size, run, x, parts[first : first + count])
        launch("reduce", name, x.dtype.char, (count,), THREADS, arguments)
        first += count
    launch("reduce", "sum_parts", "f", (1,), THREADS, (first, parts, total))
    return total


def sum_squares(arrays: Sequence[Any]) -> Any:
    """The sum of the squares of all elements of several arrays on one device, float64 without axes.

    Args:
        arrays: at least one; of any of the kernels' dtypes.
    """
    return _over_slices("square_parts", arrays)


def count_nonfinite(arrays: Sequence[Any]) -> Any:
    """How many elements of several arrays are infinite or NaN, float64 without axes; arguments as above."""
    return _over_slices("nonfinite_parts", arrays)


def clip_by_norm(arrays: Sequence[Any], square: Any, most: float) -> None:
    """Scale arrays in place so that a norm, the root of ``square``, comes down to ``most``.

    Args:
        arrays: contiguous.
        square: what :func:`sum_squares` returned.
        most: the norm that is left as it is; NaN goes into the arrays.
    """
    for x in arrays:
        over_elements("reduce", "clip_by_norm", x.size, x.dtype.char, square, float(most), x)
