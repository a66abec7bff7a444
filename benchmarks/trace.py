"""What being watched costs: a span, and a training step, recorded and not.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/trace.py [--turns 400] [--json FILE]

The time of a span is the least processor time of its thread over many rounds, less that of an empty
function. Steps take turns in one process, each two that are recorded between two that are not; the cost is
the median of the differences of processor time, by the median of a step's. The process computes with one
thread, so that no other one, which spins while it waits for work, is counted. To it comes the share of a
processor that the recorder's own thread takes, which writes twice a second: what is written then is that of
half a second of such steps, one after the other. Steps of which none is recorded, in the same turns, say how
far the figure can be trusted. The exit status tells whether all bars hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import distgrad as dg
from distgrad import nn, trace
from distgrad.profiler import recorder as recording
from distgrad.profiler.recorder import Recorder

_ROUND = 5000
_WARM_UP = 20
_SHORT_S = 5e-3  # the shortest step for which the bar is meant
_WRITE_S = recording.FLUSH_S  # of recorded steps between two writes, which are made here and timed apart
recording.FLUSH_S = 3600.0


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: what was measured.
        value: the figure.
        unit: its unit.
        bar: what it must not exceed.
    """

    name: str
    value: float
    unit: str
    bar: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the bar, if there is one, is kept."""
        return self.bar is None or self.value <= self.bar

    def __str__(self) -> str:
        text = f"{self.name:44} {self.value:9.3f} {self.unit}"
        return text if self.bar is None else f"{text}   at most {self.bar:g}: {'yes' if self.holds else 'NO'}"


def least_us(call: Callable[[], None], rounds: int = 15) -> float:
    """Processor time of one call, in this thread."""
    return min(timeit.repeat(call, number=_ROUND, repeat=rounds, timer=time.thread_time)) / _ROUND * 1e6


def one_span() -> None:
    """A span with as many fields as a bucket's."""
    with trace.span("work", rank=0, step=3, bucket=1):
        return


def nothing() -> None:
    """What a call costs by itself."""
    return


def spans() -> list[Row]:
    """What a span costs, unheard and recorded."""
    base_us = least_us(nothing)
    rows = [Row("a span that nobody hears", least_us(one_span) - base_us, "us", 0.3)]
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder))
        trace.subscribe(recorder)
        figures = []
        for _ in range(15):
            figures.append(least_us(one_span, 1))
            recorder.flush()  # or the rounds would fill what waits to be written
        recorder.close()
        assert recorder.lost == 0
    return [*rows, Row("a span that is recorded", min(figures) - base_us, "us", 1.0)]


class Program:
    """A training step of some milliseconds, under DistributedDataParallel."""

    def __init__(self) -> None:
        dg.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10)
        )
        self._model = dg.parallel.DistributedDataParallel(model)
        self._optimizer = dg.optim.Adam(model.parameters(), lr=1e-3)
        rng = np.random.default_rng(0)
        self._x = dg.tensor(rng.standard_normal((64, 512), np.float32))
        self._y = dg.tensor(rng.integers(0, 10, 64))

    def step(self) -> None:
        """One step."""
        self._optimizer.zero_grad()
        dg.softmax_cross_entropy(self._model(self._x), target=self._y).mean().backward()
        self._optimizer.step()


def step_s(program: Program, listener: trace.Listener | None = None) -> float:
    """Processor time of a step of this process."""
    if listener is not None:
        trace.subscribe(listener)
    begin = time.process_time()
    program.step()
    took_s = time.process_time() - begin
    if listener is not None:
        trace.unsubscribe(listener)
    return took_s


def more(program: Program, listener: trace.Listener | None) -> tuple[float, float]:
    """Processor time of a step that nobody hears, and how much longer one takes between two such."""
    first, one, other, last = (step_s(program, each) for each in (None, listener, listener, None))
    return (first + last) / 2, (one + other - first - last) / 2


def writing_s(recorder: Recorder) -> float:
    """Processor time of one write, which the recorder's own thread makes elsewhere."""
    begin = time.thread_time()
    recorder.flush()
    return time.thread_time() - begin


def steps(turns: int) -> list[Row]:
    """What a step costs more when it is recorded."""
    dg.set_num_threads(1)
    program = Program()
    for _ in range(_WARM_UP):
        step_s(program)
    plain, recorded, unheard, writes, passed_s = [], [], [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder))
        for _ in range(turns):
            for listener, added in ((recorder, recorded), (None, unheard)):
                one_s, more_s = more(program, listener)
                added.append(more_s)
                plain.append(one_s)
            passed_s += 2 * one_s  # as long as the two that were recorded, of which it writes now
            if passed_s >= _WRITE_S:
                writes.append(writing_s(recorder))
                passed_s = 0.0
        recorder.close()
    step, added_s, nothing_s = map(statistics.median, (plain, recorded, unheard))
    writing = statistics.median(writes) / _WRITE_S
    return [
        Row("a step, processor time", step * 1e3, "ms"),
        Row("the same, recorded, more", (added_s / step + writing) * 100, "%", 2.0),
        Row("of a step of 5 ms that would be", (added_s / _SHORT_S + writing) * 100, "%", 2.0),
        Row("of which writing, by a thread of its own", writing * 100, "%"),
        Row("the same, not recorded, more", nothing_s / step * 100, "%"),
    ]


def main() -> int:
    """Measure, print the table, and say whether all bars hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=400, help="turns of two recorded steps")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    rows = spans() + steps(options.turns)
    for row in rows:
        print(row)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
