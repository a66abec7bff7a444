"""Group and instance norm over channels on axis 1."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.kernels.cuda.launch import (
    MOST_BLOCKS,
    arithmetic,
    empty,
    launch,
    prepare,
    width_of,
    writable,
)

_FEW = 256  # blocks that a launch should have, and runs that a row or a channel has at most
_SMALLEST_RUN = 4096  # elements
_PER_THREAD = 4


def _run(pieces: int, length: int) -> int:
    """Elements of so many pieces of this length that one block goes over; all, if there are many pieces."""
    wanted = min(_FEW, -(-_FEW // pieces))
    return length if wanted == 1 else min(length, max(_SMALLEST_RUN, -(-length // wanted)))


def _threads(run: int) -> int:
    return width_of(-(-run // _PER_THREAD))


class _Groups(NamedTuple):
    """The struct of group.cu."""

    rows: int
    columns: int
    groups: int
    places: int
    run: int

    @property
    def runs(self) -> int:
        """Blocks of a row."""
        return -(-self.columns // self.run)

    def launch(self, name: str, char: str, *arguments: Any) -> None:
        """Start a kernel, a block of threads a run."""
        sizes = np.array(self, np.int64).view([("numbers", np.int64, len(self))])
        grid = (min(self.rows, MOST_BLOCKS), self.runs)
        launch("group", name, char, grid, _threads(self.run), (sizes, *arguments))

    def sums(self, like: Any) -> Any:
        """Room for two numbers a run; None for rows of one run, whose kernels need none."""
        if self.runs == 1:
            return None
        return empty(like, (self.rows, self.runs, 2), arithmetic(like.dtype.char))


def _sizes(x: Any, num_groups: int) -> _Groups:
    rows = len(x) * num_groups
    columns = x.size // rows
    return _Groups(rows, columns, num_groups, math.prod(x.shape[2:]), _run(rows, columns))


def _moments(sizes: _Groups, x: Any) -> Any:
    """What each run adds up to."""
    partial = sizes.sums(x)
    if partial is not None:
        sizes.launch("group_runs", x.dtype.char, x, partial)
    return partial


def _taken(x: Any, arrays: tuple[Any, ...], parameters: tuple[Any, ...], num_groups: int) -> Any:
    """The arrays prepared, if the kernels take them."""
    if x.ndim < 2 or x.size == 0 or x.shape[1] % num_groups or any(each.shape != x.shape for each in arrays):
        return None
    if any(each is not None and each.shape != x.shape[1:2] for each in parameters):
        return None
    return prepare(x, *arrays, *parameters)


def group_norm(x: Any, weight: Any, bias: Any, *, num_groups: int, eps: float) -> Any:
    """Forward."""
    taken = _taken(x, (), (weight, bias), num_groups)
    if taken is None:
        return None
    x, weight, bias = taken
    sizes, y = _sizes(x, num_groups), empty(x, x.shape)
    sizes.launch("group_forward", x.dtype.char, x, _moments(sizes, x), weight, bias, float(eps), y)
    return y


def group_norm_gradient(
    g: Any, x: Any, weight: Any, num_groups: int, eps: float, needs: Any, into: Any
) -> Any:
    """Gradients in x, weight and bias."""
    taken = _taken(x, (g,), (weight,), num_groups)
    if taken is None:
        return None
    x, g, weight = taken
    char, channels, sizes = x.dtype.char, x.shape[1], _sizes(x, num_groups)
    partial, slopes = _moments(sizes, x), sizes.sums(x)
    if slopes is not None:
        sizes.launch("group_slopes", char, g, x, partial, weight, float(eps), slopes)
    g_x, moments = empty(x, x.shape), empty(x, (sizes.rows, 2), arithmetic(char))
    done = empty(x, channels, np.uint32)
    rest = (partial, weight, slopes, float(eps), g_x, moments, channels, done)
    sizes.launch("group_gradient", char, g, x, *rest)
    g_weight, g_bias = (
        writable(home, x, channels) if need else None for need, home in zip(needs[1:], into[1:], strict=True)
    )
    if any(needs[1:]):
        count = x.size // channels
        run = _run(channels, count)
        runs = -(-count // run)
        sums = None if runs == 1 else empty(x, (channels, runs, 2), arithmetic(char))
        shape = (channels, count, run, num_groups, sizes.places)
        arguments = (*shape, g, x, moments, sums, done, g_weight, g_bias)
        launch("group", "group_affine", char, (channels, runs), _threads(run), arguments)
    return (g_x if needs[0] else None), g_weight, g_bias


def instance_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    """Forward: every channel is a group."""
    return group_norm(x, weight, bias, num_groups=x.shape[1], eps=eps) if x.ndim > 1 and x.size else None


def instance_norm_gradient(g: Any, x: Any, weight: Any, eps: float, needs: Any, into: Any) -> Any:
    """Gradients in x, weight and bias."""
    return group_norm_gradient(g, x, weight, x.shape[1], eps, needs, into) if x.size else None
