"""What Slurm's programs answer, played by scripts; the real ones are tried in tests/hosts/test_slurm.py."""

import pytest
from distgrad.launch.plan import Host

from distgrad.errors import LaunchError
from distgrad.launch import slurm

ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-4]", "SLURM_TASKS_PER_NODE": "2(x4)"}
NODES = ["n1", "n2", "n3", "n4"]


@pytest.fixture
def says(tmp_path, monkeypatch):
    """Have Slurm's programs, and no others, write what is given and exit so."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def say(**texts):
        for name, (code, text) in texts.items():
            lines = "\n".join(f"echo '{line}'" for line in text.splitlines())
            (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\nexit {code}\n")
            (tmp_path / name).chmod(0o755)

    return say


def test_nodes_that_are_down_silent_or_no_more_the_job_s_are_left_out(says):
    says(
        squeue=(0, "n[1,3-4]"),
        scontrol=(0, "n1\nn3\nn4"),
        sinfo=(0, "n1 mixed\nn2 idle\nn3 allocated*\nn4 drained"),
    )
    assert slurm.problems(NODES, ALLOCATION) == {
        "n2": "Slurm has taken it from the job, as it was down",
        "n3": "Slurm says that it is allocated*",
        "n4": "Slurm says that it is drained",
    }


@pytest.mark.parametrize("answer", [None, (1, ""), (0, "")], ids=["missing", "failing", "silent"])
def test_a_slurm_that_does_not_answer_leaves_no_node_out(says, answer):
    if answer is not None:
        says(squeue=answer, scontrol=answer, sinfo=answer)
    assert slurm.problems(NODES, ALLOCATION) == {}


def test_an_allocation_whose_hosts_nobody_names_is_an_error(says):
    with pytest.raises(LaunchError, match=r"cannot name the hosts of 'n\[1-4\]': .*No such file.*scontrol"):
        slurm.allocation(ALLOCATION)
    assert "No such file" in slurm.requeue(ALLOCATION)
    says(scontrol=(0, "n1\nn2\nn3\nn4"))
    assert slurm.allocation(ALLOCATION) == [Host(name, 2) for name in NODES]
    assert slurm.requeue(ALLOCATION) == ""
