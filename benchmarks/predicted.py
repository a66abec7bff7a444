"""Predicted beside measured: how far the model of ``distgrad scale`` is off on numbers of ranks it does not
know.

::

    python benchmarks/predicted.py                       # thirty cells, drawn by a seed: some ten minutes
    python benchmarks/predicted.py --cells 6 --seed 1 --json table.json

A cell is a workload, a number of ranks, a network (the memory of the ranks, or an EMULATED one of 0.3, 1 or
10 Gbit/s), a compressor or sharding. Ranks are threads of one process, and all that they compute is replaced
by sleeps that were recorded, so that 16 of them need no 16 cores: passes as ``network.py`` says, compressors'
arithmetic and the copying of reductions as ``replayed.py`` does. Buckets, queues, threads and calls are real.

For each workload and way to communicate the model is fitted to runs on 2 and on 8 ranks at 1 Gbit/s alone:
what a byte costs besides the link (arithmetic, copies, threads that share the processor), and what a step
costs besides that, each linear in the number of ranks. Cells of those are not drawn. An error is predicted /
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
from typing import Any

import numpy as np

from distgrad.backend.device import CPU
from distgrad.comm import Link
from distgrad.scale.bench.network import LATENCY_S, Profile, measure_replayed
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
FITTED_RANKS, FITTED_GBITS = (2, 8), 1.0
CAP_MB = 1.0
_HALVINGS = 30
BARS = {"median": 0.10, "worst": 0.25}

Row = dict[str, Any]


def link_of(gbits: float | None) -> Link | None:
    """The emulated line; None for the ranks' memory."""
    return None if gbits is None else Link(LATENCY_S, gbits * 1e9 / 8)


class Fitted:
    """The model of a workload and a way to communicate.

    Args:
        profile: of the workload.
        hook, shard: the way.
        steps: of each of the two runs.
    """

    def __init__(self, profile: Profile, hook: str, shard: str | None, steps: int) -> None:
        gradients = tuple(Gradient(4 * int(np.prod(shape)), at_s, shape) for shape, at_s in profile.ready)
        backward_s = profile.ready[-1][1]
        self.recorded = Recorded(profile.forward_s, backward_s, 0.0, gradients)
        self.hook, self.shard = hook, shard
        self.bytes_s: list[tuple[int, float]] = []
        self.rest_s: list[tuple[int, float]] = []
        for ranks in FITTED_RANKS:
            measured = measure_replayed(profile, ranks, link_of(FITTED_GBITS), hook, steps, CAP_MB, shard)
            busy_s, step_s = 1e-3 * measured["communication_ms"], 1e-3 * measured["quartile_ms"]
            per_byte = max(0.0, busy_s - self._moving_s(ranks)) / self.recorded.num_bytes
            per_byte = self._at_most(per_byte, ranks, step_s)
            self.bytes_s.append((ranks, per_byte))
            self.rest_s.append((ranks, max(0.0, step_s - self.step_s(ranks, FITTED_GBITS, per_byte, 0.0))))

    def _at_most(self, per_byte: float, ranks: int, step_s: float) -> float:
        """As much of ``per_byte`` as fits into a step: reductions also last while ranks are late."""
        low, high = 0.0, per_byte
        if self.step_s(ranks, FITTED_GBITS, high, 0.0) <= step_s:
            return high
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fits = self.step_s(ranks, FITTED_GBITS, middle, 0.0) <= step_s
            low, high = (middle, high) if fits else (low, middle)
        return low

    def _plan(self, per_byte: float) -> Plan:
        return Plan(CAP_MB * 2**20, self.hook, per_byte, self.shard)

    def _moving_s(self, ranks: int) -> float:
        """What the link takes for a step's reductions, one behind the other."""
        at_once = Recorded(
            0.0, 0.0, 0.0, tuple(Gradient(g.nbytes, 0.0, g.shape) for g in self.recorded.gradients)
        )
        plan = Plan(CAP_MB * 2**20, self.hook)
        cluster = Cluster(ranks, 1, link_of(FITTED_GBITS) or Link(0.0, 1.0))
        whole = float(simulate(at_once, cluster, plan, 1).step_s[0])
        return whole / 2 if self.shard is not None else whole  # half of an all-reduce

    def step_s(self, ranks: int, gbits: float | None, per_byte: float, rest_s: float) -> float:
        """A step by the schedule."""
        link = link_of(gbits) or Link(0.0, float("inf"))
        cluster = Cluster(ranks, 1, link)
        return float(simulate(self.recorded, cluster, self._plan(per_byte), 1).step_s[0]) + rest_s

    def predict(self, ranks: int, gbits: float | None) -> float:
        """Seconds of a step on another number of ranks or network."""
        per_byte, rest_s = (_line(points, ranks) for points in (self.bytes_s, self.rest_s))
        return self.step_s(ranks, gbits, per_byte, rest_s)


def _line(points: list[tuple[int, float]], x: int) -> float:
    (x0, y0), (x1, y1) = points
    return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


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
            fitted[key] = Fitted(profiles[name], hook, shard, options.steps)
        predicted_ms = 1e3 * fitted[key].predict(ranks, gbits)
        measured = measure_replayed(profiles[name], ranks, link_of(gbits), hook, options.steps, CAP_MB, shard)
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
