"""A scaling study of two hosts, over their network."""

import json
import os
import subprocess
import sys

import pytest

from distgrad.scale.results import LOSSES

SCRIPT = """
import numpy as np
import distgrad as dg

comm = dg.comm.init()
dg.manual_seed(0)
model = dg.parallel.DistributedDataParallel(dg.nn.Linear(64, 64), comm)
optimizer = dg.optim.SGD(model.parameters(), lr=0.1)
for step in range(1000):
    optimizer.zero_grad()
    model(dg.asarray(np.full((8, 64), comm.rank + step % 7, np.float32))).sum().backward()
    optimizer.step()
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_study_goes_over_hosts(network, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    options = [
        "--hosts",
        "h1:1,h2:1",
        "--ssh",
        network.ssh(),
        "--ranks",
        "1,2",
        "--repeat",
        "1",
        "--steps",
        "20",
    ]
    command = [sys.executable, "-m", "distgrad", "scale", *options, "train.py"]
    done = subprocess.run(
        network.hosts[0].inside("env", "-C", str(tmp_path), *command),
        env=dict(os.environ), capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "scale-train"
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert [(row["kind"], row["ranks"]) for row in rows] == [("distgrad", 1), ("distgrad", 2), ("copies", 2)]
    assert all(set(row["loss"]) == set(LOSSES) for row in rows)
    ranks = [json.loads(path.read_text()) for path in (folder / "runs" / "distgrad-2-0").glob("rank*.json")]
    assert {rank["host"] for rank in ranks} == {"h1", "h2"}
