"""Groups of an MPI program's ranks train over NCCL, at once and each its own model, on doubles of GPUs."""

import numpy as np
import pytest

import distgrad as dg


def train(seed, batches, wrap=lambda net: net, device="cpu"):
    """The parameters after a step of SGD a batch."""
    dg.manual_seed(seed)
    net = dg.nn.Sequential(dg.nn.Linear(6, 8), dg.nn.Tanh(), dg.nn.Linear(8, 1)).to(device)
    model, optimizer = wrap(net), dg.optim.SGD(net.parameters(), lr=0.1)
    for x in batches:
        optimizer.zero_grad()
        (model(dg.asarray(x).to(device)) ** 2).mean().backward()
        optimizer.step()
    return [p.detach().cpu().numpy() for p in net.parameters()]


def batch(seed, rank, step):
    return np.random.default_rng([seed, rank, step]).standard_normal((4, 6)).astype("f")


@pytest.mark.ranks(5, timeout=120)
@pytest.mark.parametrize("idle", [False, True])
def test_groups_train_at_once_each_its_own_model(idle):
    """Ranks 0, 2 and 4 train one model; ranks 1 and 3 train another, or talk by MPI meanwhile."""
    from gpu_double.runtime import install

    from distgrad.comm import mpi

    install(5, "eager", timeout_s=90)
    world = mpi.MPI.COMM_WORLD
    seed = world.rank % 2
    part = world.Split(seed, world.rank)
    if idle and seed == 1:
        for number in range(20):
            assert part.allreduce(number) == number * part.size
    else:
        comm = dg.comm.init("nccl", comm=part, device=f"cuda:{world.rank}", timeout_s=60)
        assert (comm.rank, comm.size, comm.mpi.Get_size()) == (part.rank, part.size, part.size)
        own = [batch(seed, comm.rank, step) for step in range(4)]
        every = [np.concatenate([batch(seed, r, step) for r in range(comm.size)]) for step in range(4)]
        found = train(
            seed, own, lambda net: dg.parallel.DistributedDataParallel(net, comm), f"cuda:{world.rank}"
        )
        for mine, expected in zip(found, train(seed, every), strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)
        comm.close()
    part.Free()
    world.Barrier()
