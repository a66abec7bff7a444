"""A folder for a program to work in that looks like another one: what it writes there stays there."""

from __future__ import annotations

import itertools
import os
from collections import deque
from contextlib import suppress
from pathlib import Path

__all__ = ["mirror"]

MOST = 1000  # entries that are looked at below a folder; what holds more is a link as a whole


def mirror(folder: Path, place: Path, hidden: Path) -> Path:
    """Make a folder in which all relative names lead to what they lead to in another.

    Folders are made anew and files are links, so that a new file, or one that is renamed to a name that was
    there, changes nothing in the other. Names that begin with ``..`` lead where they did; what is written
    there, or into a file that was there, is written for good, as is what large folders get, which are links.

    Args:
        folder: the other one.
        place: where everything goes; made here, for its maker to remove.
        hidden: what is left out.

    Returns:
        The folder in ``place``.
    """
    folder = folder.absolute()
    for inner, outer in itertools.pairwise([folder, *folder.parents]):
        beside = _entries(outer, MOST)
        target = _within(place, outer)
        target.mkdir(parents=True, exist_ok=True)
        for entry in beside or ():
            if entry.name != inner.name:
                os.symlink(entry.path, target / entry.name)
    left = MOST
    waiting = deque([folder])
    while waiting:
        source = waiting.popleft()
        entries = _entries(source, None if source == folder else left)
        if entries is None:
            os.symlink(source, _within(place, source))
            continue
        left = max(0, left - len(entries))
        _within(place, source).mkdir(parents=True, exist_ok=True)
        for entry in entries:
            path = Path(entry.path)
            if path == hidden.absolute():
                continue
            if entry.is_dir(follow_symlinks=False) and entry.name[0] != ".":
                waiting.append(path)
            else:
                os.symlink(path, _within(place, path))
    return _within(place, folder)


def _within(place: Path, path: Path) -> Path:
    return place / path.relative_to(path.anchor)


def _entries(folder: Path, most: int | None) -> list[os.DirEntry[str]] | None:
    """What a folder holds; None if that cannot be read, or is more than ``most``."""
    with suppress(OSError), os.scandir(folder) as found:
        entries = list(found if most is None else itertools.islice(found, most + 1))
        return None if most is not None and len(entries) > most else entries
    return None
