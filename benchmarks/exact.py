"""What exact mode costs: a step on one process and on two ranks, plain and exact, and the bits of each.

::

    python benchmarks/exact.py
    python benchmarks/exact.py --workloads mlp,gpt --shards 2 8 --json table.json

The step is that of ``workloads.py``, on the whole batch for all ranks together, so that two ranks do the work
of one. The contenders take turns in fresh processes of one thread a rank; a time is the median over the
rounds of the slowest rank's median step. ``bits`` is the beginning of the parameters' SHA-256 after the last
step.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from distgrad.scale.bench.models import build
from distgrad.scale.bench.step import machine
from distgrad.scale.bench.surroundings import environment
from distgrad.scale.bench.workloads import WORKLOADS

STEPS, WARM_UP_STEPS = 20, 4
TIME_LIMIT_S = 300.0


def be_a_rank(task: dict[str, Any]) -> None:
    """Take the steps and leave the median and the bits."""
    import distgrad as dg
    from distgrad import nn
    from distgrad.nn import functional as F

    dg.set_num_threads(1)
    dg.manual_seed(0)
    comm = dg.comm.init("shm")
    work, shards = WORKLOADS[task["workload"]], task["shards"]
    model = build(nn, F, dg.scaled_dot_product_attention, task["workload"], work.sizes)
    options = {"exact": True, "shards": shards} if shards else {}
    ddp = dg.parallel.DistributedDataParallel(model, **options)
    optimizer = dg.optim.AdamW(ddp.parameters(), lr=1e-3)
    x, y = (dg.asarray(array) for array in work.batch())
    y = y.reshape(len(x), -1)
    own = slice(len(x) * comm.rank // comm.size, len(x) * (comm.rank + 1) // comm.size)
    times = []
    for _ in range(WARM_UP_STEPS + STEPS):
        start_s = time.perf_counter()
        optimizer.zero_grad()
        for inputs, targets in ddp.shards(x, y) if shards else [(x[own], y[own])]:
            F.cross_entropy(ddp(inputs), targets.reshape(-1)).backward()
        optimizer.step()
        times.append(1e3 * (time.perf_counter() - start_s))
    result = {"ms": statistics.median(times[WARM_UP_STEPS:]), "bits": dg.parallel.parameter_hash(model)}
    Path(f"{task['result']}.{comm.rank}").write_text(json.dumps(result))


def run(workload: str, num_ranks: int, shards: int) -> dict[str, Any]:
    """Start the ranks; the slowest one's result."""
    variables = environment(1)
    variables |= {"WORLD_SIZE": str(num_ranks), "DISTGRAD_JOB_SECRET": secrets.token_hex(16)}
    with tempfile.TemporaryDirectory() as folder:
        task = {"workload": workload, "shards": shards, "result": f"{folder}/result"}
        variables["EXACT_TASK"] = json.dumps(task)
        processes = [
            subprocess.Popen(
                [sys.executable, __file__], env={**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            )
            for rank in range(num_ranks)
        ]
        try:
            codes = [process.wait(TIME_LIMIT_S) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if any(codes):
            sys.exit(f"exact: {workload} on {num_ranks} ranks: the ranks ended with {codes}")
        results = [json.loads(Path(f"{task['result']}.{rank}").read_text()) for rank in range(num_ranks)]
    return dict(max(results, key=lambda result: result["ms"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workloads", default="mlp,gpt", help="names, with commas between")
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each contender")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times to FILE")
    options = parser.parse_args()
    about = machine()
    print(json.dumps(about), flush=True)
    print(f"{'':9}{'ranks':>6}{'shards':>8}{'ms a step':>11}{'over plain':>12}  bits", flush=True)
    rows = []
    for workload in options.workloads.split(","):
        keys = [(ranks, shards) for ranks in (1, 2) for shards in (0, *options.shards)]
        rounds = [{key: run(workload, *key) for key in keys} for _ in range(options.rounds)]
        for ranks, shards in keys:
            times = [each[ranks, shards]["ms"] for each in rounds]
            ratios = [each[ranks, shards]["ms"] / each[ranks, 0]["ms"] for each in rounds]
            row = {"workload": workload, "ranks": ranks, "shards": shards, "ms": statistics.median(times)}
            row |= {"over_plain": statistics.median(ratios), "bits": rounds[0][ranks, shards]["bits"]}
            rows.append(row)
            print(
                f"{workload:9}{ranks:6}{shards or 'plain':>8}{row['ms']:11.2f}{row['over_plain']:11.2f} x"
                f"  {row['bits'][:12]}",
                flush=True,
            )
    if options.json is not None:
        options.json.write_text(json.dumps({**about, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if "EXACT_TASK" in os.environ:
        be_a_rank(json.loads(os.environ["EXACT_TASK"]))
    else:
        main()
