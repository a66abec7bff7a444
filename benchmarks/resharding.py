"""A checkpoint that four ranks wrote, read by other numbers of them: seconds and memory of each rank.

::

    python benchmarks/resharding.py                           # 1 GB of state, 4 -> 1, 2, 3, 4 and 6 ranks
    python benchmarks/resharding.py --megabytes 96 --ranks 1,3

The state is a model's and AdamW's, with ``shard="parameters"``; all digests are compared as it is read.
``own`` is what a rank has of it, ``peak`` the most memory that one needed as it read, beyond what it had
before, in which its own part was already. Exits 1 where the parameters read differ from those saved in a bit,
or the peak is more than a rank's own part and 64 MiB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WIDTH = 1024
LAYER_BYTES = 3 * 4 * WIDTH * WIDTH  # with AdamW's two moments


def status(name: str) -> int:
    """Bytes of this process's memory, as Linux counts them: ``VmRSS``, or ``VmHWM`` for the most."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(name))
    return int(line.split()[1]) << 10


def be_rank(folder: Path, megabytes: int) -> None:
    """Write the checkpoint, or read it if it is there; each rank writes its row."""
    import distgrad as dg

    comm = dg.comm.init()
    saved = (folder / "saved").exists()
    dg.manual_seed(1 + saved)
    num_layers = max(1, (megabytes << 20) // LAYER_BYTES)
    net = dg.nn.Sequential(*(dg.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(num_layers)))
    model = dg.parallel.DistributedDataParallel(net, comm, shard="parameters")
    optimizer = dg.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.zero_grad()
    (model(dg.full((2, WIDTH), float(comm.rank))) ** 2).mean().backward()
    optimizer.step()  # makes the moments
    comm.barrier()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the most so far
    began_s = time.perf_counter()
    with dg.checkpoint.CheckpointManager(folder / "saved", background=False, signals=False) as manager:
        manager.add(model=model, optimizer=optimizer)
        if saved:
            manager.restore_latest()
        else:
            manager.save()
        took_s, peak = time.perf_counter() - began_s, status("VmHWM") - before
    own = num_layers * LAYER_BYTES / comm.size
    row = {"seconds": took_s, "own": own, "peak": peak, "hash": dg.parallel.parameter_hash(model)}
    (folder / f"row{comm.rank}.json").write_text(json.dumps(row))


def run(num_ranks: int, folder: Path, megabytes: int) -> dict[str, Any]:
    """The slowest and the largest of some ranks."""
    own = [__file__, f"--folder={folder}", f"--megabytes={megabytes}", "--be-rank"]
    command = [sys.executable, "-m", "distgrad", "run", "-n", str(num_ranks), *own]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads((folder / f"row{rank}.json").read_text()) for rank in range(num_ranks)]
    return {name: max(row[name] for row in rows) for name in rows[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--ranks", default="1,2,3,4,6", help="that read")
    parser.add_argument("--folder", help="on the disk to write to; the one for temporary files by default")
    parser.add_argument("--be-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_rank:
        be_rank(Path(options.folder), options.megabytes)
        return 0
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    good = True
    try:
        saved = run(4, folder, options.megabytes)
        print(f"4 ranks write {options.megabytes} MB in {saved['seconds']:.2f} s", flush=True)
        for num_ranks in map(int, options.ranks.split(",")):
            row = run(num_ranks, folder, options.megabytes)
            good &= row["hash"] == saved["hash"] and row["peak"] <= row["own"] + (64 << 20)
            print(
                f"4 -> {num_ranks}: {row['seconds']:.2f} s, own {row['own'] / 2**20:.0f} MiB, peak"
                f" {row['peak'] / 2**20:.0f} MiB, same bits: {row['hash'] == saved['hash']}",
                flush=True,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
