"""Averaged models, their rates and batch norms, beside PyTorch's."""

import copy

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.errors import OptionError, ShapeError
from distgrad.optim import SGD, swa_utils

AVERAGES = [
    lambda utils: {},
    lambda utils: {"use_buffers": True},
    lambda utils: {"avg_fn": utils.get_swa_avg_fn()},
    lambda utils: {"avg_fn": utils.get_ema_avg_fn(0.7)},
    lambda utils: {"multi_avg_fn": utils.get_swa_multi_avg_fn()},
    lambda utils: {"multi_avg_fn": utils.get_ema_multi_avg_fn(0.8)},
    lambda utils: {"avg_fn": lambda a, p, n: 0.5 * a + 0.25 * p},
]


def build(nn):
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=0.3), nn.Linear(3, 2))


def batches(count=5):
    rng = np.random.default_rng(2)
    return [rng.standard_normal((6, 4)).astype(np.float32) for _ in range(count)]


def trained(model, optimizer, averaged, tensor):
    for x in batches():
        optimizer.zero_grad()
        (model(tensor(x)) ** 2).sum().backward()
        optimizer.step()
        averaged.update_parameters(model)
    return averaged


def weights():
    dg.manual_seed(1)
    return {name: value.numpy().copy() for name, value in build(nn).state_dict().items()}


def ours(make):
    model = build(nn)
    model.load_state_dict(weights())
    averaged = swa_utils.AveragedModel(model, **make(swa_utils))
    return trained(model, SGD(model.parameters(), lr=0.05), averaged, dg.asarray)


@pytest.mark.parametrize("make", AVERAGES)
def test_averages_equal_pytorchs(make):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    model = build(torch.nn)
    model.load_state_dict({name: torch.tensor(value) for name, value in weights().items()})
    averaged = torch.optim.swa_utils.AveragedModel(model, **make(torch.optim.swa_utils))
    theirs = trained(model, torch.optim.SGD(model.parameters(), lr=0.05), averaged, torch.tensor)
    ours_ = ours(make)
    expected, got = theirs.state_dict(), ours_.state_dict()
    assert set(got) == set(expected)
    for name, value in expected.items():
        if make(swa_utils).get("use_buffers") and name.endswith("num_batches_tracked"):
            continue  # PyTorch averages counts, rounding down; here they are copied
        np.testing.assert_allclose(got[name].numpy(), value.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    loader = [(x, None) for x in batches(3)]
    torch.optim.swa_utils.update_bn([(torch.tensor(x), y) for x, y in loader], theirs)
    swa_utils.update_bn([(dg.asarray(x), y) for x, y in loader], ours_)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours_.state_dict()[name].numpy(), value.numpy(), rtol=1e-5, atol=1e-6)
    assert ours_.module[1].momentum == 0.3


def test_the_average_is_the_mean_of_what_it_saw():
    model = nn.Linear(2, 1)
    averaged = swa_utils.AveragedModel(model)
    seen = []
    for step in range(4):
        nn.init.constant_(model.weight, float(step**2))
        averaged.update_parameters(model)
        seen.append(step**2)
    np.testing.assert_allclose(averaged.module.weight.detach().numpy(), np.mean(seen), rtol=1e-6)
    assert int(averaged.n_averaged) == 4
    assert float(model.weight[0, 0]) == 9.0  # the model itself goes its own way


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("epochs", [0, 1, 5])
def test_rates_equal_pytorchs(strategy, epochs):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")

    def rates(optimizer, utils, swa_lr):
        scheduler = utils.SWALR(optimizer, swa_lr, anneal_epochs=epochs, anneal_strategy=strategy)
        out = []
        for _ in range(8):
            out.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        return out

    for swa_lr in (0.02, [0.02, 0.5]):
        theirs = [{"params": [torch.ones(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.3)]
        groups = [{"params": [dg.ones(1).requires_grad_()], "lr": lr} for lr in (0.1, 0.3)]
        expected = rates(torch.optim.SGD(theirs), torch.optim.swa_utils, swa_lr)
        np.testing.assert_allclose(rates(SGD(groups), swa_utils, swa_lr), expected, rtol=1e-12)


@pytest.mark.parametrize("shard", [None, "gradients", "parameters"])
def test_the_average_of_a_data_parallel_model_is_that_of_its_module(shard):
    start = nn.Sequential(nn.Linear(3, 20), nn.Linear(20, 2))

    def run(comm):
        net = copy.deepcopy(start)
        model = dg.parallel.DistributedDataParallel(net, comm, shard=shard)
        optimizer = SGD(model.parameters(), lr=0.01)
        averaged, plain = swa_utils.AveragedModel(model), []
        for _ in range(3):
            optimizer.zero_grad()
            (model(dg.full((2, 3), comm.rank + 1.0)) ** 2).sum().backward()
            optimizer.step()
            averaged.update_parameters(model)
            plain.append(net[0].bias.detach().numpy().copy())
        np.testing.assert_allclose(averaged.module[0].bias.detach().numpy(), np.mean(plain, 0), rtol=1e-5)
        with pytest.raises(OptionError, match=r"belongs to its ranks; copy the module inside"):
            copy.deepcopy(model)
        return averaged(dg.ones((1, 3))).detach().numpy().tolist()

    first, second = dg.comm.ThreadWorld(2, timeout_s=60).run(run)
    assert first == second


def test_what_is_refused():
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\], got 1.5"):
        swa_utils.get_ema_multi_avg_fn(1.5)
    with pytest.raises(ValueError, match="exclude each other"):
        swa_utils.AveragedModel(model, avg_fn=max, multi_avg_fn=max)
    with pytest.raises(ShapeError, match="of other shapes"):
        swa_utils.AveragedModel(model).update_parameters(nn.Linear(3, 1))
    with pytest.raises(OptionError, match="'cos' or 'linear', got 'step'"):
        swa_utils.SWALR(SGD(model.parameters()), 0.1, anneal_strategy="step")
    with pytest.raises(ValueError, match="anneal_epochs"):
        swa_utils.SWALR(SGD(model.parameters()), 0.1, anneal_epochs=-1)
