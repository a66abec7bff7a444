"""A rank that trains a workload, and says how much memory it took at most, beside its plan.

Its arguments are a workload of the benchmarks and what is sharded, or ``none``. The kernel knows the most
that a process had. Where ranks share memory a page counts in each of them by its share, which is asked again
and again while they train.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import distgrad as dg
from distgrad import nn
from distgrad.backend.memory import release_freed_memory
from distgrad.nn import functional as F
from distgrad.scale.bench.models import build
from distgrad.scale.bench.workloads import WORKLOADS, Workload

#: GPTs of few tokens, of which parameters are most.
SMALL_BATCHES = {"gptw": Workload((65, (1, 32)), 65, 32, (), (65, 32, 6, 6, 384))}
STEPS = 4
LOADS = WORKLOADS | SMALL_BATCHES


def model_of(name: str, layers: int | None = None) -> Any:
    load = LOADS[name]
    family = "gpt" if name in SMALL_BATCHES else name
    sizes = load.sizes if layers is None else (*load.sizes[:2], layers, *load.sizes[3:])
    model = build(nn, F, dg.scaled_dot_product_attention, family, sizes)
    return model.to(dg.float64) if load.dtype == "float64" else model


def plan_of(name: str, shard: str | None, ranks: int) -> Any:
    x, y = LOADS[name].batch()
    targets = dg.empty(y.shape, dtype=y.dtype, device="meta")
    with dg.device("meta"):
        model = model_of(name)
    return dg.parallel.memory_plan(
        model, dg.optim.AdamW, x, ranks=ranks, shard=shard, loss=lambda out: F.cross_entropy(out, targets)
    )


def field(file: str, name: str) -> int:
    """Bytes that the kernel says in one of this process's files."""
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


class HighWater:
    """The most memory that a process which shares none had from the start on."""

    @staticmethod
    def now() -> int:
        return field("status", "VmRSS")

    def start(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")

    def stop(self) -> int:
        return field("status", "VmHWM")


class Shares:
    """The most that the process's share came to."""

    def __init__(self) -> None:
        self.peak, self.ended = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.start = self.thread.start

    @staticmethod
    def now() -> int:
        return field("smaps_rollup", "Pss")

    def watch(self) -> None:
        while not self.ended.is_set():
            self.peak = max(self.peak, self.now())
            time.sleep(0.001)

    def stop(self) -> int:
        self.ended.set()
        self.thread.join()
        return self.peak


def train(model: Any, name: str, shard: str | None) -> int:
    """Some steps; the most memory that there was from the second one on."""
    x, y = map(dg.asarray, LOADS[name].batch())
    model = dg.parallel.DistributedDataParallel(model, shard=shard)
    optimizer = dg.optim.AdamW(model.parameters())
    watcher = HighWater() if model.comm.size == 1 else Shares()
    for step in range(STEPS):
        if step == 1:
            release_freed_memory()
            watcher.start()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return watcher.stop()


def main(name: str, shard: str | None) -> None:
    comm = dg.comm.init()
    dg.set_num_threads(1)
    alike = model_of(name, layers=1) if "gpt" in name else model_of(name)
    train(alike, name, shard)  # whose kernels, and what libraries keep, are there from here on
    del alike
    gc.collect()
    release_freed_memory()
    comm.barrier()
    before = (HighWater if comm.size == 1 else Shares).now()
    comm.barrier()
    peaks = comm.all_gather_object(train(model_of(name), name, shard) - before)
    if comm.rank == 0:
        planned = plan_of(name, shard, comm.size)
        print(json.dumps({"peak": max(peaks), "plan": planned.total}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], None if sys.argv[2] == "none" else sys.argv[2])
