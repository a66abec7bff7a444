"""Files in folders that other users may write to, such as /tmp: no link of theirs leads us elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from io import FileIO
from pathlib import Path

__all__ = ["create_files"]

_MAX_LINKS = 40  # as the kernel's own


def create_files(folder: Path, names: list[str]) -> list[FileIO]:
    """Create files anew, those of the same names being replaced, and open them for writing without a buffer.

    Links on the way are followed if they are the user's own or root's, and the files are never links.

    Args:
        folder: where; made if it is not there.
        names: of the files.

    Raises:
        PermissionError: a link on the way is another user's.
        OSError: the folder cannot be made, or a file in it.
    """
    place = _walk(folder)
    try:
        return [_create(place, name) for name in names]
    finally:
        os.close(place)


def _walk(folder: Path) -> int:
    """A descriptor of the folder, gone to name by name, so that no link can appear between two looks."""
    names = list(reversed(folder.absolute().parts))
    place, num_links = os.open("/", os.O_PATH), 0
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, place)
        while names:
            place, above = _enter(place, names.pop(), folder), place
            opened.callback(os.close, place)
            status = os.fstat(place)
            if not stat.S_ISLNK(status.st_mode):
                continue
            target = os.readlink("", dir_fd=place)
            if status.st_uid not in (0, os.geteuid()):
                raise PermissionError(
                    f"{folder}: a link to {target} on the way is of user {status.st_uid}, not yours; "
                    "name a folder that no other user can write to"
                )
            num_links += 1
            if num_links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
            names += reversed(Path(target).parts)
            place = above
        return os.dup(place)


def _enter(place: int, name: str, folder: Path) -> int:
    """A descriptor of what is called ``name`` there, of a link itself; made a folder if there is nothing."""
    flags = os.O_PATH | os.O_NOFOLLOW
    try:
        with contextlib.suppress(FileNotFoundError):
            return os.open(name, flags, dir_fd=place)
        with contextlib.suppress(FileExistsError):  # another job was faster
            os.mkdir(name, dir_fd=place)
        return os.open(name, flags, dir_fd=place)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def _create(place: int, name: str) -> FileIO:
    """A new file of ours; what had the name goes, be it a file or a link, but not what it led to."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return FileIO(name, "wb", opener=lambda path, _: os.open(path, flags, 0o666, dir_fd=place))
