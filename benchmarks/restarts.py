"""What a rank's death costs a job: steps done again, and seconds until the next one.

::

    python benchmarks/restarts.py                       # 4 ranks, 20 MB of parameters and moments
    python benchmarks/restarts.py --ranks 2 --megabytes 200 --json rows.json

A job of ``--ranks`` ranks trains; in its 25th step the last one is killed (SIGKILL), and the launcher starts
the job anew, on as many ranks or on one fewer. ``next step`` are the seconds from the kill to the end of the
first step after it, ``script`` those of them from the script's first line on (imports, building the model,
taking the state over, the step), which it needs at its first start too; the launcher's part is the rest.
``keep`` is what ``manager.step()`` takes on average, as a share of a step of training.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SCRIPT = """
import time
began_s = time.monotonic()
import os, signal, sys
import numpy as np
import distgrad as dg
from distgrad import nn
folder, width, keep, hosts = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
comm = dg.comm.init()
dg.manual_seed(0)
net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
model = dg.parallel.DistributedDataParallel(net)
optimizer = dg.optim.AdamW(model.parameters(), lr=1e-3)
options = {"disk": {"every": 10}, "memory": {"memory": True}}[keep]
manager = dg.checkpoint.CheckpointManager(folder, **options)
manager.add(model=model, optimizer=optimizer)
start = manager.restore_latest() or 0
first = dg.comm.attempt() == 0
x = dg.asarray(np.random.default_rng(comm.rank).standard_normal((32, width)).astype(np.float32))
kept_s = 0.0
trained_s = time.monotonic()
for step in range(start, 40):
    optimizer.zero_grad()
    (model(x) ** 2).mean().backward()
    optimizer.step()
    if first and step == 24 and comm.rank == comm.size - 1:
        if hosts:
            open(hosts, "w").write(f"localhost:{comm.size - 1}\\n")
        print(f"killed {time.monotonic()} after {step}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    now_s = time.monotonic()
    manager.step()
    kept_s += time.monotonic() - now_s
    if comm.rank == 0 and not first and step == start:
        print(f"next {time.monotonic()} began {began_s} from {start} on {comm.size}", flush=True)
if comm.rank == 0:
    print(f"kept {kept_s / (time.monotonic() - trained_s)}", flush=True)
manager.close()
"""


def measure(keep: str, num_ranks: int, fewer: bool, width: int) -> dict[str, Any]:
    """Run one job; returns its row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "train.py").write_text(SCRIPT)
        hosts = folder / "hosts"
        hosts.write_text(f"localhost:{num_ranks}\n")
        where = ["-n", str(num_ranks), "--max-restarts", "1"]
        if fewer:
            where = ["--hosts-from", str(hosts), "--min-ranks", "1", "--max-ranks", str(num_ranks)]
        command = [sys.executable, "-m", "distgrad.launch", *where, str(folder / "train.py")]
        command += [str(folder / "run"), str(width), keep, str(hosts) if fewer else ""]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"benchmarks/restarts.py: the job failed:\n{done.stderr}")
    killed_s, step = re.search(r"killed (\S+) after (\d+)", done.stdout).groups()  # type: ignore[union-attr]
    found = re.search(r"next (\S+) began (\S+) from (\d+) on (\d+)", done.stdout)
    next_s, began_s, start, after = found.groups()  # type: ignore[union-attr]
    kept = re.search(r"kept (\S+)", done.stdout)
    return {
        "state in": keep,
        "ranks": f"{num_ranks} -> {after}",
        "steps done again": int(step) + 1 - int(start),
        "next step (s)": float(next_s) - float(killed_s),
        "script (s)": float(next_s) - float(began_s),
        "launcher (s)": float(began_s) - float(killed_s),
        "keep (share of a step)": float(kept[1]) if kept else None,
    }


def main() -> None:
    """Print a table, and write the rows where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--megabytes", type=float, default=20.0, help="of parameters and moments")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    width = int((options.megabytes * 1e6 / (2 * 3 * 4)) ** 0.5)
    rows = [
        measure(keep, options.ranks, fewer, width)
        for keep in ("disk", "memory")
        for fewer in ((False, True) if options.ranks > 1 else (False,))
    ]
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(f"{each:.2f}" if isinstance(each, float) else str(each) for each in row.values()))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
