"""Start-up of a job on one host: ``distgrad run`` beside torchrun and a bare mpiexec.

::

    python benchmarks/startup.py                                 # 2 and 8 ranks, 5 rounds
    python benchmarks/startup.py --ranks 2 --rounds 3 --json rows.json

Two moments are measured, in seconds after the launcher was started: ``script``, when the last rank has come
to the first line of its script, and ``world``, when the last rank has done its first all-reduce, with what a
rank imports for that in between. The launchers take turns; a figure is the median over the rounds, a ratio
the median of the rounds' ratios to ``distgrad run``. Who is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distgrad.script import add_device_option, find_device

LIMIT_S = 300.0
MOMENTS = ("script", "world")
SCRIPT = """
import os, pathlib, time
def mark(moment):
    pathlib.Path(__file__).with_name(f"{{moment}} {{os.getpid()}}").write_text(str(time.monotonic()))
mark("script")
{body}
"""
DISTGRAD = """
import numpy as np
import distgrad as dg
from distgrad.backend.device import find_backend, resolve, to_device
comm, device = dg.comm.init(device="{device}"), resolve("{device}")
comm.all_reduce(to_device(np.ones(8, np.float32), device))
find_backend(device.kind).synchronize(device.index)
mark("world")
"""
TORCH = """
import torch
on_gpu = "{device}" == "cuda"
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
torch.distributed.all_reduce(torch.ones(8, device=device))
if on_gpu:
    torch.cuda.synchronize(device)
mark("world")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def contenders(num_ranks: int) -> dict[str, tuple[list[str], str]]:
    """Command and script body of everything that is installed, by name."""
    beside = Path(sys.executable).parent
    command = [str(beside / "distgrad"), "run", "-n", str(num_ranks)]
    found = {"distgrad run": (command, DISTGRAD)}
    if importlib.util.find_spec("torch") is not None:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        found["torchrun"] = ([*torchrun, f"--nproc-per-node={num_ranks}"], TORCH)
    mpiexec = shutil.which("mpiexec", path=beside)
    if mpiexec is not None:
        found["mpiexec"] = ([mpiexec, "-n", str(num_ranks), sys.executable], DISTGRAD)
    return found


def start(command: list[str], body: str, num_ranks: int, device: str) -> dict[str, float]:
    """Start a job once; return the seconds to both moments."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(SCRIPT.format(body=body.format(device=device)))
        began_s = time.monotonic()
        done = subprocess.run(
            [*command, str(script)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        marks = [(path.name.split()[0], float(path.read_text())) for path in Path(folder).glob("* *")]
    if done.returncode or len(marks) != 2 * num_ranks:
        raise SystemExit(f"startup: {' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return {moment: max(at_s for name, at_s in marks if name == moment) - began_s for moment in MOMENTS}


def measure(num_ranks: int, rounds: int, device: str) -> list[dict[str, object]]:
    """A row for every contender and moment."""
    found = contenders(num_ranks)
    for command, body in found.values():  # byte code, and files in the page cache
        start(command, body, num_ranks, device)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, (command, body) in found.items():
            times[name].append(start(command, body, num_ranks, device))
    rows: list[dict[str, object]] = []
    for moment in MOMENTS:
        ours = [each[moment] for each in times["distgrad run"]]
        for name, each in times.items():
            theirs = [one[moment] for one in each]
            ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
            rows.append(
                {
                    "ranks": num_ranks,
                    "moment": moment,
                    "launcher": name,
                    "seconds": round(statistics.median(theirs), 3),
                    "ratio": round(ratio, 2),
                }
            )
    return rows


def main() -> None:
    """Measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description="Start-up of a job beside torchrun's and mpiexec's.")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    add_device_option(parser)
    options = parser.parse_args()
    find_device(options.device)
    rows = []
    print(f"{'ranks':>5}  {'until':<8}{'launcher':<14}{'seconds':>8}{'ratio':>7}")
    for num_ranks in options.ranks:
        for row in measure(num_ranks, options.rounds, options.device):
            rows.append(row)
            print(
                "{ranks:>5}  {moment:<8}{launcher:<14}{seconds:>8.3f}{ratio:>7.2f}".format(**row), flush=True
            )
    missing = {"torchrun", "mpiexec"} - {str(row["launcher"]) for row in rows}
    if missing:
        print(f"not installed, so left out: {', '.join(sorted(missing))}")
    if options.json is not None:
        report = {"cores": len(os.sched_getaffinity(0)), "rounds": options.rounds, "rows": rows}
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
