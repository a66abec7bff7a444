"""One rank of a scaling study: runs its program and writes down what its steps spent their time on.

``python -m distgrad.scale.recorded '{"folder": …, "steps": 60}' train.py ARGS…``, as
:mod:`~distgrad.scale.study` starts it on every rank, or without a script for one of the built-in workloads.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
import os
import runpy
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from distgrad import env
from distgrad.profiler.whole import whole
from distgrad.scale import workload
from distgrad.trace import subscribe

__all__ = ["Recorder", "main", "run"]

Row = dict[str, Any]

#: What ends a step, the best first: the program says so, an optimizer's step, a backward pass.
MARKS = ("step", "optimizer.step", "backward")
#: By name of the span, what its time in the main thread is spent on; all calls of a communicator not named
#: here are ``blocking_s``.
PARTS = {
    "forward": "forward_s",
    "backward": "backward_s",
    "optimizer.step": "optimizer_s",
    "data.next": "data_s",
    "bucket.wait": "exposed_s",
    "checkpoint.save": "checkpoint_s",
    "checkpoint.load": "checkpoint_s",
}


class Recorder:
    """A listener that keeps the spans of a number of steps and then ends the program.

    Args:
        num_steps: after which the program ends, at least 2.
        seconds: after which it ends too, once ``least`` steps are over; not where ranks depend on each other,
            as they would end at different steps.
        least: see there.
    """

    def __init__(self, num_steps: int, seconds: float | None = None, least: int = 2) -> None:
        self.num_steps = num_steps
        self.seconds = math.inf if seconds is None else seconds
        self.least = least
        self.marks: dict[str, list[float]] = {name: [] for name in MARKS}
        self._spans: list[tuple[str, float, float, Row, bool]] = []
        self._issues: list[tuple[float, int]] = []
        self._update = -1  # of the optimizer that is furthest

    def span(self, name: str, start_s: float, end_s: float, fields: dict[str, Any]) -> None:
        """Keep a span."""
        is_main = threading.current_thread() is threading.main_thread()
        self._spans.append((name, start_s, end_s, fields, is_main))
        if "step" not in fields:  # a span of the program's own, whatever its name
            return
        if name == "optimizer.step":
            if fields["step"] > self._update:  # of several optimizers the first
                self._update = fields["step"]
                self._mark(name, end_s)
        elif name == "backward":
            self._mark(name, end_s)

    def event(self, name: str, time_s: float, fields: dict[str, Any]) -> None:
        """Keep the moments at which buckets are full, and those that the program calls a step's end."""
        if name == "bucket.issue":
            self._issues.append((time_s, fields["bytes"]))
        elif name == "step":
            self._mark(name, time_s)

    def _mark(self, name: str, end_s: float) -> None:
        marks = self.marks[name]
        marks.append(end_s)
        is_over = len(marks) > self.least and end_s - marks[0] > self.seconds
        if name == self.kind and (len(marks) > self.num_steps or is_over):
            raise SystemExit(0)

    @property
    def kind(self) -> str | None:
        """What ends a step here; None before the first."""
        return next((name for name in MARKS if self.marks[name]), None)

    def rows(self) -> list[Row]:
        """For each step but the first, which has no beginning, the seconds of its parts."""
        ends = [] if self.kind is None else self.marks[self.kind]
        rows: list[Row] = [
            {"step_s": stop - start, **dict.fromkeys([*PARTS.values(), "blocking_s"], 0.0)}
            for start, stop in itertools.pairwise(ends)
        ]
        for name, start_s, end_s, fields, is_main in self._spans:
            place = bisect.bisect_right(ends, start_s) - 1
            if not 0 <= place < len(rows):
                continue
            if name in PARTS:
                rows[place][PARTS[name]] += end_s - start_s
            elif "group" in fields and is_main:
                rows[place]["blocking_s"] += end_s - start_s
        return rows

    def buckets(self) -> list[Row]:
        """For each backward pass the buckets: when each was full, counted from its start, and its seconds."""
        starts = [(start, end) for name, start, end, *_ in self._spans if name == "backward"]
        waits = [(start, fields) for name, start, _, fields, _ in self._spans if name == "bucket.wait"]
        passes = []
        for start_s, end_s in starts:
            full = [(at_s - start_s, size) for at_s, size in self._issues if start_s <= at_s <= end_s]
            busy = [fields["busy_s"] for at_s, fields in waits if start_s <= at_s <= end_s]
            if len(full) == len(busy):
                passes.append({"full": full, "busy_s": busy, "backward_s": end_s - start_s})
        return passes

    def write(self, path: Path, about: Row) -> None:
        """Write everything down; the file is whole or not there."""
        told = {**about, "mark": self.kind, "steps": self.rows(), "buckets": self.buckets()}
        with whole(path, "scale") as part:
            part.write_text(json.dumps(told))


def run(task: Row, script: list[str]) -> None:
    """Be a rank: run the script, or the workload that the task names.

    Args:
        task: ``folder``, ``steps``, ``seconds`` and ``least`` (of a Recorder), ``alone`` (know nothing of
            the other ranks), for a script ``work`` (the folders to work in, of each rank that is alone or of
            all), and for a built-in workload ``workload``, ``strong``, ``peer`` and ``ddp``.
        script: the script with its arguments; empty for a workload.
    """
    rank = env.read().rank or 0
    if task["alone"]:
        kept = env.without_world()
        os.environ.clear()
        os.environ.update(kept)
    recorder = Recorder(task["steps"], task["seconds"], task["least"])
    subscribe(recorder)
    try:
        if script:
            path = Path(script[0]).absolute()
            os.chdir(task["work"][rank if task["alone"] else 0])
            sys.argv = [str(path), *script[1:]]
            sys.path.insert(0, str(path.resolve().parent))
            runpy.run_path(str(path), run_name="__main__")
        else:
            workload.run(task, recorder)
    finally:
        if sys.exception() is None or isinstance(sys.exception(), SystemExit):
            recorder.write(
                Path(task["folder"]) / f"rank{rank}.json", {"rank": rank, "host": socket.gethostname()}
            )


def main() -> None:
    """Run as the command line says."""
    run(json.loads(sys.argv[1]), sys.argv[2:])


if __name__ == "__main__":
    main()
