"""What a checkpoint's folder holds, and what its manifest says.

A checkpoint is a folder ``step-N``: of each rank a safetensors file with the elements that it wrote, and
``manifest.json``. Of every array the manifest names the pieces that it was cut into: a file, a name in it,
and the range of the flattened array, with the digests of its bytes, one a block. What a rank has alone (its
random generators, what a compressor left out) stands under that rank's number. While it is written the folder
has another name; it is renamed once all is on the disk, so that a checkpoint exists whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.casting import bfloat16
from distgrad.checkpoint.digests import BLOCK_BYTES, agrees, digest_of
from distgrad.checkpoint.places import MANIFEST, Place, StorePath
from distgrad.errors import DataError

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Entry",
    "Manifest",
    "Piece",
    "check_pieces",
    "draft",
    "dtype_name",
    "find_checkpoints",
    "folder_name",
    "is_folder_name",
    "parse_dtype",
    "part_name",
    "rank_file",
    "read_manifest",
    "replaced_name",
    "share",
    "signed",
    "step_of",
]

FORMAT = 2  #: Of the folder; a reader takes this one and older ones.
_MAX_MANIFEST_BYTES = 256 << 20
_FOLDER = re.compile(r"step-(\d{8,})")
_FILE = re.compile(r"rank\d{1,7}\.safetensors")

#: The safetensors format's names of NumPy's dtypes.
_NAMES = {
    "?": "BOOL",
    "b": "I8",
    "h": "I16",
    "i": "I32",
    "l": "I64",
    "q": "I64",
    "B": "U8",
    "H": "U16",
    "I": "U32",
    "L": "U64",
    "Q": "U64",
    "e": "F16",
    "f": "F32",
    "d": "F64",
    "E": "BF16",
}
_DTYPES = {name: char for char, name in reversed(_NAMES.items())}


def dtype_name(dtype: np.dtype) -> str:
    """How the format calls a dtype."""
    return _NAMES[dtype.char]


def parse_dtype(name: str) -> np.dtype:
    """The reverse of :func:`dtype_name`.

    Raises:
        KeyError: no such dtype.
    """
    return bfloat16() if name == "BF16" else np.dtype(_DTYPES[name])


def folder_name(step: int) -> str:
    """Of a whole checkpoint."""
    return f"step-{step:08d}"


def part_name(step: int) -> str:
    """Of one that is being written."""
    return f".{folder_name(step)}.distgrad-part"


def draft(root: Place, step: int) -> Place:
    """Where a checkpoint is written: in a store under its own name, as it is none before its manifest."""
    return root / (folder_name(step) if isinstance(root, StorePath) else part_name(step))


def replaced_name(step: int | str) -> str:
    """Of one that another of the same step is about to replace."""
    name = folder_name(step) if isinstance(step, int) else f"step-{step}"
    return f".{name}.distgrad-replaced"


def rank_file(rank: int) -> str:
    """The file that a rank writes."""
    return f"rank{rank}.safetensors"


class Piece(NamedTuple):
    """A range of a flattened array, and where it lies.

    Attributes:
        file: the file's name.
        key: the piece's name in it.
        start: its first element in the whole array.
        stop: one past its last.
        digests: of its bytes, one for each block of them, hexadecimal.
    """

    file: str
    key: str
    start: int
    stop: int
    digests: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array.

    Attributes:
        dtype: of its elements.
        shape: lengths of its axes.
        pieces: in order, from its first element to its last.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        step: steps of training that were finished.
        world_size: the number of ranks that wrote it.
        tree: of what all ranks have alike, by object; arrays in it stand in ``arrays`` under their names.
        ranks: the tree of what each rank has alone.
        arrays: by name.
        notes: when, by which version and command it was written, and the metric if there was one.
        block_bytes: of a piece that have a digest; None: all of it, as format 1 has it.
    """

    step: int
    world_size: int
    tree: dict[str, Any]
    ranks: tuple[dict[str, Any], ...]
    arrays: dict[str, Entry]
    notes: dict[str, Any]
    block_bytes: int | None = BLOCK_BYTES

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(entry.nbytes for entry in self.arrays.values())

    def to_json(self) -> str:
        """As ``manifest.json`` has it."""
        arrays = {
            name: {"dtype": dtype_name(entry.dtype), "shape": entry.shape, "pieces": entry.pieces}
            for name, entry in self.arrays.items()
        }
        found = {"format": FORMAT, **dataclasses.asdict(dataclasses.replace(self, arrays={}))}
        return signed({**found, "arrays": arrays})


def signed(found: dict[str, Any]) -> str:
    """A manifest's text, which begins with a digest of the rest of it."""
    text = json.dumps(found)
    return f'{{"digest": "{digest_of(text.encode())}", {text[1:]}'


def share(sizes: Sequence[int], rank: int, num_ranks: int) -> list[tuple[int, int]]:
    """The range of each array that a rank writes, so that all write as many bytes.

    Args:
        sizes: bytes of the arrays, which are taken as one behind the other.
        rank, num_ranks: whose part, of how many.

    Returns:
        Start and stop in bytes, at multiples of 64 or an array's end; empty ranges among them.
    """
    total = sum(sizes)
    first, last = (total * each // num_ranks for each in (rank, rank + 1))
    out, before = [], 0
    for size in sizes:
        start, stop = (_cut(edge - before, size) for edge in (first, last))
        out.append((start, stop))
        before += size
    return out


def _cut(place: int, size: int) -> int:
    """A place to cut an array at, near ``place``, the same for whoever asks."""
    return size if place >= size else max(0, place // 64 * 64)


def find_checkpoints(folder: Place) -> list[Any]:
    """The whole checkpoints in a folder, the oldest first; none where there is no folder.

    Raises:
        DataError: it cannot be read, as its file system is gone, say.
    """
    try:
        found = [path for path in folder.iterdir() if is_folder_name(path.name)]
        return sorted((path for path in found if (path / MANIFEST).is_file()), key=step_of)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"checkpoint: {folder} cannot be read: {error.strerror}") from None


def is_folder_name(name: str) -> bool:
    """Whether a checkpoint is called so."""
    return _FOLDER.fullmatch(name) is not None


def step_of(checkpoint: Place) -> int:
    """How many steps were finished, by a checkpoint's name."""
    return int(checkpoint.name.removeprefix("step-"))


def read_manifest(folder: Place) -> Manifest:
    """The manifest of a checkpoint, with all that it says checked.

    Raises:
        DataError: no checkpoint, a newer format, or a manifest that is damaged: with the file and the field.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise DataError(f"checkpoint: {path} has {path.stat().st_size} bytes, which no manifest has")
        found = json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"checkpoint: {folder} is no checkpoint ({path.name}: {error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"checkpoint: {path} is no JSON: {error}") from None
    try:
        return _checked(found)
    except DataError as error:
        raise DataError(f"checkpoint: {path} cannot be checked: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"checkpoint: {path} is damaged: {_said(error)}") from None


def _said(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def _whole(value: Any, what: str, least: int = 0) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{what} must be a whole number from {least} on, got {value!r}")
    return value


def _checked(found: Any) -> Manifest:
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, got {type(found).__name__}")
    if _whole(found["format"], "format", 1) > FORMAT:
        raise ValueError(f"its format is {found['format']}, newer than {FORMAT}: update distgrad")
    if found["format"] > 1:
        digest = found.pop("digest")
        if not _is_digest(digest) or not agrees(json.dumps(found).encode(), digest):
            raise ValueError("its text differs from its digest; it was changed after it was written")
    block_bytes = _whole(found["block_bytes"], "block_bytes", 1) if found["format"] > 1 else None
    if block_bytes is not None and not 1 << 10 <= block_bytes <= 1 << 28:
        raise ValueError(f"block_bytes is {block_bytes}, not from 1 KiB to 256 MiB")
    arrays = {
        str(name): _checked_entry(name, each, block_bytes) for name, each in _dict(found, "arrays").items()
    }
    used = [piece[:2] for entry in arrays.values() for piece in entry.pieces]
    if len(set(used)) < len(used):  # a small file would fill the memory
        raise ValueError("two pieces lie in one place")
    ranks = found["ranks"]
    world_size = _whole(found["world_size"], "world_size", 1)
    if not isinstance(ranks, list) or len(ranks) != world_size:
        raise ValueError(f"ranks must be a list of {world_size}")
    trees = tuple(_dict({"ranks": each}, "ranks") for each in ranks)
    step = _whole(found["step"], "step")
    tree, notes = _dict(found, "tree"), _dict(found, "notes")
    return Manifest(step, world_size, tree, trees, arrays, notes, block_bytes)


def _dict(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = found[name]
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, got {type(value).__name__}")
    return value


def _checked_entry(name: str, found: Any, block_bytes: int | None) -> Entry:
    shape = tuple(_whole(n, f"a length of {name}") for n in found["shape"])
    if found["dtype"] not in _DTYPES:
        raise ValueError(f"{name} has the unknown dtype {found['dtype']!r}")
    dtype = parse_dtype(found["dtype"])
    pieces = tuple(_checked_piece(name, each, block_bytes) for each in found["pieces"])
    check_pieces(name, math.prod(shape), pieces)
    for piece in pieces:
        num_bytes = (piece.stop - piece.start) * dtype.itemsize
        if len(piece.digests) != -(-num_bytes // (block_bytes or max(num_bytes, 1))):
            raise ValueError(f"a piece of {name} has {len(piece.digests)} digests for {num_bytes} bytes")
    return Entry(dtype, shape, pieces)


def check_pieces(name: str, size: int, pieces: Sequence[Piece]) -> None:
    """Refuse pieces that leave an element out, or hold one twice.

    Raises:
        ValueError: with the array's name.
    """
    edges = [0, *(piece.stop for piece in pieces)]
    if [piece.start for piece in pieces] != edges[:-1] or edges[-1] != size:
        raise ValueError(f"the pieces of {name} do not make up its {size} elements")


def _checked_piece(name: str, found: Any, block_bytes: int | None) -> Piece:
    file, key, start, stop, digests = found
    digests = [digests] if block_bytes is None else digests
    if not isinstance(file, str) or not _FILE.fullmatch(file):  # nothing outside the folder
        raise ValueError(f"a piece of {name} lies in {file!r}, which is no rank's file")
    if not (isinstance(key, str) and isinstance(digests, list) and all(map(_is_digest, digests))):
        raise ValueError(f"a piece of {name} is described by {str(found)[:200]}")
    start, stop = _whole(start, f"a start in {name}"), _whole(stop, f"a stop in {name}")
    return Piece(file, key, start, stop, tuple(digests))


def _is_digest(found: Any) -> bool:
    return isinstance(found, str) and len(found) in (32, 64)
