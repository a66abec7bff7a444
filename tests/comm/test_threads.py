"""What ThreadWorld itself does, beside the contract."""

import time
from typing import ClassVar

import numpy as np
import pytest

from distgrad.comm import Link, ThreadWorld
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


@pytest.mark.parametrize("arguments", [(0,), (2, None, None, ["a"])])
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


def test_an_emulated_link_takes_its_time():
    """4 ranks send 1.5 MB each way at 50 MB/s: 30 ms and six messages of 5 ms; a barrier takes nothing."""
    link = Link(latency_s=5e-3, bytes_per_s=50e6)

    def measure(comm):
        x = np.zeros(10**6, np.uint8)
        start_s = time.perf_counter()
        works = [comm.all_reduce(x, "max", async_op=True), comm.barrier(async_op=True)]
        issued_s = time.perf_counter() - start_s
        for work in works:
            work.wait()
        return issued_s, time.perf_counter() - start_s

    for issued_s, waited_s in ThreadWorld(4, link=link).run(measure):
        assert issued_s < 0.03
        assert 0.06 <= waited_s < 0.2


class Remembering(Link):
    """A link that keeps what each collective takes."""

    taken: ClassVar[list[float]] = []

    def seconds(self, call, size):
        self.taken.append(super().seconds(call, size))
        return self.taken[-1]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_uneven_parts_take_every_rank_what_even_ones_take(size):
    """A rank passes the others' parts on, so that an empty part of its own is no shorter wait."""
    whole = np.zeros(600, np.uint8)

    def gather(comm, counts):
        out, mine = whole.copy(), counts[comm.rank]
        comm.all_gather(np.zeros(mine, np.uint8), out=out, counts=counts)

    for counts in ([600 // size] * size, [0] * (size - 1) + [600], [599, 1] + [0] * (size - 2)):
        Remembering.taken.clear()
        ThreadWorld(size, link=Remembering(1e-6, 6e6)).run(gather, counts)
        expected = (size - 1) * (1e-6 + 600 / size / 6e6)
        assert Remembering.taken == pytest.approx([expected] * size)
