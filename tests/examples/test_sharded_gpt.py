"""A GPT whose training does not fit one rank trains on four, under the same limit of memory."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import distgrad as dg

ROOT = Path(__file__).parents[2]
LIMIT_BYTES = 450 << 20  # of a process's own memory: all of it takes 730 MB, a quarter 290


def run(*command, limit=LIMIT_BYTES):
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_four_ranks_train_what_one_cannot(tmp_path):
    script = str(ROOT / "examples" / "sharded_gpt.py")
    alone = run(sys.executable, script, "--shard", "none", "--steps", "2")
    assert alone.returncode != 0
    assert "MemoryError" in alone.stderr or "Unable to allocate" in alone.stderr
    file = tmp_path / "model.safetensors"
    launcher = [str(Path(sys.executable).parent / "distgrad"), "run", "-n", "4"]
    together = run(*launcher, script, "--steps", "2", "--save", str(file))
    assert together.returncode == 0, together.stdout + together.stderr
    assert "25.4 million parameters; this rank keeps 48 MiB of moments" in together.stdout
    state = dg.load(file)
    assert sum(value.size for value in state.values()) > 25e6
    assert all(bool((value != 0).any()) for name, value in state.items() if name.endswith("qkv.weight"))
