"""A module that was built of shapes trains as one that was built in memory, a block at a time."""

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from parallel.problems import parameters_of

import distgrad as dg
from distgrad import nn, tracebacks
from distgrad.backend.memory import release_freed_memory
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


class Scaled(nn.Linear):
    """A part that its base class knows nothing of, whose ``reset_parameters`` it has."""

    def __init__(self, kind, sets=False):
        super().__init__(3, 3)
        if kind == "parameter":
            self.scale = nn.Parameter(dg.ones(3))
        else:
            self.register_buffer("scale", dg.ones(3))
        self.sets = sets

    def reset_parameters(self):
        super().reset_parameters()
        if getattr(self, "sets", False):
            self.scale.data[...] = 2.0


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
@pytest.mark.parametrize("size", [1, 2])
def test_what_reset_parameters_leaves_out_is_an_error_on_all_ranks(kind, size):
    """And not what happened to lie in memory."""
    refused = []

    def wrap(comm):
        with BUILDING, dg.device("meta"):
            model = nn.Sequential(nn.Linear(3, 3), Scaled(kind))
        with pytest.raises(OptionError, match=r"1\.scale lies on 'meta'.* does not set it"):
            DistributedDataParallel(model, comm)
        refused.append(comm.rank)
        with BUILDING, dg.device("meta"):
            model = nn.Sequential(nn.Linear(3, 3), Scaled(kind, sets=True))
        scale = DistributedDataParallel(model, comm).module[1].scale
        np.testing.assert_array_equal(scale.detach().numpy(), 2.0)

    ThreadWorld(size, timeout_s=60).run(wrap)
    assert sorted(refused) == list(range(size))


class Reaching(nn.Module):
    """Its ``reset_parameters`` sets a parameter of a module in it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.scale = nn.Parameter(dg.empty(3))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.inner.bias)


@pytest.mark.filterwarnings("ignore:DistributedDataParallel. inner.bias was set once more")
@pytest.mark.parametrize("size", [1, 2])
def test_whoever_sets_what_another_module_draws_is_an_error_but_within_a_block(size):
    def wrap(comm):
        with BUILDING, dg.device("meta"):
            model, block = Reaching(), nn.Sequential(Reaching())
        with pytest.raises(OptionError, match=r"reset_parameters\(\) of Reaching sets inner\.bias"):
            DistributedDataParallel(model, comm, shard="parameters")
        np.testing.assert_array_equal(
            DistributedDataParallel(block, comm, shard="parameters").state_dict()["module.0.inner.bias"], 0.0
        )

    ThreadWorld(size, timeout_s=60).run(wrap)


def test_attention_is_filled_with_the_numbers_that_it_draws_in_memory():
    def build():
        dg.manual_seed(3)
        return nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16), nn.MultiheadAttention(8, 2, kdim=4))

    expected = parameters_of(build()).tobytes()
    with dg.device("meta"):
        model = build()
    found = ThreadWorld(1).run(lambda comm: parameters_of(DistributedDataParallel(model, comm)).tobytes())
    assert found == [expected]


@pytest.mark.parametrize(
    "draw",
    [lambda weight: nn.init.normal_(weight, 0.0, 0.02), lambda weight: weight.data.normal_(0.0, 0.02)],
    ids=["init", "data"],
)
def test_numbers_that_a_constructor_sets_on_meta_are_said_to_be_lost(monkeypatch, draw):
    monkeypatch.setattr(tracebacks, "_warned", set())
    with dg.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.LSTM(3, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ThreadWorld(1).run(lambda comm: DistributedDataParallel(model, comm))
    with dg.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3))
        draw(model[0].weight)
    with pytest.warns(
        UserWarning, match=r"0\.weight was set once more after reset_parameters\(\), on 'meta'"
    ):
        ThreadWorld(1).run(lambda comm: DistributedDataParallel(model, comm))


def test_where_first_numbers_are_not_known_is_an_error():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(dg.ones(3))

    with dg.device("meta"):
        scaled, half = nn.Sequential(nn.Linear(3, 3), Alone()), nn.Linear(3, 3)
    with pytest.raises(OptionError, match=r"1 lies on 'meta'.*Alone has no reset_parameters"):
        ThreadWorld(1).run(lambda comm: DistributedDataParallel(scaled, comm, shard="parameters"))
    mixed = nn.Sequential(half, nn.Linear(3, 3))
    with pytest.raises(OptionError, match="2 of 4 parameters lie on 'meta'"):
        ThreadWorld(1).run(lambda comm: DistributedDataParallel(mixed, comm))


def status_bytes(name):
    """A number of this process's, as the kernel tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@pytest.mark.ranks(2, backend="shm", timeout=120)
def test_wrapping_takes_no_more_than_what_a_rank_keeps():
    """The most that is resident while 48 MiB are laid out: the own half, and what rank 0 draws a block with.

    Laid out whole, with room for gradients, they would take 96.
    """
    comm = dg.comm.init(timeout_s=60)

    def wrap(count):
        with dg.device("meta"):
            layers = nn.Sequential(*(nn.Sequential(nn.Linear(512, 512)) for _ in range(count)))
        return DistributedDataParallel(layers, comm, shard="parameters")

    wrap(1)  # what is loaded and compiled for it
    release_freed_memory()
    comm.barrier()
    before = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    comm.barrier()
    whole, block = wrap(48), 512 * 513 * 4
    comm.barrier()
    num_bytes = sum(parameter.nbytes for parameter in whole.parameters())
    assert status_bytes("VmHWM") - before <= num_bytes / 2 + 8 * block
