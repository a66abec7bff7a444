"""What all ranks have recorded, as one file of Chrome's trace events, which Perfetto reads."""

from __future__ import annotations

import gzip
import json
import math
import sys
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from distgrad.profiler.chrome import FORMAT
from distgrad.profiler.spool import SpoolFile, align, read_folder
from distgrad.profiler.whole import whole

__all__ = ["TRACKS", "merge", "track_of"]

#: The tracks of a rank, in the order in which they are shown, with the spans that stand on each.
TRACKS = {
    "steps": ("step",),
    "compute": ("forward", "backward", "bucket.wait", "bucket.issue", "optimizer.step"),
    "operations": (),
    "communication": (
        *("all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all", "gather", "scatter"),
        *("reduce", "send", "recv", "barrier", "submit", "split"),
    ),
    "data": ("data.next",),
    "checkpoint": ("checkpoint.save", "checkpoint.load", "checkpoint.snapshot"),
    "program": (),
}
_OF = {name: track for track, names in TRACKS.items() for name in names}
_ROOM = 100  # numbers of tracks for the threads of each of them
#: Shorter waits say nothing of the others.
_WAIT_S = 1e-4

Event = dict[str, Any]
Call = tuple[int, str, int]  # of an attempt, in a group, its number


def track_of(name: str, fields: dict[str, Any]) -> str:
    """The track that a span stands on."""
    if "op" in fields:
        return "operations"
    return _OF.get(name) or ("communication" if "group" in fields else "program")


def merge(folder: Path, output: Path, since_s: float = 0.0) -> list[str]:
    """Write the trace of all ranks.

    Args:
        folder: the spool folder.
        output: the file; compressed if its name ends with ``.gz``. It is whole or not there.
        since_s: as :func:`~distgrad.profiler.spool.read_folder` takes it.

    Returns:
        What is to be told of it: clocks, losses, ranks that came to no end.

    Raises:
        DataError: the folder holds nothing, or the file cannot be written.
    """
    files = read_folder(folder, since_s)
    align(files)
    last_comers = _find_last(files)
    origin_s = min(_first_time(file) for file in files)
    with whole(output, "trace") as part, _open(part, output.suffix == ".gz") as out:
        out.write('{"displayTimeUnit":"ms","otherData":')
        out.write(json.dumps(_about(files, origin_s)))
        out.write(',"traceEvents":[\n')
        separator = ""
        for file in files:
            for event in _events(file, last_comers, origin_s):
                out.write(separator + json.dumps(event, separators=(",", ":"), allow_nan=False))
                separator = ",\n"
        out.write("\n]}\n")
    return _tell(files, output)


def _open(path: Path, compressed: bool) -> TextIO:
    if compressed:
        return cast(TextIO, gzip.open(path, "wt", compresslevel=4, encoding="utf-8"))
    return open(path, "w", encoding="utf-8")


def _first_time(file: SpoolFile) -> float:
    times = (event[1] for batch in file.batches() for event in batch)
    return file.relation(min(times, default=file.about["perf_s"]))


def _find_last(files: list[SpoolFile]) -> dict[Call, tuple[float, int]]:
    """For every collective when the last rank came, and which, in the world's numbers."""
    last: dict[Call, tuple[float, int]] = {}
    for file in files:
        for batch in file.batches():
            for _, start_s, end_s, _, fields in batch:
                if end_s is not None and fields.get("number", -1) >= 0 and "group" in fields:
                    # A span begins where this rank comes, also where it is alone.
                    call = (file.attempt, fields["group"], fields["number"])
                    come = (file.relation(start_s), file.rank)
                    last[call] = max(last.get(call, come), come)
    return last


def _about(files: list[SpoolFile], origin_s: float) -> dict[str, Any]:
    first = files[0].about
    clocks = [
        {
            "rank": file.rank, "host": file.about["host"], "offset_s": file.relation.offset_s,
            "drift_ppm": file.relation.drift * 1e6, "questions": len(file.pings),
            "error_s": file.relation.error_s if math.isfinite(file.relation.error_s) else None,
        }
        for file in files
    ]  # fmt: skip
    return {
        "format": FORMAT,
        "command": first["argv"],
        "began": first["time_s"] + origin_s - first["perf_s"],
        "clocks": clocks,
        "limits": {str(file.rank): file.limits for file in files},
        "lost": {str(file.rank): file.lost for file in files},
        "ended": {str(file.rank): file.ended for file in files},
    }


class _Tracks:
    """Numbers of a rank's tracks: a thread that finds one taken by another gets one beside it."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, int], int] = {}
        self._names: dict[int, str] = {}

    def number(self, track: str, thread: int) -> int:
        found = self._numbers.get((track, thread))
        if found is None:
            beside = sum(1 for each, _ in self._numbers if each == track)
            found = 1 + list(TRACKS).index(track) * _ROOM + min(beside, _ROOM - 1)
            self._numbers[track, thread] = found
            self._names[found] = track if not beside else f"{track} {beside + 1}"
        return found

    def describe(self, rank: int) -> Iterator[Event]:
        """The events that name them."""
        for number, name in sorted(self._names.items()):
            for kind, args in (
                ("thread_name", {"name": name}),
                ("thread_sort_index", {"sort_index": number}),
            ):
                yield {"ph": "M", "name": kind, "pid": rank, "tid": number, "args": args}


def _events(file: SpoolFile, last_comers: dict[Call, tuple[float, int]], origin_s: float) -> Iterator[Event]:
    """All events of a process, its spans in the order of their starts."""
    rank, tracks = file.rank, _Tracks()
    yield _meta("process_name", rank, {"name": f"rank {rank} on {file.about['host']}"})
    yield _meta("process_sort_index", rank, {"sort_index": rank})

    def micros(time_s: float) -> float:
        return max(0.0, round((file.relation(time_s) - origin_s) * 1e6, 3))

    found = []
    for batch in file.batches():
        for name, start_s, end_s, thread, fields in batch:
            tid = tracks.number(track_of(name, fields), thread)
            event = {"ph": "X", "name": name, "pid": rank, "tid": tid, "ts": micros(start_s)}
            if end_s is None:
                event |= {"ph": "i", "s": "t"}
            else:
                event["dur"] = max(0.0, round(micros(end_s) - event["ts"], 3))
            found.append(event | {"args": _arguments(fields, (start_s, end_s), last_comers, file)})
    found.sort(key=lambda event: (event["tid"], event["ts"], -event.get("dur", 0.0)))
    _blame_waits(found)
    yield from found
    yield from tracks.describe(rank)
    for usage in file.usage:
        yield from _counters(usage, rank, micros)


def _meta(name: str, rank: int, args: dict[str, Any]) -> Event:
    return {"ph": "M", "name": name, "pid": rank, "tid": 0, "args": args}


def _arguments(
    fields: dict[str, Any],
    times_s: tuple[float, float | None],
    last_comers: dict[Call, tuple[float, int]],
    file: SpoolFile,
) -> dict[str, Any]:
    """A span's fields, with whom it waited for and how long; what JSON has no number for is left out."""
    args = {
        name: value
        for name, value in fields.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }
    start_s, end_s = times_s
    if end_s is not None and args.get("number", -1) >= 0 and "group" in args:
        come_s, last = last_comers[file.attempt, args["group"], args["number"]]
        if last != file.rank:
            # Compiled code, and a GPU, wait without telling; when the last one came is known of all.
            apart_s = min(file.relation(end_s), come_s) - file.relation(start_s)
            if apart_s >= _WAIT_S:
                args["waited_s"] = max(args.get("waited_s", 0.0), apart_s)
            if args.get("waited_s", 0.0) >= _WAIT_S:
                args["waited_for"] = last
    return args


def _blame_waits(events: list[Event]) -> None:
    """Say of the waits at backward's end for whom they were: as the collective that ended in them."""
    blamed = sorted(
        (e["ts"] + e["dur"], e["args"]["waited_for"]) for e in events if "waited_for" in e["args"]
    )
    for event in events:
        if event["name"] == "bucket.wait" and event["dur"] >= _WAIT_S * 1e6:
            start, end = event["ts"], event["ts"] + event["dur"] + 50.0
            place = bisect_right(blamed, (end, sys.maxsize)) - 1
            if place >= 0 and blamed[place][0] >= start:
                event["args"]["waited_for"] = blamed[place][1]


def _counters(usage: dict[str, Any], rank: int, micros: Any) -> Iterator[Event]:
    at = micros(usage["at_s"])
    memory = {"resident": usage.get("resident_bytes", 0), **usage["owners"]}
    rest = {k: v for k, v in usage.items() if k not in ("at_s", "owners", "resident_bytes")}
    for name, args in (("memory", memory), ("usage", rest)):
        yield {"ph": "C", "name": name, "pid": rank, "tid": 0, "ts": at, "args": args}


def _tell(files: list[SpoolFile], output: Path) -> list[str]:
    ranks = sorted({file.rank for file in files})
    missing = sorted(set(range(max(file.size for file in files))) - set(ranks))
    lines = [f"profiler: {output}: {len(ranks)} rank{'s' if len(ranks) > 1 else ''}"]
    hosts: dict[str, SpoolFile] = {}
    for file in files:
        if file.about["clock"] != files[0].about["clock"]:
            hosts.setdefault(file.about["clock"], file)
    for file in hosts.values():
        clock, host = file.relation, file.about["host"]
        if file.trouble:
            lines.append(f"profiler: the clock of {host}: {file.trouble}")
        else:
            lines.append(
                f"profiler: the clock of {host} was {-clock.offset_s:+.6f} s off, drifting "
                f"{-clock.drift * 1e6:+.1f} ppm; set right, with at most {clock.error_s * 1e6:.0f} µs left"
            )
    if missing:
        lines.append(f"profiler: nothing came from rank {', '.join(map(str, missing))}")
    for file in files:
        if file.lost:
            lines.append(
                f"profiler: rank {file.rank} dropped {file.lost} spans, which came too fast or could not be "
                "written"
            )
    return lines
