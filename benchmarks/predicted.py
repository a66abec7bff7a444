"""Predicted beside measured: how far the model of ``distgrad scale`` is off on numbers of ranks it does not
know.

::

    python benchmarks/predicted.py                       # thirty cells, drawn by a seed: some ten minutes
    python benchmarks/predicted.py --cells 6 --seed 1 --json table.json

A cell is a workload, a number of ranks, a network (the memory of the ranks, or an EMULATED one of 0.3, 1 or
10 Gbit/s), a compressor or sharding. Ranks are threads of one process, and all that they compute is replaced
by sleeps that were recorded, so that 16 of them need no 16 cores: passes as ``network.py`` says, compressors'
arithmetic and the copying of reductions as ``replayed.py`` does. Buckets, queues, threads and calls are real.

For each workload and way to communicate the model is fitted to runs on 2 and on 8 ranks alone, in the
ranks' memory and at 1 Gbit/s. What a byte costs besides the link is the processor time that was recorded.
What a call costs besides, as its threads are woken one after the other, is told from what a step costs by the
difference between the two: backward hides it in memory, and nothing does where a step waits for the line.
Each is linear in the number of ranks. Cells of those numbers of ranks are not drawn. An error is predicted /
measured - 1, of the slowest rank's lower quartile of steps, as a machine shared with others holds ranks up
now and then.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.device import CPU
from distgrad.comm import Link
from distgrad.scale.bench.network import LATENCY_S, Profile, measure_replayed, record_calls
from distgrad.scale.cluster import Cluster
from distgrad.scale.schedule import Gradient
from distgrad.scale.schedule import Profile as Recorded
from distgrad.scale.simulate import Plan, simulate

WORKLOADS = ("mlp", "gpt", "cnn")
RANKS = range(1, 17)
GBITS = (None, 0.3, 1.0, 10.0)
WAYS = [
    ("none", None),
    ("none", "optimizer"),
    ("fp16", None),
    ("bf16", None),
    ("PowerSGD(4)", None),
    ("TopK(0.01)", None),
]
FITTED_RANKS, FITTED_GBITS = (2, 8), (None, 1.0)
CAP_MB = 1.0
_HALVINGS = 30
BARS = {"median": 0.10, "worst": 0.25}

Row = dict[str, Any]


def link_of(gbits: float | None) -> Link | None:
    """The emulated line; None for the ranks' memory."""
    return None if gbits is None else Link(LATENCY_S, gbits * 1e9 / 8)


class Costs(NamedTuple):
    """What steps cost besides passes and the line.

    Attributes:
        per_byte: seconds that a communication thread computes for a byte of gradients.
        call_s: seconds of each call.
        rest_s: seconds of a step.
    """

    per_byte: float
    call_s: float
    rest_s: float


class Fitted:
    """The model of a workload and a way to communicate.

    Args:
        profile: of the workload.
        hook, shard: the way.
        steps: of each of the four runs.
    """

    def __init__(self, profile: Profile, hook: str, shard: str | None, steps: int) -> None:
        gradients = tuple(Gradient(4 * int(np.prod(shape)), at_s, shape) for shape, at_s in profile.ready)
        self.recorded = Recorded(profile.forward_s, profile.ready[-1][1], 0.0, gradients)
        self.hook, self.shard = hook, shard
        self._points: list[tuple[int, Costs]] = []
        for ranks in FITTED_RANKS:
            calls = record_calls(profile, ranks, hook, CAP_MB, shard)
            per_byte = sum(call.cpu_s for call in calls) / self.recorded.num_bytes
            runs = [
                measure_replayed(profile, calls, ranks, link_of(gbits), hook, steps, CAP_MB, shard)
                for gbits in FITTED_GBITS
            ]
            took_s = [1e-3 * run["quartile_ms"] for run in runs]
            call_s = self._call_s(ranks, per_byte, took_s)
            known_s = self._steps_s(ranks, Costs(per_byte, call_s, 0.0))
            rest_s = statistics.mean(took - known for took, known in zip(took_s, known_s, strict=True))
            self._points.append((ranks, Costs(per_byte, call_s, rest_s)))

    def _call_s(self, ranks: int, per_byte: float, took_s: list[float]) -> float:
        """What a call costs by how much longer steps take on the line; none may take longer than it did."""
        low, high = 0.0, max(took_s)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            known_s = self._steps_s(ranks, Costs(per_byte, middle, 0.0))
            left_s = [took - known for took, known in zip(took_s, known_s, strict=True)]
            low, high = (middle, high) if left_s[1] > left_s[0] > 0.0 else (low, middle)
        return low

    def _steps_s(self, ranks: int, costs: Costs) -> list[float]:
        """Of the networks that the model is fitted to."""
        return [self.step_s(ranks, gbits, costs) for gbits in FITTED_GBITS]

    def step_s(self, ranks: int, gbits: float | None, costs: Costs) -> float:
        """A step by the schedule."""
        link = link_of(gbits) or Link(0.0, float("inf"))
        cluster = Cluster(ranks, 1, link, call_s=costs.call_s)
        plan = Plan(CAP_MB * 2**20, self.hook, costs.per_byte, self.shard)
        return float(simulate(self.recorded, cluster, plan, 1).step_s[0]) + costs.rest_s

    def predict(self, ranks: int, gbits: float | None) -> float:
        """Seconds of a step on another number of ranks or network."""
        (few, at_few), (many, at_many) = self._points
        part = (ranks - few) / (many - few)
        line = (max(0.0, y0 + (y1 - y0) * part) for y0, y1 in zip(at_few, at_many, strict=True))
        return self.step_s(ranks, gbits, Costs(*line))


def draw(count: int, seed: int) -> list[tuple[str, int, float | None, tuple[str, str | None]]]:
    """Cells that the model was not fitted to."""
    every = itertools.product(WORKLOADS, RANKS, GBITS, WAYS)
    held_out = [cell for cell in every if cell[1] not in FITTED_RANKS]
    return random.Random(seed).sample(held_out, count)


def main() -> None:
    """Fit, predict, measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cells", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the cells that are drawn")
    parser.add_argument("--steps", type=int, default=8, help="of each run, after some to warm up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    options = parser.parse_args()
    profiles = {name: Profile.timed(name, CPU) for name in WORKLOADS}
    fitted: dict[tuple[str, str, str | None], Fitted] = {}
    rows: list[Row] = []
    load = os.getloadavg()[0]
    print(f"EMULATED networks; {len(os.sched_getaffinity(0))} cores, load {load:.1f}; milliseconds a step")
    for name, ranks, gbits, (hook, shard) in draw(options.cells, options.seed):
        key = (name, hook, shard)
        if key not in fitted:
            fitted[key] = Fitted(profiles[name], hook, shard, 2 * options.steps)
        predicted_ms = 1e3 * fitted[key].predict(ranks, gbits)
        calls = record_calls(profiles[name], ranks, hook, CAP_MB, shard)
        measured = measure_replayed(
            profiles[name], calls, ranks, link_of(gbits), hook, options.steps, CAP_MB, shard
        )
        row = {"workload": name, "ranks": ranks, "gbits": gbits, "hook": hook, "shard": shard}
        row |= {"predicted_ms": predicted_ms, "measured_ms": measured["quartile_ms"]}
        measured_ms = measured["quartile_ms"]
        rows.append({**row, "error": predicted_ms / measured_ms - 1.0})
        network = "memory" if gbits is None else f"{gbits:g} Gbit/s"
        print(
            f"{name:6}{ranks:4} {network:12}{shard or hook:14}{predicted_ms:10.2f}{measured_ms:10.2f}"
            f"{rows[-1]['error']:+8.1%}",
            flush=True,
        )
    errors = [abs(row["error"]) for row in rows]
    found = {"median": statistics.median(errors), "worst": max(errors)}
    for kind, error in found.items():
        print(f"{kind:8}{error:7.1%}   at most {BARS[kind]:.0%}: {'yes' if error <= BARS[kind] else 'NO'}")
    if options.json is not None:
        about = {"emulated": True, "load": load, "seed": options.seed, **found}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")  # that a compressor does not pay, and of equal batches
    main()
