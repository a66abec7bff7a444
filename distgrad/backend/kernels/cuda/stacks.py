"""Products of stacks of matrices that lie evenly apart, or anywhere: cuBLAS is given their addresses then.

The addresses are written by a kernel. They follow from where the arrays begin, which a training step's memory
has again at every step, so they are kept.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from distgrad.backend.cublas import Addressed, current_queue, lines, matmul, multiply_addressed
from distgrad.backend.graphs import graph_recording
from distgrad.backend.kernels.cuda.launch import THREADS, empty, launch

__all__ = ["Stacks", "is_readable", "laid_out_as"]

_MOST = 10  # arrays, as attention.cu has it


def _spread(x: Any) -> list[tuple[int, int]]:
    """Lengths and steps in bytes of the axes before the last two, those joined that can be."""
    axes: list[tuple[int, int]] = []
    for length, step in zip(x.shape[:-2], x.strides[:-2], strict=True):
        if length == 1:
            continue
        if axes and axes[-1][1] == length * step:
            axes[-1] = axes[-1][0] * length, step
        else:
            axes.append((length, step))
    return axes


def is_readable(x: Any) -> bool:
    """Whether products can read and write it as it lies: what is broadcast can only be read."""
    axes = _spread(x)
    return lines(x) is not None and len(axes) <= 2 and all(step >= 0 for _, step in axes)


def laid_out_as(x: Any, columns: int) -> Any:
    """A new array with x's axes as they lie in memory, but for the last, which is of ``columns``."""
    axes = sorted(range(x.ndim - 1), key=lambda axis: -x.strides[axis])
    places = [axes.index(axis) for axis in range(x.ndim - 1)]
    return empty(x, (*(x.shape[axis] for axis in axes), columns)).transpose(*places, x.ndim - 1)


class Stacks:
    """Several stacks of as many matrices each, to be multiplied by their numbers here.

    Args:
        *arrays: ``[..., rows, columns]``, of equal leading axes, each :func:`is_readable`.
    """

    def __init__(self, *arrays: Any) -> None:
        self._arrays = arrays
        self._count = math.prod(arrays[0].shape[:-2])
        self._addressed: list[Addressed] = []
        if any(len(_spread(x)) > 1 for x in arrays) and all(map(is_readable, arrays)):
            self._address()

    def _address(self) -> None:
        first = self._arrays[0]
        numbers = np.zeros((4, _MOST), np.int64)
        for i, x in enumerate(self._arrays):
            (_, outer), (inner, step) = [(1, 0), (1, 0), *_spread(x)][-2:]
            numbers[:, i] = x.data.ptr, inner, outer, step
        find = _table if graph_recording() is None else _table.__wrapped__
        self._kept = find(current_queue(), first.__class__, len(self._arrays), self._count, numbers.tobytes())
        for i, x in enumerate(self._arrays):
            found = lines(x)
            assert found is not None  # as the caller has made sure
            at = self._kept.data.ptr + i * self._count * 8
            rows, columns = x.shape[-2:]
            self._addressed.append(Addressed(at, x.dtype.char, rows, columns, *found))

    def multiply(
        self,
        a: int,
        b: int,
        out: int,
        *,
        turn: tuple[bool, bool] = (False, False),
        scale: float = 1.0,
        add: bool = False,
    ) -> None:
        """``out = scale a b``, or with ``add`` added to it; ``turn`` says which side is transposed."""
        if self._addressed:
            left, right = (self._addressed[i] for i in (a, b))
            left, right = left.transposed() if turn[0] else left, right.transposed() if turn[1] else right
            multiply_addressed(left, right, self._addressed[out], self._count, scale, add)
            return
        one, two = (self._arrays[i] for i in (a, b))
        one, two = one.swapaxes(-1, -2) if turn[0] else one, two.swapaxes(-1, -2) if turn[1] else two
        matmul(one, two, self._arrays[out], scale, add)


@functools.lru_cache(maxsize=1024)
def _table(place: tuple[int, int], kind: Any, arrays: int, count: int, spread: bytes) -> Any:
    """The addresses of all matrices, ``[arrays, count]``, on a device and for a stream."""
    table = kind((arrays, count), np.int64)
    numbers = np.frombuffer(spread, np.int64).copy()
    by_value = numbers.view([("numbers", np.int64, numbers.size)])
    grid = (-(-count // THREADS), arrays)
    launch("attention", "write_addresses", "f", grid, THREADS, (count, by_value, table))
    return table
