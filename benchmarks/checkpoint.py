"""What saving costs training: the stall of a save, the time of a step, and the disk's share.

::

    python benchmarks/checkpoint.py                    # gptm, a save every 20 steps, beside PyTorch
    python benchmarks/checkpoint.py --workload gpt --steps 40 --json rows.json

``stall`` is what ``manager.step()`` takes when it saves, as a multiple of a plain copy of the state's bytes
(into memory that was written before). ``step`` is the time of training with a save every ``--every`` steps
over that without one; the two take turns. ``write`` and ``read`` are bytes a second over those of one plain
file on the same disk, with fsync. PyTorch saves the same model and AdamW's state by
``torch.distributed.checkpoint.async_save``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
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


def plain_file_s(folder: Path, num_bytes: int) -> tuple[float, float]:
    """Seconds to write a plain file to the disk, and to read it back."""
    data, path = np.random.default_rng(0).bytes(num_bytes), folder / "plain"
    started_s = time.perf_counter()
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    written_s = time.perf_counter()
    path.read_bytes()
    read_s = time.perf_counter()
    path.unlink()
    return written_s - started_s, read_s - written_s


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
        stalls, stalls_in_copies, ratios = [], [], []
        for _ in range(options.rounds):
            times = {}
            for saving in (False, True):
                started_s = time.perf_counter()
                for number in range(options.steps):
                    step()
                    if saving and number % options.every == options.every - 1:
                        stalls.append(save())
                times[saving] = time.perf_counter() - started_s
                wait()
            ratios.append(times[True] / times[False])
            for _ in range(4):  # beside a copy, as others may use the machine
                step()
                copied_s = copy()
                stalls_in_copies.append(save() / copied_s)
                wait()
        return {
            "bytes": num_bytes,
            "stall_ms": 1e3 * statistics.median(stalls),
            "stall": statistics.median(stalls_in_copies),
            "step": statistics.median(ratios),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def disk_share(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Writing and reading by distgrad over those of a plain file, in turns."""
    import distgrad as dg

    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        rng = np.random.default_rng(0)
        state = {str(i): rng.random(1 << 22, np.float32) for i in range(options.megabytes // 16)}
        num_bytes = sum(array.nbytes for array in state.values())
        writes, reads = [], []
        with dg.checkpoint.CheckpointManager(folder / "saved", keep=1) as manager:
            manager.add(state=state)
            for number in range(options.rounds):
                plain = plain_file_s(folder, num_bytes)
                manager.finished = number
                started_s = time.perf_counter()
                path = manager.save()
                manager.wait()
                written_s = time.perf_counter()
                manager.restore(path)
                writes.append(plain[0] / (written_s - started_s))
                reads.append(plain[1] / (time.perf_counter() - written_s))
        return {"bytes": num_bytes, "write": statistics.median(writes), "read": statistics.median(reads)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="gptm", choices=list(WORKLOADS))
    parser.add_argument("--every", type=int, default=20, help="steps between two saves")
    parser.add_argument("--steps", type=int, default=40, help="in a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=512, help="of the arrays that show the disk's share")
    parser.add_argument("--folder", help="on the disk to write to; the one for temporary files by default")
    parser.add_argument("--peers", default="torch", choices=["torch", "none"])
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    rows = {"distgrad": measure(distgrad_job, options.workload, options)}
    if options.peers == "torch":
        rows["torch"] = measure(torch_job, options.workload, options)
    for name, row in rows.items():
        print(
            f"{name:9} {row['bytes'] / 1e6:7.0f} MB  stall {row['stall_ms']:7.1f} ms"
            f" ({row['stall']:.2f} x a copy)  steps with saves / without {row['step']:.3f}"
        )
    share = disk_share(options.workload, options)
    print(f"disk      {share['bytes'] / 1e6:7.0f} MB  of a plain file's speed: ", end="")
    print(f"write {share['write']:.2f}, read {share['read']:.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps({**rows, "disk": share}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
