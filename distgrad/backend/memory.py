"""Keep large freed arrays with the process.

By default glibc returns every freed block above 128 KiB to the kernel, which then hands out zeroed pages,
one fault each, for the next one: a training step that allocates the same temporaries again and again spends
a third of its time there. Raising two thresholds keeps the pages. ``DISTGRAD_KEEP_MEMORY=0`` turns it off.

On a C library without ``mallopt`` (musl, macOS) nothing is changed: those keep freed blocks by themselves.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_BYTES = 1 << 30
_TRIM_THRESHOLD_BYTES = (1 << 31) - 1


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
