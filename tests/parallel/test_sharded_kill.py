"""A rank that is killed while blocks are gathered: who it was is said, and nothing is left of the job."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal
import numpy as np
import distgrad as dg
from distgrad import nn
from distgrad.parallel import DistributedDataParallel

comm = dg.comm.init()
open(f"pid{comm.rank}", "w").write(str(os.getpid()))
model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
model = DistributedDataParallel(model, comm, shard="parameters")
optimizer = dg.optim.AdamW(model.parameters())
times = 0


def be_killed(*_):
    global times
    times += 1
    if times == 3 and comm.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


if "PASS" == "forward":
    model.module[1].register_forward_pre_hook(be_killed)  # block 2 is being gathered
else:
    model.module[2].weight.register_hook(be_killed)  # block 1 is
for step in range(8):
    optimizer.zero_grad()
    x = dg.asarray(np.random.default_rng([step, comm.rank]).standard_normal((3 + comm.rank, 64), np.float32))
    (model(x) ** 2).mean().backward()
    optimizer.step()
"""


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_rank_that_is_killed_while_blocks_are_gathered_is_named(where, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT.replace("PASS", where))
    segments = set(os.listdir("/dev/shm"))
    command = [sys.executable, "-m", "distgrad", "run", "-n", "3", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    printed = done.stdout + done.stderr
    assert done.returncode == 128 + 9, printed
    assert "rank 1 on " in printed
    assert "SIGKILL" in printed
    assert "stopped 2 other ranks" in printed
    assert re.search(r"Meanwhile: .* (in|after) #\d+ (all_gather|reduce_scatter|all_reduce)\(", printed)
    pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in range(3)]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    mine = [name for name in set(os.listdir("/dev/shm")) - segments if any(str(pid) in name for pid in pids)]
    assert mine == []
