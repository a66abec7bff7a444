"""What is done to all gradients, parameters or buffers of all ranks at once."""

import numpy as np
import pytest
from parallel.problems import Network, batches, mean_loss, parameters_of

import distgrad as dg
from distgrad import nn
from distgrad.comm import ThreadWorld
from distgrad.errors import CommMismatchError
from distgrad.nn.utils import clip_grad_norm_
from distgrad.optim.sgd import SGD
from distgrad.parallel import DistributedDataParallel, LocalSGD

SMALL = 0.0005


def part(x, comm):
    return np.array_split(x, comm.size)[comm.rank]


def gradients_of(module):
    return [p.grad.numpy().copy() for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("limit", [0.05, 50.0])
def test_clipping_by_the_global_norm(order, limit):
    x, y = batches(1, 7)[0]
    module = Network()
    mean_loss(module, x, y).backward()
    module.bias1.grad = None
    norm = clip_grad_norm_(module.parameters(), limit, order).item()

    def run(comm):
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL)
        mean_loss(model, part(x, comm), part(y, comm)).backward()
        model.module.bias1.grad = None  # what lies in its place does not count
        return model.clip_grad_norm_(limit, order).item(), gradients_of(model)

    for got, gradients in ThreadWorld(3).run(run):
        assert got == pytest.approx(norm, rel=1e-12)
        for g, e in zip(gradients, gradients_of(module), strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-12)


def test_a_norm_that_is_not_finite():
    def run(comm):
        model = DistributedDataParallel(Network(), comm)
        x, y = batches(1, 4)[0]
        mean_loss(model, x, y).backward()
        model.module.bias0.grad[2] = np.inf
        before = gradients_of(model)
        with pytest.raises(FloatingPointError, match="inf"):
            model.clip_grad_norm_(1.0, error_if_nonfinite=True)
        for g, e in zip(gradients_of(model), before, strict=True):
            np.testing.assert_array_equal(g, e)

    ThreadWorld(2).run(run)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_all_ranks_agree_on_gradients_that_are_not_finite(value):
    def run(comm):
        model = DistributedDataParallel(Network().float(), comm, bucket_cap_mb=SMALL)
        x, y = batches(1, 4)[0]
        mean_loss(model, x.astype(np.float32), y).backward()
        assert model.all_finite()
        model.module.bias0.grad._data[:] = 3e38  # their sum is infinite, they are not
        assert model.all_finite()
        if comm.rank == 1:
            model.module.weight1.grad._data[0, 3] = value
        assert not model.all_finite()
        model.zero_grad()
        assert model.all_finite()

    ThreadWorld(3).run(run)


# Buffers ---------------------------------------------------------------------------------------------------


class Counts(nn.Module):
    """Remembers the sum of its inputs, and how many it saw."""

    def __init__(self, start):
        super().__init__()
        self.weight = nn.Parameter(np.ones(2))
        self.register_buffer("total", dg.Tensor(np.full(2, start)))
        self.register_buffer("count", dg.Tensor(np.array(int(start))))

    def forward(self, x):
        self.total._data += x._data.sum(axis=0)
        self.count._data += len(x._data)
        return x * self.weight


@pytest.mark.parametrize("average", [False, True])
def test_buffers_are_broadcast_or_averaged(average):
    """Ranks 0, 1, 2 see 2, 1 and 0 samples of value 1, then as many again."""

    def run(comm):
        module = Counts(10.0 + comm.rank)
        model = DistributedDataParallel(module, comm, average_buffers=average)
        x = np.ones((2 - comm.rank, 2))
        seen = []
        for _ in range(2):
            model(dg.Tensor(x)).sum().backward()
            seen.append((module.total.numpy().tolist(), module.count.item()))
        model(dg.Tensor(x[:0])).sum().backward()  # the weight of this pass comes too late for this average
        seen.append((module.total.numpy().tolist(), module.count.item()))
        model(dg.Tensor(x[:0])).sum().backward()  # nobody had samples: everything stays
        seen.append((module.total.numpy().tolist(), module.count.item()))
        return seen

    first_mean = (2 * 12 + 1 * 11) / 3
    second_mean = (2 * (first_mean + 2) + 1 * (first_mean + 1)) / 3
    for rank, seen in enumerate(ThreadWorld(3).run(run)):
        samples = 2 - rank
        assert [count for _, count in seen] == [10 + samples, 12 + samples, 14, 14]
        totals = [total[0] for total, _ in seen]
        if average:
            expected = [10 + samples, first_mean + samples, second_mean, second_mean]
            np.testing.assert_allclose(totals, expected)
        else:
            assert totals == [10 + samples, 12 + samples, 14, 14]


# Local SGD -------------------------------------------------------------------------------------------------


def reference_local_sgd(size, steps, *, group, levels, warmup):
    """The same in one process: replicas as arrays, gradients by a network that they are written into."""
    module = Network()
    replicas = [parameters_of(module) for _ in range(size)]

    def gradient(vector, x, y):
        nn.utils.vector_to_parameters(dg.Tensor(vector), module.parameters())
        module.zero_grad()
        mean_loss(module, x, y).backward()
        return np.concatenate([g.ravel() for g in gradients_of(module)])

    def groups_of(n):
        return [range(start, start + n) for start in range(0, size, n)]

    for step, (x, y) in enumerate(steps, 1):
        xs, ys = np.array_split(x, size), np.array_split(y, size)
        gradients = [gradient(replicas[rank], xs[rank], ys[rank]) for rank in range(size)]
        for ranks in groups_of(size if step <= warmup else group):
            mean = sum(len(ys[r]) * gradients[r] for r in ranks) / sum(len(ys[r]) for r in ranks)
            for r in ranks:
                replicas[r] = replicas[r] - 0.3 * mean
        for period, n in sorted(levels.items(), reverse=True):
            if step > warmup and (step - warmup) % period == 0:
                for ranks in groups_of(n):
                    mean = sum(replicas[r] for r in ranks) / n
                    for r in ranks:
                        replicas[r] = mean
                break
    return replicas


@pytest.mark.parametrize(
    ("size", "group", "levels", "warmup"),
    [
        (3, 1, {2: 3}, 0),
        (2, 1, {3: 2}, 2),
        (4, 1, {2: 2, 4: 4}, 1),
        (4, 2, {3: 4}, 2),
        (4, 2, {1: 2, 5: 4}, 0),
    ],
)
def test_local_post_local_and_hierarchical_sgd(size, group, levels, warmup):
    steps = batches(7, 9)
    expected = reference_local_sgd(size, steps, group=group, levels=levels, warmup=warmup)

    def run(comm):
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL, check_replicas_every=0)
        optimizer = SGD(model.parameters(), lr=0.3)
        periods = next(iter(levels)) if len(levels) == 1 else levels
        averager = LocalSGD(model, periods, warmup_steps=warmup, gradient_group_size=group)
        told = []
        for x, y in steps:
            optimizer.zero_grad()
            mean_loss(model, part(x, comm), part(y, comm)).backward()
            optimizer.step()
            told.append(averager.step())
        apart = parameters_of(model)
        averager.finish()
        optimizer.zero_grad()
        mean_loss(model, part(x, comm), part(y, comm)).backward()
        optimizer.step()
        return apart, told, parameters_of(model)

    results = ThreadWorld(size).run(run)
    for (apart, told, together), replica in zip(results, expected, strict=True):
        np.testing.assert_allclose(apart, replica, rtol=1e-10, atol=1e-12)
        assert told == [
            next((n for period, n in sorted(levels.items(), reverse=True) if (s - warmup) % period == 0), 1)
            if s > warmup
            else 1
            for s in range(1, 8)
        ]
        assert np.array_equal(together, results[0][2])
    assert not np.array_equal(results[0][0], results[-1][0])


def test_replicas_of_a_group_are_compared_while_groups_are_apart():
    def run(comm):
        model = DistributedDataParallel(Network(), comm, check_replicas_every=1)
        optimizer = SGD(model.parameters(), lr=0.3)
        averager = LocalSGD(model, 100, gradient_group_size=2)
        for x, y in batches(3, 8):
            optimizer.zero_grad()
            mean_loss(model, part(x, comm), part(y, comm)).backward()
            optimizer.step()
            averager.step()
        if comm.rank == 3:
            model.module.bias0._data += 1
        if comm.rank < 2:
            model.check_replicas()
        else:
            with pytest.raises(CommMismatchError, match=r"bias0; ranks \[0\] against \[1\]"):
                model.check_replicas()

    ThreadWorld(4).run(run)


@pytest.mark.parametrize(
    "options",
    [
        {"periods": 0},
        {"periods": {}},
        {"periods": {2: 2}},
        {"periods": {2: 4, 4: 2}},
        {"periods": {2: 3, 4: 4}},
        {"periods": 4, "gradient_group_size": 8},
    ],
)
def test_groups_that_do_not_nest_are_refused(options):
    def run(comm):
        with pytest.raises(ValueError, match="LocalSGD"):
            LocalSGD(DistributedDataParallel(Network(), comm), **options)

    ThreadWorld(4).run(run)
