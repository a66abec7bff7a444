"""Training that goes on from a saved state has the bits of training that never stopped."""

import copy

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.comm import ThreadWorld
from distgrad.optim.lr_scheduler import OneCycleLR
from distgrad.parallel import DistributedDataParallel


class Net(nn.Module):
    """With running statistics, and blocks that come and go."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.blocks = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.blocks(self.norm(self.first(x))))


@pytest.mark.parametrize("shard", [None, "optimizer", "gradients", "parameters"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_going_on_from_a_state_changes_no_bits(size, shard):
    """With batches of 6 and more, of which no rank has as many as another."""

    def batch(step, rank):
        x = np.random.default_rng([step, rank]).standard_normal((6 + rank, 4))
        return dg.asarray(x.astype(np.float32))

    dg.manual_seed(0)  # here, as ranks that are threads share one generator
    start = Net()

    def train(comm, steps, state=None):
        model = DistributedDataParallel(copy.deepcopy(start), comm, shard=shard)
        optimizer = dg.optim.AdamW(model.parameters(), lr=0.1)
        scheduler = OneCycleLR(optimizer, 0.1, total_steps=7)
        if state is not None:
            model.load_state_dict(state[0])
            optimizer.load_state_dict(state[1])
            scheduler.load_state_dict(state[2])
        for step in steps:
            optimizer.zero_grad()
            (model(batch(step, comm.rank)) ** 2).mean().backward()
            optimizer.step()
            scheduler.step()
        return copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))

    def run(comm):
        whole = train(comm, range(6))[0]
        parts = train(comm, range(3, 6), train(comm, range(3)))[0]
        return [(whole[name] == parts[name]).all().item() for name in whole]

    assert all(map(all, ThreadWorld(size, timeout_s=60).run(run)))
