"""Faults that are planted: a rank that skips, dies, leaves or raises, and what the others get to know."""

import sys
import threading
import time

import numpy as np
import pytest
from ranks_plugin import run_ranks

from distgrad.comm import ThreadWorld
from distgrad.errors import CommError, CommTimeoutError, RankFailedError


def test_threads_report_a_rank_that_skips_a_collective():
    def skip(comm):
        x = np.ones(8, np.float32)
        comm.barrier()
        if comm.rank == 1:
            time.sleep(0.6)  # alive, but elsewhere
        else:
            comm.all_reduce(x)

    with pytest.raises(CommTimeoutError) as caught:
        ThreadWorld(3, timeout_s=0.2).run(skip)
    message = str(caught.value)
    assert "collective #1 all_reduce, group 'world'" in message
    assert (
        "called all_reduce(float32[8]) and waited 0.2 s for rank 1; look for a rank that skipped" in message
    )
    assert "#0 barrier() at " + __file__ in message
    assert caught.value.__notes__ in (["raised on rank 0"], ["raised on rank 2"])


def test_threads_report_a_rank_that_ended_early():
    start_s = time.monotonic()
    with pytest.raises(RankFailedError, match="waited for rank 2, which ended without issuing it"):
        ThreadWorld(3).run(lambda comm: comm.rank == 2 or comm.barrier())
    assert time.monotonic() - start_s < 5


@pytest.mark.parametrize("async_op", [False, True])
def test_threads_raise_the_first_failure_and_free_the_others(async_op):
    others = {}

    def fail(comm):
        if comm.rank == 1:
            raise KeyError("planted")
        try:
            result = comm.barrier(async_op=async_op)
            result.wait()
        except RankFailedError as error:
            others[comm.rank] = str(error)
            raise

    with pytest.raises(KeyError, match="planted") as caught:
        ThreadWorld(3).run(fail)
    assert caught.value.__notes__ == ["raised on rank 1"]
    assert set(others) == {0, 2}
    assert all("rank 1 of the world failed (KeyError: 'planted')" in text for text in others.values())


def test_threads_nothing_is_sent_after_a_failure():
    def retry(comm):
        if comm.rank == 0:
            with pytest.raises(CommTimeoutError, match=r"waited 0\.2 s for rank 1"):
                comm.recv(np.zeros(1), source=1)
            with pytest.raises(
                CommError, match=r"#0 barrier, .*nothing can be sent after an earlier call failed"
            ):
                comm.barrier()
        else:
            time.sleep(0.4)

    ThreadWorld(2, timeout_s=0.2).run(retry)


def test_threads_what_follows_another_ranks_failure_is_told_from_it():
    """The launcher waits for the cause of a RankFailedError, and blames no rank that has one."""
    later = {}

    def go_on(comm):
        if comm.rank == 1:
            raise KeyError("planted")
        with pytest.raises(RankFailedError, match="rank 1 of the world failed"):
            comm.barrier()
        with pytest.raises(CommError, match="nothing can be sent after an earlier call failed") as caught:
            comm.barrier()
        later[comm.rank] = caught.type

    with pytest.raises(KeyError, match="planted"):
        ThreadWorld(3).run(go_on)
    assert later == {0: RankFailedError, 2: RankFailedError}


def test_threads_report_a_rank_that_does_not_end():
    release = threading.Event()

    def stay(comm):
        if comm.rank == 1:
            release.wait(20)

    with pytest.raises(CommTimeoutError, match=r"rank 1 of 2 still running 0.2 s .*(?s:.*)release.wait"):
        ThreadWorld(2, timeout_s=0.1).run(stay)
    release.set()
    for thread in threading.enumerate():
        if thread.name == "rank 1":
            thread.join(5)


# MPI: what a whole job does --------------------------------------------------------------------------------

PROGRAM = """
import os, sys, time
import numpy as np
import distgrad.comm
if os.environ.get("HOSTS") == "several":
    import distgrad.comm.mpi
    distgrad.comm.mpi.host_name = lambda: os.environ["PMI_RANK"]
comm = distgrad.comm.init(timeout_s=30)
comm.all_reduce(np.ones(3))
comm.family.timeout_s = 2  # from here on: how far apart ranks start depends on the machine
if comm.rank == 1:
    {fault}
comm.all_reduce(np.ones(5), "max")
print("passed", comm.rank)
"""


def run_with(fault, tmp_path, n=3):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(fault=fault))
    job = run_ranks(n, [sys.executable, str(program)], timeout=40)
    assert "passed" not in job.output
    assert job.returncode not in (0, None), job.output
    return job


def test_mpi_an_exception_ends_the_job(tmp_path):
    job = run_with("raise ValueError('planted')", tmp_path)
    assert "ValueError: planted" in job.output
    assert "distgrad: rank 1 ended by ValueError, so the whole job ends" in job.output
    assert job.seconds < 25


@pytest.mark.parametrize("hosts", ["one", "several"])
@pytest.mark.parametrize("leaving", ["raise SystemExit(0)", "raise SystemExit(3)", "os._exit(0)"])
def test_mpi_a_rank_that_leaves_ends_the_job(leaving, hosts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTS", hosts)
    job = run_with(leaving, tmp_path)
    assert "RankFailedError: collective #1 all_reduce, group 'world'" in job.output
    assert "waited for rank 1 of the world, which ended without it" in job.output
    assert job.seconds < 25


def test_mpi_a_killed_rank_ends_the_job(tmp_path):
    job = run_with("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert job.seconds < 25


@pytest.mark.parametrize("hosts", ["one", "several"])
def test_mpi_reports_a_rank_that_skips_a_collective(hosts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTS", hosts)
    job = run_with("time.sleep(30)", tmp_path)
    assert "CommTimeoutError: collective #1 all_reduce, group 'world': rank 0 called" in job.output
    assert "all_reduce(float64[5], op=max) and waited 2 s for the other ranks" in job.output
    assert "rank 1: no answer, so in no collective; rank 2: in #1 all_reduce, group 'world', at" in job.output
    assert "#0 all_reduce(float64[3]) at" in job.output
    assert job.seconds < 25


def test_mpi_reports_a_rank_that_waits_elsewhere(tmp_path):
    job = run_with("comm.recv(np.zeros(1), source=0)", tmp_path)
    assert "rank 1: in recv, group 'world', at" in job.output


def test_mpi_a_failure_that_is_caught_still_ends_the_job(tmp_path):
    job = run_with(
        "\n    try: comm.recv(np.zeros(1), source=0)\n    except Exception: sys.exit(0)", tmp_path, n=2
    )
    assert "so the whole job ends" in job.output


def test_mpi_a_message_that_nobody_receives_is_an_error(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np, distgrad.comm\ncomm = distgrad.comm.init(timeout_s=1)\n"
        "comm.send(np.ones(10**6), (comm.rank + 1) % comm.size)\n"
    )
    job = run_ranks(2, [sys.executable, str(program)], timeout=40)
    assert job.returncode not in (0, None)
    assert "ended with 1 messages that no rank has received, so the whole job ends" in job.output
    assert job.seconds < 25


def test_mpi_a_rank_that_fails_before_it_joins_holds_nobody_up(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, distgrad.comm\nif os.environ['PMI_RANK'] == '1': raise ValueError('planted')\n"
        "distgrad.comm.init()\n"
    )
    job = run_ranks(2, [sys.executable, str(program)], timeout=40, env={"DISTGRAD_TIMEOUT": "20"})
    assert job.returncode not in (0, None)
    assert "ValueError: planted" in job.output
    assert "rank 1 ended before init()" in job.output
    assert job.seconds < 25


def test_mpi_a_rank_that_never_joins_is_reported(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from mpi4py import MPI\nimport time, distgrad.comm\n"
        "time.sleep(20) if MPI.COMM_WORLD.Get_rank() == 1 else distgrad.comm.init(timeout_s=1)\n"
    )
    job = run_ranks(2, [sys.executable, str(program)], timeout=40)
    assert job.returncode not in (0, None)
    assert (
        "waited 1 s for all 2 ranks to call init(); look for a rank that ended or waits before it"
        in job.output
    )
    assert job.seconds < 25


def test_mpi_all_may_leave_by_os_exit(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, time\nimport numpy as np\nfrom distgrad.comm import init\ncomm = init('mpi')\n"
        "comm.all_reduce(np.ones(3))\ntime.sleep(0.3 * comm.rank)\nprint('done', flush=True)\nos._exit(0)\n"
    )
    job = run_ranks(3, [sys.executable, str(program)], timeout=40)
    assert (job.returncode, job.output) == (0, "done\n" * 3)


def test_mpi_a_clean_end_is_silent_and_quick(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np, time, distgrad.comm\ncomm = distgrad.comm.init()\n"
        "time.sleep(0.5 * comm.rank)\nwork = comm.split(0).all_reduce(np.ones(3), async_op=True)\n"
    )
    job = run_ranks(3, [sys.executable, str(program)], timeout=40)
    assert (job.returncode, job.output) == (0, "")
