"""Convolution over one or two axes as products with shifted images, which are not unrolled into patches.

An image is copied into a padded grid. Seen as one long row, an output at every place of the grid then is a
product of the weights with the grid itself, shifted by a fixed distance for each element of the kernel; the
tile of :mod:`distgrad.backend.kernels.tile` reads the shifted rows where they lie. Places behind the last
column of an output row are computed too and left out at the end. With a stride, the grid is first dealt out
into its phases, in which a step of the stride is a step to the neighbour.

The transpose in x is another such product, of the outputs' grid, once for each phase of x. The transpose in
the weight sums over the places instead: its grid holds the channels of a place side by side; with few
channels patches are unrolled after all, to be the narrow side of a product with all outputs. A kernel of one
element at every place needs no grid, and is left to BLAS.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.kernels.support import is_plain, jit
from distgrad.backend.kernels.tile import ROWS, multiply_tile, pack_rows, tile_columns
from distgrad.backend.threads import run_parts

_BLOCK_ELEMENTS = 1 << 16  # of results, kept in the second-level cache
_BLOCK_TERMS = 512  # of a product, whose rows of both sides fit the first-level cache
_BLOCK_PLACES = 192  # of a sum over places

Pair = tuple[int, int]


class Grid(NamedTuple):
    """A padded image dealt out into phases: row ``step r + f`` is row r of phase f, columns alike.

    Args:
        lead: zeros before the first row and column.
        step: phases.
        rows, columns: of a phase.
    """

    lead: Pair
    step: Pair
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Elements of one channel."""
        return self.step[0] * self.step[1] * self.rows * self.columns

    def place(self, row: int, column: int) -> int:
        """Where an element of the padded image lies."""
        phase = row % self.step[0] * self.step[1] + column % self.step[1]
        return (phase * self.rows + row // self.step[0]) * self.columns + column // self.step[1]


def _grid(lengths: Any, lead: Pair, step: Pair, out: Pair, reach: Pair) -> Grid:
    """The grid of an image.

    Args:
        lengths: its rows and columns.
        lead, step: as in :class:`Grid`.
        out: rows and columns of the results that are computed from it.
        reach: distance between the first and the last element that one result is computed from.
    """
    rows, columns = (
        max((first + n - 1) // s, k - 1 + far // s) + 1
        for n, first, s, k, far in zip(lengths, lead, step, out, reach, strict=True)
    )
    if step[1] == 1:  # the zeros before a row are also those behind the one above
        columns = max(lengths[1] + lead[1], columns - lead[1], out[1])
    return Grid(lead, step, rows, max(columns, out[1]))


@jit
def _spread(image: Any, lead: Any, step: Any, rows: int, columns: int, last: bool, grid: Any) -> None:
    """An image ``[C, rows, columns]`` into the grid, whose zeros stay.

    Args:
        image, lead, step, rows, columns: see :class:`Grid`.
        last: whether the grid is ``[phases, rows, columns, C]`` instead of ``[C, phases, rows, columns]``.
        grid: one axis.
    """
    channels = image.shape[0]
    stride = channels if last else 1
    for c in range(channels):
        for i in range(image.shape[1]):
            r, f = (i + lead[0]) // step[0], (i + lead[0]) % step[0]
            for phase in range(step[1]):
                first = (phase - lead[1]) % step[1]
                row = image[c, i, first:]
                count = (row.size + step[1] - 1) // step[1]
                line = (f * step[1] + phase) * rows + r
                if not last:
                    line += c * step[0] * step[1] * rows
                place = line * columns + (first + lead[1]) // step[1]
                to = grid[place * channels + c :] if last else grid[place:]
                if stride == 1 and step[1] == 1:
                    for j in range(count):
                        to[j] = row[j]
                else:
                    for j in range(count):
                        to[j * stride] = row[j * step[1]]


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


@jit
def _correlate(
    images: Any, lead: Any, phases: Any, rows: int, columns: int, grid: Any, weight: Any, offsets: Any,
    start: Any, step: Any, shape: Any, lines: int, width: int, sums: Any, y: Any, one: Any,
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
            _spread(image, lead, phases, rows, columns, False, grid)
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
                        if step[1] == 1:
                            for j in range(shape[1]):
                                out[j] = line[j]
                        else:
                            for j in range(shape[1]):
                                out[j * step[1]] = line[j]


def _run(images: Any, part: Part, y: Any) -> None:
    """:func:`_correlate` on this process's threads."""
    grid, one, width = part.grid, y.dtype.type(1), tile_columns(y.dtype)
    tiles = part.weight.shape[1]
    lines = max(1, min(part.shape[0], _BLOCK_ELEMENTS // (tiles * ROWS * grid.columns)))
    channels = images.shape[1] // len(part.weight)

    def run(start: int, stop: int) -> None:
        places = np.zeros(channels * grid.size + grid.columns + 2 * width, y.dtype)
        sums = np.empty((tiles * ROWS, -(-lines * grid.columns // width) * width), y.dtype)
        _correlate(
            *(images[start:stop], grid.lead, grid.step, grid.rows, grid.columns, places),
            *(part.weight, part.offsets, part.start, part.step, part.shape, lines, width, sums),
            *(y[start:stop], one),
        )

    run_parts(run, len(images), 1)


@jit
def _collect(g: Any, first: int, count: int, columns: int, panels: Any) -> None:
    """Rows of the cotangent ``[O, rows, columns]`` as left sides ``[tiles, places, ROWS]``."""
    for o in range(g.shape[0]):
        tile, lane = o // ROWS, o % ROWS
        for i in range(count):
            row, to = g[o, first + i], panels[tile, i * columns :]
            for j in range(row.size):
                to[j, lane] = row[j]


@jit
def _sum_places(
    g: Any, images: Any, lead: Any, phases: Any, rows: int, columns: int, grid: Any, panels: Any,
    offsets: Any, runs: Any, length: int, lines: int, width: int, w: Any, one: Any,
) -> None:  # fmt: skip
    """Adds to ``w[groups, runs, o, elements of a run]``."""
    groups, tiles = w.shape[0], panels.shape[0]
    inputs, outputs = images.shape[1] // groups, g.shape[1] // groups
    size, row_bytes = images.itemsize, w.shape[3] * images.itemsize
    for n in range(images.shape[0]):
        for group in range(groups):
            image = images[n, group * inputs : (group + 1) * inputs]
            _spread(image, lead, phases, rows, columns, True, grid)
            up = g[n, group * outputs : (group + 1) * outputs]
            for first in range(0, g.shape[2], lines):
                count = min(lines, g.shape[2] - first)
                _collect(up, first, count, columns, panels)
                terms = (count - 1) * columns + g.shape[3]
                for run in range(runs.size):
                    start = grid.ctypes.data + (runs[run] + first * columns * inputs) * size
                    for j in range(0, length, width):
                        for i in range(tiles):
                            left = panels.ctypes.data + i * panels.shape[1] * ROWS * size
                            to = w[group, run, i * ROWS].ctypes.data + j * size
                            right = start + j * size
                            multiply_tile(left, offsets.ctypes.data, right, terms, to, row_bytes, 1, one)


@jit
def _sum_patches(
    g: Any, images: Any, lead: Any, phases: Any, rows: int, columns: int, grid: Any, upper: Any, panels: Any,
    offsets: Any, table: Any, lines: int, width: int, w: Any, one: Any,
) -> None:  # fmt: skip
    """Adds to ``w[groups, terms, outputs]``: for few channels, whose patches are the narrow side."""
    groups, tiles, terms = w.shape[0], panels.shape[0], table.size
    inputs, outputs = images.shape[1] // groups, g.shape[1] // groups
    size, row_bytes = images.itemsize, w.shape[2] * images.itemsize
    for n in range(images.shape[0]):
        for group in range(groups):
            image = images[n, group * inputs : (group + 1) * inputs]
            _spread(image, lead, phases, rows, columns, False, grid)
            up = g[n, group * outputs : (group + 1) * outputs]
            _spread(up, (0, 0), (1, 1), g.shape[2], columns, True, upper)
            for first in range(0, g.shape[2], lines):
                places = (min(lines, g.shape[2] - first) - 1) * columns + g.shape[3]
                for term in range(terms):
                    to, row = panels[term // ROWS], grid[table[term] + first * columns :]
                    for j in range(places):
                        to[j, term % ROWS] = row[j]
                right = upper.ctypes.data + first * columns * outputs * size
                for j in range(0, outputs, width):
                    for i in range(tiles):
                        left = panels.ctypes.data + i * panels.shape[1] * ROWS * size
                        to_w = w[group, i * ROWS].ctypes.data + j * size
                        multiply_tile(
                            left, offsets.ctypes.data, right + j * size, places, to_w, row_bytes, 1, one
                        )


class _Setting(NamedTuple):
    """A convolution brought to two spatial axes; shapes of x, weight and y, and the options."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    y: tuple[int, ...]
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def reach(self) -> Pair:
        """From the first to the last element under the kernel."""
        rows, columns = (d * (k - 1) for k, d in zip(self.weight[2:], self.dilation, strict=True))
        return rows, columns

    @property
    def bare(self) -> bool:
        """Whether an image is a matrix as it is: one element to a kernel, at every place."""
        return (*self.weight[2:], *self.stride, *self.padding, self.groups) == (1, 1, 1, 1, 0, 0, 1)

    def place(self, grid: Grid, row: int, column: int) -> int:
        """Where an element of the kernel at the first output lies in the grid."""
        return grid.place(row * self.dilation[0], column * self.dilation[1])

    def grid(self) -> Grid:
        """Of the images."""
        return _grid(self.x[2:], self.padding, self.stride, self.y[2:], self.reach)  # type: ignore[arg-type]


def _setting(x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """The setting for shapes ``x`` and ``weight``; None where the kernels do not apply."""
    if len(x) not in (3, 4) or len(weight) != len(x):
        return None
    if len(x) == 3:
        x, weight = (*x[:2], 1, x[2]), (*weight[:2], 1, weight[2])
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
    if 0 in x or 0 in weight or x[1] != weight[1] * groups or weight[0] % groups:
        return None
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x[2:], weight[2:], stride, padding, dilation, strict=True)
    ]
    if min(out) < 1:
        return None
    return _Setting(
        x, weight, (x[0], weight[0], *out), tuple(stride), tuple(padding), tuple(dilation), groups
    )


def _offsets(places: list[int], channels: int, channel: int, itemsize: int) -> Any:
    """Bytes to each term, of all channels."""
    table = np.arange(channels)[:, None] * channel + np.array(places, np.int64)
    return np.ascontiguousarray(table.reshape(-1) * itemsize, np.int64)


def convolution(x: Any, weight: Any, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """Forward."""
    setting = _setting(x.shape, weight.shape, stride, padding, dilation, groups)
    if setting is None or not is_plain(x, weight):
        return None
    y = np.empty(setting.y, x.dtype)
    if setting.bare:
        np.matmul(weight.reshape(setting.weight[:2]), _planes(x), out=_planes(y))
        return y.reshape(*y.shape[:2], *y.shape[6 - x.ndim :])
    grid, (outputs, inputs, *kernel) = setting.grid(), setting.weight
    taps = [setting.place(grid, *tap) for tap in np.ndindex(*kernel)]
    offsets = _offsets(taps, inputs, grid.size, x.itemsize)
    panels = pack_rows(weight.reshape(groups, outputs // groups, -1))
    _run(x.reshape(setting.x), Part(grid, panels, offsets, (0, 0), (1, 1), setting.y[2:]), y)
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
    setting = _setting(tuple(shape), weight.shape, stride, padding, dilation, groups)
    if setting is None or not is_plain(cotangent, weight) or cotangent.size != np.prod(setting.y):
        return None
    if setting.bare:
        return np.matmul(weight.reshape(setting.weight[:2]).T, _planes(cotangent)).reshape(shape)
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
    grid = _grid(setting.y[2:], lead, (1, 1), counts, far)  # type: ignore[arg-type]
    images, matrix = cotangent.reshape(setting.y), weight.reshape(groups, -1, *setting.weight[1:])
    x = np.empty(setting.x, weight.dtype)
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
        offsets = _offsets(places, setting.weight[0] // groups, grid.size, x.itemsize)
        start, numbers = (rows.first, columns.first), (rows.number, columns.number)
        _run(images, Part(grid, pack_rows(some), offsets, start, setting.stride, numbers), x)
    return x.reshape(shape)


def convolution_weight(
    cotangent: Any, x: Any, *, shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """The transpose in weight."""
    setting = _setting(x.shape, tuple(shape), stride, padding, dilation, groups)
    if setting is None or not is_plain(cotangent, x) or cotangent.size != np.prod(setting.y):
        return None
    g, images = cotangent.reshape(setting.y), x.reshape(setting.x)
    if setting.bare:
        sums = [a @ b.T for a, b in zip(_planes(g), _planes(images), strict=True)]
        return np.add.reduce(sums).reshape(shape)
    joined = setting.stride[1] == setting.dilation[1] == 1
    length = setting.weight[1] * (setting.weight[3] if joined else 1)
    return (_by_patches if 2 * length < tile_columns(x.dtype) else _by_places)(g, images, setting).reshape(
        shape
    )


def _planes(images: Any) -> Any:
    """Images with one row of places."""
    return images.reshape(*images.shape[:2], -1)


def _in_runs(images: Any, shape: tuple[int, ...], run: Callable[[slice, Any], None]) -> Any:
    """Sum of what ``run(images, into)`` adds up, in at most 8 runs whose borders don't depend on threads."""
    count = min(len(images), 8)
    parts = np.zeros((count, *shape), images.dtype)
    edges = [len(images) * i // count for i in range(count + 1)]

    def run_some(start: int, stop: int) -> None:
        for i in range(start, stop):
            run(slice(edges[i], edges[i + 1]), parts[i])

    run_parts(run_some, count, 1)
    return parts.sum(axis=0)


def _by_places(g: Any, images: Any, setting: _Setting) -> Any:
    """The left side of the product is the cotangent, the right one the channels of a row of the kernel."""
    grid, (outputs, inputs, *kernel), groups = setting.grid(), setting.weight, setting.groups
    one, width, outputs = images.dtype.type(1), tile_columns(images.dtype), outputs // groups
    joined = setting.stride[1] == setting.dilation[1] == 1  # a kernel's row then is one run of elements
    length = inputs * kernel[1] if joined else inputs
    taps = [(a, b) for a in range(kernel[0]) for b in range(1 if joined else kernel[1])]
    runs = np.array([setting.place(grid, *tap) * inputs for tap in taps], np.int64)
    lines = max(1, min(g.shape[2], _BLOCK_PLACES // grid.columns))
    tiles = -(-outputs // ROWS)
    offsets = np.arange(lines * grid.columns, dtype=np.int64) * (inputs * images.itemsize)

    def run(some: slice, w: Any) -> None:
        places = np.zeros(inputs * (grid.size + grid.columns) + 2 * width, images.dtype)
        panels = np.zeros((tiles, lines * grid.columns, ROWS), images.dtype)
        _sum_places(
            *(g[some], images[some], grid.lead, grid.step, grid.rows, grid.columns, places, panels),
            *(offsets, runs, length, lines, width, w, one),
        )

    w = _in_runs(images, (groups, len(runs), tiles * ROWS, -(-length // width) * width), run)
    w = w[:, :, :outputs, :length].reshape(groups, kernel[0], -1, outputs, length // inputs, inputs)
    return w.transpose(0, 3, 5, 1, 2, 4)  # [groups, o, c, rows, columns (of which one axis is 1)]


def _by_patches(g: Any, images: Any, setting: _Setting) -> Any:
    """The left side of the product is the patch, the right one the cotangent's channels."""
    grid, (outputs, inputs, *kernel), groups = setting.grid(), setting.weight, setting.groups
    one, width, outputs = images.dtype.type(1), tile_columns(images.dtype), outputs // groups
    table = _offsets([setting.place(grid, *tap) for tap in np.ndindex(*kernel)], inputs, grid.size, 1)
    lines = max(1, min(g.shape[2], _BLOCK_PLACES // grid.columns))
    tiles = -(-len(table) // ROWS)
    offsets = np.arange(lines * grid.columns, dtype=np.int64) * (outputs * images.itemsize)

    def run(some: slice, w: Any) -> None:
        places = np.zeros(inputs * grid.size + grid.columns + 2 * width, images.dtype)
        upper = np.zeros(g.shape[2] * grid.columns * outputs + width, images.dtype)
        panels = np.zeros((tiles, lines * grid.columns, ROWS), images.dtype)
        _sum_patches(
            *(g[some], images[some], grid.lead, grid.step, grid.rows, grid.columns, places, upper, panels),
            *(offsets, table, lines, width, w, one),
        )

    w = _in_runs(images, (groups, tiles * ROWS, -(-outputs // width) * width), run)
    return w[:, : len(table), :outputs].transpose(0, 2, 1)
