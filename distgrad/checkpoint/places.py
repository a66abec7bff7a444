"""Where checkpoints lie: folders, and object stores, which know neither renaming nor locks nor folders."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from distgrad.errors import OptionError

__all__ = [
    "MANIFEST",
    "MARK",
    "Name",
    "Place",
    "StorePath",
    "created",
    "discard",
    "place_of",
    "reading",
    "write_text",
]

MANIFEST = "manifest.json"
MARK = ".distgrad-part"  # an object that stands for a folder as long as that is written

_BEGIN_BYTES = 8 << 20  # written, after which the kernel is to begin with them: many requests for a disk
_BEGIN = 2  # SYNC_FILE_RANGE_WRITE: waits for nothing; fsync tells of errors
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class _Stat(NamedTuple):
    st_size: int


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Errors of whatever kind a store has, as those of files."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    except Exception as error:
        why = getattr(error, "strerror", None) or str(error) or repr(error)
        raise OSError(errno.EIO, why) from error


class StorePath:
    """A name in an object store: of what pathlib's paths do, that which checkpoints need.

    Args:
        files: fsspec's file system.
        path: the name as that has it.
    """

    def __init__(self, files: Any, path: str) -> None:
        self._files, self._path = files, path.rstrip("/")

    def __str__(self) -> str:
        return str(self._files.unstrip_protocol(self._path))

    def __truediv__(self, name: str) -> StorePath:
        return StorePath(self._files, f"{self._path}/{name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def name(self) -> str:
        """What stands behind the last stroke."""
        return self._path.rpartition("/")[2]

    @property
    def parent(self) -> StorePath:
        """What stands before it."""
        return StorePath(self._files, self._path.rpartition("/")[0])

    def absolute(self) -> StorePath:
        """Itself."""
        return self

    def is_symlink(self) -> bool:
        """A store has no links."""
        return False

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        with _said():
            return bool(self._files.isfile(self._path))

    def is_dir(self) -> bool:
        """Whether :meth:`mkdir` was called, by whichever process."""
        return (self / MARK).is_file()

    def mkdir(self) -> None:
        """Leave an object by which others see that they use the same store."""
        with _said():
            self._files.makedirs(self._path, exist_ok=True)
        (self / MARK).write_text("")

    def iterdir(self) -> Iterator[StorePath]:
        """What lies under this name."""
        with _said():
            found = [str(each).rstrip("/").rpartition("/")[2] for each in self._files.ls(self._path, False)]
        return (self / name for name in found)

    def stat(self) -> _Stat:
        """How many bytes an object has."""
        with _said():
            return _Stat(int(self._files.info(self._path)["size"]))

    def read_into(self, data: memoryview, place: int) -> int:
        """Read as many bytes as ``data`` takes, from a place on; returns how many there were."""
        with _said():
            found = self._files.cat_file(self._path, start=place, end=place + len(data))
        data[: len(found)] = found
        return len(found)

    def read_text(self) -> str:
        """All of an object."""
        with _said():
            return bytes(self._files.cat_file(self._path)).decode()

    def write_text(self, text: str) -> int:
        """Put an object as a whole, as stores do; a local file gets its name once it is whole."""
        schemes = self._files.protocol
        local = "file" in ((schemes,) if isinstance(schemes, str) else schemes)  # others may read
        beside = f"{self._path}.new" if local else self._path
        with _said():
            self._files.pipe_file(beside, text.encode())
            if local:
                os.replace(beside, self._path)
        return len(text)

    def unlink(self) -> None:
        """Remove an object."""
        with _said():
            self._files.rm_file(self._path)

    def open(self, mode: str) -> Any:
        """A file to read from, or to write an object by, which is there once the file is closed."""
        with _said():
            return self._files.open(self._path, mode)

    def remove(self) -> None:
        """Remove all that lies under this name."""
        with contextlib.suppress(FileNotFoundError), _said():
            self._files.rm(self._path, recursive=True)


Place = Path | StorePath
Name = str | os.PathLike[str] | StorePath


def place_of(folder: Name) -> Place:
    """A folder, or an address in an object store (``s3://bucket/run``), as fsspec has it.

    Raises:
        OptionError: no name, or an address where fsspec, or what it needs for that store, is not installed.
    """
    if isinstance(folder, StorePath):
        return folder
    name = os.fsdecode(folder)
    if not name:
        raise OptionError("checkpoint: the folder's name is empty; None saves nothing, '.' is this folder")
    scheme, sign, _ = name.partition("://")
    if not sign or not scheme.isalnum():
        return Path(name)
    try:
        files, path = importlib.import_module("fsspec").url_to_fs(name, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise OptionError(
            f"checkpoint: {name} is an address, and no package for it is installed ({error}); install fsspec "
            "and what it needs for this store, or mount the store as a folder"
        ) from None
    except Exception as error:  # whatever the store's package raises
        raise OptionError(f"checkpoint: {name} cannot be used: {error!r}") from error
    return StorePath(files, path)


@contextlib.contextmanager
def reading(path: Place) -> Iterator[Callable[[memoryview, int], int]]:
    """What fills memory from a place of a file on, by several threads at a time; it tells how many bytes."""
    if isinstance(path, StorePath):
        yield path.read_into
        return
    with open(path, "rb") as file:
        yield lambda data, place: os.preadv(file.fileno(), [data], place)


class _NewFile(io.BufferedWriter):
    """What is written goes to the disk meanwhile, and not only once all of it lies in the page cache."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "xb"))
        self._size = self._begun = 0

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        self._size += written
        if self._size - self._begun >= _BEGIN_BYTES and _sync_file_range is not None:
            _sync_file_range(self.fileno(), self._begun, self._size - self._begun, _BEGIN)
            self._begun = self._size
        return written


@contextlib.contextmanager
def created(path: Place) -> Iterator[BinaryIO]:
    """A new file to write to, which is on the disk, or in the store, at the end."""
    if isinstance(path, StorePath):
        with _said(), path.open("wb") as file:
            yield file
        return
    with _NewFile(path) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Place, text: str) -> None:
    """A small file, on the disk or in the store, whole or not at all."""
    if isinstance(path, StorePath):
        path.write_text(text)
        return
    beside = path.with_name(f"{path.name}.new")
    with open(beside, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def discard(folder: Place) -> None:
    """Remove a folder, as far as that can be done; of a checkpoint in a store the manifest first."""
    if isinstance(folder, StorePath):
        with contextlib.suppress(OSError):
            if (folder / MANIFEST).is_file():
                (folder / MANIFEST).unlink()
            folder.remove()
    else:
        shutil.rmtree(folder, ignore_errors=True)
