"""What ThreadWorld itself does, beside the contract."""

import numpy as np
import pytest

from distgrad.comm import ThreadWorld
from distgrad.errors import CommError


def test_run_returns_the_ranks_results():
    assert ThreadWorld(4).run(lambda comm, base: base + comm.rank, 10) == [10, 11, 12, 13]


def test_sixty_four_ranks():
    sums = ThreadWorld(64).run(lambda comm: comm.all_reduce(np.array([comm.rank]))[0])
    assert sums == [64 * 63 // 2] * 64


def test_hosts_decide_local_ranks():
    world = ThreadWorld(5, hosts=["a", "b", "a", "b", "a"])
    assert world.run(lambda comm: (comm.local_rank, comm.local_size)) == [
        (0, 3),
        (0, 2),
        (1, 3),
        (1, 2),
        (2, 3),
    ]

    def split(comm):
        part = comm.split(comm.rank // 3)
        return part.local_rank, part.local_size

    assert world.run(split) == [(0, 2), (0, 1), (1, 2), (0, 1), (0, 1)]


@pytest.mark.parametrize("arguments", [(0,), (2, None, None, None, ["a"])])
def test_a_world_needs_ranks_and_a_host_each(arguments):
    with pytest.raises(CommError, match="size must be 1 or more with a host a rank"):
        ThreadWorld(*arguments)


def test_reductions_go_in_the_order_of_the_ranks():
    """Float addition does not commute with reordering: the order of the ranks is the promise."""
    parts = [np.float32(v) for v in (1e8, 1.0, -1e8, 1.0, 3.0)]
    expected = parts[0]
    for part in parts[1:]:
        expected = expected + part

    def total(comm):
        return float(comm.all_reduce(np.full(9, parts[comm.rank]))[8])

    for seed in range(5):
        assert ThreadWorld(5, seed=seed).run(total) == [float(expected)] * 5
