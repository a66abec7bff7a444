"""What is known of, or done to, many elements at once on a device; the host waits for nothing.

On a GPU each is one launch an array. Arrays are contiguous pieces of flat buffers, or gradients as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.device import follow
from distgrad.backend.kernels.table import accelerated
from distgrad.backend.namespace import namespace_of

__all__ = ["clip_by_norm", "norm_of", "unscale"]

Arrays = tuple[Any, ...]


def _sum_squares_formula(xp: Any, arrays: Arrays) -> Any:
    return xp.sum(xp.stack([xp.sum(xp.square(x.astype(np.float64))) for x in arrays]))


def _clip_formula(xp: Any, arrays: Arrays, norm: Any, most: float) -> Arrays:
    factor = xp.minimum(most / (norm + 1e-6), 1.0)
    for x in arrays:
        x *= factor.astype(x.dtype)
    return arrays


def _unscale_formula(xp: Any, arrays: Arrays, factor: float) -> Any:
    lost = []
    for x in arrays:
        lost.append(xp.sum(xp.logical_not(xp.isfinite(x)), dtype=np.float64))
        x *= x.dtype.type(factor)
    return xp.sum(xp.stack(lost))


_sum_squares = accelerated("sum_squares", _sum_squares_formula)
_clip = accelerated("clip_by_norm", _clip_formula)
_unscale = accelerated("unscale", _unscale_formula)


def norm_of(arrays: Arrays) -> Any:
    """The Euclidean norm of all elements of arrays on one device, summed in float64; without axes.

    Args:
        arrays: at least one.
    """
    follow(arrays[0])
    xp = namespace_of(arrays[0])
    return xp.sqrt(_sum_squares(xp, arrays))


def clip_by_norm(arrays: Arrays, norm: Any, most: float) -> None:
    """Scale arrays down in place so that a norm that was ``norm`` becomes ``most``; a NaN goes into them.

    Args:
        arrays: on one device, at least one.
        norm: a number that the device knows: an array without axes.
        most: what the norm may be at most.
    """
    follow(arrays[0])
    _clip(namespace_of(arrays[0]), arrays, norm, most)


def unscale(arrays: Arrays, factor: float) -> Any:
    """Multiply arrays in place; returns whether all elements were finite, as an array without axes.

    Args:
        arrays: on one device, at least one.
        factor: what they are multiplied by.
    """
    follow(arrays[0])
    return _unscale(namespace_of(arrays[0]), arrays, factor) == 0
