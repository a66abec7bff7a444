"""Rung 8's command: it refuses without a GPU, and with the double in a GPU's place it runs to its end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_double.runtime import unavailable

import distgrad as dg

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "tests" / "gpu" / "check.py"


def start(env, *options):
    return subprocess.run(
        [sys.executable, CHECK, *options],
        env={**os.environ, "CUPY_ACCELERATORS": "", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_it_refuses_without_a_gpu():
    if dg.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = start({})
    assert done.returncode == 1
    assert done.stderr.startswith("gpu-check: device 'cuda': ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_runs_on_what_stands_for_gpus(tmp_path):
    if (reason := unavailable()) is not None:
        pytest.skip(reason)
    report = tmp_path / "report.json"
    done = start(
        {"PYTHONPATH": str(ROOT / "tests" / "gpu_double" / "everywhere"), "DISTGRAD_GPU_DOUBLE_DEVICES": "3"},
        *("--json", str(report), "--keyword", "gelu or reduce_scatter or two_streams", "--seconds", "0.01"),
        *("--workloads", "tiny", "--sizes", "65536"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["machine"]["gpus"] == ["a double of a GPU"] * 3
    one, several = found["tests"]
    assert one["tests"]["passed"] > 10
    assert several["tests"]["passed"] > 3
    assert set(several["tests"]) == {"passed"}
    step, _, bandwidth, parallel = found["figures"]
    assert step["samples_per_s"] > 0
    assert set(bandwidth["gb_per_s"]) == {"arena", "array"}
    assert parallel["communication"] > 0
