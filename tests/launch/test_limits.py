"""Jobs for which the system does not allow enough, and ranks that leave before others are ready."""

import re
import resource
import subprocess
import sys

import pytest
from distgrad.launch.limits import allow_files

MEET = "import distgrad.comm; comm = distgrad.comm.init(); comm.barrier(); print('met')"


def run_with_files(soft, hard, folder, ranks):
    (folder / "script.py").write_text(MEET)
    return subprocess.run(
        [sys.executable, "-m", "distgrad.launch", "-n", str(ranks), "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )


def test_too_few_files_for_the_launcher(tmp_path):
    done = run_with_files(16, 16, tmp_path, 3)
    assert done.returncode == 2
    assert done.stderr == (
        "launch: this many ranks need 23 open files at once, but the system allows 16; raise the limit "
        "(ulimit -n 23), or start fewer ranks\n"
    )


def test_too_few_files_for_the_ranks(tmp_path):
    done = run_with_files(27, 27, tmp_path, 6)
    assert done.returncode == 1
    words = r"comm\.init: 6 ranks on a host need (\d+) open files each, but the system allows a process 27"
    assert re.search(words, done.stderr), done.stderr
    needed = int(re.search(words, done.stderr)[1])
    assert run_with_files(needed, needed, tmp_path, 6).stdout.count("met") == 6


def test_a_limit_that_may_be_raised_is_raised(tmp_path):
    done = run_with_files(16, 200, tmp_path, 6)
    assert (done.returncode, done.stdout.count("met")) == (0, 6), done.stderr


def test_what_is_allowed():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert allow_files(soft) is None
    if hard != resource.RLIM_INFINITY:
        assert allow_files(hard + 1) == hard
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


@pytest.mark.parametrize("number", [1, 2])
def test_ranks_that_hang_before_they_join_are_found(run, number):
    hang = "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()"
    ended = run(f"-n {number} --hang-after 2", hang)
    assert ended.code == 3
    assert "stands still before dg.comm.init(), its Python is at script.py:1 in <module>" in ended.summary[0]


@pytest.mark.parametrize("backend", ["shm", "mpi"], ids=["without MPI", "by mpiexec"])
def test_a_rank_may_go_on_after_finalize_when_the_others_have_ended(run, backend):
    script = """
        import os, time
        import distgrad.comm
        comm = distgrad.comm.init()
        comm.barrier()
        if comm.rank == 0:
            distgrad.comm.finalize()
            time.sleep(7)
    """
    ended = run(f"-n 2 --backend {backend}", script)
    assert (ended.code, ended.stderr) == (0, "")
