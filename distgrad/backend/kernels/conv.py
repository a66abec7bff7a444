"""Convolution over one or two axes as products with shifted images, which are not unrolled into patches.

An image is copied into a padded grid. Seen as one long row, an output at every place of the grid then is a
product of the weights with the grid itself, shifted by a fixed distance for each element of the kernel; the
tile of :mod:`distgrad.backend.kernels.tile` reads the shifted rows where they lie. Places behind the last
column of an output row are computed too and left out at the end, where the bias is added. The transpose in x
is another such product, of the outputs' grid, once for each phase of x. A kernel of one element at every
place needs no grid, and is left to BLAS.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.kernels.conv_weight import weight_gradient
from distgrad.backend.kernels.grid import (
    Grid,
    Pair,
    byte_offsets,
    make_grid,
    make_setting,
    planes,
    spread,
)
from distgrad.backend.kernels.support import is_plain, kernel
from distgrad.backend.kernels.tile import ROWS, multiply_tile, pack_rows, tile_columns
from distgrad.backend.memory import host_memory
from distgrad.backend.products import TERM_NS, matmul_stack
from distgrad.backend.threads import Calls, run_parts

_BLOCK_ELEMENTS = 1 << 16  # of results, kept in the second-level cache
_BLOCK_TERMS = 512  # of a product, whose rows of both sides fit the first-level cache


class Part(NamedTuple):
    """Results that are computed alike: all of a convolution, or one phase of its transpose in x.

    Args:
        grid: of the images that they are computed from.
        weight: ``[groups, tiles, terms, ROWS]``.
        offsets: bytes to each term's place in the grid, int64[terms].
        start, step: where the results lie in the rows and columns of the whole.
        shape: rows and columns.
    """

    grid: Grid
    weight: Any
    offsets: Any
    start: Pair
    step: Pair
    shape: Pair


@kernel("x4 p p i i x1 x4 i1 p p p i i x2 x1 x4 x", writes="grid sums y")
def _correlate(
    images: Any, lead: Any, phases: Any, rows: int, columns: int, grid: Any, weight: Any, offsets: Any,
    start: Any, step: Any, shape: Any, lines: int, width: int, sums: Any, bias: Any, y: Any, one: Any,
) -> None:  # fmt: skip
    """One part of the results ``y[n, o, ...]``, of all images."""
    groups, tiles, terms = weight.shape[:3]
    inputs, outputs = images.shape[1] // groups, y.shape[1] // groups
    size, row_bytes = images.itemsize, sums.shape[1] * images.itemsize
    blocks = (terms + _BLOCK_TERMS - 1) // _BLOCK_TERMS
    block = (terms + blocks - 1) // blocks
    for n in range(images.shape[0]):
        for group in range(groups):
            image = images[n, group * inputs : (group + 1) * inputs]
            spread(image, lead, phases, rows, columns, False, grid)
            for first in range(0, shape[0], lines):
                count = min(lines, shape[0] - first)
                for term in range(0, terms, block):
                    some = min(block, terms - term)
                    for j in range(0, (count - 1) * columns + shape[1], width):
                        right = grid.ctypes.data + (first * columns + j) * size
                        for i in range(tiles):
                            left = weight.ctypes.data + ((group * tiles + i) * terms + term) * ROWS * size
                            to = sums.ctypes.data + i * ROWS * row_bytes + j * size
                            table = offsets.ctypes.data + 8 * term
                            multiply_tile(left, table, right, some, to, row_bytes, 1 if term else 0, one)
                for o in range(outputs):
                    for i in range(count):
                        line = sums[o, i * columns : i * columns + shape[1]]
                        out = y[n, group * outputs + o, start[0] + (first + i) * step[0], start[1] :]
                        shift = bias[group * outputs + o]
                        if step[1] == 1:
                            for j in range(shape[1]):
                                out[j] = line[j] + shift
                        else:
                            for j in range(shape[1]):
                                out[j * step[1]] = line[j] + shift


def _run(images: Any, part: Part, bias: Any, y: Any) -> None:
    """:func:`_correlate` on this process's threads."""
    grid, one, width = part.grid, y.dtype.type(1), tile_columns(y.dtype)
    tiles = part.weight.shape[1]
    lines = max(1, min(part.shape[0], _BLOCK_ELEMENTS // (tiles * ROWS * grid.columns)))
    channels = images.shape[1] // len(part.weight)

    def run(start: int, stop: int) -> Calls:
        places = host_memory.zeros(channels * grid.size + grid.columns + 2 * width, y.dtype)
        sums = host_memory.empty((tiles * ROWS, -(-lines * grid.columns // width) * width), y.dtype)
        given = (images[start:stop], grid.lead, grid.step, grid.rows, grid.columns, places, part.weight)
        where = (part.offsets, part.start, part.step, part.shape, lines, width, sums)
        return [(_correlate, *given, *where, bias, y[start:stop], one)]

    run_parts(run, len(images), part.weight.size * grid.columns * part.shape[0] * TERM_NS[y.itemsize])


def convolution(
    x: Any, weight: Any, bias: Any = None, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """Forward."""
    setting = make_setting(x.shape, weight.shape, stride, padding, dilation, groups)
    if setting is None or not is_plain(x, weight, bias):
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    y = host_memory.empty(setting.y, x.dtype)
    if setting.bare:
        matmul_stack(weight.reshape(setting.weight[:2]), planes(x), planes(y))
        if bias is not None:
            y += bias.reshape(-1, 1, 1)
        return y.reshape(*y.shape[:2], *y.shape[6 - x.ndim :])
    grid, (outputs, inputs, *kernel) = setting.grid(), setting.weight
    taps = [setting.place(grid, *tap) for tap in np.ndindex(*kernel)]
    offsets = byte_offsets(taps, inputs, grid.size, x.itemsize)
    panels = pack_rows(weight.reshape(groups, outputs // groups, -1))
    shifts = host_memory.zeros(outputs, x.dtype) if bias is None else bias
    _run(x.reshape(setting.x), Part(grid, panels, offsets, (0, 0), (1, 1), setting.y[2:]), shifts, y)
    return y.reshape(*y.shape[:2], *y.shape[6 - x.ndim :])


class _Phase(NamedTuple):
    """Along one axis, the elements ``first, first + stride, …`` of x, all under the same of the kernel.

    Args:
        first, number: of the elements.
        taps: (element of the kernel, how far the first element's output lies behind it), in pairs.
    """

    first: int
    number: int
    taps: list[Pair]


def _phases(length: int, kernel: int, stride: int, padding: int, dilation: int) -> list[_Phase]:
    phases = []
    for first in range(min(stride, length)):
        at = first + padding
        taps = [
            (a, (at - a * dilation) // stride) for a in range(kernel) if (at - a * dilation) % stride == 0
        ]
        phases.append(_Phase(first, -(-(length - first) // stride), taps))
    return phases


def convolution_input(
    cotangent: Any, weight: Any, *, shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """The transpose in x: ``x[i] = Σ_a weight[a] cotangent[(i + padding - dilation a) / stride]``."""
    setting = make_setting(tuple(shape), weight.shape, stride, padding, dilation, groups)
    if setting is None or not is_plain(cotangent, weight) or cotangent.size != np.prod(setting.y):
        return None
    if setting.bare:
        x = host_memory.empty(shape, weight.dtype)
        matmul_stack(weight.reshape(setting.weight[:2]).T, planes(cotangent), planes(x))
        return x
    axes = [
        _phases(*each)
        for each in zip(
            setting.x[2:], setting.weight[2:], setting.stride, setting.padding, setting.dilation, strict=True
        )
    ]
    outs = [[q for phase in phases for _, q in phase.taps] for phases in axes]
    lead = tuple(max(0, -min(out, default=0)) for out in outs)
    far = tuple(max(out, default=0) + first for out, first in zip(outs, lead, strict=True))
    counts = tuple(max(phase.number for phase in phases) for phases in axes)
    grid = make_grid(setting.y[2:], lead, (1, 1), counts, far)  # type: ignore[arg-type]
    images, matrix = cotangent.reshape(setting.y), weight.reshape(groups, -1, *setting.weight[1:])
    x, nothing = host_memory.empty(setting.x, weight.dtype), host_memory.zeros(setting.x[1], weight.dtype)
    for rows, columns in itertools.product(*axes):
        where = (
            ...,
            slice(rows.first, None, setting.stride[0]),
            slice(columns.first, None, setting.stride[1]),
        )
        if not rows.taps or not columns.taps:
            x[where] = 0
            continue
        places = [grid.place(r + lead[0], c + lead[1]) for _, r in rows.taps for _, c in columns.taps]
        some = matrix[..., [a for a, _ in rows.taps], :][..., [b for b, _ in columns.taps]]
        some = some.transpose(0, 2, 1, 3, 4).reshape(groups, setting.weight[1], -1)
        offsets = byte_offsets(places, setting.weight[0] // groups, grid.size, x.itemsize)
        start, numbers = (rows.first, columns.first), (rows.number, columns.number)
        _run(images, Part(grid, pack_rows(some), offsets, start, setting.stride, numbers), nothing, x)
    return x.reshape(shape)


def convolution_weight(
    cotangent: Any, x: Any, *, shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """The transpose in weight."""
    return weight_gradient(cotangent, x, tuple(shape), stride, padding, dilation, groups, (None,))
