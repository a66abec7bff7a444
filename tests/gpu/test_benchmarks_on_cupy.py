"""The benchmarks with ``--device cuda``, on the released CuPy over the double of a GPU: not how fast it is.

Those that start processes find the double by ``gpu_double/everywhere``; they leave PyTorch and JAX out there.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from gpu_double.runtime import unavailable

import distgrad as dg

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
EVERYWHERE = ROOT / "tests" / "gpu_double" / "everywhere"


def start(name, options, tmp_path):
    """What a benchmark prints and leaves, in processes of its own."""
    if (reason := unavailable()) is not None:
        pytest.skip(reason)
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        BENCHMARKS / f"{name}.py",
        "--device",
        "cuda",
        "--json",
        report,
        *options.split(),
    ]
    env = {**os.environ, "PYTHONPATH": str(EVERYWHERE), "CUPY_ACCELERATORS": ""}
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(report.read_text())


@pytest.mark.timeout(300)
def test_step(tmp_path):
    printed, report = start("step", "--workloads tiny --threads 1 --rounds 1 --seconds 0.01", tmp_path)
    assert "skipped torch eager: torch is not installed" in printed
    assert [row["name"] for row in report["results"]] == ["distgrad", "products alone"]
    assert all(row["median_ms"] > 0 for row in report["results"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ddp(tmp_path):
    _, report = start("ddp", "--workloads tiny --rounds 1 --seconds 0.05", tmp_path)
    (row,) = report["results"]
    assert row["distgrad_ms"] > 0
    assert row["communication_ms"] > 0
    assert 0 <= row["hidden_share"] <= 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_allreduce(tmp_path):
    printed, report = start("allreduce", "--ranks 2 --sizes 1024 65536 --rounds 1 --turn 0.001", tmp_path)
    assert "not installed, so left out: NCCL" in printed
    assert set(report["ranks"]["2"]["65536"]) == {"arena", "array", "memcpy"}


# -- those that run in one process


def run(monkeypatch, capsys, name, options):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, benchmark)  # where dataclasses look
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--device", "cuda", *options.split()])
    benchmark.main()
    return capsys.readouterr().out


@pytest.mark.gpu_double(devices=1, timeout=300)
def test_network(monkeypatch, capsys):
    before = dg.get_num_threads()
    try:
        printed = run(monkeypatch, capsys, "network", "--workloads tiny --gbits 10 --steps 2")
    finally:
        dg.set_num_threads(before)
    assert printed.count("tiny") == 5
    assert "TopK(0.01)" in printed


@pytest.mark.slow
@pytest.mark.gpu_double(devices=1, timeout=300)
def test_overhead(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", MagicMock(__version__="0"))  # the real one wants a real cuBLAS
    printed = run(monkeypatch, capsys, "overhead", "--rounds 1")
    assert printed.count(", forward") == printed.count(", backward") == 15
