"""Max pooling over windows of a fractional ratio, at places that random numbers shift.

Source: Graham, "Fractional max-pooling", arXiv:1412.6071, 2014.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import ShapeError

_SHIFTS = np.array([[[0.3, 0.7], [0.1, 0.9]]])


def _starts(xp: Any, shift: Array, length: int, window: int, count: int) -> Array:
    """Where the windows along an axis start, ``[N, C, count]``."""
    if count == 1:
        return xp.zeros_like(xp.expand_dims(shift, axis=-1)) + float(length - window)
    ratio = (length - window) / (count - 1)
    steps = xp.arange(count - 1, dtype=shift.dtype)
    column = xp.expand_dims(shift, axis=-1)
    places = xp.trunc((steps + column) * ratio) - xp.trunc(column * ratio)
    return xp.concat([places, xp.zeros_like(column) + float(length - window)], axis=-1)


@composite(
    math="y[n, c, p] = max of x[n, c] in a window from ⌊r (p + u)⌋ - ⌊r u⌋ on",
    source="Graham, arXiv:1412.6071, 2014",
    dtypes="real floating-point",
    samples=[Sample(((1, 2, 5, 6), _SHIFTS), {"kernel_size": (2, 3), "output_size": (3, 2)})],
    rejects=[
        Reject(
            ((1, 2, 5, 6), _SHIFTS),
            ShapeError,
            "fractional_max_pool: windows (2, 3) at (5, 2) places do not fit into [5, 6]",
            {"kernel_size": (2, 3), "output_size": (5, 2)},
        ),
        Reject(
            ((1, 3, 5, 6), _SHIFTS),
            ShapeError,
            "fractional_max_pool: samples must be [1, 3, 2], got [1, 2, 2]",
            {"kernel_size": (2, 3), "output_size": (3, 2)},
        ),
    ],
)
def fractional_max_pool(
    xp: Any, x: Array, samples: Array, /, *, kernel_size: Sequence[int], output_size: Sequence[int]
) -> tuple[Array, Array]:
    """The largest element of overlapping windows, whose steps are as even as whole numbers can be.

    Args:
        x: ``[N, C, *spatial]``.
        samples: ``[N, C, spatial axes]`` in [0, 1), how the places of each channel are shifted.
        kernel_size: lengths of the windows.
        output_size: how many windows along each spatial axis.

    Returns:
        values ``[N, C, *output_size]``, and their places in the flattened image.
    """
    lengths, axes = tuple(x.shape[2:]), len(kernel_size)
    fits = len(lengths) == axes == len(output_size) and all(
        out > 0 and out + window - 1 <= n
        for out, window, n in zip(output_size, kernel_size, lengths, strict=True)
    )
    if not fits:
        raise ShapeError(
            f"fractional_max_pool: windows {tuple(kernel_size)} at {tuple(output_size)} places do not fit "
            f"into {list(lengths)}"
        )
    if tuple(samples.shape) != (*x.shape[:2], axes):
        raise ShapeError(
            f"fractional_max_pool: samples must be {[*x.shape[:2], axes]}, got {list(samples.shape)}"
        )
    index = None  # [N, C, *places, *windows], in the flattened image
    for axis, (length, window, count) in enumerate(zip(lengths, kernel_size, output_size, strict=True)):
        starts = xp.astype(_starts(xp, samples[..., axis], length, window, count), np.int64)
        spread = (*x.shape[:2], *(count if i == axis else 1 for i in range(axes)), *(1,) * axes)
        steps = tuple(window if i == axis else 1 for i in range(axes))
        here = xp.reshape(starts, spread) + xp.reshape(xp.arange(window), steps)
        here = here * math.prod(lengths[axis + 1 :])
        index = here if index is None else index + here
    assert index is not None
    inside, places = math.prod(kernel_size), math.prod(output_size)
    index = xp.reshape(index, (*x.shape[:2], places, inside))
    flat = xp.reshape(x, (*x.shape[:2], math.prod(lengths)))
    values = xp.gather_elements(flat, xp.reshape(index, (*x.shape[:2], places * inside)), axis=2)
    values = xp.reshape(values, (*x.shape[:2], places, inside))
    best = xp.argmax(values, axis=-1, keepdims=True)
    shape = (*x.shape[:2], *output_size)
    chosen = xp.gather_elements(values, best, axis=3)
    return xp.reshape(chosen, shape), xp.reshape(xp.gather_elements(index, best, axis=3), shape)
