"""Hooks and compressors: what they sum, what they send, what they remember."""

import numpy as np
import pytest
from parallel.problems import Network, batches, mean_loss, parameters_of

import distgrad as dg
from distgrad import nn
from distgrad.comm import ThreadWorld
from distgrad.nn.parameter import Parameter
from distgrad.optim.sgd import SGD
from distgrad.parallel import DistributedDataParallel, PowerSGD, TopK, adasum, all_reduce, bf16, fp16
from distgrad.parallel.compress import _from_brain, _to_brain

SMALL = 0.0005
SIZES = (1, 2, 3, 5)


def part(x, comm):
    return np.array_split(x, comm.size)[comm.rank]


def gradients_of(module):
    return [None if p.grad is None else p.grad.numpy().copy() for p in module.parameters()]


def reference(x, y):
    module = Network()
    mean_loss(module, x, y).backward()
    return gradients_of(module)


def relative_error(got, expected):
    got, expected = (np.concatenate([g.ravel() for g in each]) for each in (got, expected))
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def twice(bucket):
    """A hook of a user's: reduces, then doubles, as one piece of work."""

    def body():
        bucket.comm.all_reduce(bucket.gradients)
        bucket.gradients *= 2

    return bucket.comm.submit(body, "twice")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("hook", "factor", "tolerance"),
    [
        (all_reduce, 1, 1e-14),
        (twice, 2, 1e-14),
        (fp16, 1, 1e-3),
        (bf16, 1, 8e-3),
        (TopK(1.0), 1, 1e-14),
    ],
)
def test_hooks_sum_uneven_batches(hook, factor, tolerance, size):
    x, y = batches(1, 7)[0]
    expected = [factor * g for g in reference(x, y)]

    def run(comm):
        mine = TopK(1.0) if isinstance(hook, TopK) else hook  # every rank's own
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL, hook=mine)
        for _ in range(2):
            model.zero_grad()
            mean_loss(model, part(x, comm), part(y, comm)).backward()
        return gradients_of(model)

    results = ThreadWorld(size).run(run)
    for got in results:
        assert relative_error(got, expected) <= tolerance
        for g, h in zip(got, results[0], strict=True):
            assert np.array_equal(g, h)  # the same bits on every rank


def test_bfloat16_rounds_as_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="compares with ml_dtypes, which is not installed")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    x = np.concatenate([x, np.float32([0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-40, 1.00390625])])
    with np.errstate(invalid="ignore"):
        expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(_from_brain(_to_brain(x)), expected)


class Matrices(nn.Module):
    """Its gradient is its input: a matrix [24, 20], a kernel [8, 4, 3, 3] and a vector [10]."""

    shapes = ((24, 20), (8, 4, 3, 3), (10,))

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([Parameter(np.zeros(shape)) for shape in self.shapes])

    def forward(self, gradients):
        return sum((w * dg.Tensor(g)).sum() for w, g in zip(self.weights, gradients, strict=True))


def random_gradients(rank, step, low_rank=None):
    rng = np.random.default_rng([rank, step])
    out = [rng.standard_normal(shape) for shape in Matrices.shapes]
    if low_rank is not None:
        basis = np.random.default_rng(7).standard_normal((low_rank, 20))
        out[0] = rng.standard_normal((24, low_rank)) @ basis
        out[1][...] = rng.standard_normal((8, 1, 1, 1)) * np.arange(36.0).reshape(1, 4, 3, 3)
    return out


def backward(model, gradients, weight):
    model.zero_grad()
    loss = model(gradients)
    model.batch_weight = weight
    loss.backward()
    return gradients_of(model)


def mean_of(gradients, weights):
    return [
        sum(w * g for w, g in zip(weights, gs, strict=True)) / sum(weights)
        for gs in zip(*gradients, strict=True)
    ]


@pytest.mark.parametrize("size", SIZES)
def test_powersgd_finds_gradients_of_low_rank(size):
    """Two steps of subspace iteration from a random start suffice where the rank is not above its own."""
    weights = [1.0 + rank for rank in range(size)]

    def run(comm):
        model = DistributedDataParallel(Matrices(), comm, hook=PowerSGD(rank=2), check_replicas_every=0)
        for step in range(3):
            got = backward(model, random_gradients(comm.rank, step, low_rank=2), weights[comm.rank])
            if step == 0:
                model.hook.errors.clear()  # the start is not exact
        return got

    expected = mean_of([random_gradients(rank, 2, low_rank=2) for rank in range(size)], weights)
    for got in ThreadWorld(size).run(run):
        for g, e in zip(got, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("make", [lambda: PowerSGD(rank=1), lambda: TopK(0.05)])
def test_what_is_left_out_comes_later(make, size):
    """Sum of what was applied + what the ranks still remember = sum of the means, with changing weights."""
    steps = 4

    def weight(rank, step):
        return 0.0 if rank == 1 and step == 2 else 1.0 + (rank + step) % 3

    def run(comm):
        hook = make()
        model = DistributedDataParallel(Matrices(), comm, bucket_cap_mb=0.002, hook=hook)
        applied = [0.0] * 3
        for step in range(steps):
            got = backward(model, random_gradients(comm.rank, step), weight(comm.rank, step))
            applied = [a + g for a, g in zip(applied, got, strict=True)]
        errors = [hook.errors.get(name, 0.0) for name, _ in model.module.named_parameters()]
        return applied, [
            np.reshape(e, s) if np.ndim(e) else e for e, s in zip(errors, Matrices.shapes, strict=True)
        ]

    results = ThreadWorld(size).run(run)
    for place in range(3):
        expected = sum(
            mean_of(
                [random_gradients(rank, step) for rank in range(size)],
                [weight(rank, step) for rank in range(size)],
            )[place]
            for step in range(steps)
        )
        owed = sum(errors[place] for _, errors in results)
        np.testing.assert_allclose(results[0][0][place] + owed, expected, rtol=1e-9, atol=1e-10)


def test_bytes_on_the_wire_are_counted():
    """Parts of [24, 20], [8, 36] and [10] in float64, 784 numbers with what aligns them, for 3 ranks.

    Without a hook the tail travels in three numbers behind each parameter, 800 in all.
    """
    x = [np.ones(shape) for shape in Matrices.shapes]
    tail = 2 + 3

    def run(comm, hook):
        model = DistributedDataParallel(Matrices(), comm, hook=hook)
        backward(model, x, 1.0)
        model.stats(reset=True)
        backward(model, x, 1.0)
        return model.stats().sent_bytes, model.reducer.buckets[0].gradients.size

    def sent(hook):
        return ThreadWorld(3).run(run, hook)[0]

    ring = 2 * 2 / 3
    plain, size = sent(None)
    assert size == 488 + 296 + 16
    assert plain == pytest.approx(ring * 8 * size)
    rounded, size = sent(fp16)
    assert size == 480 + 288 + 16
    assert rounded == pytest.approx(ring * 8 * tail + wire16(size))
    low_rank = 24 + 10 + 8 + (20 + 36)
    assert sent(PowerSGD(1))[0] == pytest.approx(ring * 8 * (tail + low_rank))
    count = round(0.1 * 778)
    assert sent(TopK(0.1))[0] == pytest.approx(ring * 8 * tail + 2 * count * (4 + 8))


def wire16(size):
    """Two thirds of a row a rank to be summed, and a part to each of two others."""
    length = -(-size // 3)
    return 2 / 3 * 3 * length * 2 + 2 * length * 2


@pytest.mark.parametrize("make", [lambda: PowerSGD(rank=1), lambda: TopK(0.1)])
def test_training_goes_on_from_a_saved_state(make):
    steps = batches(6, 8)

    def train(model, steps, comm):
        optimizer = SGD(model.parameters(), lr=0.1)
        for x, y in steps:
            optimizer.zero_grad()
            mean_loss(model, part(x, comm), part(y, comm)).backward()
            optimizer.step()

    def run(comm):
        straight = DistributedDataParallel(Network(), comm, hook=make())
        train(straight, steps, comm)
        first = DistributedDataParallel(Network(), comm, hook=make())
        train(first, steps[:3], comm)
        second = DistributedDataParallel(Network(seed=5), comm, hook=make())
        second.load_state_dict(first.state_dict())
        train(second, steps[3:], comm)
        forgetful = DistributedDataParallel(Network(seed=5), comm, hook=make())
        forgetful.module.load_state_dict(first.module.state_dict())
        train(forgetful, steps[3:], comm)
        return [parameters_of(model) for model in (straight, second, forgetful)]

    for straight, second, forgetful in ThreadWorld(2).run(run):
        np.testing.assert_allclose(second, straight, rtol=1e-9)
        assert not np.allclose(forgetful, straight, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda: fp16, lambda: PowerSGD(2), lambda: TopK(0.2)])
def test_compressed_training_learns(make):
    """Random targets that one batch of 12 determines: the loss falls as without compression."""
    x, y = batches(1, 12)[0]

    def run(comm, hook):
        model = DistributedDataParallel(Network(), comm, hook=hook, bucket_cap_mb=SMALL)
        model._payoff = None  # whether it pays is not the question here
        optimizer = SGD(model.parameters(), lr=0.5)
        for _ in range(60):
            optimizer.zero_grad()
            loss = mean_loss(model, part(x, comm), part(y, comm))
            loss.backward()
            optimizer.step()
        return mean_loss(model.module, x, y).item()

    plain = ThreadWorld(3).run(run, None)[0]
    compressed = ThreadWorld(3).run(lambda comm: run(comm, make()))
    assert plain < 0.1
    assert compressed[0] < 0.15


def test_a_compressor_that_cannot_pay_is_told_of():
    x, y = batches(1, 12)[0]

    def run(comm):
        model = DistributedDataParallel(Network(), comm, hook=PowerSGD(2))
        for _ in range(12):
            mean_loss(model, part(x, comm), part(y, comm)).backward()
            model.zero_grad()

    with pytest.warns(UserWarning, match=r"PowerSGD\(rank=2\) does not pay here: .* ms .*Gbit/s"):
        ThreadWorld(2).run(run)


@pytest.mark.parametrize("hook", [PowerSGD, TopK])
def test_options_out_of_range(hook):
    with pytest.raises(ValueError, match=hook.__name__):
        hook(0)


# Adasum ----------------------------------------------------------------------------------------------------


def combine(a, b):
    if not a.any() or not b.any():
        return a + b
    dot = np.vdot(a, b)
    return (1 - dot / (2 * np.vdot(a, a))) * a + (1 - dot / (2 * np.vdot(b, b))) * b


def tree(gradients):
    while len(gradients) > 1:
        pairs = [gradients[i : i + 2] for i in range(0, len(gradients), 2)]
        gradients = [combine(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return gradients[0]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
def test_adasum_for_any_number_of_ranks(size):
    weights = [0.0 if rank == 1 else 1.0 + rank for rank in range(size)]

    def run(comm):
        model = DistributedDataParallel(Matrices(), comm, bucket_cap_mb=0.002, hook=adasum)
        for step in range(2):
            got = backward(model, random_gradients(comm.rank, step), weights[comm.rank])
        return got

    parts = [random_gradients(rank, 1) for rank in range(size)]
    parts = [[g * (w > 0) for g in gs] for gs, w in zip(parts, weights, strict=True)]
    for got in ThreadWorld(size).run(run):
        for g, each in zip(got, zip(*parts, strict=True), strict=True):
            np.testing.assert_allclose(g, tree(list(each)), rtol=1e-10)


def test_adasum_adds_what_is_orthogonal_and_averages_what_is_alike():
    def run(comm):
        model = DistributedDataParallel(Matrices(), comm, hook=adasum)
        gradients = [np.ones(shape) for shape in Matrices.shapes]
        gradients[2][...] = np.arange(10) % 2 == comm.rank
        return backward(model, gradients, 1.0 + 5 * comm.rank)

    for alike, _, orthogonal in ThreadWorld(2).run(run):
        np.testing.assert_allclose(alike, 1.0)
        np.testing.assert_allclose(orthogonal, 1.0)
