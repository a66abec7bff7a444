"""Numbers out of a trace: where a step's time goes, who waits for whom and why, and what to do about it."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distgrad.errors import DataError
from distgrad.profiler.chrome import FORMAT, Trace

__all__ = ["PARTS", "Bar", "Bucket", "Operation", "Straggler", "Summary", "summarize"]

#: What a step's time is divided into, in the order in which it is shown.
PARTS = (
    *("data", "forward", "backward", "exposed communication", "waiting for ranks", "optimizer"),
    *("checkpoint", "other"),
)

_OF = {
    "data.next": "data",
    "forward": "forward",
    "backward": "backward",
    "bucket.wait": "exposed communication",
    "optimizer.step": "optimizer",
    "checkpoint.save": "checkpoint",
    "checkpoint.snapshot": "checkpoint",
}
_WARM_UP = 3  # of so many steps and more, the first is left out: it compiles and plans


@dataclass(frozen=True)
class Bucket:
    """A bucket's reduction, per step.

    Attributes:
        number: its place.
        num_bytes: of its gradients.
        busy_s: how long its reduction took.
        waited_s: how long backward's end waited for it.
    """

    number: int
    num_bytes: int
    busy_s: float
    waited_s: float


@dataclass(frozen=True)
class Bar:
    """A span in the timeline of one step.

    Attributes:
        rank: whose.
        track: where it stands.
        name: its name.
        start_s: since the step's begin on the first rank.
        length_s: how long it took.
    """

    rank: int
    track: str
    name: str
    start_s: float
    length_s: float


@dataclass(frozen=True)
class Operation:
    """An operation called from one line.

    Attributes:
        name: its name.
        op: ``forward`` or ``backward``.
        line: the user's line.
        count: calls, of all ranks.
        total_s: their time.
    """

    name: str
    op: str
    line: str
    count: int
    total_s: float


@dataclass(frozen=True)
class Straggler:
    """A rank that others wait for.

    Attributes:
        rank: which.
        waited_s: what the other ranks wait for it a step, on average.
        cause: ``data``, ``compute``, ``optimizer``, ``checkpoint``, ``program``, ``no core``,
            ``page faults``, ``steal``, ``host`` (what ranks of one host share) or ``network``.
        text: a sentence.
    """

    rank: int
    waited_s: float
    cause: str
    text: str


@dataclass
class Summary:
    """What a page shows; seconds are per step unless said otherwise.

    Attributes:
        title: what ran.
        hosts: of each rank.
        steps: durations of each rank's steps, by their number.
        parts: of each rank's step, by the names of ``PARTS``.
        hidden_s: of each rank, communication behind the backward pass.
        waits: seconds that a rank waited for another, by the pair.
        stragglers: the ranks that were waited for most, first.
        buckets: of rank 0's step.
        timeline: one step of middling length, of all ranks.
        memory: of each rank, (seconds, bytes by owner).
        operations: the slowest first; empty where none were traced.
        usage: of each rank, a second: ``cpu_s``, ``ready_s``, ``steal_s``, ``minor_faults``,
            ``major_faults``.
        samples_per_s: of all ranks; 0 where unknown.
        flops_per_s: of all ranks' products; 0 where unknown.
        limit_flops_per_s: what the ranks' products reach at most, as they measured; 0 where unknown.
        told: the last numbers that the program told, as its loss; of the first rank that did.
        notes: of the clocks, and of what is missing.
        warnings: what is wrong, and what to do.
    """

    title: str = ""
    hosts: dict[int, str] = field(default_factory=dict)
    steps: dict[int, dict[int, float]] = field(default_factory=dict)
    parts: dict[int, dict[str, float]] = field(default_factory=dict)
    hidden_s: dict[int, float] = field(default_factory=dict)
    waits: dict[tuple[int, int], float] = field(default_factory=dict)
    stragglers: list[Straggler] = field(default_factory=list)
    buckets: list[Bucket] = field(default_factory=list)
    timeline: list[Bar] = field(default_factory=list)
    memory: dict[int, list[tuple[float, dict[str, float]]]] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    usage: dict[int, dict[str, float]] = field(default_factory=dict)
    samples_per_s: float = 0.0
    flops_per_s: float = 0.0
    limit_flops_per_s: float = 0.0
    told: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)

    @property
    def step_s(self) -> float:
        """The median of all ranks' steps."""
        return statistics.median(s for steps in self.steps.values() for s in steps.values())

    @property
    def utilization(self) -> float:
        """The share of the measured limit that the products reach, 0 where it is not known."""
        return self.flops_per_s / self.limit_flops_per_s if self.limit_flops_per_s else 0.0


def summarize(trace: Trace) -> Summary:
    """Put a trace into numbers.

    Raises:
        DataError: no step was recorded, or another program wrote the trace.
    """
    about = trace.about
    if about.get("format") != FORMAT:
        raise DataError(
            "report: the trace is none of distgrad's, and its spans mean something else; open it in Perfetto"
        )
    program, *arguments = about.get("command") or [""]
    found = Summary(" ".join([Path(program).name or "a program", *arguments]))
    found.hosts = {each["rank"]: each["host"] for each in about.get("clocks", [])}
    windows = _read_steps(trace, found)
    for rank, (start, end, count) in windows.items():
        _read_parts(trace, found, rank, start, end, count)
    _read_buckets(trace, found, windows)
    found.timeline = _read_timeline(trace, found)
    _read_counters(trace, found, windows)
    _read_work(trace, found, windows)
    _read_operations(trace, found)
    found.stragglers = _find_stragglers(found)
    for each in about.get("clocks", []):
        clock = f"The clock of {each['host']} (rank {each['rank']})"
        if each["error_s"] is None:
            found.notes.append(f"{clock} is set by its time of day.")
        elif each["error_s"]:
            found.notes.append(f"{clock} is right to {each['error_s'] * 1e6:.0f} µs.")
    ended = about.get("ended", {})
    found.notes += [f"Rank {rank} came to no end." for rank, whole in ended.items() if not whole]
    found.notes += [
        f"Rank {rank} dropped {lost} spans." for rank, lost in about.get("lost", {}).items() if lost
    ]
    return found


Windows = dict[int, tuple[float, float, int]]


def _read_steps(trace: Trace, found: Summary) -> Windows:
    """Each rank's steps, and from when to when they are looked at: without the first, and how many."""
    windows = {}
    for rank in trace.ranks:
        spans = trace.spans("step", rank)
        if not spans:
            continue
        told = {k: v for k, v in spans[-1]["args"].items() if k not in ("step", "samples")}
        found.told = found.told or told
        counted = spans[1:] if len(spans) >= _WARM_UP else spans
        found.steps[rank] = {span["args"]["step"]: span["dur"] * 1e-6 for span in counted}
        start = counted[0]["ts"]
        windows[rank] = (start, counted[-1]["ts"] + counted[-1]["dur"], len(counted))
    if not windows:
        raise DataError(
            "report: the trace holds no step; a step is an update of an optimizer, or ends with "
            "dg.profiler.step()"
        )
    return windows


def _read_parts(trace: Trace, found: Summary, rank: int, start: float, end: float, count: int) -> None:
    parts = dict.fromkeys(PARTS, 0.0)
    waits: dict[tuple[int, int], float] = defaultdict(float)
    hidden = in_backward = 0.0
    inside = [span for span in trace.spans(rank=rank) if start - 1.0 <= span["ts"] <= end]
    computing = [
        (s["ts"], s["ts"] + s["dur"])
        for s in inside
        if s["name"] in ("forward", "backward", "optimizer.step")
    ]
    for span in inside:
        seconds, args = span["dur"] * 1e-6 / count, span["args"]
        part = _OF.get(span["name"])
        if part is not None and not _runs_beside(span):
            parts[part] += seconds
        if span["name"] == "bucket.wait":
            hidden += max(0.0, args["busy_s"] / count - seconds)
        if args.get("number", -1) >= 0 and "group" in args:
            waited = args.get("waited_s", 0.0) / count
            if "waited_for" in args:
                waits[rank, args["waited_for"]] += waited
            if not _overlaps(span, computing):  # the program's own, which nothing hides
                parts["exposed communication"] += max(0.0, seconds - waited)
                parts["waiting for ranks"] += min(seconds, waited)
            else:
                in_backward += waited
    exposed = sum(span["dur"] * 1e-6 / count for span in inside if span["name"] == "bucket.wait")
    parts["backward"] = max(0.0, parts["backward"] - exposed)
    waited = min(exposed, in_backward)
    parts["waiting for ranks"] += waited
    parts["exposed communication"] -= waited
    whole = (end - start) * 1e-6 / count
    parts["other"] = max(0.0, whole - sum(parts.values()))
    found.parts[rank], found.hidden_s[rank] = parts, hidden
    found.waits |= waits


def _overlaps(span: dict[str, Any], intervals: list[tuple[float, float]]) -> bool:
    """Whether an interval of some, in the order of their starts, holds a span's middle."""
    middle = span["ts"] + span["dur"] / 2
    place = bisect_right(intervals, (middle, math.inf)) - 1
    return place >= 0 and intervals[place][1] >= middle


def _runs_beside(span: dict[str, Any]) -> bool:
    """Whether a checkpoint is written by a thread of its own, and costs the step nothing."""
    return span["name"] == "checkpoint.save" and "step" in span["args"]


def _read_buckets(trace: Trace, found: Summary, windows: Windows) -> None:
    rank = min(windows)
    start, end, count = windows[rank]
    busy: dict[int, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for span in trace.spans("bucket.wait", rank):
        if start <= span["ts"] <= end:
            args, entry = span["args"], busy[span["args"]["bucket"]]
            entry[0], entry[1] = args["bytes"], entry[1] + args["busy_s"] / count
            entry[2] += span["dur"] * 1e-6 / count
    found.buckets = [Bucket(n, int(b), busy_s, wait_s) for n, (b, busy_s, wait_s) in sorted(busy.items())]


def _read_timeline(trace: Trace, found: Summary) -> list[Bar]:
    """The step of the first rank whose length is the median's, with what the others did meanwhile."""
    rank = min(found.steps)
    middling = sorted(found.steps[rank].items(), key=lambda each: each[1])[len(found.steps[rank]) // 2][0]
    (step,) = [span for span in trace.spans("step", rank) if span["args"]["step"] == middling][:1]
    start, end = step["ts"], step["ts"] + step["dur"]
    bars = []
    for span in trace.spans():
        if span["ts"] < end and span["ts"] + span["dur"] > start and trace.track(span) in _DRAWN:
            low, high = max(start, span["ts"]), min(end, span["ts"] + span["dur"])
            track = trace.track(span)
            bars.append(Bar(span["pid"], track, span["name"], (low - start) * 1e-6, (high - low) * 1e-6))
    return bars


_DRAWN = ("compute", "communication", "data", "checkpoint")


def _read_counters(trace: Trace, found: Summary, windows: Windows) -> None:
    usage: dict[int, list[tuple[float, dict[str, float]]]] = defaultdict(list)
    for event in trace.events:
        if event["ph"] == "C" and event["name"] == "memory":
            found.memory.setdefault(event["pid"], []).append((event["ts"] * 1e-6, event["args"]))
        elif event["ph"] == "C" and event["name"] == "usage":
            usage[event["pid"]].append((event["ts"] * 1e-6, event["args"]))
    for rank, samples in usage.items():
        start, end, _ = windows.get(rank, (0.0, 0.0, 0))
        before = [each for each in samples if each[0] <= start * 1e-6] or samples[:1]
        after = [each for each in samples if each[0] >= end * 1e-6] or samples[-1:]
        (first_s, first), (last_s, last) = before[-1], after[0]
        passed_s = max(last_s - first_s, 1e-9)
        found.usage[rank] = {
            name: (last[name] - first[name]) / passed_s for name in last if name in first and last_s > first_s
        }


def _read_work(trace: Trace, found: Summary, windows: Windows) -> None:
    for rank, (start, end, _) in windows.items():
        seconds = (end - start) * 1e-6
        spans = [span for span in trace.spans("step", rank) if start <= span["ts"] < end]
        samples = sum(span["args"].get("samples", 0.0) for span in spans)
        if not samples:
            forward = [span for span in trace.spans("forward", rank) if start <= span["ts"] <= end]
            samples = sum(span["args"].get("samples", 0.0) for span in forward)
        found.samples_per_s += samples / seconds
        backward = [span for span in trace.spans("backward", rank) if start <= span["ts"] <= end]
        found.flops_per_s += sum(span["args"].get("flops", 0.0) for span in backward) / seconds
    limits = trace.about.get("limits", {})
    found.limit_flops_per_s = sum(each.get("products", {}).get("flops", 0.0) for each in limits.values())


def _read_operations(trace: Trace, found: Summary) -> None:
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for span in trace.spans():
        if "op" in span["args"]:
            args = span["args"]
            entry = sums[span["name"], args["op"], args.get("line", "")]
            entry[0], entry[1] = entry[0] + 1, entry[1] + span["dur"] * 1e-6
    found.operations = sorted(
        (Operation(*key, int(count), total_s) for key, (count, total_s) in sums.items()),
        key=lambda each: -each.total_s,
    )


# -- stragglers

_CAUSES = {
    "data": ("data",),
    "compute": ("forward", "backward"),
    "optimizer": ("optimizer",),
    "checkpoint": ("checkpoint",),
    "program": ("other",),
}
_WORDS = {
    "data": "waits longer for its batches",
    "compute": "computes longer",
    "optimizer": "updates longer",
    "checkpoint": "writes checkpoints longer",
    "program": "does other things longer, between the spans",
    "no core": "was ready to run and had no core for longer",
    "page faults": "waited for pages that had to be read",
    "steal": "had its core taken away by the machine's host",
    "host": "takes no longer by its spans, and comes later than others of its host",
    "network": "is as fast as the others, and its messages come later",
}


def _find_stragglers(found: Summary) -> list[Straggler]:
    totals: dict[int, float] = defaultdict(float)
    for (waiter, late), seconds in found.waits.items():
        if late != waiter and late in found.parts:
            totals[late] += seconds
    others = max(1, len(found.parts) - 1)
    stragglers = []
    for rank, seconds in sorted(totals.items(), key=lambda each: -each[1]):
        waited_s = seconds / others
        cause, extra_s = _find_cause(found, rank, waited_s)
        text = f"Rank {rank} {_WORDS[cause]}"
        text += f", by {extra_s * 1e3:.1f} ms a step" if extra_s else ""
        stragglers.append(Straggler(rank, waited_s, cause, text + "."))
    return stragglers


def _find_cause(found: Summary, rank: int, waited_s: float) -> tuple[str, float]:
    """What this rank takes longer for than the others, and by how much."""

    def more(value: Any) -> float:
        others = [value(other) for other in found.parts if other != rank]
        return float(value(rank) - statistics.fmean(others)) if others else 0.0

    extra = {
        cause: more(lambda each, names=names: sum(found.parts[each][name] for name in names))
        for cause, names in _CAUSES.items()
    }
    cause = max(extra, key=lambda each: extra[each])
    if extra[cause] < 0.2 * waited_s:
        apart_s = sum(
            seconds
            for (waiter, late), seconds in found.waits.items()
            if late == rank and found.hosts.get(waiter) != found.hosts.get(rank)
        )
        return ("network" if apart_s else "host"), 0.0
    step_s = sum(found.parts[rank].values())
    for name, key in (("no core", "ready_s"), ("steal", "steal_s")):
        taken_s = more(lambda each, key=key: found.usage.get(each, {}).get(key, 0.0)) * step_s
        if cause in ("compute", "program") and taken_s > 0.5 * extra[cause]:
            return name, taken_s
    if more(lambda each: found.usage.get(each, {}).get("major_faults", 0.0)) * step_s > 10:
        return "page faults", extra[cause]
    return cause, extra[cause]
