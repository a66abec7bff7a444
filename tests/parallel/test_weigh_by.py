"""Gradients weighed by ranks: every rank counts once, and passes inside ``no_sync`` add up."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.comm import init
from distgrad.errors import GraphError, OptionError
from distgrad.parallel import DistributedDataParallel, fp16


def network():
    dg.manual_seed(0)
    return nn.Linear(3, 2)


def batch(rank, step, count):
    x = np.sin(np.arange(3.0 * count) * (1 + rank + 0.5 * step)).reshape(count, 3).astype(np.float32)
    return dg.tensor(x), dg.tensor(np.cos(x[:, :2]))


def own_gradients(net, rank, step, count):
    x, y = batch(rank, step, count)
    nn.functional.mse_loss(net(x), y).backward()


def gradients(net):
    return np.concatenate([p.grad._data.reshape(-1) for p in net.parameters()])


@pytest.mark.ranks(3, backend="shm")
def test_ranks_count_alike_however_many_samples_they_have():
    comm = init()
    net = network()
    model = DistributedDataParallel(net, weigh_by="ranks", bucket_cap_mb=1e-5)
    for step in range(2):
        with model.no_sync():
            own_gradients(model, comm.rank, 2 * step, 2 + comm.rank)
        own_gradients(model, comm.rank, 2 * step + 1, 2 + comm.rank)
        expected = []
        for rank in range(comm.size):
            alone = network()
            for i in range(2):
                own_gradients(alone, rank, 2 * step + i, 2 + rank)
            expected.append(gradients(alone))
        np.testing.assert_allclose(gradients(net), np.mean(expected, axis=0), atol=1e-6)
        model.zero_grad()
    by_samples = DistributedDataParallel(network())
    own_gradients(by_samples, comm.rank, 2, 2 + comm.rank)
    assert np.abs(gradients(by_samples) - np.mean(expected, axis=0)).max() > 1e-3


@pytest.mark.ranks(2, backend="shm")
def test_a_hook_can_be_changed_before_a_pass_and_not_within_an_accumulation():
    comm = init()
    net = network()
    model = DistributedDataParallel(net, weigh_by="ranks")
    own_gradients(model, comm.rank, 0, 4)
    plain = gradients(net).copy()
    model.zero_grad()
    model.use_hook(fp16)
    own_gradients(model, comm.rank, 0, 4)
    assert 0 < np.abs(gradients(net) - plain).max() < 1e-3
    with model.no_sync():
        own_gradients(model, comm.rank, 1, 4)
    with pytest.raises(GraphError, match="gradients wait for their reduction"):
        model.use_hook(None)
    model.reduce_gradients()


def test_another_word_is_an_error():
    with pytest.raises(OptionError, match="weigh_by must be 'samples' or 'ranks', got 'hosts'"):
        DistributedDataParallel(network(), weigh_by="hosts")
