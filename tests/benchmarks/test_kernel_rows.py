"""The kernel benchmark runs, and "formula" is what runs without Numba."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernels.py"


def test_each_direction_has_a_row_and_a_kernel_beats_its_formula(tmp_path):
    file = tmp_path / "rows.json"
    command = [sys.executable, SCRIPT, "--cases", "gelu,embedding", "--threads", "1", "--rounds", "1"]
    command += ["--seconds", "0.02", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["rows"]
    names = [f"{name} {way}" for name in ("gelu", "embedding") for way in ("forward", "backward")]
    assert [row["case"] for row in rows] == names
    assert rows[0]["formula_ratio"] > 3  # 85 where it was measured
    assert ("torch_ms" in rows[0]) == (importlib.util.find_spec("torch") is not None)


def test_an_unknown_case_is_named():
    command = [sys.executable, SCRIPT, "--cases", "gelu,nothing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "'nothing' is none of" in done.stderr
