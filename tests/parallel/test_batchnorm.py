"""Batch norm over all ranks against batch norm in one process."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.comm import ThreadWorld
from distgrad.errors import ShapeError
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel, SyncBatchNorm

SIZES = (1, 2, 3, 5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.conv = nn.Conv2d(2, 3, 3, dtype=np.float64)
        self.norm = nn.BatchNorm2d(3, dtype=np.float64)
        self.flat = nn.Sequential(nn.Linear(12, 5, dtype=np.float64), nn.BatchNorm1d(5, momentum=None))
        self.head = nn.Linear(5, 4, dtype=np.float64)
        for p in self.parameters():
            p._data[...] = rng.standard_normal(p.shape)
        self.double()

    def forward(self, x):
        x = self.norm(self.conv(x)).tanh()
        return self.head(self.flat(x.reshape(x.shape[0], 12)).tanh())


def data(n, seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 2, 4, 4)) * 3 + 1, rng.integers(0, 4, n)


def state_of(module):
    arrays = {name: p.grad.numpy().copy() for name, p in module.named_parameters()}
    return arrays | {name: b.numpy().copy() for name, b in module.named_buffers()}


def loss_of(module, x, y):
    return F.cross_entropy(module(dg.Tensor(x)), dg.asarray(y))


@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("size", [*SIZES, 8])  # 8 ranks share 7 samples: one is always empty
def test_ranks_match_one_process(size, hook):
    x, y = data(7)
    module = Net()
    for _ in range(3):
        module.zero_grad()
        loss_of(module, x, y).backward()

    def run(comm):
        net = SyncBatchNorm.convert_sync_batchnorm(Net())
        model = DistributedDataParallel(net, comm, bucket_cap_mb=0.0001, broadcast_buffers=hook)
        for _ in range(3):
            model.zero_grad()
            loss_of(model, np.array_split(x, size)[comm.rank], np.array_split(y, size)[comm.rank]).backward()
        return state_of(net)

    for got in ThreadWorld(size, seed=0 if hook else None).run(run):
        expected = state_of(module)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_other_weights_than_samples():
    x, y = data(6)
    module = Net()
    logits = module(dg.Tensor(x))
    losses = [F.cross_entropy(logits[i], dg.asarray(y[i])) for i in (slice(0, 2), slice(2, 6))]
    ((5 * losses[0] + 2 * losses[1]) / 7).backward()

    def run(comm):
        net = SyncBatchNorm.convert_sync_batchnorm(Net())
        model = DistributedDataParallel(net, comm)
        mine = slice(0, 2) if comm.rank == 0 else slice(2, 6)
        loss = loss_of(model, x[mine], y[mine])
        model.batch_weight = 5 if comm.rank == 0 else 2
        loss.backward()
        return state_of(net)

    for got in ThreadWorld(2).run(run):
        for name, value in state_of(module).items():
            np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_second_derivatives_go_through_the_ranks():
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((2, 6, 3))

    def second(norm, x, v):
        x = dg.tensor(x, requires_grad=True)
        (g,) = dg.autograd.grad((norm(x) ** 3).sum(), x, create_graph=True)
        (h,) = dg.autograd.grad((g * dg.Tensor(v)).sum(), x)
        return h.numpy()

    expected = second(nn.BatchNorm1d(3, dtype=np.float64), x, v)

    def run(comm):
        mine = slice(0, 2) if comm.rank == 0 else slice(2, 6)
        return second(SyncBatchNorm(3, dtype=np.float64), x[mine], v[mine])

    got = np.concatenate(ThreadWorld(2).run(run))
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


def test_a_checkpoint_around_it():
    x, y = data(7)
    module = Net()
    loss_of(module, x, y).backward()

    class Checkpointed(Net):
        def forward(self, x):
            return dg.autograd.checkpoint(super().forward, x)

    def run(comm):
        net = SyncBatchNorm.convert_sync_batchnorm(Checkpointed())
        model = DistributedDataParallel(net, comm, bucket_cap_mb=0.0001)
        loss_of(model, np.array_split(x, 3)[comm.rank], np.array_split(y, 3)[comm.rank]).backward()
        return {name: p.grad.numpy().copy() for name, p in net.named_parameters()}

    for got in ThreadWorld(3).run(run):
        for name, value in got.items():
            np.testing.assert_allclose(value, state_of(module)[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("seed", range(4))
def test_buckets_travel_behind_backward_as_far_as_all_ranks_are(seed):
    """Rank 1 does not use the head, so that its first bucket is full before anybody else's."""
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((2, 9, 6))

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                *(layer for _ in range(4) for layer in (nn.Linear(6, 6), nn.BatchNorm1d(6)))
            )
            self.head = nn.Linear(6, 6)
            values = np.random.default_rng(1)
            for p in self.parameters():
                p._data[...] = values.standard_normal(p.shape)
            self.double()

        def forward(self, x, use_head):
            x = self.layers(x)
            return self.head(x) if use_head else x

    def loss_of(module, mine, use_head):
        return ((module(dg.Tensor(x[mine]), use_head) - dg.Tensor(target[mine])) ** 2).mean()

    alone = Tower()
    y = alone.layers(dg.Tensor(x))
    y = dg.concat([alone.head(y[:3]), y[3:6], alone.head(y[6:])])
    ((y - dg.Tensor(target)) ** 2).mean().backward()

    def run(comm):
        during = []

        def hook(bucket):
            during.append(model.reducer.active)
            return bucket.comm.all_reduce(bucket.gradients, async_op=True)

        net = SyncBatchNorm.convert_sync_batchnorm(Tower())
        model = DistributedDataParallel(net, comm, bucket_cap_mb=0.0001, hook=hook)
        mine = slice(3 * comm.rank, 3 * comm.rank + 3)
        for training in (False, True, True, False, True):  # backward issues other collectives or not
            during.clear()
            net.train()
            for norm in net.layers[1::2]:
                norm.train(training)
            model.zero_grad()
            loss_of(model, mine, comm.rank != 1).backward()
        return during, [p.grad.numpy().copy() for p in net.parameters()]

    results = ThreadWorld(3, seed=seed).run(run)
    for during, gradients in results:
        assert during == results[0][0]
        assert len(during) >= 8
        assert during.count(False) <= 3  # what lies below the lowest batch norm, and what waits for it
        for got, p in zip(gradients, alone.parameters(), strict=True):
            np.testing.assert_allclose(got, p.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_evaluation_float16_and_one_element():
    def run(comm):
        norm = SyncBatchNorm(3)
        with pytest.raises(ShapeError, match="one element a channel"):
            norm(dg.zeros((1 - comm.rank, 3)))
        norm.eval()
        if comm.rank == 0:  # needs no other rank
            np.testing.assert_allclose(norm(dg.ones((1, 3))).detach().numpy(), 1.0, rtol=1e-4)
        norm.train()
        x = np.random.default_rng(comm.rank).standard_normal((500, 3)).astype(np.float16) * 100
        y = norm(dg.Tensor(x))
        assert y.dtype == np.float16
        return y.detach().numpy(), x

    y, x = (np.concatenate(each).astype(np.float64) for each in zip(*ThreadWorld(2).run(run), strict=True))
    np.testing.assert_allclose(y, (x - x.mean(0)) / x.std(0), atol=5e-3)
    assert SyncBatchNorm(3)(dg.ones((2, 3))).shape == (2, 3)  # alone, without a world


def test_conversion_keeps_parameters_buffers_and_names():
    net = Net().eval()
    before = net.state_dict()
    parameters = dict(net.named_parameters())
    converted = SyncBatchNorm.convert_sync_batchnorm(net)
    assert converted is net
    assert isinstance(net.norm, SyncBatchNorm)
    assert isinstance(net.flat[1], SyncBatchNorm)
    assert not net.norm.training
    assert net.flat[1].momentum is None
    assert list(net.state_dict()) == list(before)
    assert all(parameters[name] is p for name, p in net.named_parameters())
    assert isinstance(SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(2)), SyncBatchNorm)
