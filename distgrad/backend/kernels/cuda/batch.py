"""Batch norm over channels on axis 1."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.kernels.cuda.launch import (
    THREADS,
    arithmetic,
    empty,
    launch,
    prepare,
    writable,
)

_RUNS = 256  # at most, that a channel's elements are cut into
_SMALLEST_RUN = 4096  # elements


class _Sizes(NamedTuple):
    images: int
    channels: int
    places: int

    @property
    def size(self) -> int:
        """Elements of a channel."""
        return self.images * self.places

    @property
    def run(self) -> int:
        """Elements of a channel that one block of threads goes over."""
        return max(_SMALLEST_RUN, -(-self.size // _RUNS))

    @property
    def runs(self) -> int:
        """How many of these a channel has."""
        return -(-self.size // self.run)


def _taken(x: Any, arrays: tuple[Any, ...], parameters: tuple[Any, ...]) -> Any:
    """The arrays prepared, if the kernels take them."""
    if x.ndim < 2 or x.size == 0 or any(each.shape != x.shape for each in arrays):
        return None
    if any(each is not None and each.shape != x.shape[1:2] for each in parameters):
        return None
    return prepare(x, *arrays, *parameters)


def _over_runs(sizes: _Sizes, x: Any, g: Any) -> Any:
    """What each run adds up to: two numbers, four with a gradient."""
    partial = empty(x, (sizes.channels, sizes.runs, 2 if g is None else 4), arithmetic(x.dtype.char))
    arguments = (*sizes, sizes.run, x, g, partial)
    launch("batch", "batch_runs", x.dtype.char, (sizes.channels, sizes.runs), THREADS, arguments)
    return partial


def _sizes(x: Any) -> _Sizes:
    return _Sizes(x.shape[0], x.shape[1], math.prod(x.shape[2:]))


def batch_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    """Forward, with the mean and variance of each channel."""
    taken = _taken(x, (), (weight, bias))
    if taken is None:
        return None
    x, weight, bias = taken
    sizes = _sizes(x)
    y, mean, variance = empty(x, x.shape), empty(x, sizes.channels), empty(x, sizes.channels)
    partial = _over_runs(sizes, x, None)
    arguments = (*sizes, sizes.run, x, partial, weight, bias, float(eps), y, mean, variance)
    launch("batch", "batch_forward", x.dtype.char, (sizes.channels, sizes.runs), THREADS, arguments)
    return y, mean, variance


def batch_norm_gradient(gradients: Any, x: Any, weight: Any, eps: float, needs: Any, into: Any) -> Any:
    """Gradients in x, weight and bias."""
    g, *statistics = gradients
    if g is None:
        return None
    taken = _taken(x, (g,), (weight, *statistics))
    if taken is None:
        return None
    x, g, weight, g_mean, g_variance = taken
    sizes = _sizes(x)
    partial = _over_runs(sizes, x, g)
    g_x = empty(x, x.shape) if needs[0] else None
    g_weight, g_bias = (
        writable(home, x, sizes.channels) if need else None
        for need, home in zip(needs[1:], into[1:], strict=True)
    )
    arguments = (
        *(*sizes, sizes.run, sizes.runs, x, g, partial, weight, g_mean, g_variance),
        *(float(eps), g_x, g_weight, g_bias),
    )
    grid = (sizes.channels, sizes.runs if needs[0] else 1)
    launch("batch", "batch_gradient", x.dtype.char, grid, THREADS, arguments)
    return g_x, g_weight, g_bias


def move_statistics(
    running_mean: Any,
    running_var: Any,
    mean: Any,
    variance: Any,
    momentum: Any,
    unbiased: float,
    batches: Any = None,
) -> Any:
    """Running statistics moved in place, and the batch counted; returns the mean."""
    arrays = (mean, variance, running_mean, running_var)
    if any(x.__class__ is not mean.__class__ or x.dtype != mean.dtype for x in arrays):
        return None
    if any(x.shape != mean.shape or not x.flags.c_contiguous for x in arrays):
        return None
    at = None if momentum is None or isinstance(momentum, int | float) else momentum
    if at is not None and (at.__class__ is not mean.__class__ or at.dtype.char != "d" or at.size != 1):
        return None
    if batches is not None and (batches.__class__ is not mean.__class__ or batches.dtype != np.int64):
        return None
    share = 0.0 if momentum is None or at is not None else float(momentum)
    arguments = (share, at, int(momentum is None), batches, float(unbiased), *arrays)
    launch("batch", "move_statistics", mean.dtype.char, (1,), THREADS, (mean.size, *arguments))
    return running_mean
