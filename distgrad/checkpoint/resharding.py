"""A checkpoint written anew as another number of ranks would have, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distgrad.checkpoint.layout import Entry, Manifest, Piece, draft, rank_file, share
from distgrad.checkpoint.pieces import Reader, Slice, write_file
from distgrad.checkpoint.places import Place, discard
from distgrad.checkpoint.tree import array_names
from distgrad.checkpoint.writer import publish
from distgrad.errors import OptionError

__all__ = ["reshard"]

_CHUNK_BYTES = 16 << 20


class _Range:
    """Elements of an array in a checkpoint, which are read as they are written."""

    def __init__(self, reader: Reader, name: str, start: int, stop: int) -> None:
        self._reader, self._name, self._start = reader, name, start
        self.dtype = reader.manifest.arrays[name].dtype
        self.size = stop - start
        self.nbytes = self.size * self.dtype.itemsize

    def chunks(self) -> Iterator[np.ndarray]:
        step = _CHUNK_BYTES // self.dtype.itemsize
        for first in range(0, self.size, step):
            last = min(first + step, self.size)
            yield self._reader.range(self._name, self._start + first, self._start + last)


def reshard(reader: Reader, num_ranks: int, root: Place) -> Place:
    """Write a checkpoint into ``root`` as ``num_ranks`` ranks would have; one of its step is replaced.

    What a rank has alone stays with the rank of its number, as far as there is one.

    Returns:
        The checkpoint's folder.

    Raises:
        DataError: the checkpoint is damaged.
        OSError: ``root`` cannot be written.
        OptionError: it is a store, and would be read and written in one place.
    """
    old = reader.manifest
    ranks = tuple(old.ranks[rank] if rank < old.world_size else {} for rank in range(num_ranks))
    owner = {
        name: rank
        for rank, own in enumerate(old.ranks)
        for tree in own.values()
        for name in array_names(tree)
    }
    kept = {name: entry for name, entry in old.arrays.items() if owner.get(name, 0) < num_ranks}
    divided = {name: entry for name, entry in kept.items() if name not in owner}
    part = draft(root, old.step)
    if part == reader.folder:
        raise OptionError(f"checkpoint: {part} cannot be replaced in a store; name another place with -o")
    discard(part)
    part.mkdir()
    try:
        pieces: dict[str, list[Piece]] = {}
        for rank in range(num_ranks):
            slices = []
            ranges = share([entry.nbytes for entry in divided.values()], rank, num_ranks)
            for (name, entry), (start, stop) in zip(divided.items(), ranges, strict=True):
                first, last = start // entry.dtype.itemsize, stop // entry.dtype.itemsize
                slices.append(Slice(name, first, _Range(reader, name, first, last)))
            slices += [
                Slice(name, 0, _Range(reader, name, 0, entry.size))
                for name, entry in kept.items()
                if owner.get(name) == rank
            ]
            written = write_file(part / rank_file(rank), [each for each in slices if each.data.size])
            for name, found in written.items():
                pieces.setdefault(name, []).extend(found)
        arrays = {
            name: Entry(entry.dtype, entry.shape, tuple(pieces.get(name, ()))) for name, entry in kept.items()
        }
        return publish(
            root, Manifest(old.step, num_ranks, old.tree, ranks, arrays, {**old.notes, "resharded": True})
        )
    except BaseException:
        discard(part)
        raise
