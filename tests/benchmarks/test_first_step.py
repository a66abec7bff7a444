"""The first-step benchmark runs, and what it calls cold compiles, and what it calls warm does not."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "first_step.py"


def test_a_cold_step_compiles_and_a_warm_one_does_not(tmp_path):
    file = tmp_path / "rows.json"
    command = [sys.executable, SCRIPT, "--workloads", "mlp", "--libraries", "distgrad", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    cold, warm = json.loads(file.read_text())["rows"]
    assert (cold["cache"], warm["cache"]) == ("cold", "warm")
    assert cold["compiled"] >= 4
    assert warm["compiled"] == 0
    assert 0 < warm["busy_s"] < cold["busy_s"]
    assert 0 < cold["built_s"] < cold["first_s"] < cold["tenth_s"]
    assert len(done.stdout.splitlines()) == 2
