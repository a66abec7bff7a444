"""Reading and writing one rank's file of a checkpoint: ranges of arrays, in the safetensors format."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from distgrad.autograd.parts import Part
from distgrad.backend.memory import empty_in_pages
from distgrad.backend.threads import get_num_threads
from distgrad.checkpoint.digests import BLOCK_BYTES, agrees, digest_of
from distgrad.checkpoint.layout import Entry, Manifest, Piece, dtype_name, parse_dtype
from distgrad.checkpoint.places import Place, created, reading
from distgrad.checkpoint.tree import array_names, decode
from distgrad.errors import DataError

__all__ = ["Chunked", "Reader", "Slice", "Stored", "copy_all", "write_file", "write_slices"]

_PART_BYTES = 1 << 20  # that are worth a thread of their own
_READERS = 8  # threads; some wait for the disk while others make memory and compare digests
_OPEN_FILES = 64  # at a time; a process may have 1024, and a job more ranks


class Chunked(Protocol):
    """Elements that are made, or read, as they are written."""

    dtype: np.dtype
    size: int
    nbytes: int

    def chunks(self) -> Iterator[np.ndarray]:
        """The elements, some at a time: whole blocks, but for the last."""


class Slice(NamedTuple):
    """What is written of an array.

    Attributes:
        name: of the array.
        start: the first element in the flattened array.
        data: the elements, flat, or what gives them bit by bit.
    """

    name: str
    start: int
    data: np.ndarray | Chunked

    def chunks(self) -> Iterator[np.ndarray]:
        """The elements, some at a time."""
        if isinstance(self.data, np.ndarray):
            yield self.data
        else:
            yield from self.data.chunks()


def write_file(path: Place, slices: Sequence[Slice]) -> dict[str, list[Piece]]:
    """Write slices to a new file, to the disk; returns the pieces by the arrays' names."""
    with created(path) as file:
        return write_slices(file, path.name, slices)


def write_slices(file: BinaryIO, name: str, slices: Sequence[Slice]) -> dict[str, list[Piece]]:
    """Write slices to a file of that name, from where it stands; returns the pieces by the arrays' names."""
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
    found: dict[str, list[Piece]] = {}
    file.write(len(text).to_bytes(8, "little") + text)
    for part, key in zip(slices, keys, strict=True):
        digests = []
        for chunk in part.chunks():  # of whole blocks, but for the last
            data = chunk.view(np.uint8).data
            for start in range(0, len(data), BLOCK_BYTES):
                block = data[start : start + BLOCK_BYTES]
                digests.append(digest_of(block))
                file.write(block)
        piece = Piece(name, key, part.start, part.start + part.data.size, tuple(digests))
        found.setdefault(part.name, []).append(piece)
    return found


def _run_all(run: Callable[[int], None], sizes: Sequence[int], most_threads: int) -> None:
    """Call ``run(number)`` for all of several things, which begin in their order, by several threads.

    Args:
        run: what to call; it leaves the interpreter to other threads.
        sizes: how many bytes each has.
        most_threads: fewer take part where there is little to do.
    """
    left = collections.deque(range(len(sizes)))

    def run_some() -> None:
        while left:
            try:
                number = left.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                run(number)
            except BaseException:
                left.clear()  # so that the others end too
                raise

    threads = min(most_threads, sum(sizes) // _PART_BYTES)
    if threads <= 1:
        run_some()
        return
    with ThreadPoolExecutor(threads) as executor:
        for each in [executor.submit(run_some) for _ in range(threads)]:
            each.result()


def copy_all(pairs: Sequence[tuple[np.ndarray, Any]]) -> None:
    """Copy each second array, flat, into the first, by several threads."""
    blocks = [
        (target[start : start + step], source[start : start + step])
        for target, source in pairs
        for step in (max(1, BLOCK_BYTES // target.itemsize),)
        for start in range(0, target.size, step)
    ]
    sizes = [target.nbytes for target, _ in blocks]
    _run_all(lambda number: np.copyto(*blocks[number]), sizes, get_num_threads())


class Stored:
    """An array in a checkpoint, before it is read.

    Attributes:
        name: in the manifest.
        shape: of all of it.
        range: the elements to read, of the flattened array: the first, and one past the last; None: all.
    """

    def __init__(self, name: str, entry: Entry) -> None:
        self.name, self.entry, self.shape = name, entry, entry.shape
        self.range: tuple[int, int] | None = None
        self.data = np.empty(0, entry.dtype)

    def make(self) -> np.ndarray:
        """Memory for the elements to read, flat."""
        start, stop = self.range or (0, self.entry.size)
        self.data = empty_in_pages(stop - start, self.entry.dtype)
        return self.data

    def value(self) -> np.ndarray | Part:
        """What was read."""
        return (
            self.data.reshape(self.shape)
            if self.range is None
            else Part(self.shape, self.range[0], self.data)
        )


class _Block(NamedTuple):
    """Bytes of a file that have a digest.

    Attributes:
        name: of the array.
        file: the file's name.
        place: where they begin in it.
        size: how many they are.
        digest: what theirs is to be.
        skip: bytes before those that are wanted.
        out: where these go.
    """

    name: str
    file: str
    place: int
    size: int
    digest: str
    skip: int
    out: np.ndarray


class Reader:
    """Takes arrays, or ranges of them, straight from a checkpoint's files, and compares their digests.

    Args:
        folder: of the checkpoint.
        manifest: what it says.
    """

    def __init__(self, folder: Place, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._headers: dict[str, tuple[dict[str, Any], int, int]] = {}

    def array(self, name: str) -> np.ndarray:
        """A whole array.

        Raises:
            DataError: a file that is missing or damaged, with its name.
        """
        entry = self.manifest.arrays[name]
        return self.range(name, 0, entry.size).reshape(entry.shape)

    def range(self, name: str, start: int, stop: int) -> np.ndarray:
        """The elements ``start`` to ``stop`` of a flattened array, and at most a block more at either end."""
        stored = Stored(name, self.manifest.arrays[name])
        stored.range = start, stop
        self.read([stored])
        return stored.data

    def stored(self, trees: Iterable[Any]) -> dict[str, Stored]:
        """The arrays of several trees by name, before they are read.

        Raises:
            DataError: a tree that is damaged, or names an array which is not there.
        """
        try:
            names = list(dict.fromkeys(itertools.chain.from_iterable(map(array_names, trees))))
        except (ValueError, TypeError, IndexError, KeyError, RecursionError) as error:
            raise self._damaged_tree(error) from None
        lacking = [name for name in names if name not in self.manifest.arrays]
        if lacking:
            raise DataError(f"checkpoint: {self.folder}: the manifest describes no array {lacking[0]!r}")
        return {name: Stored(name, self.manifest.arrays[name]) for name in names}

    def read(self, stored: Iterable[Stored]) -> None:
        """Read arrays into memory of their own, by several threads.

        Raises:
            DataError: a file that is missing or damaged, with its name.
        """
        blocks = [block for each in stored for block in self._blocks(each)]
        names = list(dict.fromkeys(block.file for block in blocks))
        for first in range(0, len(names), _OPEN_FILES):
            some = set(names[first : first + _OPEN_FILES])
            self._read_blocks(some, [block for block in blocks if block.file in some])

    def _read_blocks(self, names: Iterable[str], blocks: Sequence[_Block]) -> None:
        """Read blocks of these files."""
        with contextlib.ExitStack() as stack:
            reads = {name: stack.enter_context(reading(self.folder / name)) for name in names}
            _run_all(
                lambda number: self._take(reads[blocks[number].file], blocks[number]),
                [block.size for block in blocks],
                _READERS,
            )

    def decoded(self, tree: Any, arrays: Mapping[str, Stored] | None = None) -> Any:
        """The state that a tree stands for.

        Args:
            tree: of the manifest.
            arrays: what was read; None reads all that the tree names.

        Raises:
            DataError: as :meth:`stored` and :meth:`read`.
        """
        if arrays is None:
            arrays = self.stored([tree])
            self.read(arrays.values())
        return self._decoded(tree, lambda name: arrays[name].value())

    def planned(self, tree: Any, arrays: Mapping[str, Stored]) -> Any:
        """The state that a tree stands for, with what is yet to be read in the place of its arrays.

        Raises:
            DataError: as :meth:`stored`.
        """
        return self._decoded(tree, arrays.__getitem__)

    def _decoded(self, tree: Any, array: Callable[[str], Any]) -> Any:
        try:
            return decode(tree, array)
        except (ValueError, TypeError, IndexError, KeyError, RecursionError) as error:
            raise self._damaged_tree(error) from None

    def _damaged_tree(self, error: Exception) -> DataError:
        return DataError(f"checkpoint: {self.folder}: the manifest's tree is damaged: {error!r}")

    def verify(self) -> Iterator[str]:
        """The names of all arrays, each once its digests agree.

        Raises:
            DataError: as :meth:`array`.
        """
        for name, entry in self.manifest.arrays.items():
            self.read([Stored(name, entry)])
            yield name

    def _blocks(self, stored: Stored) -> Iterator[_Block]:
        """The blocks that hold an array's wanted elements; memory for these is made."""
        entry = stored.entry
        found = [self._place(stored.name, entry, piece) for piece in entry.pieces]
        start, _ = stored.range or (0, entry.size)
        out = stored.make().view(np.uint8)
        itemsize = entry.dtype.itemsize
        for piece, base in zip(entry.pieces, found, strict=True):
            num_bytes = (piece.stop - piece.start) * itemsize
            step = self.manifest.block_bytes or max(num_bytes, 1)
            before = (
                piece.start - start
            ) * itemsize  # where the piece begins in what is wanted, maybe below 0
            first, last = max(0, -before), min(num_bytes, out.size - before)
            for number in range(first // step, -(-last // step) if first < last else 0):
                begin, end = number * step, min((number + 1) * step, num_bytes)
                wanted = out[max(begin, first) + before : min(end, last) + before]
                skip, digest = max(begin, first) - begin, piece.digests[number]
                yield _Block(stored.name, piece.file, base + begin, end - begin, digest, skip, wanted)

    def _take(self, read: Callable[[memoryview, int], int], block: _Block) -> None:
        """Read one block, compare its digest, and hand out what is wanted of it."""
        data = block.out if block.out.size == block.size else np.empty(block.size, np.uint8)
        path, count = self.folder / block.file, 0
        while count < block.size:
            try:
                got = read(data[count:].data, block.place + count)
            except OSError as error:
                raise DataError(f"checkpoint: cannot read {path}: {error.strerror}") from None
            if not got:
                raise DataError(
                    f"checkpoint: {path} is truncated: {block.name} lacks {block.size - count} bytes"
                )
            count += got
        if not agrees(data.data, block.digest):
            raise DataError(
                f"checkpoint: {path}: the bytes of {block.name} differ from their digest; the file was "
                "changed after it was written, take another checkpoint"
            )
        if data is not block.out:
            block.out[...] = data[block.skip : block.skip + block.out.size]

    def _place(self, name: str, entry: Entry, piece: Piece) -> int:
        """Where a piece begins in its file."""
        path = self.folder / piece.file
        header, base, size_of_file = self._header(piece.file)
        try:
            found = header[piece.key]
            start, stop = found["data_offsets"]
            length = math.prod(found["shape"])
            dtype = parse_dtype(found["dtype"])
            size = piece.stop - piece.start
            if dtype != entry.dtype or length != size or stop - start != size * dtype.itemsize or start < 0:
                raise DataError(f"checkpoint: {path}: {piece.key!r} is not what the manifest says")
            if base + stop > size_of_file:  # before memory is made for it
                raise DataError(f"checkpoint: {path} is truncated: {name} ends after the file")
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"checkpoint: {path} does not describe {piece.key!r}: {error!r}") from None
        return int(base + start)

    def _header(self, name: str) -> tuple[dict[str, Any], int, int]:
        """What a file's header says, where the bytes begin, and how long it is."""
        if name not in self._headers:
            path = self.folder / name
            try:
                if path.is_symlink():
                    raise DataError(f"checkpoint: {path} is a link; a checkpoint's files lie in its folder")
                size = path.stat().st_size
                with path.open("rb") as file:
                    length = int.from_bytes(file.read(8), "little")
                    if length > size:
                        raise ValueError("its header is longer than the file")
                    header = json.loads(file.read(length))
                    _check_header(header)
            except OSError as error:
                raise DataError(f"checkpoint: cannot read {path}: {error.strerror}") from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"checkpoint: {path} is truncated or no safetensors file: {error}") from None
            self._headers[name] = header, 8 + length, size
        return self._headers[name]


def _check_header(header: Any) -> None:
    """Refuse what describes no arrays that lie side by side.

    Raises:
        ValueError: it does not.
    """
    try:
        ranges = sorted(
            tuple(map(int, each["data_offsets"])) for key, each in header.items() if key != "__metadata__"
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its header does not describe arrays: {error!r}") from None
    edges = [0, *(edge for each in ranges for edge in each)]
    if any(len(each) != 2 for each in ranges) or edges != sorted(edges):
        raise ValueError("arrays in it overlap")
