"""Memory that is kept with the process, and memory that is given back.

By default glibc returns every freed block above 128 KiB to the kernel, which then hands out zeroed pages,
one fault each, for the next one: a training step that allocates the same temporaries again and again spends
a third of its time there. Raising two thresholds keeps the pages. ``DISTGRAD_KEEP_MEMORY=0`` turns it off.

On a C library without ``mallopt`` (musl, macOS) nothing is changed: those keep freed blocks by themselves.
"""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

__all__ = ["keep_freed_memory", "release_pages"]

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_BYTES = 1 << 30
_TRIM_THRESHOLD_BYTES = (1 << 31) - 1
_MADV_DONTNEED, _MADV_REMOVE = 4, 9


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


def release_pages(array: np.ndarray) -> None:
    """Give the whole pages under an array of the host back to the kernel; its addresses stay.

    Elements in them read as zeros until they are written again, which takes new pages. Memory that several
    processes map loses them in all of these. Where the kernel keeps them nothing is changed.

    Args:
        array: contiguous.
    """
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (array.ctypes.data + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start and madvise(start, stop - start, _MADV_REMOVE):  # shared memory alone knows it
        madvise(start, stop - start, _MADV_DONTNEED)
