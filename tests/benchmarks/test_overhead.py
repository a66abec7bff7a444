"""The overhead benchmark runs, and says which bars hold."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "overhead.py"
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch, which it compares with, is not installed"
)


def load():
    spec = importlib.util.spec_from_file_location("overhead", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["overhead"] = module
    spec.loader.exec_module(module)
    return module


@needs_torch
def test_ratios_are_those_of_the_calls():
    overhead = load()
    row = overhead.compare("sleep", lambda: time.sleep(0.012), lambda: time.sleep(0.003), rounds=3, bar=1.5)
    assert 1.5 < row.ratio < 5.0
    assert not row.holds
    assert str(row).endswith("at most 1.5: NO")
    assert overhead.Row("a", 1.0, 1.0, 1.4, 1.5).holds
    assert overhead.Row("a", 1.0, 1.0, 9.0).holds


@needs_torch
def test_the_table_has_both_directions_of_every_operation_and_the_bars(tmp_path):
    file = tmp_path / "rows.json"
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--rounds", "1", "--json", file],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=dict(os.environ),
    )
    assert ran.returncode in (0, 1), ran.stderr
    rows = json.loads(file.read_text())
    wrapping = [row for row in rows if "whole_us" in row]
    rows = [row for row in rows if "whole_us" not in row]
    assert len(wrapping) >= 10
    assert all(row["whole_us"] > row["extra_us"] and row["parts_us"] > 0 for row in wrapping)
    assert [row["bar"] for row in rows[:3]] == [2.0, 1.0, 1.5]
    names = [row["name"] for row in rows[3:]]
    assert len(names) >= 20
    assert names[0::2] == [name.replace("backward", "forward") for name in names[1::2]]
    assert all(row["distgrad_us"] > 0 and row["torch_us"] > 0 for row in rows)
    held = all(row["bar"] is None or row["ratio"] <= row["bar"] for row in rows)
    held = held and all(row["extra_us"] <= row["bar"] for row in wrapping)
    assert ran.returncode == (0 if held else 1)
