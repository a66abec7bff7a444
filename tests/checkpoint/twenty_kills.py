"""Kills a job at random, again and again, each time on another number of ranks; are the bits the same?

    python tests/checkpoint/twenty_kills.py [--kills N] [--seed N] [--stages A,B] FOLDER

A process below the launcher, the launcher or all of them is killed at a random moment once the job has
saved something, or the disk becomes full; the next job goes on with 1 to 4 ranks. Prints a row a stage of
sharding, and exits 1 where the bits differ from those of a job that nobody disturbed. The folder lies on a
small disk of its own, where one can be mounted.
"""

import argparse
import contextlib
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
LIMIT_S = 600.0
STEPS, EVERY = 200, 3  # of the script
STAGES = ("none", "optimizer", "gradients")
DISK_BYTES = 16 << 20
KINDS = ["a process", "a process", "the launcher", "all"]


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


@contextlib.contextmanager
def full(folder):
    """The disk that the folder lies on has no room meanwhile."""
    filler = folder / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        yield
    finally:
        filler.unlink()


def fill(job, folder):
    """Let the disk be full until the job has ended by that."""
    with full(folder):
        text = job.communicate(timeout=LIMIT_S)[0]
    if not job.returncode:
        return None  # it was done
    if "No space left on device" in text:
        return "a full disk"
    if "exited 137" in text:  # by a process that was killed before, and is missed only now
        return "a process"
    raise RuntimeError(text)


def kill(job, folder, what, rng):
    """Kill one of the job's processes, or more; says which kind it was, or None if the job went on."""
    below = descendants(job.pid)
    one = [rng.choice(below)] if below else []
    for pid in {"a process": one, "the launcher": [job.pid], "all": [*below, job.pid]}[what]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    going_on = last_step(folder) + 2 * EVERY
    while job.poll() is None:
        if last_step(folder) >= going_on:
            return None  # a process that was not needed any longer
        time.sleep(0.01)
    job.communicate(timeout=LIMIT_S)
    limit_s = time.monotonic() + LIMIT_S  # of a killed launcher the ranks end by themselves
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        if time.monotonic() > limit_s:
            raise TimeoutError(f"processes outlive the job: {below}")
        time.sleep(0.05)
    return what if job.returncode else None  # it was done


def disturb(job, folder, before, left, rng, kinds):
    """Let a job save something, and end it; says by what, or None if nothing did."""
    target = before + rng.randint(1, max(2, (STEPS - before) // (left + 1)))
    while job.poll() is None and last_step(folder) < target:
        time.sleep(0.01)
    time.sleep(rng.random() * 0.1)
    what = None
    while job.poll() is None and what is None:
        kind = rng.choice(kinds)
        what = fill(job, folder.parent) if kind == "a full disk" else kill(job, folder, kind, rng)
    return what


def disturbed(folder, stage, num_kills, rng, kinds):
    """A job that is killed; its result, the kills by kind, and the numbers of ranks."""
    killed, sizes = Counter(), []
    while True:
        size = rng.choice([each for each in (1, 2, 3, 4) if [each] != sizes[-1:]])
        sizes.append(size)
        before, left = last_step(folder), num_kills - killed.total()
        job = start(folder, stage, size, 0.05 if left else 0.0)
        what = disturb(job, folder, before, left, rng, kinds) if left else None
        if what is not None:
            killed[what] += 1
            for path in find_checkpoints(folder):
                assert list(Reader(path, read_manifest(path)).verify())
            continue
        text = job.communicate(timeout=LIMIT_S)[0]
        if job.returncode:
            raise RuntimeError(text)
        return result(text), killed, sizes


def on_own_disk():
    """Run this program again on a small disk of its own, if one can be mounted."""
    if os.environ.get("OWN_DISK") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        return
    folder = sys.argv[-1]
    os.makedirs(folder, exist_ok=True)
    mount = f'mount -t tmpfs -o size={DISK_BYTES} none "$0" && exec "$@"'
    os.environ["OWN_DISK"] = "1"
    os.execvp("unshare", ["unshare", "-rm", "sh", "-c", mount, folder, sys.executable, *sys.argv])


def main():
    on_own_disk()
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    whole = start(options.folder / "whole", "none", 2).communicate(timeout=LIMIT_S)[0]
    expected, same = result(whole), True
    kinds = KINDS + ["a full disk"] * bool(os.environ.get("OWN_DISK"))
    for stage in options.stages.split(","):
        rng = random.Random(f"{options.seed} {stage}")
        found, killed, sizes = disturbed(options.folder / stage, stage, options.kills, rng, kinds)
        same &= found == expected
        row = {"stage": stage, "killed": dict(killed), "ranks": sizes, "same bits": found == expected}
        print(json.dumps(row), flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
