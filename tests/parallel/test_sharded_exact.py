"""Exact mode where blocks of parameters come and go: the bits of one rank, on any number of them."""

import copy

import numpy as np
import pytest
from parallel.problems import parameters_of

import distgrad as dg
from distgrad import nn
from distgrad.comm import ThreadWorld, init
from distgrad.comm.single import SingleCommunicator
from distgrad.errors import CommError
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel

pytestmark = pytest.mark.usefixtures("one_thread")


def network(drop=0.0):
    """Blocks with running statistics, and with random numbers where ranks are processes."""
    dg.manual_seed(4)
    layers = [nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(drop)) for _ in range(3)]
    return nn.Sequential(*layers, nn.Linear(6, 3)).double()


def train(comm, modules, shard, fails=None):
    module = modules[comm.rank]
    model = DistributedDataParallel(module, comm, exact=True, shards=4, shard=shard)
    optimizer = dg.optim.AdamW(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    for step in range(3):
        batch = dg.tensor(rng.standard_normal((9, 6))), dg.tensor(rng.integers(0, 3, 9))
        optimizer.zero_grad()
        for x, y in model.shards(*batch):
            loss = F.cross_entropy(model(x), y)
            if (step, comm.rank) == fails:
                raise ZeroDivisionError("planted")
            loss.backward()
        optimizer.step()
    buffers = [buffer.numpy().tobytes() for buffer in module.buffers()]
    return parameters_of(model).tobytes(), buffers


def on_ranks(size, *options):
    start = network()
    modules = [copy.deepcopy(start) for _ in range(size)]
    return ThreadWorld(size, timeout_s=60).run(lambda comm: train(comm, modules, *options))


def test_bits_and_running_statistics_are_those_of_one_rank():
    """With as many shards on each rank, with fewer on some, and with none on one."""
    (expected,) = on_ranks(1, None)
    for size in (1, 2, 3, 5):
        found = on_ranks(size, "parameters")
        assert all(each == expected for each in found)


def test_a_rank_that_leaves_its_loop_ends_the_others():
    with pytest.raises((ZeroDivisionError, CommError)):
        on_ranks(3, "parameters", (1, 1))


@pytest.mark.slow
@pytest.mark.ranks(3, backend="shm", timeout=180)
def test_processes_draw_what_one_rank_draws():
    comm = init(timeout_s=60)
    alone = train(SingleCommunicator(), [network(0.2)], None)
    assert train(comm, [network(0.2)] * 3, "parameters") == alone
