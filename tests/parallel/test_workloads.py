"""Every workload of the benchmarks on several ranks: one process on all samples, and PyTorch's DDP, agree."""

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from parallel.workloads import NAMES, batch_of, build_model

import distgrad as dg
from distgrad import nn, optim
from distgrad.comm import ThreadWorld
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel

STEPS = 3


def build(name):
    """The model, its values from a generator of its own: the ranks of a ThreadWorld share the default one."""
    model = build_model(nn, F, dg.scaled_dot_product_attention, name)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p._data[...] = rng.uniform(-1, 1, p.shape) * p.shape[-1] ** -0.5
    return model


def part(x, rank, size):
    return np.array_split(x, size)[rank]


def train(name, model, batches, rank=0, size=1):
    """Train by SGD with momentum, which keeps the gradients' differences as they are; return all values."""
    optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for x, y in batches:
        x, y = part(x, rank, size), part(y, rank, size)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(dg.asarray(x)), dg.asarray(y.reshape(-1)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item() * len(x) if len(x) else 0.0)
    return losses, {k: v.numpy().copy() for k, v in model.state_dict().items()}


def assert_close(got, expected, rtol=1e-9):
    for (name, value), reference in zip(got.items(), expected.values(), strict=True):
        np.testing.assert_allclose(value, reference, rtol=rtol, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_ranks_match_one_process(name, size):
    """Eleven samples, then four: with five ranks one is empty then."""
    batches = [batch_of(name, count, seed) for seed, count in enumerate((11, 4, 11)[:STEPS])]
    expected_losses, expected = train(name, build(name), batches)

    def run(comm):
        model = DistributedDataParallel(build(name), comm, bucket_cap_mb=0.01)
        return train(name, model, batches, comm.rank, comm.size)

    results = ThreadWorld(size).run(run)
    for _, state in results:
        assert_close(state, expected)
    for losses, reference, (x, _) in zip(
        zip(*(losses for losses, _ in results), strict=True), expected_losses, batches, strict=True
    ):
        assert sum(losses) == pytest.approx(reference, rel=1e-9), len(x)


# PyTorch's DDP, with equal batches, since it weighs every rank alike ----------------------------------------

BATCHES = {name: [batch_of(name, 6, seed) for seed in range(STEPS)] for name in NAMES}


def start_of(name):
    return {k: v.numpy().copy() for k, v in build(name).state_dict().items()}


@pytest.fixture(scope="module")
def torch_states(tmp_path_factory):
    """What two processes of PyTorch's DDP over Gloo come to, from the same values on the same samples."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("compares with PyTorch, which is not installed")
    path = tmp_path_factory.mktemp("torch") / "task"
    path.write_bytes(pickle.dumps({name: (start_of(name), BATCHES[name]) for name in NAMES}))
    program = [sys.executable, str(Path(__file__).with_name("torch_ranks.py")), str(path)]
    ranks = [subprocess.Popen([*program, str(rank), "2"]) for rank in range(2)]
    try:
        assert [rank.wait(300) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return pickle.loads(path.with_name("task.result").read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_pytorch_ddp_comes_to_the_same(name, torch_states):
    def run(comm):
        model = DistributedDataParallel(build(name), comm)
        return train(name, model, BATCHES[name], comm.rank, comm.size)[1]

    for state in ThreadWorld(2).run(run):
        assert [key.removeprefix("module.") for key in state] == list(torch_states[name])
        assert_close(state, torch_states[name])
