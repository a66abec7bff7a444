"""Reading and writing one rank's file of a checkpoint: ranges of arrays, in the safetensors format."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgrad.checkpoint.layout import Entry, Manifest, Piece, dtype_name, parse_dtype
from distgrad.checkpoint.tree import array_names, decode
from distgrad.errors import DataError

__all__ = ["Reader", "Slice", "digest_of", "write_file"]

_CHUNK_BYTES = 16 << 20


class Slice(NamedTuple):
    """What is written of an array.

    Attributes:
        name: of the array.
        start: the first element in the flattened array.
        data: the elements, flat.
    """

    name: str
    start: int
    data: np.ndarray


def digest_of(data: np.ndarray) -> str:
    """SHA-256 of an array's bytes, hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data).hexdigest()


def write_file(path: Path, slices: Sequence[Slice]) -> dict[str, list[Piece]]:
    """Write slices to a new file, to the disk; returns the pieces by the arrays' names.

    Digests are computed by another thread while the bytes are written.
    """
    header: dict[str, Any] = {}
    keys, place = [], 0
    for part in slices:
        key = f"{part.name}[{part.start}:{part.start + part.data.size}]"
        keys.append(key)
        header[key] = {
            "dtype": dtype_name(part.data.dtype),
            "shape": [part.data.size],
            "data_offsets": [place, place + part.data.nbytes],
        }
        place += part.data.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with concurrent.futures.ThreadPoolExecutor(1, "distgrad-digest") as pool:
        digests = pool.map(digest_of, [part.data for part in slices])
        with open(path, "xb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for part in slices:
                data = part.data.view(np.uint8).data
                for start in range(0, len(data), _CHUNK_BYTES):
                    file.write(data[start : start + _CHUNK_BYTES])
            file.flush()
            os.fsync(file.fileno())
        found: dict[str, list[Piece]] = {}
        for part, key, digest in zip(slices, keys, digests, strict=True):
            piece = Piece(path.name, key, part.start, part.start + part.data.size, digest)
            found.setdefault(part.name, []).append(piece)
    return found


class Reader:
    """Takes arrays, or ranges of them, straight from a checkpoint's files.

    Args:
        folder: of the checkpoint.
        manifest: what it says.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._files: dict[str, tuple[dict[str, Any], int]] = {}

    def array(self, name: str, verify: bool = True) -> np.ndarray:
        """A whole array; its digests are compared by threads of their own.

        Raises:
            DataError: a file that is missing or damaged, with its name.
        """
        entry = self.manifest.arrays[name]
        return self.range(name, 0, entry.size, verify).reshape(entry.shape)

    def range(self, name: str, start: int, stop: int, verify: bool = False) -> np.ndarray:
        """The elements ``start`` to ``stop`` of a flattened array, and no others.

        Digests are of whole pieces, and compared where the range holds the piece.
        """
        entry = self.manifest.arrays[name]
        out = np.empty(stop - start, entry.dtype)
        for piece in entry.pieces:
            first, last = max(start, piece.start), min(stop, piece.stop)
            if first < last:
                part = out[first - start : last - start]
                self._read(entry, piece, first - piece.start, part)
                if verify and part.size == piece.stop - piece.start and digest_of(part) != piece.digest:
                    raise DataError(
                        f"checkpoint: {self.folder / piece.file}: the bytes of {name} differ from their "
                        "digest; the file was changed after it was written, take another checkpoint"
                    )
        return out

    def decoded(self, tree: Any) -> Any:
        """The state that a tree stands for; its arrays are read and compared by several threads.

        Raises:
            DataError: as :meth:`array`, or a tree that names an array which is not there.
        """
        try:
            names = list(dict.fromkeys(array_names(tree)))
        except (ValueError, TypeError, IndexError, KeyError, RecursionError) as error:
            raise DataError(f"checkpoint: {self.folder}: the manifest's tree is damaged: {error!r}") from None
        lacking = [name for name in names if name not in self.manifest.arrays]
        if lacking:
            raise DataError(f"checkpoint: {self.folder}: the manifest describes no array {lacking[0]!r}")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count(), "distgrad-read") as pool:
            arrays = dict(zip(names, pool.map(self.array, names), strict=True))
        try:
            return decode(tree, arrays.__getitem__)
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise DataError(f"checkpoint: {self.folder}: the manifest's tree is damaged: {error!r}") from None

    def verify(self) -> Iterable[str]:
        """The names of all arrays, each once its digests agree.

        Raises:
            DataError: as :meth:`array`.
        """
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for name, _ in zip(self.manifest.arrays, pool.map(self._size, self.manifest.arrays), strict=True):
                yield name

    def _size(self, name: str) -> int:
        return self.array(name).size

    def _read(self, entry: Entry, piece: Piece, skip: int, out: np.ndarray) -> None:
        path = self.folder / piece.file
        header, base = self._header(piece.file)
        try:
            found = header[piece.key]
            start, stop = found["data_offsets"]
            length = math.prod(found["shape"])
            dtype = parse_dtype(found["dtype"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"checkpoint: {path} does not describe {piece.key!r}: {error!r}") from None
        size = piece.stop - piece.start
        if dtype != entry.dtype or length != size or stop - start != size * dtype.itemsize or start < 0:
            raise DataError(f"checkpoint: {path}: {piece.key!r} is not what the manifest says")
        with open(path, "rb") as file:
            file.seek(base + start + skip * dtype.itemsize)
            count = file.readinto(out.view(np.uint8).data)
        if count != out.nbytes:
            raise DataError(
                f"checkpoint: {path} is truncated: {piece.key!r} has {count} of {out.nbytes} bytes"
            )

    def _header(self, name: str) -> tuple[dict[str, Any], int]:
        if name not in self._files:
            path = self.folder / name
            try:
                with open(path, "rb") as file:
                    length = int.from_bytes(file.read(8), "little")
                    if length > path.stat().st_size:
                        raise ValueError("its header is longer than the file")
                    header = json.loads(file.read(length))
                    if not isinstance(header, dict):
                        raise ValueError("its header is no object")
            except OSError as error:
                raise DataError(f"checkpoint: cannot read {path}: {error.strerror}") from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"checkpoint: {path} is truncated or no safetensors file: {error}") from None
            self._files[name] = header, 8 + length
        return self._files[name]
