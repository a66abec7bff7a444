"""A job that is killed at random, and goes on with another number of ranks each time, ends with its bits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hosts.conftest import lacks

DRIVER = Path(__file__).with_name("twenty_kills.py")


def disturbed(folder, *options):
    """The rows of a run of three kills a stage; the guide has the table of twenty."""
    ended = subprocess.run(
        [sys.executable, str(DRIVER), "--kills", "3", *options, str(folder)],
        capture_output=True, text=True, timeout=1950, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert all(sum(row["killed"].values()) == 3 for row in rows)
    return rows


@pytest.mark.slow
@pytest.mark.timeout(2000)
@pytest.mark.parametrize("stage", ["none", "optimizer", "gradients", "parameters"])
def test_the_bits_of_an_undisturbed_run(tmp_path, stage):
    assert [row["stage"] for row in disturbed(tmp_path, "--stages", stage)] == [stage]


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_hosts_whose_ssh_servers_are_killed(tmp_path):
    if reason := lacks():
        pytest.skip(reason)
    (row,) = disturbed(tmp_path, "--hosts", "--kinds", "a host's sshd", "--stages", "parameters")
    assert {kind.removesuffix(", outlived") for kind in row["killed"]} == {"a host's sshd"}
