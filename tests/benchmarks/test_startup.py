"""The start-up benchmark runs, and its figures are those of the jobs."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "startup.py"


def test_a_row_for_every_launcher_and_moment(tmp_path):
    file = tmp_path / "rows.json"
    options = ["--ranks", "2", "--rounds", "1", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = {(row["launcher"], row["moment"]): row for row in json.loads(file.read_text())["rows"]}
    launchers = {launcher for launcher, _ in rows}
    assert launchers >= {"distgrad run", "mpiexec"}
    assert len(rows) == 2 * len(launchers)
    for launcher in launchers:
        assert 0 < rows[launcher, "script"]["seconds"] < rows[launcher, "world"]["seconds"]
    assert rows["distgrad run", "world"]["ratio"] == 1.0
