"""Under a plain mpiexec, a rank that ends before it calls init leaves no other one waiting in MPI's start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MPIEXEC = Path(sys.executable).parent / "mpiexec"
SCRIPT = """
import os, sys, time
import distgrad as dg
if os.environ["PMI_RANK"] == "1":
    {does}
try:
    os.write(1, b"sum %d\\n" % dg.comm.init().all_reduce(dg.ones(1).numpy())[0])
finally:
    os.write(1, b"mapped %d\\n" % ("mpich_shm" in open("/proc/self/maps").read()))
"""
UNSEEN = "from distgrad.comm import arrival; arrival._find_launcher = lambda: None"
LONG_AGO = "time.sleep(60)"  # far beyond the limit below, after which all are ended

pytestmark = pytest.mark.skipif(not MPIEXEC.exists(), reason="needs MPICH's mpiexec beside this Python")


def run(tmp_path, does, before="", ranks=3, wrapper=(), **variables):
    script = tmp_path / "train.py"
    script.write_text(before + SCRIPT.format(does=does))
    return subprocess.run(
        [MPIEXEC, "-n", str(ranks), *wrapper, sys.executable, script],
        env={**os.environ, "HWLOC_XMLFILE": os.devnull, **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    "does",
    [
        "sys.exit(0)",
        pytest.param("sys.exit(3)", marks=pytest.mark.slow),
        pytest.param("raise ValueError('no data')", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_ends_before_init_is_named_and_leaves_nothing(does, tmp_path):
    done = run(tmp_path, does)
    assert done.returncode != 0, done.stderr
    assert "comm.init: rank 1 ended before init()" in done.stderr
    assert "most recent call first" not in done.stderr  # of a dump of all threads
    assert "mapped 1" not in done.stdout  # so that there is no memory of MPI's to be left behind
    assert "sum" not in done.stdout
    assert len(done.stderr.splitlines()) < 40, done.stderr


@pytest.mark.slow
def test_the_checks_find_what_happens_without_the_wait(tmp_path):
    done = run(tmp_path, "sys.exit(0)", UNSEEN, DISTGRAD_TIMEOUT="5")
    assert "rank 1 ended" not in done.stderr
    assert "most recent call first" in done.stderr


@pytest.mark.slow
def test_a_rank_that_does_not_come_is_named(tmp_path):
    done = run(tmp_path, LONG_AGO, DISTGRAD_TIMEOUT="3")
    assert done.returncode != 0
    assert "comm.init: waited 3 s for rank 1 to call init()" in done.stderr
    assert "mapped 1" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize(
    "does", ["time.sleep(2)", "time.sleep(1); from mpi4py import MPI", "dg.manual_seed(0)"]
)
def test_ranks_that_come_late_or_have_started_mpi_are_met(does, ranks, tmp_path):
    for wrapper in ((), ("sh", "-c", '"$0" "$@"; exit $?')):
        done = run(tmp_path, does, ranks=ranks, wrapper=wrapper)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"sum {ranks}") == ranks
