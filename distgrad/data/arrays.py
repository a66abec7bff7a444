"""Arrays of ``.npy`` and ``.npz`` files, whose sizes are compared before memory is asked for.

A few kilobytes can declare terabytes, in a header or in an archive that unpacks to a thousand
times its size.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distgrad.errors import DataError

__all__ = ["check_unpacked", "read_arrays", "read_header"]

#: What an archive may unpack to: this many bytes in any case, else that many times its own. Deflate's limit
#: is 1032, which zeros come near; images and text lie below 20.
_ANY_BYTES = 1 << 26
_MOST_TIMES = 256


def check_unpacked(what: str, packed_bytes: int, bytes: int) -> None:
    """Refuse to unpack what is most likely made to fill the memory.

    Raises:
        DataError: far more bytes than the packed ones can mean.
    """
    if bytes > max(_ANY_BYTES, _MOST_TIMES * packed_bytes):
        raise DataError(
            f"{what}: {packed_bytes} bytes unpack to {bytes}, more than {_MOST_TIMES} times as many; if that "
            "is meant, unpack the file first, or write it without compression"
        )


def read_header(file: BinaryIO, num_bytes: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and dtype of the ``.npy`` content that a file is at the start of.

    Args:
        file: is left where the elements begin.
        num_bytes: of the content, with its header.

    Raises:
        ValueError: a header that is damaged, of Python objects, or of other bytes than are there.
    """
    start = file.tell()
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"it is of Python objects ({dtype})")
    expected = file.tell() - start + math.prod(shape) * dtype.itemsize
    if expected != num_bytes:
        raise ValueError(
            f"its header declares {dtype}{list(shape)}, {expected} bytes, but there are {num_bytes}"
        )
    return shape, columns_first, dtype


def _read(file: Any, num_bytes: int) -> np.ndarray:
    shape, columns_first, dtype = read_header(file, num_bytes)
    data = bytearray(math.prod(shape) * dtype.itemsize)
    if file.readinto(data) != len(data):
        raise ValueError("it is truncated")
    return np.ndarray(shape, dtype, data, order="F" if columns_first else "C")


def read_arrays(path: Path, where: str) -> Any:
    """The array of a ``.npy`` file, or the arrays of a ``.npz`` by name.

    Args:
        path: the file.
        where: who asks, for messages.

    Raises:
        DataError: a file that is missing, damaged, of Python objects, or that declares more than it holds.
    """
    field = ""
    try:
        with path.open("rb") as file:
            if path.suffix == ".npy":
                return _read(file, path.stat().st_size)
            with zipfile.ZipFile(file) as archive:
                arrays = {}
                for entry in archive.infolist():
                    field = f", {entry.filename}"
                    check_unpacked(f"{where}: {path}{field}", entry.compress_size, entry.file_size)
                    with archive.open(entry) as member:
                        arrays[entry.filename.removesuffix(".npy")] = _read(member, entry.file_size)
                return arrays
    except DataError:
        raise
    except Exception as error:  # a damaged header is parsed as Python, which fails in its own ways
        raise DataError(
            f"{where}: {path}{field} is missing, damaged, or holds Python objects: "
            f"{error or type(error).__name__}; write it again with np.save or np.savez"
        ) from None
