"""A strict reader of trace files: Chrome's trace events as JSON, as Perfetto's importer takes them."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distgrad.errors import DataError

__all__ = ["FORMAT", "Trace", "check", "read"]

FORMAT = "distgrad 1"  # of a trace's ``otherData``: what its spans mean

Event = dict[str, Any]

_METADATA = {
    "process_name": ("name", str),
    "process_labels": ("labels", str),
    "process_sort_index": ("sort_index", int),
    "thread_name": ("name", str),
    "thread_sort_index": ("sort_index", int),
}
_SCOPES = {"g", "p", "t"}
_TOLERANCE_US = 0.002  # times are rounded to nanoseconds


@dataclass
class Trace:
    """A trace that was read.

    Attributes:
        events: all of them, as the file has them.
        about: the file's ``otherData``.
        ranks: the process ids, which are ranks.
        tracks: the tracks' names by process and track number.
    """

    events: list[Event]
    about: dict[str, Any] = field(default_factory=dict)
    ranks: list[int] = field(default_factory=list)
    tracks: dict[tuple[int, int], str] = field(default_factory=dict)

    def spans(self, name: str | None = None, rank: int | None = None) -> list[Event]:
        """The complete events, of a name, of a rank, in the order of their starts."""
        found = [
            event
            for event in self.events
            if event["ph"] == "X" and name in (None, event["name"]) and rank in (None, event["pid"])
        ]
        return sorted(found, key=lambda event: event["ts"])

    def track(self, event: Event) -> str:
        """The name of the track that an event stands on, without the number of one beside it."""
        return self.tracks.get((event["pid"], event["tid"]), "").rstrip(" 0123456789")


def read(path: Path | str) -> Trace:
    """Read a trace file, compressed or not.

    Raises:
        DataError: it is no such file, or not as the format wants it; with what is wrong first.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        whole = json.loads(text, parse_constant=_refuse)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"profiler: {path} must be a trace in Chrome's JSON format ({error}); give what --trace wrote"
        ) from error
    wrong = check(whole)
    if wrong:
        raise DataError(
            f"profiler: {path} is not a trace in Chrome's JSON format: {wrong[0]}"
            + (f", and {len(wrong) - 1} things more" if len(wrong) > 1 else "")
        )
    events = whole if isinstance(whole, list) else whole["traceEvents"]
    trace = Trace(events, {} if isinstance(whole, list) else whole.get("otherData", {}))
    trace.ranks = sorted({event["pid"] for event in events})
    for event in events:
        event.setdefault("args", {})
        if event["ph"] == "M" and event["name"] == "thread_name":
            trace.tracks[event["pid"], event["tid"]] = event["args"]["name"]
    return trace


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON's")


def check(whole: Any) -> list[str]:
    """What in a file's content is not as the format wants it, one sentence each; empty if all is well.

    Args:
        whole: the JSON value.
    """
    events = whole.get("traceEvents") if isinstance(whole, dict) else whole
    if not isinstance(events, list):
        return ["it has no list of traceEvents"]
    wrong = []
    if isinstance(whole, dict) and whole.get("displayTimeUnit", "ms") not in ("ms", "ns"):
        wrong.append(f"displayTimeUnit is {whole['displayTimeUnit']!r}, neither ms nor ns")
    for place, event in enumerate(events):
        problem = _check_event(event)
        if problem:
            wrong.append(f"event {place}: {problem}")
    return wrong or _check_nesting(events)


def _check_event(event: Any) -> str | None:
    if not isinstance(event, dict):
        return "it is no object"
    phase = event.get("ph")
    if not isinstance(event.get("name"), str) or not event["name"]:
        return "it has no name"
    for key in ("pid", "tid"):
        if not isinstance(event.get(key), int) or isinstance(event[key], bool):
            return f"its {key} is {event.get(key)!r}, no whole number"
    if not isinstance(event.get("args", {}), dict):
        return "its args are no object"
    if phase == "M":
        return _check_metadata(event)
    if phase not in ("X", "i", "C"):
        return f"its ph is {phase!r}, none of X, i, C and M"
    if not _is_time(event.get("ts")):
        return f"its ts is {event.get('ts')!r}, no number of microseconds"
    if phase == "X" and not _is_time(event.get("dur")):
        return f"its dur is {event.get('dur')!r}, no number of microseconds"
    if phase == "i" and event.get("s", "t") not in _SCOPES:
        return f"its s is {event['s']!r}, none of g, p and t"
    if phase == "C" and not all(_is_number(value) for value in event.get("args", {}).values()):
        return "a counter's args must be numbers"
    return None


def _check_metadata(event: Event) -> str | None:
    key, kind = _METADATA.get(event["name"], ("", str))
    if not key:
        return f"{event['name']!r} is no name of metadata"
    if not isinstance(event.get("args", {}).get(key), kind):
        return f"{event['name']} needs args.{key}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_time(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _check_nesting(events: Iterable[Event]) -> list[str]:
    """On a track, a span lies inside another one or beside it: Perfetto drops what overlaps in part."""
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], -event["dur"], event["name"]))
    wrong = []
    for (pid, tid), spans in tracks.items():
        opened: list[tuple[float, str]] = []
        for start, negative, name in sorted(spans):
            end = start - negative
            while opened and opened[-1][0] <= start + _TOLERANCE_US:
                opened.pop()
            if opened and end > opened[-1][0] + _TOLERANCE_US:
                wrong.append(
                    f"pid {pid}, tid {tid}: {name} at {start} µs begins inside {opened[-1][1]} and ends "
                    "outside"
                )
            else:
                opened.append((end, name))
    return wrong
