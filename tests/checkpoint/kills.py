"""Kills saves at every system call that changes the disk; prints a row a scenario, and exits 1 at a loss.

    python tests/checkpoint/kills.py [--each N] FOLDER

Every state holds one number in all its arrays, so that a checkpoint of two halves shows.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from system_calls import run_killed

import distgrad as dg
from distgrad.checkpoint import CheckpointManager
from distgrad.checkpoint.layout import find_checkpoints, read_manifest
from distgrad.checkpoint.manager import _commit
from distgrad.checkpoint.pieces import Reader
from distgrad.checkpoint.resharding import reshard
from distgrad.checkpoint.writer import claim


def save(folder, value, step, num_ranks=1, **options):
    """Save a state of one number, as the step."""

    def run(comm):
        manager = CheckpointManager(folder, comm=comm, keep=1, signals=False, **options)
        manager.add(state={str(i): np.full((7, 700), value, np.float32) for i in range(12)})
        manager.finished = step
        manager.save()
        manager.close()

    if num_ranks == 1:
        run(None)
    else:
        dg.comm.ThreadWorld(num_ranks, timeout_s=60).run(run)


def begin(folder):
    save(folder, 1.0, 1)


def leave_ruins(folder):
    """What kills have left: a checkpoint that was about to be replaced, and half of another."""
    begin(folder)
    shutil.copytree(folder / "step-00000001", folder / ".step-00000002.distgrad-part")
    (folder / "step-00000001").rename(folder / ".step-00000001.distgrad-replaced")


def spread(folder):
    (path,) = find_checkpoints(folder)
    reshard(Reader(path, read_manifest(path)), 4, folder)


#: What there is before, what is killed, and the numbers of which one must be whole afterwards.
SCENARIOS = {
    "the next step, the old one removed": (begin, lambda folder: save(folder, 2.0, 2)),
    "the same step again": (begin, lambda folder: save(folder, 2.0, 1)),
    "before step returns": (begin, lambda folder: save(folder, 2.0, 2, background=False)),
    "three ranks": (begin, lambda folder: save(folder, 2.0, 2, 3)),
    "five ranks": (begin, lambda folder: save(folder, 2.0, 2, 5)),
    "tidying up": (leave_ruins, lambda folder: os.close(claim(folder))),
    "reshard in place": (begin, spread),
}


def look(folder):
    """What a kill has left: "old", "new", "half" or "lost", after the next job has tidied up."""
    os.close(claim(folder))
    found = find_checkpoints(folder)
    if not found:
        return "lost"
    if {path.name for path in folder.iterdir()} - {path.name for path in found} - {".lock"}:
        return "leftovers"
    values = set()
    for path in found:
        reader = Reader(path, read_manifest(path))
        for name in reader.manifest.arrays:
            array = reader.array(name)
            if name.startswith("state."):
                values |= {(path.name, value) for value in np.unique(array).tolist()}
    newest = {value for name, value in values if name == found[-1].name}
    if len(newest) != 1 or len(values) != len(found):
        return "half"
    return {1.0: "old", 2.0: "new"}[newest.pop()]


def kill_all(folder, scenario, each):
    """Every ``each``-th kill of a scenario; what they have left, and at which calls they were."""
    before, act = SCENARIOS[scenario]
    before(folder / "template")
    left, calls, number, place = Counter(), Counter(), 0, folder / "job"
    while True:
        seen = None
        for how in ("before", "torn", "after"):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(folder / "template", place)
            name = run_killed(lambda: act(place), place, number, how)
            seen = name or seen
            if name is not None:
                calls[f"{name} {how}" if how == "torn" else name] += 1
                left[look(place)] += 1
        if seen is None:
            break
        number += each
    shutil.rmtree(folder / "template")
    return left, calls


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=1, help="take every Nth call")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    _commit()  # starts a process, once
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    total, calls = Counter(), Counter()
    for scenario in SCENARIOS:
        left, at = kill_all(folder, scenario, options.each)
        total, calls = total + left, calls + at
        print(f"{scenario:36} {sum(left.values()):4} kills, left {dict(left)}", flush=True)
    print(json.dumps({"kills": sum(total.values()), "left": dict(total), "calls": dict(calls)}))
    return 0 if set(total) <= {"old", "new"} else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
