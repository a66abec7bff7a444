"""Samples in tar files, read from where they lie: a shard is never unpacked."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.data.dataset import Dataset
from distgrad.errors import DataError

__all__ = ["TarDataset"]


class TarDataset(Dataset):
    """Samples of tar files: what lies side by side under one name up to its first dot is a sample.

    ``dog/17.jpg`` and ``dog/17.cls`` make ``{"__key__": "dog/17", "jpg": b"…", "cls": b"…"}``. The headers
    are read once, for the place of every file; a sample is then read from its place. So it has a number, and
    samplers deal samples out to ranks, shuffle them and go on in mid-epoch on any number of ranks as of any
    other dataset. Shuffled samples are read all over the shards, which disks without moving parts do well.

    What has no dot in its name, as a ``README``, begins with one, or is named ``__like_this__.x`` belongs to
    no sample.

    Args:
        paths: the shards, not compressed; or one.
        decode: makes a sample of such a dict; None gives the dict.

    Raises:
        DataError: a shard that is missing, truncated, compressed or no tar file, or one without files, or
            with two files of one name in a sample.

    Source: the convention of WebDataset (Aizman et al., IEEE Big Data 2019).
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        decode: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        several = [paths] if isinstance(paths, str | os.PathLike) else paths
        self.paths = [Path(path).absolute() for path in several]
        self.decode = decode
        self._kinds: list[str] = []
        keys: list[bytes] = []
        firsts: list[int] = []  # of each sample its first file
        files: list[tuple[int, int, int, int]] = []  # shard, place, bytes and kind
        numbers: dict[str, int] = {}
        for shard, path in enumerate(self.paths):
            last = None
            for name, place, size in _members(path):
                stem, kind = _split(name)
                if not kind:
                    continue
                if stem != last:
                    keys.append(stem.encode(errors="surrogateescape"))
                    firsts.append(len(files))
                    kinds: set[str] = set()
                if kind in kinds:
                    raise DataError(
                        f"TarDataset: {path} has {name} twice in one sample; name its files apart"
                    )
                last = stem
                kinds.add(kind)
                files.append((shard, place, size, numbers.setdefault(kind, len(numbers))))
        if not files:
            raise DataError(
                f"TarDataset: no samples in {list(map(str, self.paths))}: files named like 17.jpg and 17.cls "
                "make one; give shards that have some"
            )
        self._kinds = list(numbers)
        self._keys = np.array(keys)
        self._firsts = np.array([*firsts, len(files)], np.int64)
        self._files = np.array(files, np.int64)

    def __getitem__(self, index: int) -> Any:
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"TarDataset: index {index} is out of range for {len(self)} samples")
        sample: dict[str, Any] = {"__key__": self._keys[place].decode(errors="surrogateescape")}
        for shard, start, size, kind in self._files[self._firsts[place] : self._firsts[place + 1]].tolist():
            sample[self._kinds[kind]] = _read(self.paths[shard], start, size)
        return sample if self.decode is None else self.decode(sample)

    def __len__(self) -> int:
        return len(self._keys)


def _split(name: str) -> tuple[str, str]:
    """The name of a sample, and what kind of file of it this is: none where it belongs to no sample."""
    folder, slash, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    named = stem and not (stem.startswith("__") and stem.endswith("__"))
    return f"{folder}{slash}{stem}", kind if named else ""


def _members(path: Path) -> Iterable[tuple[str, int, int]]:
    """Name, place and bytes of every file in a shard."""
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if not member.isfile():
                    continue
                if member.issparse() or member.offset_data + member.size > size:
                    raise DataError(
                        f"TarDataset: {path}: {member.name} is not whole in it; the shard is truncated, or "
                        "has files with holes"
                    )
                yield member.name, member.offset_data, member.size
            end = shard.offset
        if size < end + tarfile.BLOCKSIZE or any(_read(path, end, tarfile.BLOCKSIZE)):
            raise DataError(  # tarfile takes what it cannot read for the end
                f"TarDataset: {path} is truncated or damaged at byte {end}, where neither a file begins nor "
                "the archive ends; make it anew"
            )
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"TarDataset: cannot read {path}: {error.strerror}") from None
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise DataError(
            f"TarDataset: {path} is no whole tar file without compression ({error}); unpack .gz and the like "
            "first, as a sample is read from its place"
        ) from None


def _read(path: Path, start: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            found = file.read(size)
    except OSError as error:
        raise DataError(f"TarDataset: cannot read {path}: {error.strerror}") from None
    if len(found) != size:
        raise DataError(f"TarDataset: {path} has become shorter since it was opened")
    return found
