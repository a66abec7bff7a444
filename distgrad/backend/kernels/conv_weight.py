"""A convolution's gradients in weight and bias, as sums over the places of its output.

The left side of the product is the cotangent; the right one a grid that holds the channels of a place side by
side. With few channels patches are unrolled after all, to be the narrow side of a product with all outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.backend.kernels.grid import Setting, byte_offsets, make_setting, planes, spread
from distgrad.backend.kernels.product import product, product_address
from distgrad.backend.kernels.support import is_plain, jit, kernel, writable
from distgrad.backend.kernels.tile import ROWS, multiply_tile, tile_columns
from distgrad.backend.memory import host_memory
from distgrad.backend.products import TERM_NS, run_blocks
from distgrad.backend.threads import Calls, run_parts

_BLOCK_PLACES = 192  # of a sum over places
_ELEMENT_NS = 1.0  # of one thread, for each element


@jit
def _collect(g: Any, first: int, count: int, columns: int, panels: Any) -> None:
    """Rows of the cotangent ``[O, rows, columns]`` as left sides ``[tiles, places, ROWS]``."""
    for o in range(g.shape[0]):
        tile, lane = o // ROWS, o % ROWS
        for i in range(count):
            row, to = g[o, first + i], panels[tile, i * columns :]
            for j in range(row.size):
                to[j, lane] = row[j]


@kernel("x4 x4 p p i i x1 x3 i1 i1 i i i x4 x", writes="grid panels w")
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
            spread(image, lead, phases, rows, columns, True, grid)
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


@kernel("x4 x4 p p i i x1 x1 x3 i1 i1 i i x3 x", writes="grid upper panels w")
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
            spread(image, lead, phases, rows, columns, False, grid)
            up = g[n, group * outputs : (group + 1) * outputs]
            spread(up, (0, 0), (1, 1), g.shape[2], columns, True, upper)
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


@kernel("i x x3 x3 x4 i i i i", writes="w")
def _sum_products(
    address: int, one: Any, g: Any, images: Any, w: Any, top: int, outputs: int, first: int, inputs: int
) -> None:
    """One block of ``w = Σ_n g[n] images[n]ᵀ``."""
    places, width = g.shape[2], images.shape[1]
    to = (w.ctypes.data + (top * width + first) * w.itemsize, width)
    for n in range(len(g)):
        beta = one if n else one - one
        left, right = (g[n, top].ctypes.data, places), (images[n, first].ctypes.data, places)
        product(address, (False, True), outputs, inputs, places, one, left, right, beta, to)


def weight_gradient(
    g: Any, x: Any, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int, into: Any
) -> Any:
    """Gradient in weight."""
    setting = make_setting(x.shape, weight_shape, stride, padding, dilation, groups)
    if setting is None or not is_plain(g, x) or g.size != np.prod(setting.y):
        return None
    w = writable(into[0], weight_shape, g.dtype, g, x)
    g, images, address = g.reshape(setting.y), x.reshape(setting.x), product_address(x.dtype)
    if setting.bare and address:
        one, sides = x.dtype.type(1), (planes(g), planes(images))

        def calls(rows: slice, columns: slice) -> Calls:
            block = (rows.start, rows.stop - rows.start, columns.start, columns.stop - columns.start)
            return [(_sum_products, address, one, *sides, w, *block)]

        run_blocks(setting.weight[:2], sides[0].shape[2], calls, size=w.itemsize, times=len(g))
        return w
    joined = setting.stride[1] == setting.dilation[1] == 1
    length = setting.weight[1] * (setting.weight[3] if joined else 1)
    sums = (_by_patches if 2 * length < tile_columns(x.dtype) else _by_places)(g, images, setting)
    w.reshape(sums.shape)[...] = sums
    return w


@kernel("i i x3 d1", writes="sums")
def _sum_channels(start: int, stop: int, g: Any, sums: Any) -> None:
    """Adds each channel's elements ``g[n, c]`` to ``sums``, which may hold more digits."""
    for n in range(len(g)):
        for c in range(start, stop):
            row = g[n, c]
            total = g.dtype.type(0)
            for j in range(row.size):
                total += row[j]
            sums[c] += total


def bias_gradient(g: Any, into: Any) -> Any:
    """Gradient in the bias; sums of rows are added up in float64."""
    if g.ndim < 2 or g.size == 0 or not is_plain(g):
        return None
    rows, channels = g.reshape(*g.shape[:2], -1), g.shape[1]
    sums = host_memory.zeros(channels)
    run_parts(lambda *part: [(_sum_channels, *part, rows, sums)], channels, g.size // channels * _ELEMENT_NS)
    b = writable(into[0], (channels,), g.dtype)
    b[...] = sums
    return b


def _in_runs(
    images: Any, shape: tuple[int, ...], run: Callable[[slice, Any], Sequence[Any]], image_ns: float
) -> Any:
    """Sum of what calls ``run(images, into)`` add up, in at most 8 runs with borders of their own."""
    count = min(len(images), 8)
    parts = host_memory.zeros((count, *shape), images.dtype)
    edges = [len(images) * i // count for i in range(count + 1)]

    def part(start: int, stop: int) -> Calls:
        return [run(slice(edges[i], edges[i + 1]), parts[i]) for i in range(start, stop)]

    run_parts(part, count, len(images) / count * image_ns)
    return parts.sum(axis=0)


def _image_ns(g: Any, setting: Setting) -> float:
    """Time that one image takes one thread."""
    return float(math.prod(setting.weight) * math.prod(g.shape[2:]) * TERM_NS[g.itemsize])


def _by_places(g: Any, images: Any, setting: Setting) -> Any:
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

    def run(some: slice, w: Any) -> Sequence[Any]:
        places = host_memory.zeros(inputs * (grid.size + grid.columns) + 2 * width, images.dtype)
        panels = host_memory.zeros((tiles, lines * grid.columns, ROWS), images.dtype)
        given = (g[some], images[some], grid.lead, grid.step, grid.rows, grid.columns, places, panels)
        return _sum_places, *given, offsets, runs, length, lines, width, w, one

    w = _in_runs(
        images, (groups, len(runs), tiles * ROWS, -(-length // width) * width), run, _image_ns(g, setting)
    )
    w = w[:, :, :outputs, :length].reshape(groups, kernel[0], -1, outputs, length // inputs, inputs)
    return w.transpose(0, 3, 5, 1, 2, 4)  # [groups, o, c, rows, columns (of which one axis is 1)]


def _by_patches(g: Any, images: Any, setting: Setting) -> Any:
    """The left side of the product is the patch, the right one the cotangent's channels."""
    grid, (outputs, inputs, *kernel), groups = setting.grid(), setting.weight, setting.groups
    one, width, outputs = images.dtype.type(1), tile_columns(images.dtype), outputs // groups
    table = byte_offsets([setting.place(grid, *tap) for tap in np.ndindex(*kernel)], inputs, grid.size, 1)
    lines = max(1, min(g.shape[2], _BLOCK_PLACES // grid.columns))
    tiles = -(-len(table) // ROWS)
    offsets = np.arange(lines * grid.columns, dtype=np.int64) * (outputs * images.itemsize)

    def run(some: slice, w: Any) -> Sequence[Any]:
        places = host_memory.zeros(inputs * grid.size + grid.columns + 2 * width, images.dtype)
        upper = host_memory.zeros(g.shape[2] * grid.columns * outputs + width, images.dtype)
        panels = host_memory.zeros((tiles, lines * grid.columns, ROWS), images.dtype)
        given = (g[some], images[some], grid.lead, grid.step, grid.rows, grid.columns, places, upper)
        return _sum_patches, *given, panels, offsets, table, lines, width, w, one

    w = _in_runs(images, (groups, tiles * ROWS, -(-outputs // width) * width), run, _image_ns(g, setting))
    return w[:, : len(table), :outputs].transpose(0, 2, 1)
