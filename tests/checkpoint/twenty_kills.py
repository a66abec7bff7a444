"""Kills a job at random, again and again, each time on another number of ranks; are the bits the same?

    python tests/checkpoint/twenty_kills.py [--kills N] [--seed N] FOLDER

A process below the launcher, the launcher or all of them is killed at a random moment once the job has
saved something; the next job goes on with 1 to 4 ranks. Prints a row a stage of sharding, and exits 1 where
the bits differ from those of a job that nobody disturbed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from distgrad.checkpoint.layout import find_checkpoints, read_manifest
from distgrad.checkpoint.pieces import Reader

SCRIPT = Path(__file__).with_name("killed_training.py")
LIMIT_S = 300.0


def start(folder, stage, num_ranks, pause_s=0.0):
    command = [sys.executable, "-m", "distgrad", "run", "-n", str(num_ranks), str(SCRIPT)]
    command += [str(folder), stage, str(pause_s)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def result(text):
    """The last rank-0 line of a job that has ended well."""
    return next(line.split("steps ")[1] for line in text.splitlines() if "steps " in line)


def descendants(pid):
    """The processes below one, by their parents."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, left = [], [pid]
    while left:
        left = [child for parent in left for child in parents.get(parent, ())]
        found += left
    return found


def last_step(folder):
    found = find_checkpoints(folder)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def kill(job, rng):
    """Kill one of the job's processes; says which kind."""
    what = rng.choice(["a process", "a process", "the launcher", "all"])
    below = descendants(job.pid)
    one = [rng.choice(below)] if below else []
    for pid in {"a process": one, "the launcher": [job.pid], "all": [*below, job.pid]}[what]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    job.communicate(timeout=LIMIT_S)
    limit_s = time.monotonic() + LIMIT_S  # of a killed launcher the ranks end by themselves
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        if time.monotonic() > limit_s:
            raise TimeoutError(f"processes outlive the job: {below}")
        time.sleep(0.05)
    return what if job.returncode else None  # nothing ended by it: a process that was not needed any longer


def disturbed(folder, stage, num_kills, rng):
    """A job that is killed; its result, the kills by kind, and the numbers of ranks."""
    killed, sizes = Counter(), []
    while True:
        size = rng.choice([each for each in (1, 2, 3, 4) if each != (sizes or [0])[-1]])
        sizes.append(size)
        before = last_step(folder)
        job = start(folder, stage, size, 0.05 if sum(killed.values()) < num_kills else 0.0)
        if sum(killed.values()) < num_kills:
            target = before + rng.randint(1, max(2, (200 - before) // (num_kills - sum(killed.values()) + 1)))
            while job.poll() is None and last_step(folder) < target:
                time.sleep(0.01)
            time.sleep(rng.random() * 0.1)
            if job.poll() is None:
                what = kill(job, rng)
                killed[what or "nobody missed it"] += 1
                for path in find_checkpoints(folder):
                    assert list(Reader(path, read_manifest(path)).verify())
                continue
        text = job.communicate(timeout=LIMIT_S)[0]
        if job.returncode:
            raise RuntimeError(text)
        return result(text), killed, sizes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    whole = start(options.folder / "whole", "none", 2).communicate(timeout=LIMIT_S)[0]
    expected, same = result(whole), True
    for stage in ("none", "optimizer"):
        rng = random.Random(f"{options.seed} {stage}")
        found, killed, sizes = disturbed(options.folder / stage, stage, options.kills, rng)
        same &= found == expected
        row = {"stage": stage, "killed": dict(killed), "ranks": sizes, "same bits": found == expected}
        print(json.dumps(row), flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
