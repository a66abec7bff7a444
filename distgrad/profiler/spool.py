"""Spool files: what each rank leaves, and all of it read with the clocks of the ranks brought together.

A spool file is lines, so that what stands in it is whole whatever becomes of the process. A line of JSON that
is an object says something about the process (``rank``, ``usage``, ``pings``, ``end``). Any other holds spans
``[name, start_s, end_s, thread, fields]`` and events ``[name, time_s, null, thread, fields]``: in JSON, or
where all fields are plain as Python's ``marshal`` writes them, in base64, which takes a sixth of the time.
"""

from __future__ import annotations

import binascii
import contextlib
import itertools
import json
import marshal
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distgrad.errors import DataError
from distgrad.profiler.clocks import Ping, Relation, relate

__all__ = ["SpoolFile", "align", "encode", "has_ended", "is_growing", "read_folder"]

_SILENT_S = 10.0  # ranks write twice a second
_MARSHAL = 4  # its format, which every Python reads
_PLAIN = {int, float, str, bool, type(None)}  # of other types, such as NumPy's floats, marshal keeps bytes


def encode(batch: list[Any]) -> bytes:
    """The line that holds spans and events."""
    fields = (each[4].values() for each in batch)
    if set(map(type, itertools.chain.from_iterable(fields))) <= _PLAIN:
        return binascii.b2a_base64(marshal.dumps(batch, _MARSHAL))
    return json.dumps(batch, default=str, separators=(",", ":")).encode() + b"\n"


@dataclass
class SpoolFile:
    """What one process has left.

    Attributes:
        path: its file.
        about: what it said of itself first: ``host``, ``pid``, ``clock``, ``argv``, ``perf_s``, ``time_s``.
        rank: its place among all ranks.
        size: the number of ranks, as far as it knew.
        pings: questions for rank 0's time.
        usage: what it had used, twice a second, with ``owners``.
        limits: what was measured of the machine at the end.
        lost: spans that were dropped.
        ended: whether it came to its end.
        relation: its clock in terms of rank 0's.
        trouble: why the clocks could not be brought together; empty if they could.
    """

    path: Path
    about: dict[str, Any]
    rank: int = 0
    size: int = 1
    pings: list[Ping] = field(default_factory=list)
    usage: list[dict[str, Any]] = field(default_factory=list)
    limits: dict[str, dict[str, float]] = field(default_factory=dict)
    lost: int = 0
    ended: bool = False
    relation: Relation = field(default_factory=Relation)
    trouble: str = ""

    @property
    def attempt(self) -> int:
        """How often the launcher had started the ranks before."""
        return int(self.about.get("attempt", 0))

    def batches(self) -> Iterator[list[Sequence[Any]]]:
        """The spans and events, as they were written together."""
        return (line for line in _lines(self.path) if isinstance(line, list))


def _lines(path: Path) -> Iterator[Any]:
    """The lines of a file; the last may be half written, and a killed process writes no more."""
    with open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, EOFError, TypeError):
                yield json.loads(line) if line[:1] in b"{[" else marshal.loads(binascii.a2b_base64(line))


def _read(path: Path) -> SpoolFile | None:
    found: SpoolFile | None = None
    for line in _lines(path):
        if not isinstance(line, dict):
            continue
        if found is None:
            found = SpoolFile(path, line)
        elif "rank" in line:
            found.rank, found.size = line["rank"], line["size"]
        elif "pings" in line:
            found.pings += [(a, b, c) for a, b, c in line["pings"]]
        elif "usage" in line:
            found.usage.append({**line["usage"], "owners": line["owners"]})
            found.lost = line["lost"]
        elif "limits" in line:
            found.limits = line["limits"]
        elif "end" in line:
            found.ended = True
    return found


def read_folder(folder: Path, since_s: float = 0.0) -> list[SpoolFile]:
    """What the ranks have left in a spool folder, in their order.

    Args:
        folder: the folder.
        since_s: files that were last written before this time (of ``st_mtime``) belong to an earlier job.

    Raises:
        DataError: there is nothing.
    """
    # Marshal trusts what it reads, so that only files of this user's own are read.
    about = [(path, path.stat()) for path in sorted(folder.glob("*.jsonl"))]
    paths = [path for path, stat in about if stat.st_mtime >= since_s and stat.st_uid == os.geteuid()]
    found = [file for file in map(_read, paths) if file is not None]
    if not found:
        raise DataError(
            f"profiler: {folder} holds nothing that a rank of this user has recorded; the script must import "
            "distgrad, and all hosts must see this folder"
        )
    found.sort(key=lambda file: (file.rank, file.about["time_s"]))
    return found


def align(files: list[SpoolFile]) -> None:
    """Bring all clocks together, to that of the first file; what cannot be is said in ``trouble``."""
    first = files[0]
    for file in files[1:]:
        if file.about["clock"] == first.about["clock"]:
            continue
        try:
            # Ranks of one host share a clock, so that one's answers serve the others.
            same = [each for each in files if each.about["clock"] == file.about["clock"]]
            file.relation = relate(sorted(ping for each in same for ping in each.pings))
        except ValueError as error:
            # The machines' own idea of the time of day is all that is left.
            offset = (file.about["perf_s"] - file.about["time_s"]) - (
                first.about["perf_s"] - first.about["time_s"]
            )
            file.relation = Relation(-offset, error_s=float("inf"))
            file.trouble = f"{error}; taken from the time of day"


def is_growing(folder: Path) -> bool:
    """Whether a rank that has not come to its end has written of late, so that it may still run."""
    now_s = time.time()
    return any(
        abs(now_s - path.stat().st_mtime) < _SILENT_S and not has_ended(path)
        for path in folder.glob("*.jsonl")
    )


def has_ended(path: Path) -> bool:
    """Whether the process that writes a file has come to its end."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 64))
        return file.read().endswith(b'\n{"end":true}\n')
