"""Kills a job at random, again and again, each time on another number of ranks; are the bits the same?

    python tests/checkpoint/twenty_kills.py [--kills N] [--seed N] [--stages A,B] [--hosts] FOLDER

A process of the job, the launcher or all of them is killed at a random moment once the job has saved
something, or the disk becomes full; the next job goes on with 1 to 4 ranks. With --hosts the ranks are on
three hosts in network namespaces, and a host's ssh server is killed too, with all that it has open. Prints a
row a stage of sharding, and exits 1 where the bits differ from those of a job that nobody disturbed. The
folder lies on a small disk of its own, where one can be mounted.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from hosts.conftest import Network, lacks

from distgrad.checkpoint.layout import find_checkpoints, read_manifest
from distgrad.checkpoint.pieces import Reader

SCRIPT = Path(__file__).with_name("killed_training.py")
LIMIT_S = 600.0
STEPS, EVERY = 200, 3  # of the script
STAGES = ("none", "optimizer", "gradients", "parameters")
DISK_BYTES = 16 << 20
KINDS = ["a process", "a process", "the launcher", "all"]
SERVER = "a host's sshd"
SLOTS = {1: "h2:1", 2: "h1:1,h2:1", 3: "h1:1,h2:1,h3:1", 4: "h1:2,h2:1,h3:1"}  # the launcher is on h1


class Job:
    """A job under way, and all processes that it has on any host, by a variable that they inherit."""

    def __init__(self, network, folder, stage, num_ranks, pause_s=0.0):
        self.network, self.mark = network, f"TWENTY_KILLS={uuid.uuid4().hex}"
        command = [sys.executable, "-m", "distgrad", "run", "-n", str(num_ranks)]
        if network is not None:
            command += ["--ssh", network.ssh(), "--hosts", SLOTS[num_ranks]]
            command = network.hosts[0].inside(*command)
        self.process = subprocess.Popen(
            [*command, str(SCRIPT), str(folder), stage, str(pause_s)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, **dict([self.mark.split("=")]), "PYTHONPATH": str(SCRIPT.parents[2])},
        )  # fmt: skip
        self.servers = [] if network is None else [h for h in network.hosts[1:] if h.name in SLOTS[num_ranks]]

    def ended(self):
        return self.process.poll() is not None

    def output(self):
        return self.process.communicate(timeout=LIMIT_S)[0]

    def processes(self):
        """Of the job, without the one that was started here."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return [pid for pid in found if pid != self.process.pid]

    def launcher(self):
        if self.network is None:
            return self.process.pid
        pid = self.process.pid  # of nsenter, whose child the launcher is
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else pid


def result(text):
    """The last rank-0 line of a job that has ended well."""
    return next(line.split("steps ")[1] for line in text.splitlines() if "steps " in line)


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
        text = job.output()
    if not job.process.returncode:
        return None  # it was done
    if "No space left on device" in text:
        return "a full disk"
    if "exited 137" in text:  # by a process that was killed before, and is missed only now
        return "a process"
    raise RuntimeError(text)


def kill(job, folder, what, rng):
    """Kill one of the job's processes, or more; says which kind it was, or None if the job went on."""
    below = job.processes()
    if what == SERVER:
        host = rng.choice(job.servers)
        host.kill_server()
        host.serve()  # for the next job
    else:
        one = [rng.choice(below)] if below else []
        everything = [*below, job.process.pid]
        for pid in {"a process": one, "the launcher": [job.launcher()], "all": everything}[what]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    going_on = last_step(folder) + 2 * EVERY
    while not job.ended():
        if last_step(folder) >= going_on:
            return None  # a process that was not needed any longer
        time.sleep(0.01)
    job.output()
    limit_s = time.monotonic() + LIMIT_S  # of a killed launcher the ranks end by themselves
    while left := job.processes():
        if time.monotonic() > limit_s:
            raise TimeoutError(f"processes outlive the job: {left}")
        time.sleep(0.05)
    return what if job.process.returncode else None  # it was done


def disturb(job, folder, before, left, rng, kinds, outlived):
    """Let a job save something, and end it; says by what, or None if nothing did."""
    target = before + rng.randint(1, max(2, (STEPS - before) // (left + 1)))
    while not job.ended() and last_step(folder) < target:
        time.sleep(0.01)
    time.sleep(rng.random() * 0.1)
    what = None
    while not job.ended() and what is None and outlived.total() < left:
        kind = rng.choice(kinds)
        what = fill(job, folder.parent) if kind == "a full disk" else kill(job, folder, kind, rng)
        if what is None and kind == SERVER:  # ranks that are started need it no longer
            outlived[f"{SERVER}, outlived"] += 1
    return what


def disturbed(network, folder, stage, num_kills, rng, kinds):
    """A job that is killed; its result, the kills by kind, and the numbers of ranks."""
    killed, sizes = Counter(), []
    while True:
        size = rng.choice([each for each in (1, 2, 3, 4) if [each] != sizes[-1:]])
        sizes.append(size)
        before, left = last_step(folder), num_kills - killed.total()
        job = Job(network, folder, stage, size, 0.05 if left else 0.0)
        outlived = Counter()
        what = disturb(job, folder, before, left, rng, kinds, outlived) if left else None
        killed += outlived
        if what is not None:
            killed[what] += 1
            for path in find_checkpoints(folder):
                assert list(Reader(path, read_manifest(path)).verify())
            continue
        text = job.output()
        if job.process.returncode:
            raise RuntimeError(text)
        return result(text), killed, sizes


def on_own_disk():
    """Run this program again on a small disk of its own, if one can be mounted."""
    flags = "-rm" if os.geteuid() else "-m"
    if os.environ.get("OWN_DISK") or subprocess.run(["unshare", flags, "true"], check=False).returncode:
        return
    folder = sys.argv[-1]
    os.makedirs(folder, exist_ok=True)
    mount = f'mount -t tmpfs -o size={DISK_BYTES} none "$0" && exec "$@"'
    os.environ["OWN_DISK"] = "1"
    os.execvp("unshare", ["unshare", flags, "sh", "-c", mount, folder, sys.executable, *sys.argv])


@contextlib.contextmanager
def hosts(wanted):
    """Hosts in network namespaces, if they are wanted."""
    if not wanted:
        yield None
        return
    if reason := lacks():
        raise RuntimeError(reason)
    with tempfile.TemporaryDirectory() as folder:
        network = Network(Path(folder))
        try:
            yield network
        finally:
            network.close()


def main():
    on_own_disk()
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="of kills, by commas; all that can be had by default")
    parser.add_argument("--hosts", action="store_true")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    expected, same = result(Job(None, options.folder / "whole", "none", 2).output()), True
    kinds = KINDS + ["a full disk"] * bool(os.environ.get("OWN_DISK")) + [SERVER] * 3 * options.hosts
    kinds = options.kinds.split(",") if options.kinds else kinds
    with hosts(options.hosts) as network:
        for stage in options.stages.split(","):
            rng = random.Random(f"{options.seed} {stage}")
            folder = options.folder / stage
            found, killed, sizes = disturbed(network, folder, stage, options.kills, rng, kinds)
            same &= found == expected
            row = {"stage": stage, "killed": dict(killed), "ranks": sizes, "same bits": found == expected}
            print(json.dumps(row), flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
