"""The world is found once, and what does not fit together is an error that says why."""

import subprocess
import sys

import pytest

from distgrad import comm
from distgrad.errors import CommError


def test_alone_is_a_world_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not comm.is_initialized()
    with pytest.raises(CommError, match=r"call dg.comm.init\(\) first"):
        comm.get_world()
    world = comm.init()
    assert (world.backend, world.rank, world.size) == ("single", 0, 1)
    assert comm.init() is world
    assert comm.init("single") is world
    assert comm.get_world() is world
    with pytest.raises(CommError, match="set up with backend 'single', and cannot be had as 'mpi'"):
        comm.init("mpi")
    comm.finalize()
    assert not comm.is_initialized()
    comm.finalize()
    assert comm.init() is not world


def test_backend_by_environment(monkeypatch):
    monkeypatch.setenv("DISTGRAD_BACKEND", "nothing")
    with pytest.raises(CommError, match="must be one of single, threads, shm, mpi, nccl, got 'nothing'"):
        comm.init()
    monkeypatch.setenv("DISTGRAD_BACKEND", "single")
    assert comm.init().backend == "single"


def test_timeout_is_taken(monkeypatch):
    monkeypatch.setenv("DISTGRAD_TIMEOUT", "7")
    assert comm.init().family.timeout_s == 7
    comm.finalize()
    assert comm.init(timeout_s=3).family.timeout_s == 3


@pytest.mark.parametrize("name", ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_alone_among_many_is_an_error(name, monkeypatch):
    monkeypatch.setenv(name, "4")
    with pytest.raises(
        CommError, match="says 4 ranks, but backend 'single' sees 1; every rank would train alone"
    ):
        comm.init("single")


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_launcher_that_mpi_does_not_know_is_an_error(name):
    code = f"import os; os.environ['{name}'] = '4'; import distgrad.comm as comm; comm.init()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert f"{name} says 4 ranks, but backend 'mpi' sees 1; " in done.stderr
    assert (
        "srun --mpi=pmi2" if name.startswith("SLURM") else "the mpiexec beside this Python"
    ) in done.stderr


@pytest.mark.ranks(2)
def test_mpirun_in_a_slurm_allocation_is_one_task_a_node(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert comm.init().size == 2


def test_srun_with_an_mpi_that_does_not_know_it_is_named(monkeypatch):
    for name in ("PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.setenv(name, "4")
    with pytest.raises(CommError, match="SLURM_STEP_NUM_TASKS says 4 ranks, but backend 'single' sees 1"):
        comm.init("single")


@pytest.mark.parametrize("variables", [{"MPI4PY_LIBMPI": "/nonexistent"}, {"HIDE": "mpi4py"}])
def test_a_missing_mpi_names_the_install_command(variables):
    code = (
        f"import os, sys; os.environ.update({variables!r})\n"
        "if 'HIDE' in os.environ: sys.modules['mpi4py'] = None\n"
        "import distgrad.comm as comm; comm.init('mpi')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert (
        "MissingDependencyError: comm.init: the backend 'mpi' needs mpi4py and an MPI library" in done.stderr
    )
    assert 'pip install "distgrad[mpi]"' in done.stderr


def test_threads_have_their_own_world():
    with pytest.raises(CommError, match=r"exists inside ThreadWorld\(size\).run\(fn\) alone"):
        comm.init("threads")

    def find(own):
        assert comm.is_initialized()
        return comm.get_world() is own and comm.init() is own and comm.init("threads") is own

    assert comm.ThreadWorld(3).run(find) == [True] * 3
    assert not comm.is_initialized()


@pytest.mark.ranks(2)
def test_under_mpiexec_the_world_is_found():
    world = comm.init()
    assert (world.backend, world.size) == ("mpi", 2)
    again = comm.init()
    assert again is world


PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")


@pytest.mark.ranks(3)
def test_under_mpiexec_a_rank_finds_its_place_in_the_environment(monkeypatch):
    import os

    from distgrad.comm import mpi

    rank = mpi.MPI.COMM_WORLD.Get_rank()
    monkeypatch.setattr(mpi, "host_name", lambda: "b" if rank == 1 else "a")  # ranks dealt out to the hosts
    assert not set(PLACE) & set(os.environ)
    comm.init()
    expected = {0: ("0", "3", "0", "2", "0"), 1: ("1", "3", "0", "1", "1"), 2: ("2", "3", "1", "2", "0")}
    assert tuple(os.environ[name] for name in PLACE) == expected[rank]
    comm.finalize()
    assert not set(PLACE) & set(os.environ)  # a program that is started from here is no rank
    monkeypatch.setenv("LOCAL_RANK", "7")
    comm.init()
    assert os.environ["LOCAL_RANK"] == "7"  # whoever set it knows why
    comm.finalize()
    assert os.environ["LOCAL_RANK"] == "7"


def test_alone_nothing_is_put_into_the_environment():
    import os

    comm.init()
    assert not set(PLACE) & set(os.environ)  # mpirun, started from here, starts a world of its own


@pytest.mark.ranks(2)
def test_mpi_sends_large_buffers_in_pieces_between_hosts(monkeypatch):
    import numpy as np

    from distgrad.comm import hostgroup, mpi

    rank = mpi.MPI.COMM_WORLD.Get_rank()
    monkeypatch.setattr(mpi, "host_name", lambda: f"host {rank}")
    monkeypatch.setattr(mpi, "_PIECE_BYTES", 64)
    monkeypatch.setattr(hostgroup, "SLOT_BYTES", 64)
    world = comm.init()
    calls = []
    complete = mpi.MPICommunicator.complete
    monkeypatch.setattr(mpi.MPICommunicator, "complete", lambda self, r: (calls.append(1), complete(self, r)))
    x = np.arange(1000.0) + world.rank
    np.testing.assert_array_equal(world.all_reduce(x), 2 * np.arange(1000.0) + 1)
    assert len(calls) == 1 + 125  # the first compares the hosts' calls
    y = np.full(1001, world.rank, np.int8)
    assert not world.broadcast(y, root=0).any()
    assert len(calls) == 1 + 125 + 1 + 16


def test_alone_nothing_goes_to_a_thread():
    """A world of one has nothing to wait for, so an asynchronous call is over when it returns."""
    import threading

    import numpy as np

    before = threading.active_count()
    world = comm.init("single")
    work = world.all_reduce(np.ones(3), async_op=True)
    assert work.done()
    assert work.started_s <= work.ended_s
    assert threading.active_count() == before
    failed = world.recv(np.ones(3), 0, async_op=True)
    with pytest.raises(CommError, match="send before recv"):
        failed.wait()


def test_a_closed_world_says_so():
    world = comm.init("single")
    comm.finalize()
    for async_op in (False, True):
        with pytest.raises(CommError, match="barrier, group 'world': the communicator is closed"):
            world.barrier(async_op=async_op)
