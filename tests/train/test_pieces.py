"""Evaluation, early stopping, seeds, the meter, the learning-rate finder and the summary."""

import math
import random

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, train
from distgrad.autograd.flops import RULES, counting
from distgrad.autograd.later import read_all
from distgrad.autograd.primitive import REGISTRY
from distgrad.comm import ThreadWorld
from distgrad.data import DataLoader, TensorDataset
from distgrad.errors import DataError, DTypeError, OptionError
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))


# -- evaluation


def test_evaluation_ends_as_it_began(capfd):
    model = network()
    model[1].eval()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    batches = [
        (dg.ones((3, 4)), {"y": [dg.zeros(3)], "name": "first"}),
        (dg.ones((2, 4)), {"y": [], "name": ""}),
    ]
    seen = []
    for x, rest in train.evaluate(model, batches):
        assert not model.training
        assert not model(x).requires_grad
        seen.append((len(x), rest["name"]))
    assert seen == [(3, "first"), (2, "")]
    for batch in train.evaluate(model, batches, show=False):
        if len(batch[0]) == 3:
            break

    def fail():
        for _ in train.evaluate(model, batches, show=False):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.training
    assert model[0].training
    assert not model[1].training
    assert dg.is_grad_enabled()
    assert all(np.array_equal(before[name], value.numpy()) for name, value in model.state_dict().items())
    assert "evaluate" in capfd.readouterr().err


def test_ranks_evaluate_unequal_numbers_of_batches():
    def run(comm):
        model = DistributedDataParallel(network(), comm)
        count = train.Mean()
        for x in train.evaluate(model, [dg.ones((2, 4))] * comm.rank, show=False):
            count.update(model(x).sum(axis=1).numpy() * 0 + 1)
        return [float(x) for x in count.sums.values()] + [count.compute()]

    found = ThreadWorld(3, timeout_s=60).run(run)
    assert [each[0] for each in found] == [0, 2, 4]
    assert math.isfinite(found[0][2])


def test_sharded_parameters_need_equal_numbers_of_batches():
    def run(comm):
        model = DistributedDataParallel(network(), comm, shard="parameters")
        for x in train.evaluate(model, [dg.ones((2, 4))] * 2, show=False):
            model(x)
        with pytest.raises(OptionError, match=r"equally many batches, and they have \[1, 2\]"):
            train.evaluate(model, [dg.ones((2, 4))] * (1 + comm.rank), show=False)

    ThreadWorld(2, timeout_s=60).run(run)


# -- early stopping


def test_early_stopping_is_agreed():
    def run(comm):
        stopping = train.EarlyStopping(patience=1, min_delta=0.1)
        answers = []
        for value in (1.0, 0.8, 0.75, math.nan, 0.1):
            answers.append(
                (stopping.step(value + (comm.rank - 1)), stopping.is_best)
            )  # the mean is the value
        copy = train.EarlyStopping(patience=1)
        copy.load_state_dict(stopping.state_dict())
        return answers, stopping.best, stopping.best_step, copy.state_dict() == stopping.state_dict()

    expected = [(False, True), (False, True), (False, False), (True, False), (False, True)]
    for answers, best, best_step, is_same in ThreadWorld(3, timeout_s=60).run(run):
        assert answers == expected
        assert best == pytest.approx(0.1)
        assert best_step == 4
        assert is_same
    rising = train.EarlyStopping(0, mode="max")
    assert [rising.step(value) for value in (1, 2, 2)] == [False, False, True]
    for options in ({"mode": "least"}, {"min_delta": -1}):
        with pytest.raises(OptionError, match=next(iter(options))):
            train.EarlyStopping(1, **options)


# -- seeds


def test_seeds_differ_by_rank_and_repeat():
    def draw(comm, by_rank):
        taken = train.seed_everything(7, by_rank=by_rank)
        return taken, float(dg.rand(()))

    found = [ThreadWorld(1, timeout_s=60).run(lambda comm: draw(comm, True)) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0][0][0] == 7
    seeds = ThreadWorld(3, timeout_s=60).run(lambda comm: train.seed_everything(7))
    assert len(set(seeds)) == 3
    assert seeds == ThreadWorld(3, timeout_s=60).run(lambda comm: train.seed_everything(7))
    assert ThreadWorld(3, timeout_s=60).run(lambda comm: train.seed_everything(7, by_rank=False)) == [7] * 3
    train.seed_everything(3)
    first = (random.random(), np.random.rand(), float(dg.rand(())))  # noqa: NPY002
    train.seed_everything(3)
    assert first == (random.random(), np.random.rand(), float(dg.rand(())))  # noqa: NPY002
    with pytest.raises(OptionError, match="seed must be 0 or more"):
        train.seed_everything(-1)


# -- the meter


def test_the_meter_leaves_warm_up_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    meter = train.Meter(warm_up=2, total_steps=10, flops_per_sample=100.0, peak_flops=1e4)
    assert math.isnan(meter.rates().samples_per_s)
    for seconds in (9.0, 3.0, 0.5, 0.5, 1.0):
        now[0] += seconds
        meter.step(samples=20, tokens=200)
    rates = meter.rates()
    assert rates.samples_per_s == pytest.approx(30)
    assert rates.tokens_per_s == pytest.approx(300)
    assert rates.step_s == pytest.approx(2 / 3)
    assert rates.mfu == pytest.approx(0.3)
    assert rates.left_s == pytest.approx(5 * 2 / 3)
    assert repr(rates) == "30 samples/s, 300 tokens/s, 666.7 ms a step, MFU 30%, 0:00:03 to go"
    with pytest.raises(OptionError, match="warm_up"):
        train.Meter(warm_up=-1)


def test_the_meter_adds_up_the_ranks():
    def run(comm):
        meter = train.Meter(warm_up=0, flops_per_sample=1.0)
        meter.step(samples=10 * (comm.rank + 1))
        rates = meter.rates()
        return rates.samples_per_s * rates.step_s, rates.mfu

    for samples, share in ThreadWorld(3, timeout_s=60).run(run):
        assert samples == pytest.approx(60)
        assert 0 < share < 1
    assert train.measured_flops() > 1e8


# -- the learning-rate finder


def test_the_rate_is_found_and_all_is_put_back():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 4)).astype(np.float32)
    data = TensorDataset(dg.asarray(x), dg.asarray(x.sum(1, keepdims=True)))
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))
    optimizer = dg.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    F.mse_loss(model(data[:8][0]), data[:8][1]).backward()
    optimizer.step()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    state = str(optimizer.state_dict())
    drawn = dg.default_generator.get_state()

    def loss(batch):
        return F.mse_loss(model(batch[0]), batch[1])

    curve = train.find_lr(model, optimizer, loss, DataLoader(data, 16), min_lr=1e-5, max_lr=100, steps=60)
    assert 1e-4 < curve.suggestion < 1
    assert len(curve.lrs) == len(curve.losses) < 60  # it diverged before the end
    assert all(np.array_equal(before[name], value.numpy()) for name, value in model.state_dict().items())
    assert str(optimizer.state_dict()) == state
    assert dg.default_generator.get_state() == drawn
    with pytest.raises(ZeroDivisionError):
        train.find_lr(model, optimizer, lambda batch: 1 / 0, DataLoader(data, 16))
    assert optimizer.param_groups[0]["lr"] == 0.03
    with pytest.raises(DataError, match="no batch"):
        train.find_lr(model, optimizer, loss, [])
    with pytest.raises(OptionError, match="min_lr < max_lr"):
        train.find_lr(model, optimizer, loss, [], min_lr=1, max_lr=0.1)


def test_ranks_find_the_same_rate():
    def run(comm):
        dg.manual_seed(1)
        model = DistributedDataParallel(nn.Linear(4, 1), comm)
        optimizer = dg.optim.SGD(model.parameters(), lr=0.03)
        x = dg.asarray(np.random.default_rng(comm.rank).standard_normal((8, 4)).astype(np.float32))
        curve = train.find_lr(
            model, optimizer, lambda x: F.mse_loss(model(x), x.sum(axis=1, keepdims=True)), [x]
        )
        return curve.lrs, curve.losses, curve.suggestion

    found = ThreadWorld(2, timeout_s=60).run(run)
    assert found[0] == found[1]


# -- the summary


def test_a_summary_counts_and_changes_nothing():
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 28 * 28, 10))
    model[3].bias.requires_grad = False
    found = train.summary(model, (2, 1, 28, 28))
    assert found.flops == 2 * 2 * 8 * 28 * 28 * 9 + 2 * 2 * 6272 * 10
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.trainable == found.parameters - 10
    assert found.parameter_bytes == 4 * found.parameters
    assert found.activation_bytes == 4 * (3 * 2 * 6272 + 20)
    assert [line.shape for line in found.lines] == [
        (2, 10), (2, 8, 28, 28), (2, 8, 28, 28), (2, 6272), (2, 10)
    ]  # fmt: skip
    assert [line.flops for line in found.lines][1:] == [2 * 2 * 8 * 784 * 9, 0, 0, 2 * 2 * 62720]
    text = str(found)
    assert "Conv2d" in text
    assert f"{found.parameters:,}" in text
    assert all(p.device == "cpu" for p in model.parameters())
    assert train.summary(model, dg.ones((2, 1, 28, 28))).flops == found.flops
    assert model._hooks is None or not (model._hooks.forward or model._hooks.forward_pre)


def test_a_summary_of_what_is_called_twice_and_takes_more():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.layer = nn.Embedding(10, 4), nn.Linear(4, 4)

        def forward(self, index, scale):
            return self.layer(self.layer(self.table(index))) * scale

    found = train.summary(Net(), np.zeros((3, 5), np.int64), 0.5)
    assert found.flops == 2 * 2 * 15 * 16
    assert found.lines[2].calls == 2


def on_shapes(*shape, **options):
    return dg.empty(shape, device="meta", **options)


@pytest.mark.parametrize(
    ("call", "flops"),
    [
        (lambda: on_shapes(3, 4, 5) @ on_shapes(5, 6), 2 * 3 * 4 * 6 * 5),
        (lambda: dg.einsum("bij,bjk->bik", on_shapes(3, 4, 5), on_shapes(3, 5, 6)), 2 * 3 * 4 * 6 * 5),
        (lambda: dg.tensordot(on_shapes(7, 5), on_shapes(5, 6), 1), 2 * 7 * 6 * 5),
        (lambda: F.linear(on_shapes(7, 5), on_shapes(6, 5), on_shapes(6)), 2 * 7 * 6 * 5),
        (
            lambda: F.conv2d(on_shapes(2, 4, 8, 8), on_shapes(6, 2, 3, 3), groups=2, padding=1),
            2 * 2 * 6 * 64 * 18,
        ),
        (lambda: F.conv_transpose2d(on_shapes(2, 4, 8, 8), on_shapes(4, 6, 3, 3)), 2 * 2 * 4 * 64 * 54),
        (
            lambda: F.scaled_dot_product_attention(*[on_shapes(2, 4, 8, 16)] * 3, is_causal=True),
            4 * 2 * 4 * 8 * 8 * 16,
        ),
        (
            lambda: F.scaled_dot_product_attention(*[on_shapes(2, 4, 8, 16)] * 3, attn_mask=on_shapes(8, 8)),
            4 * 2 * 4 * 8 * 8 * 16,
        ),
        (lambda: nn.LSTM(5, 6, device="meta")(on_shapes(7, 2, 5)), 2 * 7 * 2 * 24 * 11),
        (lambda: nn.GRU(5, 6, device="meta")(on_shapes(7, 2, 5)), 2 * 7 * 2 * 18 * 11),
        (lambda: (on_shapes(7, 5) @ on_shapes(5, 6, requires_grad=True)).sum().backward(), 2 * 7 * 6 * 5),
    ],
)
def test_flops_of_products(call, flops):
    with counting() as counter:
        call()
    assert counter.flops == flops
    call()
    assert counter.flops == flops


def test_every_rule_counts_an_operation():
    read_all()
    assert RULES.keys() <= REGISTRY.keys()


# -- what they refuse


def test_a_sweep_needs_numbers_and_batches():
    model, x = nn.Linear(2, 1), dg.ones((3, 2))
    optimizer = dg.optim.SGD(model.parameters(), lr=0.1)

    def loss(batch):
        return model(batch).sum()

    with pytest.raises(DataError, match="the loss is nan at the first batch"):
        train.find_lr(model, optimizer, lambda batch: loss(batch) * math.nan, [x])
    assert len(train.find_lr(model, optimizer, loss, [x]).lrs) > 50  # losses below 0 are losses too
    with pytest.raises(DataError, match="can begin anew"):
        train.find_lr(model, optimizer, loss, iter([x, x]))
    for options in ({"max_lr": math.inf}, {"steps": 20.5}, {"min_lr": math.nan}):
        with pytest.raises(OptionError, match="find_lr: expected"):
            train.find_lr(model, optimizer, loss, [x], **options)


def test_numbers_that_count_nothing_are_refused():
    for options in ({"peak_flops": 0}, {"flops_per_sample": math.nan}, {"total_steps": -1}):
        with pytest.raises(OptionError, match=next(iter(options))):
            train.Meter(**options)
    with pytest.raises(OptionError, match="samples and tokens must be 0 or more"):
        train.Meter().step(-1)
    with pytest.raises(OptionError, match="patience"):
        train.EarlyStopping(math.nan)
    with pytest.raises(OptionError, match=r"must be a whole number, got 1\.5"):
        train.seed_everything(1.5)
    assert train.seed_everything(np.int64(7)) == 7
    with pytest.raises(DTypeError, match="expected a Module, got function"):
        train.summary(test_numbers_that_count_nothing_are_refused, (2, 3))
    assert train.summary(nn.Linear(3, 2), tuple(np.array([4, 3]))).lines[0].shape == (4, 2)
