"""A job that is killed at random, and goes on with another number of ranks each time, ends with its bits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("twenty_kills.py")


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_the_bits_of_an_undisturbed_run(tmp_path):
    """Three kills a stage; the guide has the table of twenty."""
    ended = subprocess.run(
        [sys.executable, str(DRIVER), "--kills", "3", str(tmp_path)],
        capture_output=True, text=True, timeout=1950, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row["stage"] for row in rows] == ["none", "optimizer", "gradients"]
    assert all(sum(row["killed"].values()) == 3 for row in rows)
