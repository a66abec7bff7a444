"""The padded grid that a convolution's images are copied into, and the convolution's sizes.

With a stride, the grid is dealt out into its phases, in which a step of the stride is a step to the
neighbour.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.kernels.support import jit

__all__ = ["Grid", "Pair", "Setting", "byte_offsets", "make_grid", "make_setting", "planes", "spread"]

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


def make_grid(lengths: Any, lead: Pair, step: Pair, out: Pair, reach: Pair) -> Grid:
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
def spread(image: Any, lead: Any, step: Any, rows: int, columns: int, last: bool, grid: Any) -> None:
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


class Setting(NamedTuple):
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
        return make_grid(self.x[2:], self.padding, self.stride, self.y[2:], self.reach)  # type: ignore[arg-type]


def make_setting(x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
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
    return Setting(x, weight, (x[0], weight[0], *out), tuple(stride), tuple(padding), tuple(dilation), groups)


def byte_offsets(places: list[int], channels: int, channel: int, itemsize: int) -> Any:
    """Bytes to each term, of all channels."""
    table = np.arange(channels)[:, None] * channel + np.array(places, np.int64)
    return np.ascontiguousarray(table.reshape(-1) * itemsize, np.int64)


def planes(images: Any) -> Any:
    """Images with one row of places."""
    return images.reshape(*images.shape[:2], -1)
