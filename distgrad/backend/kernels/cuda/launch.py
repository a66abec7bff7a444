"""How kernels are started: which arrays they take, and how work is divided among threads.

A launch returns at once; the kernel runs when the current stream comes to it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from distgrad.backend.cupy import loaded_kernel, raw_kernel
from distgrad.backend.kernels.cuda.binaries import find_binary
from distgrad.backend.kernels.cuda.source import source

__all__ = [
    "MOST_BLOCKS",
    "THREADS",
    "arithmetic",
    "empty",
    "launch",
    "over_elements",
    "over_planes",
    "over_rows",
    "prepare",
    "width_of",
    "writable",
]

THREADS = 256  # as numbers.cuh has it
_PER_THREAD = 4  # elements that a thread goes over where there are many
MOST_BLOCKS = (1 << 31) - 1
_MOST_PLANES = (1 << 16) - 1  # of a grid's second axis


@functools.cache
def _kernel(family: str, name: str, char: str) -> Any:
    binary = find_binary(family, char)
    return raw_kernel(source(family, char), name) if binary is None else loaded_kernel(str(binary), name)


def launch(
    family: str, name: str, char: str, grid: Sequence[int], threads: int, arguments: Sequence[Any]
) -> None:
    """Start a kernel; a grid without blocks starts nothing.

    Args:
        family, name, char: the kernel, as :mod:`source` has it.
        grid: blocks along each axis.
        threads: to a block, a power of two.
        arguments: arrays, None for a missing one, numbers (``int`` is 64 bits wide, ``float`` a double).
    """
    if 0 not in grid:
        _kernel(family, name, char)(tuple(grid), (threads,), tuple(arguments))


def over_elements(family: str, name: str, n: int, char: str, *arguments: Any) -> None:
    """Start a kernel that takes ``n`` and then ``arguments``, on elements 0 … n − 1."""
    blocks = min(-(-n // (THREADS * _PER_THREAD)), MOST_BLOCKS)
    launch(family, name, char, (blocks,), THREADS, (n, *arguments))


def width_of(length: int) -> int:
    """Threads for something of this length: a power of two from a warp to a block."""
    return min(THREADS, max(32, 1 << (length - 1).bit_length()))


def over_rows(family: str, name: str, rows: int, columns: int, char: str, *arguments: Any) -> None:
    """Start a kernel that takes ``rows, columns`` and then ``arguments``, a block of threads a row."""
    threads = width_of(-(-columns // _PER_THREAD))
    launch(family, name, char, (min(rows, MOST_BLOCKS),), threads, (rows, columns, *arguments))


def over_planes(family: str, name: str, planes: int, size: int, char: str, *arguments: Any) -> None:
    """Start a kernel on planes of ``size`` elements; it takes ``arguments`` alone."""
    threads = width_of(size)
    launch(family, name, char, (-(-size // threads), min(planes, _MOST_PLANES)), threads, arguments)


def prepare(*arrays: Any) -> Any:
    """The arrays with their elements in row order, copied where they are not; None may stand for one.

    Returns:
        A list; None where an array is on another side than the first, or of another dtype.
    """
    first = arrays[0]
    if any(x is not None and (x.__class__ is not first.__class__ or x.dtype != first.dtype) for x in arrays):
        return None
    return [x if x is None or x.flags.c_contiguous else x.copy() for x in arrays]


def empty(like: Any, shape: Any, dtype: Any = None) -> Any:
    """A new array beside ``like``, of its dtype unless told otherwise."""
    return like.__class__(shape, like.dtype if dtype is None else dtype)


def writable(home: Any, like: Any, shape: Any) -> Any:
    """Where a gradient is written: ``home``, if there is one of the dtype of ``like``, else a new array.

    Not if ``like``, which is read meanwhile, is an old gradient in the same memory.
    """
    fits = home is not None and home.dtype == like.dtype and home.flags.c_contiguous
    return home if fits and home.data.mem is not like.data.mem else empty(like, shape)


def arithmetic(char: str) -> str:
    """The type that a kernel computes in, where it leaves numbers for the next one."""
    return "d" if char == "d" else "f"
