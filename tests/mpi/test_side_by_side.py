"""Tests that all ranks of ``mpirun -n 2 python -m pytest --with-mpi tests/mpi`` run side by side."""

import numpy as np
import pytest
from contracts.communicator import CHECKS, CHECKS_OF_MANY

from distgrad.comm import init


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", [*CHECKS, *CHECKS_OF_MANY])
def test_contract(name):
    comm = init(timeout_s=20)
    assert comm.backend == "mpi"
    {**CHECKS, **CHECKS_OF_MANY}[name](comm)


@pytest.mark.mpi(min_size=2)
def test_a_world_can_be_set_up_again():
    assert init().all_reduce(np.ones(1))[0] == init().size
