"""Thousands of steps of which no two are alike."""

import os
import sys
from pathlib import Path

import pytest
from ranks_plugin import run_ranks


def soak(steps, timeout):
    before = set(os.listdir("/dev/shm"))
    program = str(Path(__file__).with_name("soak.py"))
    job = run_ranks(4, [sys.executable, program, str(steps)], timeout, backend="shm")
    assert job.returncode == 0, job.output
    assert job.output.count(f"{steps} steps, grown by") == 4
    left = {name for name in set(os.listdir("/dev/shm")) - before if "mpich" not in name}  # other jobs' own
    assert not left


def test_three_hundred_steps_with_four_ranks():
    soak(300, 100)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_thousand_steps_with_four_ranks():
    soak(10_000, 1100)
