"""Digests of bytes, by which damage is found.

They are to find what disks, networks and other programs have changed by accident, which 128 bits do, and not
to keep anybody out: whoever can change a file of a checkpoint can change its manifest too.

Source: XXH3, Yann Collet, 2019.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Callable
from typing import Any

from distgrad.errors import DataError

__all__ = ["BLOCK_BYTES", "agrees", "digest_of"]

#: That have a digest of their own: they stay in a core's cache between reading and that.
BLOCK_BYTES = 1 << 20

_xxh3: Callable[[Any], str] | None = None
with contextlib.suppress(ImportError):
    _xxh3 = importlib.import_module("xxhash").xxh3_128_hexdigest


def digest_of(data: Any) -> str:
    """The digest of a buffer's bytes, hexadecimal: XXH3's of 128 bits, or SHA-256 without that package."""
    return hashlib.sha256(data).hexdigest() if _xxh3 is None else str(_xxh3(data))


def agrees(data: Any, digest: str) -> bool:
    """Whether a buffer's bytes have this digest, of whichever kind its length tells.

    Raises:
        DataError: it is of a kind that needs a package which is not installed.
    """
    if len(digest) == 64:
        return hashlib.sha256(data).hexdigest() == digest
    if _xxh3 is None:
        raise DataError("its digests are XXH3's; install the package xxhash to read it")
    return bool(_xxh3(data) == digest)
