"""Data parallelism over a module that computes part of itself again in backward."""

import numpy as np
import pytest
from parallel.problems import FEATURES, Network, batches, mean_loss

from distgrad.autograd.checkpoint import checkpoint
from distgrad.comm import ThreadWorld
from distgrad.nn.module import Module
from distgrad.parallel import DistributedDataParallel


class Checkpointed(Module):
    """The network twice over its own first features; every parameter serves in and outside a checkpoint."""

    def __init__(self, run):
        super().__init__()
        self.network = Network()
        self.run = run

    def forward(self, x):
        first = self.run(self.network, x)
        return first + self.network(x * 0.5) + self.run(self.network, x * 2.0)


def plainly(function, *args):
    return function(*args)


def gradients(run, samples):
    module = Checkpointed(run)
    mean_loss(module, *samples).backward()
    return [p.grad.numpy().copy() for p in module.parameters()]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_with_checkpoints_match_one_process_without(size):
    ((x, y),) = batches(1, 7)
    assert x.shape == (7, FEATURES)
    expected = gradients(plainly, (x, y))

    def rank(comm):
        model = DistributedDataParallel(Checkpointed(checkpoint), comm, bucket_cap_mb=1e-4)
        mean_loss(model, x[comm.rank :: comm.size], y[comm.rank :: comm.size]).backward()
        return [p.grad.numpy().copy() for p in model.parameters()]

    for got in ThreadWorld(size).run(rank):
        for g, e in zip(got, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-12)
