"""Where each rank is, twice a second, in a small file of its own in the spool folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Status", "StatusWriter", "prometheus", "read_status", "status_lines"]

_SMOOTH = 0.5  # weight of the last half second in a rate
_TRIES = 9  # to find a file that is not just being written


@dataclass
class Status:
    """What a rank tells while it runs.

    Attributes:
        rank: which.
        step: steps that are over.
        steps_per_s: of late.
        samples_per_s: of late, of this rank; 0 where unknown.
        waiting: share of the time in which it waited for other ranks and what they send, 0 … 1.
        resident_bytes: its memory.
        told: numbers that the program told, as its loss.
        owners: bytes by owner.
        ended: whether it has come to its end.
    """

    rank: int = 0
    step: int = 0
    steps_per_s: float = 0.0
    samples_per_s: float = 0.0
    waiting: float = 0.0
    resident_bytes: float = 0.0
    told: dict[str, float] = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)
    ended: bool = False


class StatusWriter:
    """Keeps a rank's status up to date.

    Args:
        path: its file.
    """

    def __init__(self, path: Path) -> None:
        self.status = Status()
        self._path = path
        self._at_s: float | None = None
        self._step = self._length = 0

    def update(
        self, batch: Iterable[tuple[Any, ...]], at_s: float, step: int, usage: dict[str, float], **known: Any
    ) -> None:
        """Take in what has come since the last time, and write.

        Args:
            batch: spans and events, as the recorder keeps them.
            at_s: the time up to which they were taken.
            step: steps that are over.
            usage: what the process has used.
            **known: other attributes of the status.
        """
        status = self.status
        seen, told, waited_s = 0.0, 0.0, 0.0
        for name, start_s, end_s, _, fields in batch:
            if end_s is not None:
                seen += fields.get("samples", 0.0) if name == "forward" else 0.0
                told += fields.get("samples", 0.0) if name == "step" else 0.0
                waited_s += end_s - start_s if name == "bucket.wait" or fields.get("blocks") else 0.0
        if self._at_s is not None and at_s > self._at_s:
            passed_s = at_s - self._at_s
            for attribute, value in (
                ("steps_per_s", (step - self._step) / passed_s),
                ("samples_per_s", (told or seen) / passed_s),
                ("waiting", min(1.0, waited_s / passed_s)),
            ):
                before = getattr(status, attribute)
                setattr(status, attribute, value if not before else before + _SMOOTH * (value - before))
        self._at_s, self._step, status.step = at_s, step, step
        status.resident_bytes = usage.get("resident_bytes", 0.0)
        for attribute, value in known.items():
            setattr(status, attribute, value)
        self._write(json.dumps(vars(status)).encode())

    def _write(self, text: bytes) -> None:
        """In place, with blanks over what was longer: a renamed file is written to the disk at once."""
        self._length = max(self._length, len(text))
        place = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.write(place, text.ljust(self._length))
        finally:
            os.close(place)


def read_status(folder: Path) -> list[Status]:
    """The ranks' last words, in their order."""
    found: dict[int, tuple[float, Status]] = {}
    for path in folder.glob("*.status"):
        try:
            status, changed = Status(**json.loads(_read(path))), path.stat().st_mtime
        except (OSError, ValueError, TypeError):  # it has just gone
            continue
        if status.rank not in found or found[status.rank][0] < changed:  # of several attempts the last
            found[status.rank] = (changed, status)
    return [status for _, (_, status) in sorted(found.items())]


def _read(path: Path) -> bytes:
    """What stands in a file between two writes."""
    text = b""
    for _ in range(_TRIES):
        before, text = text, path.read_bytes()
        if text == before:
            break
    return text


def status_lines(statuses: Iterable[Status]) -> list[str]:
    """A line a rank."""
    lines = []
    for each in statuses:
        parts = [f"rank {each.rank}: step {each.step}, {each.steps_per_s:.1f}/s"]
        parts += [f"{each.samples_per_s:.0f} samples/s"] if each.samples_per_s else []
        parts += [f"{name} {value:.4g}" for name, value in each.told.items() if name != "samples"]
        parts += [f"waiting {each.waiting:.0%}", f"{each.resident_bytes / 1e6:.0f} MB"]
        lines.append(", ".join(parts) + (", ended" if each.ended else ""))
    return lines


_METRICS = (
    ("step", "counter", "steps of training that are over"),
    ("steps_per_s", "gauge", "steps a second, of late"),
    ("samples_per_s", "gauge", "samples a second of this rank, of late"),
    ("waiting", "gauge", "share of the time in which the rank waited for others and what they send"),
    ("resident_bytes", "gauge", "memory of the process"),
)


def prometheus(statuses: Iterable[Status]) -> str:
    """The same in Prometheus' text format, version 0.0.4."""
    statuses = list(statuses)
    lines = []
    for attribute, kind, text in _METRICS:
        name = f"distgrad_{attribute}" + ("_total" if kind == "counter" else "")
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f'{name}{{rank="{each.rank}"}} {getattr(each, attribute):g}' for each in statuses]
    for name, key, label, text in (
        ("distgrad_told", "told", "name", "what the program told with dg.profiler.step"),
        ("distgrad_memory_bytes", "owners", "owner", "memory by owner"),
    ):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        for each in statuses:
            for what, value in getattr(each, key).items():
                escaped = what.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
                lines.append(f'{name}{{rank="{each.rank}",{label}="{escaped}"}} {value:g}')
    return "\n".join(lines) + "\n"
