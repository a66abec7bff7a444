"""Under mpirun any rank's end is the job's; started again by hand, it goes on, on any number of ranks."""

import signal
import sys
from pathlib import Path

import pytest
from ranks_plugin import run_ranks

from distgrad.checkpoint.layout import find_checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).with_name("resumed_training.py")


def mpirun(num_ranks, folder, *extra):
    return run_ranks(num_ranks, [sys.executable, str(SCRIPT), str(folder), *map(str, extra)], timeout=120)


def result(job):
    """The step that a job began at, and the digest of its parameters."""
    assert job.returncode == 0, job.output
    start, digest = job.output.split("attempt 0 from ")[1].split()[:2]
    return int(start), digest


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_goes_on_where_it_stood(tmp_path, number):
    _, whole = result(mpirun(2, tmp_path / "whole"))
    ended = mpirun(2, tmp_path / "run", 13, int(number))
    assert ended.returncode not in (0, None)
    if number == signal.SIGTERM:  # all ranks agree on the step
        assert ended.returncode == 75
        assert f"checkpoint: saved at step {find_checkpoints(tmp_path / 'run')[-1].name[-2:]}" in ended.output
    start, digest = result(mpirun(2, tmp_path / "run"))
    assert start >= 5
    assert digest == whole


def test_a_job_goes_on_on_another_number_of_ranks(tmp_path):
    assert mpirun(3, tmp_path, 13, int(signal.SIGKILL)).returncode not in (0, None)
    for num_ranks, least in ((1, 5), (2, 20)):
        assert result(mpirun(num_ranks, tmp_path))[0] >= least
