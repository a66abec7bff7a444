"""Every communicator passes the one contract suite."""

import pytest
from contracts.communicator import CHECKS, CHECKS_OF_MANY

from distgrad.comm import ThreadWorld, init
from distgrad.comm.single import SingleCommunicator


@pytest.mark.parametrize("name", CHECKS)
def test_single(name):
    with SingleCommunicator() as comm:
        CHECKS[name](comm)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("name", CHECKS)
def test_threads(name, size):
    ThreadWorld(size, timeout_s=20).run(CHECKS[name])


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("name", CHECKS_OF_MANY)
def test_threads_of_many(name, size):
    ThreadWorld(size, timeout_s=20).run(CHECKS_OF_MANY[name])


@pytest.mark.parametrize("seed", [0, 1])
def test_threads_that_arrive_in_another_order(seed):
    for name, check in {**CHECKS, **CHECKS_OF_MANY}.items():
        if name not in ("broadcast_copies_the_roots_array", "all_reduce_matches_numpy_with_equal_bits"):
            ThreadWorld(3, timeout_s=20, seed=seed).run(check)


def run_all(size):
    """All checks in one job, since a start costs more than a check; a failure names its check."""
    comm = init("mpi", timeout_s=20)
    assert (comm.backend, comm.size) == ("mpi", size)
    for name, check in {**CHECKS, **(CHECKS_OF_MANY if size > 1 else {})}.items():
        try:
            check(comm)
        except BaseException as error:
            error.add_note(f"contract check {name} on rank {comm.rank} of {size}")
            raise


@pytest.mark.ranks(1)
def test_mpi_of_1():
    run_all(1)


@pytest.mark.ranks(2)
def test_mpi_of_2():
    run_all(2)


@pytest.mark.ranks(3)
def test_mpi_of_3():
    run_all(3)


@pytest.mark.ranks(4)
def test_mpi_of_4():
    run_all(4)
