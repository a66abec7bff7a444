"""Memory of a descriptor, mapped so that the kernel can give it large pages.

A processor knows by heart where the pages of a few megabytes lie, if they are of 4 KiB; beyond that each
costs it a walk through tables, a longer one in a virtual machine. Linux gives shared memory pages of 2 MiB
where it is mapped at a multiple of that and somebody asks (``MADV_COLLAPSE``, Linux 6.1), also where they are
off by default (``/sys/kernel/mm/transparent_hugepage/shmem_enabled``). Where it refuses, pages stay small.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGE_PAGE_BYTES", "enlarge_pages", "map_shared"]

LARGE_PAGE_BYTES = 1 << 21
_MADV_COLLAPSE = 25
_NO_ACCESS, _MAP_FIXED, _MAP_NORESERVE = 0, 0x10, 0x4000
_FAILED = ctypes.c_void_p(-1).value

_library = ctypes.CDLL(None, use_errno=True)
_library.mmap.restype = ctypes.c_void_p
_library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def map_shared(descriptor: int, num_bytes: int) -> memoryview:
    """Map a descriptor's memory, from :data:`LARGE_PAGE_BYTES` on at a multiple of them where that can be.

    The mapping ends with the last that holds what is returned, or an array of it.
    """
    start = None if num_bytes < LARGE_PAGE_BYTES else _find_room(num_bytes)
    if start is None:
        return memoryview(mmap.mmap(descriptor, num_bytes))
    access, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED
    if _library.mmap(start, num_bytes, access, kind, descriptor, 0) != start:
        _library.munmap(start, num_bytes)
        return memoryview(mmap.mmap(descriptor, num_bytes))  # which knows what is wrong
    memory = (ctypes.c_ubyte * num_bytes).from_address(start)
    weakref.finalize(memory, _library.munmap, start, num_bytes).atexit = False
    return np.ctypeslib.as_array(memory).data


def _find_room(num_bytes: int) -> int | None:
    """Reserve addresses that begin at a multiple of a large page; None if there are none."""
    whole = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    room = _library.mmap(None, whole + LARGE_PAGE_BYTES, _NO_ACCESS, kind, -1, 0)
    if room == _FAILED:
        return None
    before = -room % LARGE_PAGE_BYTES
    if before:
        _library.munmap(room, before)
    _library.munmap(room + before + whole, LARGE_PAGE_BYTES - before)
    return int(room + before)


def enlarge_pages(memory: NDArray[np.uint8]) -> int:
    """Ask for large pages wherever whole ones fit into shared memory that nobody has written to.

    Returns:
        How many there are now.
    """
    start = -memory.ctypes.data % LARGE_PAGE_BYTES
    count = max(0, memory.nbytes - start) // LARGE_PAGE_BYTES
    if count == 0:
        return 0
    whole = memory[start : start + count * LARGE_PAGE_BYTES]
    whole[::LARGE_PAGE_BYTES] = 0  # where there is no page yet there is none to be enlarged
    return 0 if _library.madvise(whole.ctypes.data, whole.nbytes, _MADV_COLLAPSE) else count
