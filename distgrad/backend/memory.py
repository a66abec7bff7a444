"""Memory that is kept with the process, and memory that is given back.

By default glibc returns every freed block above 128 KiB to the kernel, which then hands out zeroed pages,
one fault each, for the next one: a training step that allocates the same temporaries again and again spends
a third of its time there. Raising two thresholds keeps the pages. ``DISTGRAD_KEEP_MEMORY=0`` turns it off.

On a C library without ``mallopt`` (musl, macOS) nothing is changed: those keep freed blocks by themselves.

What kernels write on the host comes from :data:`host_memory`, so that memory can be planned in one place.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad import env

__all__ = [
    "RESERVE_BYTES",
    "HostMemory",
    "PageReserve",
    "empty_in_pages",
    "host_memory",
    "keep_freed_memory",
    "release_freed_memory",
    "release_pages",
]

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_BYTES = 1 << 30
_TRIM_THRESHOLD_BYTES = (1 << 31) - 1
_MADV_DONTNEED, _MADV_REMOVE = 4, 9
_HUGE_FROM_BYTES = 4 << 20
#: Of what is given back time and again, how much stays with a process; see :class:`PageReserve`.
RESERVE_BYTES = 8 << 20


def keep_freed_memory() -> bool:
    """Raise the allocator's thresholds; True if the C library took them."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt.restype = ctypes.c_int
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    )


def release_freed_memory() -> None:
    """Give back what the C library keeps of freed memory, where it can; what comes next takes it anew."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def empty_in_pages(size: int, dtype: np.dtype) -> np.ndarray:
    """A flat array, its elements unset, in small pages of its own, which go back to the kernel with it.

    For what is filled once from a file: a virtual machine's huge pages, which NumPy asks for above 4 MiB, may
    come from its host at the first touch of each, and then take longer than the disk.
    """
    if size * dtype.itemsize < _HUGE_FROM_BYTES:
        return np.empty(size, dtype)
    pages = mmap.mmap(-1, size * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype)


def release_pages(array: np.ndarray) -> None:
    """Give the whole pages under an array of the host back to the kernel; its addresses stay.

    Elements in them read as zeros until they are written again, which takes new pages. Memory that several
    processes map loses them in all of these. Where the kernel keeps them nothing is changed.

    Args:
        array: contiguous.
    """
    madvise = _madvise()
    start = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (array.ctypes.data + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start and madvise(start, stop - start, _MADV_REMOVE):  # shared memory alone knows it
        madvise(start, stop - start, _MADV_DONTNEED)


@functools.cache
def _madvise() -> Any:
    found = ctypes.CDLL(None).madvise
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found


class PageReserve:
    """Gives pages back time and again, but for those of the first few megabytes, which stay.

    The kernel takes 2 µs for each page that comes again, since it clears it: of a small network that is half
    a step, and saves nothing that anybody would miss. ``DISTGRAD_KEEP_MEMORY=0`` keeps none.
    """

    def __init__(self) -> None:
        self._left = RESERVE_BYTES if env.read().keep_memory else 0
        self._kept: set[tuple[int, int]] = set()

    def release(self, array: np.ndarray) -> None:
        """Give back the whole pages under an array of the host, as :func:`release_pages` does, or none."""
        place = (array.ctypes.data, array.nbytes)
        if place in self._kept:
            return
        if array.nbytes <= self._left:
            self._left -= array.nbytes
            self._kept.add(place)
        else:
            release_pages(array)


class HostMemory:
    """Arrays for the results and temporaries of kernels.

    Attributes:
        empty: ``empty(shape, dtype)`` allocates them all; it can be put in another's place.
    """

    def __init__(self) -> None:
        self.empty: Callable[..., np.ndarray] = np.empty

    def zeros(self, shape: Any, dtype: Any = np.float64) -> np.ndarray:
        """An array of zeros."""
        return self.full(shape, 0, dtype)

    def ones(self, shape: Any, dtype: Any = np.float64) -> np.ndarray:
        """An array of ones."""
        return self.full(shape, 1, dtype)

    def full(self, shape: Any, value: Any, dtype: Any) -> np.ndarray:
        """An array that holds one value."""
        out = self.empty(shape, dtype)
        out.fill(value)
        return out

    def empty_like(self, x: np.ndarray) -> np.ndarray:
        """An array of the same shape and dtype, with its axes in the same order in memory."""
        if x.flags.c_contiguous:
            return self.empty(x.shape, x.dtype)
        order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
        out = self.empty([x.shape[axis] for axis in order], x.dtype)
        return out.transpose([order.index(axis) for axis in range(x.ndim)])

    def zeros_like(self, x: np.ndarray) -> np.ndarray:
        """The same, of zeros."""
        out = self.empty_like(x)
        out.fill(0)
        return out


#: This process's.
host_memory = HostMemory()
