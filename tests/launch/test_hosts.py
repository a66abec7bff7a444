"""Hosts out of the command line, files and a Slurm allocation, and how many ranks each gets."""

import os
import re
import socket

import pytest
from distgrad.launch.__main__ import main
from distgrad.launch.plan import Host

from distgrad.errors import LaunchError
from distgrad.launch import hosts, mpirun, slurm


def test_hosts_on_the_command_line():
    assert hosts.parse_hosts("a:4,b:4") == [Host("a", 4), Host("b", 4)]
    assert hosts.parse_hosts("a, b:2,a") == [Host("a", 2), Host("b", 2)]
    for text in ("", "a:x", "a:4,,b", "a=4"):
        with pytest.raises(LaunchError, match="--hosts must be like a:4,b:4"):
            hosts.parse_hosts(text)


@pytest.mark.parametrize(
    "text",
    [
        "a slots=4 max_slots=8  # Open MPI\n\nb slots=2\n",
        "# MPICH\na:4\nb:2 binding=none\n",
        "a SLOTS=4\nb\nb\n",
        "a\na\nb\na\nb\na",
    ],
    ids=["Open MPI", "MPICH", "mixed", "PBS"],
)
def test_host_files(tmp_path, text):
    path = tmp_path / "hosts"
    path.write_text(text)
    assert hosts.read_hostfile(path) == [Host("a", 4), Host("b", 2)]


def test_wrong_host_files_are_refused(tmp_path):
    path = tmp_path / "hosts"
    with pytest.raises(LaunchError, match="cannot be read"):
        hosts.read_hostfile(path)
    path.write_text("# nothing\n")
    with pytest.raises(LaunchError, match="names no host"):
        hosts.read_hostfile(path)
    for line in ("b 4", "b:x", "b slots=1 slots=2"):
        path.write_text(f"a\n{line}\n")
        with pytest.raises(LaunchError, match=f"line 2: expected 'name slots=4'.* got '{line}'"):
            hosts.read_hostfile(path)


def test_numbers_of_nodes():
    known = [Host("a", 4), Host("b", 2)]
    assert hosts.select(known, None, None) == known
    assert hosts.select(known, 1, None) == [Host("a", 4)]
    assert hosts.select(known, 2, 3) == [Host("a", 3), Host("b", 3)]
    with pytest.raises(LaunchError, match="--nnodes 3 was asked for, but the only hosts known are a, b"):
        hosts.select(known, 3, None)


def test_this_machines_names():
    assert hosts.is_local("localhost")
    assert hosts.is_local("127.0.0.1")
    assert hosts.is_local(socket.gethostname())
    with pytest.raises(LaunchError, match=r"host nowhere\.invalid: the name does not resolve"):
        hosts.is_local("nowhere.invalid")
    assert hosts.job_address("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--nnodes", "2"], "the only hosts known are"),
        (["-n", "2", "--nproc-per-node", "2"], "-n and --nproc-per-node were both given"),
        (["--hosts", "a", "--hostfile", "b"], "--hosts and --hostfile were both given"),
        (["--hosts", "localhost:2", "-n", "3"], "3 ranks were asked for, but localhost:2 have 2 slots"),
    ],
)
def test_what_does_not_fit_together_is_refused(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("")
    assert main([*options, "script.py"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "ranks"),
    [(["--nproc-per-node", "3"], 3), (["--hosts", "localhost:4"], 4), (["-H", "localhost:4", "-np", "2"], 2)],
)
def test_ranks_of_this_machine_need_no_mpi(options, ranks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("")
    assert main([*options, "--dry-run", "script.py"]) == 0
    command, *lines = capsys.readouterr().out.splitlines()
    assert command.endswith(f"entry.py 0:{ranks} script.py")
    assert len(lines) == ranks


def test_a_rank_for_each_core(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    (tmp_path / "script.py").write_text("")
    assert main(["--nproc-per-node", "cpu", "--dry-run", "script.py"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3


def test_slurm_tasks():
    assert slurm.expand_tasks("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(LaunchError, match="must be like"):
        slurm.expand_tasks("two")
    assert slurm.allocation({}) == []
    step = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "h[1-2]", "SLURM_STEP_NUM_TASKS": "4"}
    with pytest.raises(LaunchError, match="srun has started 4 tasks, and each would start a job of its own"):
        slurm.allocation(step)


def test_slurm_starts_one_process_a_node():
    hosts_ = [Host("h1", 2), Host("h2", 1)]
    starter = mpirun.mpiexec(hosts_, ("train.py",), dict(os.environ), slurm.SRUN)
    command = " ".join(starter.command)
    assert re.search(r"-launcher slurm -launcher-exec \S*srun -hosts h1:2,h2:1 .*-n 3 ", command)
    assert starter.environment["HYDRA_LAUNCHER_EXTRA_ARGS"] == "--overlap --cpu-bind=none --mpi=none"


def test_mpiexec_leaves_no_file_behind():
    starter = mpirun.mpiexec([Host("here", 2)], ("train.py",), dict(os.environ), "")
    assert starter.environment["HWLOC_XMLFILE"] == os.devnull
