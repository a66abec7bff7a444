"""What a user may do between two steps: several passes, nothing at all, exceptions, other collectives."""

import numpy as np
import pytest
from parallel.problems import CLASSES, FEATURES, Network, batches, mean_loss

import distgrad as dg
from distgrad.comm import ThreadWorld
from distgrad.errors import GraphError, RankFailedError
from distgrad.nn.module import Module
from distgrad.parallel.ddp import DistributedDataParallel

SMALL = 0.0005
SIZES = (2, 3, 5)


def part(x, comm):
    return np.array_split(x, comm.size)[comm.rank]


def gradients_of(module):
    return [None if p.grad is None else p.grad.numpy().copy() for p in module.parameters()]


def assert_equal_gradients(got, expected, rtol=1e-12, atol=1e-15):
    for g, e in zip(got, expected, strict=True):
        if e is None:
            assert g is None
        else:
            np.testing.assert_allclose(g, e, rtol=rtol, atol=atol)


def alone(*losses):
    module = Network()
    total = sum(loss(module) for loss in losses)
    total.backward()
    return gradients_of(module)


@pytest.mark.parametrize("size", SIZES)
def test_a_backward_pass_counts_as_much_as_its_forward_passes(size):
    """Micro-batches of uneven sizes, joined to one loss before one backward."""
    (x, y), (x2, y2) = batches(1, 11)[0], batches(1, 4, seed=2)[0]
    both = np.concatenate([x, x2]), np.concatenate([y, y2])

    def run(comm):
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL)
        model(dg.Tensor(x))  # nobody goes back through this one
        with dg.no_grad():
            model(dg.Tensor(x))
        # Rank 0 has the second batch in its second pass, the others have one pass and an empty one.
        a, b = (x, y), (x2, y2)
        mine = [part(a[0], comm), part(a[1], comm)], [part(b[0], comm), part(b[1], comm)]
        sums = [dg.softmax_cross_entropy(model(dg.Tensor(i)), target=t).sum() for i, t in mine]
        count = sum(len(t) for _, t in mine)
        ((sums[0] + sums[1]) / max(count, 1)).backward()
        return gradients_of(model)

    expected = alone(lambda module: mean_loss(module, *both))
    for got in ThreadWorld(size).run(run):
        assert_equal_gradients(got, expected)


def test_each_forward_pass_may_have_a_weight_of_its_own():
    x, y = batches(1, 6)[0]

    def run(comm):
        model = DistributedDataParallel(Network(), comm)
        with pytest.raises(GraphError, match="no forward pass yet"):
            model.batch_weight = 3
        with pytest.raises(ValueError, match="nan"):
            model.batch_weight = float("nan")
        for _ in range(2):
            loss = mean_loss(model, x[comm.rank :: 2], y[comm.rank :: 2])
            model.batch_weight = 2.0 + comm.rank
            (loss + 0 * model(dg.Tensor(x)).sum()).backward(retain_graph=True)
            model.zero_grad()
            model.batch_weight = 0.0
            loss.backward()  # goes back through the first pass only
            kept = gradients_of(model)
            model.zero_grad()
        return kept

    module = Network()
    ((2 * mean_loss(module, x[::2], y[::2]) + 3 * mean_loss(module, x[1::2], y[1::2])) / 5).backward()
    for got in ThreadWorld(2).run(run):
        assert_equal_gradients(got, gradients_of(module))


def test_evaluation_mode_is_trained_too():
    x, y = batches(1, 7)[0]

    def run(comm):
        model = DistributedDataParallel(Network(), comm).eval()
        mean_loss(model, part(x, comm), part(y, comm)).backward()
        return gradients_of(model)

    for got in ThreadWorld(3).run(run):
        assert_equal_gradients(got, alone(lambda module: mean_loss(module, x, y)))


@pytest.mark.parametrize("size", SIZES)
def test_ranks_without_samples_need_no_pass(size):
    """Three steps; the last rank's data ends after the first."""
    steps = batches(3, 6)

    def run(comm):
        model = DistributedDataParallel(
            Network(), comm, bucket_cap_mb=SMALL, check_replicas_every=1, broadcast_buffers=True
        )
        seen = []
        for step, (x, y) in enumerate(steps):
            model.zero_grad()
            if step and comm.rank == comm.size - 1:
                model.reduce_gradients()
            else:
                count = comm.size - (step > 0)
                mean_loss(
                    model, np.array_split(x, count)[comm.rank], np.array_split(y, count)[comm.rank]
                ).backward()
            seen.append(gradients_of(model))
        return seen

    for seen in ThreadWorld(size).run(run):
        for got, (x, y) in zip(seen, steps, strict=True):
            assert_equal_gradients(got, alone(lambda module, x=x, y=y: mean_loss(module, x, y)))


def test_an_accumulation_ends_without_another_pass():
    x, y = batches(1, 9)[0]

    def run(comm):
        model = DistributedDataParallel(Network(), comm)
        with model.no_sync():
            for i, t in zip(np.array_split(x, 5), np.array_split(y, 5), strict=True):
                if len(i) % 2 == comm.rank:
                    mean_loss(model, i, t).backward()
            with pytest.raises(GraphError, match="no_sync"):
                model.reduce_gradients()
        model.reduce_gradients()
        return gradients_of(model)

    for got in ThreadWorld(2).run(run):
        assert_equal_gradients(got, alone(lambda module: mean_loss(module, x, y)))


@pytest.mark.parametrize("kept", [False, True])
def test_weight_0_on_all_ranks_is_no_gradient(kept):
    x, y = batches(1, 4)[0]

    def run(comm):
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL)
        if kept:
            mean_loss(model, part(x, comm), part(y, comm)).backward()
        for _ in range(2):
            mean_loss(model, x[:0], y[:0]).backward()
        return gradients_of(model)

    expected = alone(lambda module: mean_loss(module, x, y))
    for got in ThreadWorld(2).run(run):
        assert_equal_gradients(got, expected if kept else [np.zeros_like(g) for g in expected])


class Fails(dg.autograd.Function):
    """The identity, whose gradient cannot be computed."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, g):
        raise ArithmeticError("planted")


class Fragile(Network):
    def forward(self, x, fail=False):
        x = dg.linear(x, self.weight0, self.bias0).tanh()
        if fail:
            x = Fails.apply(x)
        x = dg.linear(x, self.weight1, self.bias1).tanh()
        return dg.linear(x, self.weight2, self.bias2)


@pytest.mark.parametrize("early", [False, True])
def test_an_exception_in_one_ranks_backward_ends_it_on_all(early):
    x, y = batches(1, 9)[0]

    def run(comm):
        model = DistributedDataParallel(Fragile(), comm, bucket_cap_mb=SMALL)
        fails = comm.rank == 1
        if early:  # with overlap
            mean_loss(model, part(x, comm), part(y, comm)).backward()
            model.zero_grad()
        logits = model(dg.Tensor(part(x, comm)), fail=fails)
        loss = dg.softmax_cross_entropy(logits, target=part(y, comm)).mean()
        error, text = (
            (ArithmeticError, "planted") if fails else (RankFailedError, r"rank 1 \(Arithm.*planted")
        )
        with pytest.raises(error, match=text):
            loss.backward()
        assert gradients_of(model) == [None] * 6
        mean_loss(model, part(x, comm), part(y, comm)).backward()
        return gradients_of(model)

    for got in ThreadWorld(3, timeout_s=20).run(run):
        assert_equal_gradients(got, alone(lambda module: mean_loss(module, x, y)))


def test_a_mean_that_was_there_before_a_failed_pass_stays():
    x, y = batches(1, 9)[0]

    def run(comm):
        model = DistributedDataParallel(Fragile(), comm, bucket_cap_mb=SMALL)
        mean_loss(model, part(x, comm), part(y, comm)).backward()
        before = gradients_of(model)
        logits = model(dg.Tensor(part(x, comm)), fail=comm.rank == 1)
        with pytest.raises((ArithmeticError, RankFailedError), match="planted"):
            dg.softmax_cross_entropy(logits, target=part(y, comm)).mean().backward()
        assert_equal_gradients(gradients_of(model), before)

    ThreadWorld(3, timeout_s=20).run(run)


def test_parameters_of_float16_keep_their_weights():
    """3001 and 70001 have no float16, and 300 times 400 overflows it."""
    x, y = batches(1, 8)[0]
    weights = (3001.0, 70001.0)

    def run(comm):
        model = DistributedDataParallel(Network().half(), comm)
        for _ in range(2):  # from the second step on weights are near 1
            model.zero_grad()
            logits = model(dg.Tensor(part(x, comm).astype(np.float16)))
            (dg.softmax_cross_entropy(logits, target=part(y, comm)).mean() * 400.0).backward()
            model.batch_weight = weights[comm.rank]
        model.zero_grad()
        loss = dg.softmax_cross_entropy(
            model(dg.Tensor(part(x, comm).astype(np.float16))), target=part(y, comm)
        ).mean()
        model.batch_weight = weights[comm.rank]
        loss.backward()
        return gradients_of(model)

    module = Network().half().double()
    w = np.array(weights) / sum(weights)
    x16 = x.astype(np.float16).astype(np.float64)
    (w[0] * mean_loss(module, x16[:4], y[:4]) + w[1] * mean_loss(module, x16[4:], y[4:])).backward()
    for got in ThreadWorld(2).run(run):
        assert all(g.dtype == np.float16 for g in got)
        assert_equal_gradients(got, gradients_of(module), rtol=0.01, atol=2e-3)


class Shared(Module):
    """One network in two places, one of them inside a checkpoint."""

    def __init__(self, checkpointed=True):
        super().__init__()
        self.first = Network()
        self.again = self.first
        self.checkpointed = checkpointed

    def forward(self, x):
        y = self.first(x)
        x = dg.concat([x[:, :2], y], axis=1)
        return dg.autograd.checkpoint(self.again, x) if self.checkpointed else self.again(x)


def test_shared_modules_and_checkpoints_inside():
    assert FEATURES == CLASSES + 2
    x, y = batches(1, 7)[0]
    module = Shared(checkpointed=False)
    mean_loss(module, x, y).backward()

    def run(comm):
        model = DistributedDataParallel(Shared(), comm, bucket_cap_mb=SMALL)
        assert sum(len(bucket.parameters) for bucket in model.reducer.buckets) == 6
        for _ in range(2):
            model.zero_grad()
            mean_loss(model, part(x, comm), part(y, comm)).backward()
        return gradients_of(model)

    for got in ThreadWorld(3).run(run):
        assert_equal_gradients(got, gradients_of(module))


def test_a_checkpoint_around_the_whole_module():
    x, y = batches(1, 7)[0]

    def run(comm):
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL, check_replicas_every=1)
        for _ in range(3):
            model.zero_grad()
            logits = dg.autograd.checkpoint(model, dg.Tensor(part(x, comm)))
            dg.softmax_cross_entropy(logits, target=part(y, comm)).mean().backward()
        return gradients_of(model)

    for got in ThreadWorld(3).run(run):
        assert_equal_gradients(got, alone(lambda module: mean_loss(module, x, y)))


def test_gradients_with_a_graph_are_weighted_too():
    x, y = batches(1, 7)[0]

    def run(comm):
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL)
        with model.no_sync():
            mean_loss(model, part(x[:4], comm), part(y[:4], comm)).backward()
        mean_loss(model, part(x[4:], comm), part(y[4:], comm)).backward(create_graph=True)
        return gradients_of(model)

    for got in ThreadWorld(2).run(run):
        assert_equal_gradients(got, alone(lambda module: mean_loss(module, x, y)))


class Detour(Network):
    """Some ranks skip a layer; all of them sum something over the ranks in backward, at different places."""

    def __init__(self, comm):
        super().__init__()
        self.comm = comm

    def forward(self, x, skip=False):
        x = dg.linear(x, self.weight0, self.bias0).tanh()
        x = x[:, :12] if skip else dg.linear(x, self.weight1, self.bias1).tanh()
        x.register_hook(lambda g: self.sums.append(self.comm.all_reduce(np.ones(3)).tolist()))
        return dg.linear(x, self.weight2, self.bias2)


@pytest.mark.parametrize("size", SIZES)
def test_collectives_inside_backward_keep_their_order(size):
    """A rank's buckets are full before or after the hook's collective, as it skips the layer or not."""
    x, y = batches(1, 3 * size)[0]

    def run(comm):
        module = Detour(comm)
        module.sums = []
        model = DistributedDataParallel(module, comm, bucket_cap_mb=SMALL)
        for _ in range(3):
            model.zero_grad()
            logits = model(dg.Tensor(part(x, comm)), skip=comm.rank == 0)
            dg.softmax_cross_entropy(logits, target=part(y, comm)).mean().backward()
        assert module.sums == [[float(size)] * 3] * 3
        return gradients_of(model)

    results = ThreadWorld(size, timeout_s=10, seed=3).run(run)
    for got in results:
        assert_equal_gradients(got, results[0])


def test_two_models_in_one_backward_pass():
    """Ranks meet the two models' parameters in another order."""
    x, y = batches(1, 6)[0]

    def loss_of(models, x, y, step=1):
        logits = [model(dg.Tensor(x)) for model in models][::step]
        return dg.softmax_cross_entropy(logits[0] + logits[1], target=y).mean()

    def run(comm):
        models = [DistributedDataParallel(Network(seed), comm, bucket_cap_mb=SMALL) for seed in (0, 1)]
        for _ in range(3):
            for model in models:
                model.zero_grad()
            loss_of(models, part(x, comm), part(y, comm), 1 if comm.rank else -1).backward()
        return [gradients_of(model) for model in models]

    modules = [Network(seed) for seed in (0, 1)]
    loss_of(modules, x, y).backward()
    for got in ThreadWorld(3, timeout_s=10, seed=1).run(run):
        for each, module in zip(got, modules, strict=True):
            assert_equal_gradients(each, gradients_of(module))
