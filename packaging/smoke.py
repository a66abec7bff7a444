"""What must work where distgrad alone is installed: ``ENV/bin/python smoke.py VERSION``, anywhere empty."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

TRAIN = """
import hashlib
import numpy as np
import distgrad as dg
from distgrad import nn

world = dg.comm.init()
dg.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 8))
ddp = dg.parallel.DistributedDataParallel(model)
optimizer = dg.optim.AdamW(ddp.parameters(), lr=1e-2)
dg.manual_seed(world.rank + 1)  # every rank has numbers of its own
inputs, labels = dg.randn(256, 64), dg.randint(0, 8, (256,))
first = None
for _ in range(20):
    optimizer.zero_grad()
    loss = nn.CrossEntropyLoss()(ddp(inputs), labels)
    loss.backward()
    optimizer.step()
    first = loss.item() if first is None else first
assert loss.item() < 0.8 * first, (first, loss.item())
parameters = b"".join(np.asarray(p.detach()).tobytes() for p in model.parameters())
digest = hashlib.sha256(parameters).hexdigest()
print(f"ranks {world.size} sha256 {digest}", flush=True)  # in one, as mpiexec mixes what ranks write
"""
TEMPLATES = ("slurm", "slurm-gpu", "pbs", "kubernetes", "ssh")


def told(*command: str) -> str:
    """What a command of this environment prints."""
    path = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]])
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "PATH": path}
    )
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def check(holds: bool, sentence: str) -> None:
    """End with the sentence unless it holds."""
    if not holds:
        raise SystemExit(sentence)


def check_package(version: str) -> None:
    """The package is the installed one, of that version, whole, and quick to import."""
    import distgrad as dg

    lazy = {"mpi4py", "numba", "cupy"} & sys.modules.keys()
    check(not lazy, f"import distgrad has loaded {lazy}")
    folder = Path(dg.__file__).parent
    check(Path(sys.prefix) in folder.parents, f"{folder} is not in {sys.prefix}: start in an empty folder")
    names = (
        dg.__version__,
        importlib.metadata.version("distgrad"),
        told("distgrad", "--version").split()[-1],
    )
    check(set(names) == {version}, f"versions {names} are not all {version}")
    for pattern in (
        "py.typed",
        "__init__.pyi",
        "nn/functional/*.pyi",
        "backend/kernels/cuda/*.cu",
        "launch/rank.py",
    ):
        check(any(folder.glob(pattern)), f"no {pattern} in {folder}")


def check_commands() -> None:
    """Commands that need no more than the wheel."""
    for name in TEMPLATES:
        check("train" in told("distgrad", "template", name), f"distgrad template {name} starts nothing")
    check("relu" in told("distgrad", "ops", "relu"), "distgrad ops relu does not know it")
    for command in ("run", "warm", "doctor", "scale", "report", "plot", "bench"):
        check(
            "Usage" in told("distgrad", command, "--help").replace("usage", "Usage"),
            f"distgrad {command} --help",
        )


def check_ranks() -> None:
    """Two ranks train alike, over shared memory and over MPI."""
    Path("train.py").write_text(TRAIN)
    hashes = []
    for command in (
        ["distgrad", "run", "-n", "2", "train.py"],
        ["distgrad", "run", "-n", "2", "--backend", "mpi", "train.py"],
        ["mpiexec", "-n", "2", sys.executable, "train.py"],
    ):
        found = re.findall(r"ranks 2 sha256 (\w{64})", told(*command))
        check(len(found) == 2 and len(set(found)) == 1, f"{' '.join(command)}: ranks ended with {found}")
        hashes += found[:1]
    check(len(set(hashes)) == 1, f"shared memory and MPI train differently: {hashes}")


if __name__ == "__main__":
    check_package(sys.argv[1])
    check_commands()
    check_ranks()
    print("smoke: passed")
