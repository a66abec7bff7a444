"""A long job under everyday strain: ``python tests/launch/soak.py --seconds 1200``.

Four ranks train with random batch sizes and write ten megabytes a minute to both streams; whoever reads them
pauses, now and then for longer than the watch for hangs would wait; and a stranger calls the launcher's port.
Held to: exit code 0, every line once and in its order, one attempt, memory and descriptors that do not grow.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import IO

HANG_AFTER_S = 20
PAUSES_S = (0.2, 0.2, 0.2, 1.0, 1.0, 26.0)  # the last is longer than a rank may wait for another
LOOK_S = 1.0
SETTLED_S = 60.0
GROWTH = 1.1  # of memory, from the second quarter of the run to the last
PROGRAM = """
import os, sys, time
import numpy as np
import distgrad as dg
from distgrad import nn
seconds, bytes_s = float(sys.argv[1]), float(sys.argv[2])
comm = dg.comm.init()
open(f"runs{comm.rank}", "a").write("x")
if comm.rank == 0:
    open("port", "w").write(os.environ["DISTGRAD_SUPERVISOR"])
rng = np.random.default_rng(comm.rank)
model = dg.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4)))
optimizer = dg.optim.SGD(model.parameters(), lr=0.01)
began_s, count, written = time.monotonic(), [0, 0], 0
going = np.ones(1)
while going[0]:
    size = int(rng.integers(1, 257))
    x = dg.tensor(rng.standard_normal((size, 32)).astype(np.float32))
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    while written < bytes_s * (time.monotonic() - began_s):
        stream = int(rng.integers(0, 4)) == 0
        text = f"{count[stream]} " + "x" * int(rng.integers(0, 400))
        print(text, file=(sys.stdout, sys.stderr)[stream])
        count[stream] += 1
        written += len(text) + 1
    going[0] = time.monotonic() - began_s < seconds
    comm.broadcast(going, 0)
    time.sleep(0.02)
for stream in (sys.stdout, sys.stderr):
    print("total", count[stream is sys.stderr], file=stream)
"""


class Reader(threading.Thread):
    """Reads one stream of the launcher, with pauses, and sees that no line is missing."""

    def __init__(self, stream: IO[bytes], seed: int) -> None:
        super().__init__(daemon=True)
        self.stream = stream
        self.random = random.Random(seed)
        self.counts: Counter[int] = Counter()
        self.totals: dict[int, int] = {}
        self.num_bytes = 0
        self.wrong: list[str] = []
        self.paused_s = 0.0

    def run(self) -> None:
        next_s = time.monotonic() + 2
        for line in self.stream:
            self.num_bytes += len(line)
            if re.fullmatch(rb"launch: 4 ranks share \d+ cores? of \S+, and take turns\n", line):
                continue
            match = re.fullmatch(rb"\[(\d)\] (total )?(\d+) ?x*\n", line)
            rank = int(match[1]) if match else -1
            if match is None or int(match[3]) != self.counts[rank] or rank in self.totals:
                self.wrong.append(line[:100].decode(errors="replace"))
            elif match[2]:
                self.totals[rank] = int(match[3])
            else:
                self.counts[rank] += 1
            if time.monotonic() > next_s:
                pause_s = self.random.choice(PAUSES_S)
                time.sleep(pause_s)
                self.paused_s += pause_s
                next_s = time.monotonic() + self.random.uniform(1, 10)


class Stranger(threading.Thread):
    """Calls the launcher's port again and again, says nonsense, and stays for a while."""

    def __init__(self, port: Path) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.calls: Counter[str] = Counter()
        self.over = False

    def run(self) -> None:
        lines: list[socket.socket] = []
        while not self.over:
            time.sleep(0.2)
            if not self.port.exists():
                continue
            host, _, port = self.port.read_text().rpartition(":")
            try:
                line = socket.create_connection((host, int(port)), timeout=1)
                line.sendall(os.urandom(100))
                lines.append(line)
                self.calls["answered"] += 1
            except (OSError, ValueError):
                self.calls["refused"] += 1
            while len(lines) > 20:
                lines.pop(0).close()
        for line in lines:
            line.close()


def measure(mark: str) -> dict[str, tuple[int, int]]:
    """Resident bytes and descriptors of every process of the job, the launcher's own apart."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            resident = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            kind = "launcher" if b"distgrad.launch" in (folder / "cmdline").read_bytes() else "rank"
            found[f"{kind} {folder.name}"] = resident, len(os.listdir(folder / "fd"))
        except OSError:
            continue
    return found


def grown(samples: list[dict[str, tuple[int, int]]]) -> list[str]:
    """What is larger in the last quarter of the run than in the second, in words.

    A rank's memory settles in the first minute: of a short run, only the launcher's is compared.
    """
    quarter = max(1, len(samples) // 4)
    is_short = quarter * LOOK_S < SETTLED_S
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    words = []
    for name in sorted(name for name in set(early[0]) & set(late[-1]) if "launcher" in name or not is_short):
        for place, kind in enumerate(("bytes", "descriptors")):
            before, after = (
                statistics.median(sample[name][place] for sample in part if name in sample)
                for part in (early, late)
            )
            if after > before * (GROWTH if kind == "bytes" else 1):
                words.append(f"{name}: {before:.0f} {kind} became {after:.0f}")
    return words


def soak(seconds: float, megabytes_a_minute: float, folder: Path) -> dict[str, object]:
    """Run the job; return what was seen, with everything wrong in ``wrong``."""
    (folder / "train.py").write_text(PROGRAM)
    mark = f"SOAK={os.getpid()}"
    bytes_s = megabytes_a_minute * 1e6 / 60 / 4
    options = f"-n 4 --hang-after {HANG_AFTER_S} --max-restarts 1 train.py {seconds} {bytes_s}"
    launch = [sys.executable, "-m", "distgrad.launch"]
    # Kernels are compiled before the clock starts: that takes longer than a rank may wait here.
    subprocess.run([*launch, "-n", "4", "train.py", "8", "0"], cwd=folder, check=True, capture_output=True)
    for left in folder.glob("[rp]*[0-9t]"):
        left.unlink()
    began_s = time.monotonic()
    job = subprocess.Popen(
        [*launch, *options.split()],
        cwd=folder,
        env={**os.environ, "SOAK": str(os.getpid()), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert job.stdout is not None
    assert job.stderr is not None
    readers = [Reader(stream, seed) for seed, stream in enumerate((job.stdout, job.stderr))]
    stranger = Stranger(folder / "port")
    for thread in (*readers, stranger):
        thread.start()
    samples = []
    while job.poll() is None:
        samples.append(measure(mark))
        time.sleep(LOOK_S)
        if time.monotonic() - began_s > 2 * seconds + 120:
            job.kill()
    for reader in readers:
        reader.join()
    stranger.over = True
    return report(job.returncode, time.monotonic() - began_s, readers, stranger, samples, folder)


def report(
    code: int,
    seconds: float,
    readers: list[Reader],
    stranger: Stranger,
    samples: list[dict[str, tuple[int, int]]],
    folder: Path,
) -> dict[str, object]:
    """What was seen, and what of it is wrong."""
    wrong = [line for reader in readers for line in reader.wrong[:20]]
    wrong += [f"exit code {code}"] if code else []
    for reader in readers:
        if reader.totals != dict(reader.counts) or len(reader.totals) != 4:
            wrong.append(f"lines {dict(reader.counts)} of {reader.totals}")
    wrong += grown([sample for sample in samples if len(sample) >= 9])
    runs = [(folder / f"runs{rank}").read_text() for rank in range(4)]
    wrong += [f"attempts {runs}"] if runs != ["x"] * 4 else []
    launcher = [value for sample in samples for name, value in sample.items() if name.startswith("launcher")]
    return {
        "wrong": wrong,
        "seconds": round(seconds),
        "lines": sum(sum(reader.counts.values()) for reader in readers),
        "megabytes": sum(reader.num_bytes for reader in readers) / 1e6,
        "paused_s": [round(reader.paused_s) for reader in readers],
        "stranger": dict(stranger.calls),
        "launcher_megabytes": [
            round(max(value[0] for value in part) / 1e6, 1) for part in (launcher[2:12], launcher)
        ],
        "launcher_descriptors": max(value[1] for value in launcher),
    }


def main() -> int:
    """Run it from the command line; the exit code is 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--megabytes-a-minute", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = soak(options.seconds, options.megabytes_a_minute, Path(folder))
    print(json.dumps(seen, indent=2))
    return 1 if seen["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
