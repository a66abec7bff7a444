"""What saving costs training: the stall of a save, the time of a step, and the disk's share.

::

    python benchmarks/checkpoint.py                    # gptm, a save every 20 steps, beside PyTorch
    python benchmarks/checkpoint.py --workload gpt --window 20 --json rows.json

``stall`` is what ``manager.step()`` takes when it saves, as a multiple of a plain copy of the state's bytes
(into memory that was written before). ``steps`` is the time of training with a save every ``--every`` steps
over that without one, in processor time too. What a save costs falls into the ``--window`` steps that follow
it (what is not yet written then is waited for, and counted), which take turns with as many without one.
PyTorch saves the same model and AdamW's state by ``torch.distributed.checkpoint.async_save``. ``disk`` writes
and reads ``--megabytes`` in turns with ``dd``, with fsync, and reads what the page cache has been told to
forget. ``ranks`` are the seconds of a save to the disk, of the stall of one in the background, and of a load,
of ``--rank-megabytes`` that all ranks hold alike, beside PyTorch's ``dcp.save``, ``async_save`` and ``load``
over Gloo.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.scale.bench.models import build
from distgrad.scale.bench.workloads import WORKLOADS

Step = Callable[[], None]
Save = Callable[[], float]  # saves, and returns for how many seconds training stood still


def distgrad_job(name: str, folder: Path) -> tuple[Step, Save, Callable[[], None], int]:
    """A training step, a save, what waits for the last save, and the state's bytes."""
    import distgrad as dg
    from distgrad.nn import functional as F

    workload = WORKLOADS[name]
    model = build(dg.nn, F, dg.scaled_dot_product_attention, name, workload.sizes)
    optimizer = dg.optim.AdamW(model.parameters(), lr=1e-3)
    x, y = (dg.asarray(each) for each in workload.batch())
    manager = dg.checkpoint.CheckpointManager(folder, keep=1)
    manager.add(model=model, optimizer=optimizer)

    def step() -> None:
        optimizer.zero_grad()
        out = model(x)
        F.cross_entropy(out, y).backward()
        optimizer.step()
        manager.step()

    def save() -> float:
        started_s = time.perf_counter()
        manager.save()
        return time.perf_counter() - started_s

    return step, save, manager.wait, 3 * sum(p.nbytes for p in model.parameters())


def torch_job(name: str, folder: Path) -> tuple[Step, Save, Callable[[], None], int]:
    """The same by PyTorch."""
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.nn import functional as F

    workload = WORKLOADS[name]
    model = build(torch.nn, F, F.scaled_dot_product_attention, name, workload.sizes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, y = (torch.from_numpy(np.asarray(each)) for each in workload.batch())
    pending: list[Any] = []

    def step() -> None:
        optimizer.zero_grad()
        out = model(x)
        F.cross_entropy(out, y).backward()
        optimizer.step()

    def wait() -> None:
        while pending:
            pending.pop().result()

    def save() -> float:
        started_s = time.perf_counter()
        wait()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        pending.append(dcp.async_save(state, checkpoint_id=folder, no_dist=True))
        return time.perf_counter() - started_s

    return step, save, wait, 3 * sum(p.nbytes for p in model.parameters())


def plain_copy(num_bytes: int) -> Callable[[], float]:
    """What copies as many bytes, and returns the seconds that it took."""
    source, target = np.ones(num_bytes, np.uint8), np.zeros(num_bytes, np.uint8)

    def copy() -> float:
        started_s = time.perf_counter()
        np.copyto(target, source)
        return time.perf_counter() - started_s

    return copy


def measure(job: Any, name: str, options: argparse.Namespace) -> dict[str, float]:
    """The row of one library."""
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        step, save, wait, num_bytes = job(name, folder / "saved")
        for _ in range(3):
            step()
        save()
        wait()
        copy = plain_copy(num_bytes)
        stalls, stalls_in_copies, slower, processor = [], [], [], []
        for _ in range(options.rounds):
            times, used = {}, {}
            for saving in (False, True):
                copied_s = copy()  # each time, as others may use the machine
                started_s, began_s = time.perf_counter(), time.process_time()
                if saving:
                    stalls.append(save())
                    stalls_in_copies.append(stalls[-1] / copied_s)
                for _ in range(options.window):
                    step()
                wait()
                times[saving] = time.perf_counter() - started_s
                used[saving] = time.process_time() - began_s
            share = options.window / options.every  # of the steps between two saves
            slower.append(1 + share * (times[True] / times[False] - 1))
            processor.append(1 + share * (used[True] / used[False] - 1))
        return {
            "bytes": num_bytes,
            "step_ms": 1e3 * times[False] / options.window,
            "stall_ms": 1e3 * statistics.median(stalls),
            "stall": statistics.median(stalls_in_copies),
            "step": statistics.median(slower),
            "processor": statistics.median(processor),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def dd_s(folder: Path, num_bytes: int) -> tuple[float, float]:
    """Seconds that dd takes to write a file, with fsync, and to read it back from the disk."""
    path, count = folder / "plain", num_bytes >> 20
    times = []
    for words in ([f"of={path}", "if=/dev/zero", "conv=fsync"], [f"if={path}", "of=/dev/null"]):
        started_s = time.perf_counter()
        subprocess.run(["dd", "bs=1M", f"count={count}", "status=none", *words], check=True)
        times.append(time.perf_counter() - started_s)
        forget([path])
    path.unlink()
    return times[0], times[1]


def forget(paths: Iterable[Path]) -> None:
    """Let files be read from the disk the next time, not from memory."""
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


_READ = """
import sys, time
import distgrad as dg
with dg.checkpoint.CheckpointManager(sys.argv[1], background=False) as manager:
    manager.add(state={})
    started_s = time.perf_counter()
    manager.restore(sys.argv[2])
    print(time.perf_counter() - started_s)
"""


def read_s(checkpoint: Path) -> float:
    """Seconds that a new process takes to restore a checkpoint, as a job does that goes on."""
    command = [sys.executable, "-c", _READ, f"{checkpoint.parent}-read", str(checkpoint)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def disk_share(options: argparse.Namespace) -> dict[str, float]:
    """Writing and reading by distgrad over those of dd, in turns."""
    import distgrad as dg

    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        rng = np.random.default_rng(0)
        state = {str(i): rng.random(1 << 22, np.float32) for i in range(options.megabytes // 16)}
        num_bytes = sum(array.nbytes for array in state.values())
        rows: list[tuple[float, float, float, float]] = []
        with dg.checkpoint.CheckpointManager(
            folder / "saved", keep=options.disk_rounds, background=False
        ) as manager:
            manager.add(state=state)
            for number in range(options.disk_rounds):
                plain = dd_s(folder, num_bytes)
                manager.finished = number
                started_s = time.perf_counter()
                path = manager.save()
                written_s = time.perf_counter()
                forget(Path(str(path)).iterdir())
                rows.append((*plain, written_s - started_s, read_s(Path(str(path)))))
        dd_write, dd_read, write, read = (statistics.median(each) for each in zip(*rows, strict=True))
        speeds = {"dd_write": dd_write, "dd_read": dd_read, "write": write, "read": read}
        shares = {
            "write_share": statistics.median(row[0] / row[2] for row in rows),
            "read_share": statistics.median(row[1] / row[3] for row in rows),
        }
        return {"bytes": num_bytes} | {n: num_bytes / s / 1e6 for n, s in speeds.items()} | shares
    finally:
        shutil.rmtree(folder, ignore_errors=True)


Timed = tuple[Callable[[], Any], Callable[[], Any], Callable[[], Any], Callable[[], Any], int]


def distgrad_rank(folder: Path, megabytes: int) -> Timed:
    """Of one rank: a save that waits, one that does not, what waits for it, a load; and which rank it is."""
    import distgrad as dg

    comm = dg.comm.init()
    net = dg.nn.Sequential(*(dg.nn.Linear(2048, 2048, bias=False) for _ in range(megabytes // 16)))
    options: dict[str, Any] = {"keep": 1, "signals": False}
    waiting = dg.checkpoint.CheckpointManager(folder / "waiting", background=False, **options)
    manager = dg.checkpoint.CheckpointManager(folder / "background", **options)
    for each in (waiting, manager):
        each.add(model=net)
    return waiting.save, manager.save, manager.wait, waiting.restore_latest, comm.rank


def torch_rank(folder: Path, megabytes: int) -> Timed:
    """The same by PyTorch, over Gloo."""
    import torch
    import torch.distributed.checkpoint as dcp

    torch.distributed.init_process_group("gloo")
    net = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048, bias=False) for _ in range(megabytes // 16)))
    state, pending = {"model": net.state_dict()}, []

    def save() -> None:
        dcp.save(state, checkpoint_id=folder / "waiting")

    def start() -> None:
        pending.append(dcp.async_save(state, checkpoint_id=folder / "background"))

    def load() -> None:
        dcp.load(state, checkpoint_id=folder / "waiting")

    return save, start, lambda: pending.pop().result(), load, torch.distributed.get_rank()


def be_rank(library: str, folder: Path, options: argparse.Namespace) -> None:
    """Measure in one of several processes; the first one writes what it found."""
    make = {"distgrad": distgrad_rank, "torch": torch_rank}[library]
    save, start, wait, load, rank = make(folder, options.rank_megabytes)
    found: dict[str, list[float]] = {"save": [], "stall": [], "load": []}

    def timed(name: str, call: Callable[[], Any]) -> None:
        started_s = time.perf_counter()
        call()
        found[name].append(time.perf_counter() - started_s)

    for _ in range(options.rounds + 1):  # the first makes buffers, and is left out
        timed("save", save)
        timed("stall", start)
        wait()
        timed("load", load)
    if rank == 0:
        medians = {name: statistics.median(times[1:]) for name, times in found.items()}
        (folder / "row.json").write_text(json.dumps(medians))


def beside_torch(library: str, num_ranks: int, options: argparse.Namespace) -> dict[str, float]:
    """The seconds of a save, of its stall in the background, and of a load, on so many ranks."""
    start = {
        "distgrad": ["-m", "distgrad", "run", "-n", str(num_ranks)],
        "torch": ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"],
    }[library]
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        own = [__file__, f"--rank-of={library}", f"--folder={folder}", f"--rounds={options.rounds // 2 or 1}"]
        command = [sys.executable, *start, *own, f"--rank-megabytes={options.rank_megabytes}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        row: dict[str, float] = json.loads((folder / "row.json").read_text())
        return row
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="gptm", choices=list(WORKLOADS))
    parser.add_argument("--every", type=int, default=20, help="steps between two saves")
    parser.add_argument("--window", type=int, default=5, help="steps that are timed after a save")
    parser.add_argument("--rounds", type=int, default=6, help="of the stall; half as many of the ranks'")
    parser.add_argument(
        "--megabytes", type=int, default=3072, help="of the arrays that show the disk's share"
    )
    parser.add_argument("--disk-rounds", type=int, default=2)
    parser.add_argument("--rank-megabytes", type=int, default=512)
    parser.add_argument("--folder", help="on the disk to write to; the one for temporary files by default")
    parser.add_argument("--peers", default="torch", choices=["torch", "none"])
    parser.add_argument("--only", default="stall,disk,ranks", help="which of the three, by commas")
    parser.add_argument("--rank-of", choices=["distgrad", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.rank_of:
        be_rank(options.rank_of, Path(options.folder), options)
        return 0
    rows = report(options, ["distgrad", "torch"] if options.peers == "torch" else ["distgrad"])
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))
    return 0


def report(options: argparse.Namespace, libraries: list[str]) -> dict[str, dict[str, float]]:
    """Measure what was asked for; print and return the rows."""
    rows: dict[str, dict[str, float]] = {}
    chosen = options.only.split(",")
    jobs = {"distgrad": distgrad_job, "torch": torch_job}
    for name in libraries if "stall" in chosen else []:
        row = rows[name] = measure(jobs[name], options.workload, options)
        print(
            f"{name:9} {row['bytes'] / 1e6:7.0f} MB  stall {row['stall_ms']:7.1f} ms"
            f" ({row['stall']:.2f} x a copy)  steps of {row['step_ms']:.0f} ms with saves / without"
            f" {row['step']:.3f}, of processor time {row['processor']:.3f}",
            flush=True,
        )
    if "disk" in chosen:
        row = rows["disk"] = disk_share(options)
        print(
            f"disk      {row['bytes'] / 1e6:7.0f} MB"
            f"  write {row['write']:.0f} MB/s, {row['write_share']:.2f} of dd's"
            f"  read {row['read']:.0f} MB/s, {row['read_share']:.2f} of dd's",
            flush=True,
        )
    for num_ranks in (1, 2) if "ranks" in chosen else ():
        for name in libraries:
            row = rows[f"{name} on {num_ranks}"] = beside_torch(name, num_ranks, options)
            print(
                f"{name:9} {num_ranks} ranks, {options.rank_megabytes} MB: save {row['save']:.2f} s,"
                f" stall {row['stall']:.3f} s, load {row['load']:.2f} s",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
