"""What it costs that an MPI library takes calls from one thread only (below MPI_THREAD_MULTIPLE).

::

    python benchmarks/thread_levels.py                  # 2 ranks, 5 rounds
    python benchmarks/thread_levels.py --rounds 3 --json rows.json

The same program runs under ``mpiexec`` with MPI initialised at ``multiple`` and at ``funneled``, in turns; a
ratio is the median over the rounds of funneled to multiple. ``one host`` is as it is; on ``several hosts``
each rank takes itself for a host of its own, so that MPI carries what shared memory carried. Measured are
blocking all-reduces, and steps of a network under DistributedDataParallel.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LEVELS = ("multiple", "funneled")
SIZES = {"all-reduce of 1 KiB": 1 << 10, "all-reduce of 1 MiB": 1 << 20, "all-reduce of 25 MiB": 25 << 20}
STEP = "step of a network of 2 M parameters"
PROGRAM = f"""
import json, sys, time
import mpi4py
mpi4py.rc.thread_level = sys.argv[1]
from mpi4py import MPI
import numpy as np
import distgrad as dg
from distgrad.comm import mpi
if sys.argv[2] == "several hosts":
    mpi.host_name = lambda: f"host {{MPI.COMM_WORLD.rank}}"
comm = dg.comm.init("mpi")

def seconds(call, least_s):
    call()
    times = []
    until_s = time.perf_counter() + least_s
    enough = np.zeros(1)
    while not comm.all_reduce(enough)[0]:
        for _ in range(5):
            start_s = time.perf_counter()
            call()
            times.append(time.perf_counter() - start_s)
        enough[0] = time.perf_counter() > until_s
    return float(np.median(times))

rows = {{}}
for name, num_bytes in {SIZES!r}.items():
    x = np.ones(num_bytes // 4, np.float32)
    rows[name] = seconds(lambda: comm.all_reduce(x), 1.0)
net = dg.nn.Sequential(*[layer for _ in range(8) for layer in (dg.nn.Linear(512, 512), dg.nn.ReLU())])
ddp = dg.parallel.DistributedDataParallel(net, comm, bucket_cap_mb=1.0)
optimizer = dg.optim.SGD(net.parameters(), lr=1e-3)
batch = dg.tensor(np.ones((128, 512), np.float32))

def step():
    optimizer.zero_grad()
    ddp(batch).mean().backward()
    optimizer.step()

rows[{STEP!r}] = seconds(step, 3.0)
if comm.rank == 0:
    print(json.dumps(rows))
"""


def run(level: str, hosts: str, num_ranks: int) -> dict[str, float]:
    """Seconds by what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"
        program.write_text(PROGRAM)
        mpiexec = Path(sys.executable).with_name("mpiexec")
        done = subprocess.run(
            [str(mpiexec), "-n", str(num_ranks), sys.executable, str(program), level, hosts],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    if done.returncode:
        raise SystemExit(
            f"thread_levels: {level}, {hosts} ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(num_ranks: int, rounds: int) -> list[dict[str, object]]:
    """A row for everything that is measured, on one host and on several."""
    rows: list[dict[str, object]] = []
    for hosts in ("one host", "several hosts"):
        times = [{level: run(level, hosts, num_ranks) for level in LEVELS} for _ in range(rounds)]
        for name in (*SIZES, STEP):
            median = {level: statistics.median(each[level][name] for each in times) for level in LEVELS}
            ratio = statistics.median(each["funneled"][name] / each["multiple"][name] for each in times)
            rows.append({"hosts": hosts, "what": name, **median, "ratio": ratio})
    return rows


def main() -> None:
    """Measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description="Cost of an MPI library that takes calls from one thread.")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows = measure(options.ranks, options.rounds)
    print(f"{'':<14}{'microseconds':<38}{'multiple':>12}{'funneled':>12}{'ratio':>8}")
    for row in rows:
        multiple, funneled = (1e6 * float(str(row[level])) for level in LEVELS)
        ratio = float(str(row["ratio"]))
        print(f"{row['hosts']:<14}{row['what']:<38}{multiple:>12.0f}{funneled:>12.0f}{ratio:>8.2f}")
    if options.json is not None:
        report = {"cores": len(os.sched_getaffinity(0)), "ranks": options.ranks, "rows": rows}
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
