"""``torch.distributed.algorithms``: hooks and averagers do what their arguments say, or refuse."""

import subprocess
import sys

import numpy as np
import pytest

import distgrad as dg
import distgrad.torch as torch
from distgrad import nn
from distgrad.errors import OptionError
from distgrad.torch import distributed as dist
from distgrad.torch.distributed import averaging, hooks


@pytest.fixture
def world():
    dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()


@pytest.fixture
def alone():
    dist.init_process_group("gloo", "file:///nobody/else", world_size=1, rank=0)
    yield
    dist.destroy_process_group()


def model(bias=True):
    dg.manual_seed(0)
    return torch.nn.parallel.DistributedDataParallel(nn.Linear(12, 10, bias=bias))


def gradient(network, rank):
    network.zero_grad()
    x = dg.tensor(np.random.default_rng(rank).standard_normal((4, 12)).astype(np.float32))
    (network(x) ** 2).sum().backward()
    return network.module.weight.grad.numpy().copy()


def check_powersgd():
    """The first steps' gradients are a plain mean, to the bit; later ones are of rank 1."""
    rank = dist.get_rank()
    plain, compressed = model(), model()
    compressed.register_comm_hook(hooks.PowerSGDState(start_powerSGD_iter=3), hooks.powerSGD_hook)
    for step in range(5):
        expected, found = gradient(plain, rank), gradient(compressed, rank)
        if step < 3:
            np.testing.assert_array_equal(found, expected)
        else:
            singular = np.linalg.svd(found, compute_uv=False)
            assert singular[1] < 1e-4 * singular[0]
            assert not np.allclose(found, expected, rtol=1e-2)
    again = model()
    again.register_comm_hook(hooks.PowerSGDState(start_powerSGD_iter=3), hooks.powerSGD_hook)
    again.hook.load_state_dict(compressed.hook.state_dict())
    gradient(again, rank)
    assert "step.weight" in again.hook.state_dict()
    assert again.hook.state_dict()["step.weight"] == 6


def check_bucket():
    """A bucket's buffer holds the gradients, and nothing behind them."""
    sizes = []

    def hook(state, bucket):
        sizes.append((bucket.buffer().shape, sum(each.numel() for each in bucket.gradients())))
        return hooks.allreduce_hook(state, bucket)

    network = torch.nn.parallel.DistributedDataParallel(nn.Linear(1, 1, bias=False))
    network.register_comm_hook(None, hook)
    network(dg.tensor(np.full((2, 1), dist.get_rank() + 1.0, np.float32))).sum().backward()
    assert sizes == [((1,), 1)]
    assert network.module.weight.grad.tolist() == [[dist.get_world_size() + 1.0]]


def check_averager():
    averager = averaging.HierarchicalModelAverager({2: dist.get_world_size()}, warmup_steps=3)
    found = []
    for step in range(8):
        x = dg.tensor(np.full(1, dist.get_rank() ** 2, np.float32))
        averager.average_parameters([x])
        found += [step] if x.item() != dist.get_rank() ** 2 else []
    assert averager.step == 8
    assert found == [4, 6]  # PyTorch counts from the first step, not from the warm-up's end


def check_all():
    check_powersgd()
    check_bucket()
    check_averager()


@pytest.mark.ranks(2, backend="shm")
def test_on_two_ranks(world):
    check_all()


@pytest.mark.ranks(3, backend="shm")
def test_on_three_ranks(world):
    check_all()


@pytest.mark.parametrize(
    "options",
    [{"use_error_feedback": False}, {"warm_start": False}, {"min_compression_rate": 4},
     {"orthogonalization_epsilon": 1e-8}],
)  # fmt: skip
def test_what_powersgd_cannot_do_is_refused(options):
    with pytest.raises(OptionError, match=f"expected {next(iter(options))}="):
        hooks.PowerSGDState(**options)


def test_powersgd_is_refused_for_other_ranks_and_for_the_first_steps(alone):
    state = hooks.PowerSGDState(dist.new_group([0]))
    with pytest.raises(OptionError, match="the module's process_group"):
        model().register_comm_hook(state, hooks.powerSGD_hook)
    with pytest.raises(ValueError, match="> 1"):
        hooks.PowerSGDState(start_powerSGD_iter=1)


def test_pytorchs_module_of_the_averager_is_there(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import torch.distributed.algorithms.model_averaging.hierarchical_model_averager as found\n"
        "print(found.HierarchicalModelAverager.__name__)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "distgrad.torch", program],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.stdout == "HierarchicalModelAverager\n", ended.stderr
