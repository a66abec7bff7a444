"""Horovod's timeline: when which call was issued and carried out, as a file for ``chrome://tracing``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distgrad.errors import OptionError
from distgrad.horovod.sets import rank

__all__ = ["start_timeline", "stop_timeline", "timed"]


class _Timeline:
    """Events of one file, which are kept until it is written."""

    def __init__(self, path: Path, mark_cycles: bool) -> None:
        self.path, self.mark_cycles = path, mark_cycles
        self.start = time.perf_counter()
        self.rows: dict[str, int] = {}
        began = {"start_time_since_epoch_in_micros": int(time.time() * 1e6)}
        self.events: list[dict[str, Any]] = [{"name": "process_name", "ph": "M", "pid": 0, "args": began}]

    def now(self) -> float:
        """Microseconds since it was begun."""
        return 1e6 * (time.perf_counter() - self.start)

    def add(self, tensor: str, verb: str, issued: float, begun: float, over: float) -> None:
        """The two spans of one call: until all ranks were ready for it, and of the call itself."""
        row = self.rows.setdefault(tensor, len(self.rows) + 1)
        if row == len(self.rows):
            self.events.append({"name": "process_name", "ph": "M", "pid": row, "args": {"name": tensor}})
        if self.mark_cycles:
            self.events.append({"name": "CYCLE_START", "ph": "i", "pid": 0, "ts": begun, "s": "g"})
        for name, start, stop in ((f"NEGOTIATE_{verb}", issued, begun), (verb, begun, over)):
            self.events.append({"name": name, "ph": "X", "pid": row, "ts": start, "dur": stop - start})


_current: list[_Timeline] = []


def start_timeline(file_path: str, mark_cycles: bool = False) -> None:
    """Keep, from now on, when the calls of rank 0 are carried out; nothing where that is done already.

    Collective: no; blocks: no.

    Args:
        file_path: rank 0 writes it at :func:`stop_timeline`.
        mark_cycles: whether each piece of work of the communication thread is marked, too.

    Raises:
        OptionError: the file's folder is not there.
    """
    path = Path(file_path)
    if not path.absolute().parent.is_dir():
        raise OptionError(f"start_timeline: there is no folder {path.absolute().parent}; create it first")
    if rank() == 0 and not _current:
        _current.append(_Timeline(path, mark_cycles))


def stop_timeline() -> None:
    """Write the file of :func:`start_timeline`.

    Collective: no; blocks: no.
    """
    while _current:
        ended = _current.pop()
        ended.path.write_text(json.dumps(ended.events))


def timed(body: Callable[[], Any], verb: str, name: str | None) -> Callable[[], Any]:
    """A piece of work that tells the timeline, where there is one, when it was issued, begun and over."""
    if not _current:
        return body
    timeline = _current[0]
    issued = timeline.now()

    def told() -> Any:
        begun = timeline.now()
        try:
            return body()
        finally:
            timeline.add(f"{verb}.{name or 'noname'}", verb.upper(), issued, begun, timeline.now())

    return told
