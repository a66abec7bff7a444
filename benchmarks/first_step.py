"""How long a first step takes: right after installation, and once the kernels lie in the cache.

::

    python benchmarks/first_step.py                                  # gpt and cnn, 3 rounds
    python benchmarks/first_step.py --workloads gpt --rounds 1 --json rows.json

Each figure is of a fresh process, from its start to the end of its first whole step (zero_grad, forward, mean
cross entropy, backward, AdamW) of a workload of ``step.py``, imports and the model's making included:
``cold`` with an empty folder for compiled kernels, ``warm`` with what that left there. Beside the clock
stands the processor's time ("busy"), which a machine shared with others distorts less; both are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from workloads import WORKLOADS

LIMIT_S = 300
BARS_S = {"cold": 15.0, "warm": 2.0}

Row = dict[str, Any]


def measure(workload: str, threads: int) -> Row:
    """In the measured process: where its time goes, in seconds, and how many kernels it compiled."""
    before = time.process_time()
    from peers import STEPS

    step = STEPS["distgrad"](workload, threads)
    built = time.process_time()
    step()
    done = time.process_time()
    from numba.core.registry import CPUDispatcher

    modules = [module for name, module in sys.modules.items() if name.startswith("distgrad.backend.kernels.")]
    kernels = {
        id(each): each for m in modules for each in vars(m).values() if isinstance(each, CPUDispatcher)
    }
    compiled = sum(sum(each.stats.cache_misses.values()) for each in kernels.values())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "import_s": built - before,
        "step_s": done - built,
        "busy_s": usage.ru_utime + usage.ru_stime,
        "compiled": compiled,
    }


def run_child(workload: str, threads: int, folder: str) -> Row:
    """:func:`measure` in a fresh process that keeps kernels in ``folder``, with its whole time.

    Raises:
        RuntimeError: with the end of the process's output, if it failed.
    """
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": folder, "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--child", workload, str(threads)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"first_step: {workload} failed:\n{done.stderr[-2000:]}")
    return {"total_s": time.perf_counter() - start, **json.loads(done.stdout)}


def compare(workload: str, threads: int, rounds: int) -> list[Row]:
    """A row cold and a row warm."""
    times: dict[str, list[Row]] = {name: [] for name in BARS_S}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for each in times.values():  # cold first, which leaves its kernels to the other
                each.append(run_child(workload, threads, folder))
    rows = []
    for name, each in times.items():
        medians = {key: round(statistics.median(row[key] for row in each), 3) for key in each[0]}
        rows.append({"workload": workload, "threads": threads, "cache": name, **medians})
    return rows


def line(row: Row) -> str:
    """A row of the table."""
    total, busy, begin = f"{row['total_s']:7.2f} s", f"{row['busy_s']:6.2f} s", f"{row['import_s']:5.2f} s"
    return (
        f"{row['workload']:10} {row['cache']} {total}  busy {busy}  imports and model {begin}  "
        f"step {row['step_s']:6.2f} s  compiled {row['compiled']:3.0f}  bar {BARS_S[row['cache']]:g} s"
    )


def main() -> None:
    """Measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--workloads", default="gpt,cnn", help="names, with commas between")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="fresh caches for each workload")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child[0], int(options.child[1]))))
        return
    rows = []
    for workload in options.workloads.split(","):
        if workload not in WORKLOADS:
            parser.error(f"--workloads: {workload!r} is none of {list(WORKLOADS)}")
        for row in compare(workload, options.threads, options.rounds):
            rows.append(row)
            print(line(row), flush=True)
    if options.json is not None:
        report = {"cores": len(os.sched_getaffinity(0)), "rounds": options.rounds, "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
