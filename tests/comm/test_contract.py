"""Every communicator passes the one contract suite."""

import itertools

import numpy as np
import pytest
from contracts import communicator, count
from contracts.communicator import CHECKS, CHECKS_OF_MANY

from distgrad.comm import ThreadWorld, init
from distgrad.comm.single import SingleCommunicator
from distgrad.comm.threads import ThreadCommunicator


@pytest.mark.parametrize("name", CHECKS)
def test_single(name):
    with SingleCommunicator() as comm:
        CHECKS[name](comm)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("name", CHECKS)
def test_threads(name, size):
    ThreadWorld(size, timeout_s=20).run(CHECKS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", {**CHECKS, **CHECKS_OF_MANY})
def test_threads_of_8(name):
    ThreadWorld(8, timeout_s=40).run({**CHECKS, **CHECKS_OF_MANY}[name])


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("name", CHECKS_OF_MANY)
def test_threads_of_many(name, size):
    ThreadWorld(size, timeout_s=20).run(CHECKS_OF_MANY[name])


@pytest.mark.parametrize("seed", [0, 1])
def test_threads_that_arrive_in_another_order(seed):
    for name, check in {**CHECKS, **CHECKS_OF_MANY}.items():
        if name not in ("broadcast_copies_the_roots_array", "all_reduce_matches_numpy_with_equal_bits"):
            ThreadWorld(3, timeout_s=20, seed=seed).run(check)


def do_nothing(self, *arguments):
    pass


def reduce_only_here(self, x, op):
    x *= self.size


def add_in_another_order(self, x, op):
    rows = self._meet(x.copy())
    rows = [rows[(self.rank + i) % self.size] for i in range(self.size)]
    x[:] = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}[op].reduce(rows)


def gather_backwards(self, x, out, edges):
    for (start, stop), array in zip(itertools.pairwise(edges), self._meet(x)[::-1], strict=True):
        out[start:stop] = array
    self._meet()


def says_yes(self, source, tag):
    return True


@pytest.mark.parametrize(
    ("method", "fault", "name"),
    [
        ("_all_reduce", do_nothing, "all_reduce_matches_numpy_with_equal_bits"),
        ("_all_reduce", reduce_only_here, "all_reduce_matches_numpy_with_equal_bits"),
        ("_all_reduce", add_in_another_order, "all_reduce_has_equal_bits_at_any_length"),
        ("_all_gather", gather_backwards, "all_gather_stacks_the_ranks"),
        ("_broadcast", do_nothing, "broadcast_copies_the_roots_array"),
        ("_barrier", do_nothing, "barrier_waits_for_the_last"),
        ("_announce", do_nothing, "different_calls_are_reported_before_data_moves"),
        ("_divide", do_nothing, "mean_divides_the_sum"),
        ("_has_message", says_yes, "whether_a_message_has_come_can_be_asked"),
    ],
)
def test_the_suite_catches_a_planted_fault(method, fault, name, monkeypatch):
    check = {**CHECKS, **CHECKS_OF_MANY}[name]
    ThreadWorld(3, timeout_s=20).run(check)
    monkeypatch.setattr(ThreadCommunicator, method, fault)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        ThreadWorld(3, timeout_s=20).run(check)


def run_all(backend, size):
    """All checks in one job, since a start costs more than a check."""
    comm = init(backend, timeout_s=20)
    assert (comm.backend, comm.size) == (backend, size)
    communicator.run_all(comm)  # what lacks a package is reported by test_single


def test_the_checks_are_counted_by_backend_and_size(capsys, monkeypatch):
    assert count.main(["--backends", "single", "threads", "shm", "--sizes", "1", "2"]) == 0
    many = len(CHECKS) + len(CHECKS_OF_MANY)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines == [
        ["single", str(len(CHECKS)), "-"],
        ["threads", str(len(CHECKS)), str(many)],
        ["shm", str(len(CHECKS)), str(many)],
    ]
    monkeypatch.setattr(ThreadCommunicator, "_broadcast", do_nothing)
    assert count.main(["--backends", "threads", "--sizes", "2"]) == 1
    failure = capsys.readouterr().out
    assert "threads failed" in " ".join(failure.split())
    assert "contract check broadcast_copies_the_roots_array on rank" in failure


@pytest.mark.ranks(1)
def test_mpi_of_1():
    run_all("mpi", 1)


@pytest.mark.ranks(2)
def test_mpi_of_2():
    run_all("mpi", 2)


@pytest.mark.ranks(3)
def test_mpi_of_3():
    run_all("mpi", 3)


@pytest.mark.ranks(5)
def test_mpi_of_5():
    run_all("mpi", 5)


@pytest.mark.slow
@pytest.mark.ranks(8, timeout=100)
def test_mpi_of_8():
    run_all("mpi", 8)


@pytest.mark.ranks(5)
def test_mpi_on_several_hosts(monkeypatch):
    """Five ranks on hosts of two, one and two: MPI between them, as it would be between machines."""
    from distgrad.comm import mpi

    host = mpi.host_name
    rank = mpi.MPI.COMM_WORLD.Get_rank()
    monkeypatch.setattr(mpi, "host_name", lambda: f"{host()} {'abcba'[rank]}")
    run_all("mpi", 5)


@pytest.mark.ranks(1, backend="shm")
def test_shm_of_1():
    run_all("shm", 1)


@pytest.mark.ranks(2, backend="shm")
def test_shm_of_2():
    run_all("shm", 2)


@pytest.mark.ranks(3, backend="shm")
def test_shm_of_3():
    run_all("shm", 3)


@pytest.mark.ranks(5, backend="shm")
def test_shm_of_5():
    run_all("shm", 5)


@pytest.mark.slow
@pytest.mark.ranks(8, backend="shm", timeout=100)
def test_shm_of_8():
    run_all("shm", 8)


def reduce_more_than_2_31():
    """Two gigabytes and a bit of bytes, whose count does not fit into MPI's int."""
    comm = init(timeout_s=100)
    x = np.full((1 << 31) + 100, comm.rank + 1, np.uint8)
    x[-1] = 7 * comm.rank
    comm.all_reduce(x)
    assert (x[0], x[1 << 30], x[-2], x[-1]) == (3, 3, 3, 7)
    x[-1] = comm.rank + 5
    comm.broadcast(x, 1)
    assert (x[0], x[-1]) == (3, 6)


@pytest.mark.slow
@pytest.mark.ranks(2, backend="shm", timeout=110)
def test_shm_of_more_than_2_31_elements():
    reduce_more_than_2_31()


@pytest.mark.slow
@pytest.mark.ranks(2, timeout=110)
def test_mpi_of_more_than_2_31_elements(monkeypatch):
    """On two hosts, as MPI sees it."""
    from distgrad.comm import mpi

    rank = mpi.MPI.COMM_WORLD.Get_rank()
    monkeypatch.setattr(mpi, "host_name", lambda: f"host {rank}")
    reduce_more_than_2_31()
