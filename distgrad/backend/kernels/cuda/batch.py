"""Batch norm over channels on axis 1."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from distgrad.backend.kernels.cuda.launch import (
    THREADS,
    arithmetic,
    empty,
    launch,
    over_elements,
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


def _over_runs(name: str, sizes: _Sizes, like: Any, *arguments: Any) -> Any:
    """Start a kernel that leaves two numbers a run; returns their array."""
    char = like.dtype.char
    partial = empty(like, (sizes.channels, sizes.runs, 2), arithmetic(char))
    grid = (sizes.channels, sizes.runs)
    launch("batch", name, char, grid, THREADS, (*sizes, sizes.run, *arguments, partial))
    return partial


def _moments(x: Any, sizes: _Sizes, mean: Any = None, variance: Any = None) -> Any:
    """Means and variances, [2, channels], and in the arrays given."""
    partial = _over_runs("batch_runs", sizes, x, x)
    moments = empty(x, (2, sizes.channels), partial.dtype)
    arguments = (sizes.size, sizes.run, sizes.runs, partial, moments, mean, variance)
    over_elements("batch", "batch_moments", sizes.channels, x.dtype.char, *arguments)
    return moments


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
    moments = _moments(x, sizes, mean, variance)
    arguments = (*sizes[1:], x, moments, weight, bias, float(eps), y)
    over_elements("batch", "batch_forward", x.size, x.dtype.char, *arguments)
    return y, mean, variance


def batch_norm_gradient(gradients: Any, x: Any, weight: Any, eps: float, needs: Any, into: Any) -> Any:
    """Gradients in x, weight and bias."""
    g, *statistics = gradients
    taken = _taken(x, (g,), (weight, *statistics))
    if taken is None:
        return None
    x, g, weight, g_mean, g_variance = taken
    sizes, char = _sizes(x), x.dtype.char
    moments = _moments(x, sizes)
    partial = _over_runs("batch_gradient_runs", sizes, x, g, x, moments)
    factors = empty(x, (3, sizes.channels), moments.dtype)
    g_weight, g_bias = (
        writable(home, x, sizes.channels) if need else None
        for need, home in zip(needs[1:], into[1:], strict=True)
    )
    arguments = (sizes.size, sizes.runs, partial, moments, weight, g_mean, g_variance, float(eps), factors)
    over_elements("batch", "batch_gradient_factors", sizes.channels, char, *arguments, g_weight, g_bias)
    g_x = None
    if needs[0]:
        g_x = empty(x, x.shape)
        over_elements("batch", "batch_gradient", x.size, char, *sizes[1:], g, x, moments, factors, g_x)
    return g_x, g_weight, g_bias


def move_statistics(
    running_mean: Any, running_var: Any, mean: Any, variance: Any, momentum: Any, unbiased: float
) -> Any:
    """Running statistics moved in place; returns the mean."""
    arrays = (mean, variance, running_mean, running_var)
    if any(x.__class__ is not mean.__class__ or x.dtype != mean.dtype for x in arrays):
        return None
    if any(x.shape != mean.shape or not x.flags.c_contiguous for x in arrays):
        return None
    at = None if isinstance(momentum, int | float) else momentum
    if at is not None and (at.__class__ is not mean.__class__ or at.dtype.char != "d" or at.size != 1):
        return None
    share = float(momentum) if at is None else 0.0
    arguments = (share, at, float(unbiased), *arrays)
    over_elements("batch", "move_statistics", mean.size, mean.dtype.char, *arguments)
    return running_mean
