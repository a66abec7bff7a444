"""A module that was built of shapes trains as one that was built in memory, a block at a time."""

import threading

import numpy as np
import pytest
from parallel.problems import parameters_of

import distgrad as dg
from distgrad import nn
from distgrad.checkpoint import CheckpointManager
from distgrad.comm import ThreadWorld
from distgrad.errors import OptionError
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel
from distgrad.parallel.filling import Filling

BUILDING = threading.Lock()
STAGES = (None, "optimizer", "gradients", "parameters")


class Tower(nn.Module):
    """Blocks, modules of their own beside them, a buffer that moves, and a weight that two modules share."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 16)
        self.blocks = nn.ModuleList([self.block() for _ in range(3)])
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 9, bias=False)
        self.head.weight = self.table.weight

    @staticmethod
    def block():
        return nn.Sequential(nn.Linear(16, 40), nn.GELU(), nn.Linear(40, 16))

    def forward(self, x):
        y = self.table(x)
        for block in self.blocks:
            y = y + block(y)
        return self.head(self.norm(y))


def train(comm, shapes, shard, group_size=None, folder=None):
    with BUILDING, dg.device("meta" if shapes else "cpu"):  # ranks that are threads share the generator
        dg.manual_seed(3)
        model = Tower()
    comm.barrier()
    options = {} if group_size is None else {"shard_group": comm.split(comm.rank // group_size)}
    model = DistributedDataParallel(model, comm, shard=shard, **options)
    first = parameters_of(model).tobytes()
    optimizer = dg.optim.AdamW(model.parameters(), lr=1e-2)
    if folder is not None:
        with CheckpointManager(folder, comm=comm, signals=False) as manager:
            manager.add(model=model, optimizer=optimizer)
            if shapes:
                manager.restore_latest()
            else:
                step(model, optimizer, 0)
                manager.save()
        first = parameters_of(model).tobytes()
    for number in range(1, 4):
        step(model, optimizer, number)
    return first, parameters_of(model).tobytes(), model.module.norm.running_mean.numpy().tobytes()


def step(model, optimizer, number):
    x = np.random.default_rng([number, model.comm.rank]).integers(0, 9, 4)  # a weight that rounds nothing
    optimizer.zero_grad()
    F.cross_entropy(model(dg.Tensor(x)), dg.Tensor(x)).backward()
    optimizer.step()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_numbers_are_those_of_a_module_built_in_memory(size):
    expected = ThreadWorld(size).run(lambda comm: train(comm, False, None))
    for shard in STAGES:
        assert ThreadWorld(size).run(lambda comm, s=shard: train(comm, True, s)) == expected


def test_groups_fill_themselves():
    expected = ThreadWorld(4).run(lambda comm: train(comm, False, "parameters", 2))
    assert ThreadWorld(4).run(lambda comm: train(comm, True, "parameters", 2)) == expected


def test_a_checkpoint_fills_it_by_ranges(tmp_path):
    expected = ThreadWorld(3).run(lambda comm: train(comm, False, "parameters", folder=tmp_path))
    found = ThreadWorld(3).run(lambda comm: train(comm, True, "parameters", folder=tmp_path))
    assert found == expected


def test_no_more_than_a_block_is_in_memory_at_once(monkeypatch):
    alive, most = [], []
    fill = Filling._fill

    def watched(self, block, recurse):
        alive.append(sum(parameter.size for parameter in block.parameters(recurse=recurse)))
        fill(self, block, recurse)
        most.append(alive.pop())

    monkeypatch.setattr(Filling, "_fill", watched)
    ThreadWorld(1).run(lambda comm: train(comm, True, "parameters"))
    block = sum(parameter.size for parameter in Tower.block().parameters())
    assert len(most) == 6  # a table, three blocks, a norm, a head
    assert max(most) == block


def test_where_first_numbers_are_not_known_is_an_error():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(dg.ones(3))

    with dg.device("meta"):
        scaled, half = nn.Sequential(nn.Linear(3, 3), Scaled()), nn.Linear(3, 3)
    with pytest.raises(OptionError, match=r"1 lies on 'meta'.*Scaled has no reset_parameters"):
        ThreadWorld(1).run(lambda comm: DistributedDataParallel(scaled, comm, shard="parameters"))
    mixed = nn.Sequential(half, nn.Linear(3, 3))
    with pytest.raises(OptionError, match="2 of 4 parameters lie on 'meta'"):
        ThreadWorld(1).run(lambda comm: DistributedDataParallel(mixed, comm))
