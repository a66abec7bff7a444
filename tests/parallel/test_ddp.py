"""N ranks, each with samples of its own, against one process with all of them."""

import numpy as np
import pytest
from parallel.problems import CLASSES, FEATURES, Network, batches, mean_loss, parameters_of, train

import distgrad as dg
from distgrad.comm import ThreadWorld, init
from distgrad.errors import CommMismatchError, GraphError
from distgrad.nn import functional as F
from distgrad.nn.parameter import Parameter
from distgrad.optim.adam import AdamW
from distgrad.parallel.ddp import DistributedDataParallel
from distgrad.parallel.replicas import parameter_hash

SIZES = (1, 2, 3, 5)
SMALL = 0.0005  # MiB: several buckets for a few hundred parameters
STEPS = batches(20, 7)


def part(x, comm):
    return np.array_split(x, comm.size)[comm.rank]


def gradients_of(module):
    return [None if p.grad is None else p.grad.numpy().copy() for p in module.parameters()]


def reference_gradients(x, y):
    module = Network()
    mean_loss(module, x, y).backward()
    return gradients_of(module)


def assert_equal_gradients(got, expected):
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("size", [*SIZES, 9])  # 9 ranks share 7 samples: two are always empty
def test_ranks_match_one_process_on_all_samples(size):
    expected = parameters_of(train(STEPS))

    def run(comm):
        model = train(STEPS, comm, bucket_cap_mb=SMALL)
        return parameters_of(model), parameter_hash(model), len(model.reducer.buckets)

    results = ThreadWorld(size).run(run)
    for parameters, _, num_buckets in results:
        assert num_buckets > 2
        np.testing.assert_allclose(parameters, expected, rtol=1e-6)
    assert len({digest for _, digest, _ in results}) == 1


def match_over_mpi():
    comm = init(timeout_s=30)
    assert comm.backend == "mpi"
    model = train(STEPS, comm, bucket_cap_mb=SMALL)
    np.testing.assert_allclose(parameters_of(model), parameters_of(train(STEPS)), rtol=1e-6)
    assert len(set(comm.all_gather_object(parameter_hash(model)))) == 1


@pytest.mark.ranks(2)
def test_two_processes_match_one():
    match_over_mpi()


@pytest.mark.ranks(3)
def test_three_processes_match_one():
    match_over_mpi()


@pytest.mark.parametrize("size", SIZES)
def test_accumulation_equals_the_large_batch(size):
    (x, y), (x2, y2) = batches(1, 11)[0], batches(1, 4, seed=2)[0]
    expected = reference_gradients(np.concatenate([x, x2]), np.concatenate([y, y2]))

    def run(comm):
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL)
        with model.no_sync():
            mean_loss(model, part(x, comm), part(y, comm)).backward()
        before = model.stats().num_steps
        mean_loss(model, part(x2, comm), part(y2, comm)).backward()
        return gradients_of(model), before, model.stats().num_steps

    for got, before, after in ThreadWorld(size).run(run):
        assert (before, after) == (0, 1)  # one reduction for both
        assert_equal_gradients(got, expected)


@pytest.mark.parametrize("size", SIZES)
def test_a_second_backward_adds_to_the_mean_of_the_first(size):
    (x, y), (x2, y2) = batches(1, 11)[0], batches(1, 4, seed=2)[0]
    first, second = reference_gradients(x, y), reference_gradients(x2, y2)

    def run(comm):
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL)
        mean_loss(model, part(x, comm), part(y, comm)).backward()
        mean_loss(model, part(x2, comm), part(y2, comm)).backward()
        return gradients_of(model)

    for got in ThreadWorld(size).run(run):
        assert_equal_gradients(got, [a + b for a, b in zip(first, second, strict=True)])


@pytest.mark.parametrize("size", SIZES)
def test_weights_other_than_samples(size):
    """Rank r counts r + 1 times, and rank 0 of several not at all."""
    x, y = batches(1, 3 * size)[0]
    weights = [0.0 if rank == 0 and size > 1 else rank + 1.0 for rank in range(size)]
    parts = [reference_gradients(*pair) for pair in zip(np.split(x, size), np.split(y, size), strict=True)]
    expected = [
        sum(w * g for w, g in zip(weights, gs, strict=True)) / sum(weights) for gs in zip(*parts, strict=True)
    ]

    def run(comm):
        model = DistributedDataParallel(Network(), comm)
        loss = mean_loss(model, part(x, comm), part(y, comm))
        model.batch_weight = weights[comm.rank]
        loss.backward()
        return gradients_of(model)

    for got in ThreadWorld(size).run(run):
        assert_equal_gradients(got, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("given", [True, False], ids=["counted", "samples"])
def test_a_rank_whose_targets_are_all_ignored(size, given):
    """With the counted targets as weights the mean is over all that count; by samples it stays finite."""
    x, y = batches(1, 4 * size)[0]
    target = np.where(np.arange(len(y)) % 3 == 0, -100, y)
    target[:4] = -100

    def run(comm):
        model = DistributedDataParallel(Network(), comm)
        mine = dg.tensor(part(target, comm))
        loss = F.cross_entropy(model(dg.Tensor(part(x, comm))), mine)
        if given:
            model.batch_weight = (mine != -100).sum()
            assert model.batch_weight == np.sum(part(target, comm) != -100)
        loss.backward()
        return gradients_of(model)

    counted = target != -100
    expected = reference_gradients(x[counted], target[counted])
    for got in ThreadWorld(size).run(run):
        if given:
            assert_equal_gradients(got, expected if size > 1 else [np.zeros_like(e) for e in expected])
        else:
            assert all(np.isfinite(g).all() for g in got)


class Branching(Network):
    """Uses its middle layer only on request."""

    def forward(self, x, middle=True):
        x = dg.linear(x, self.weight0, self.bias0).tanh()
        if middle:
            x = dg.linear(x, self.weight1, self.bias1).tanh()
        else:
            x = x[:, :12]
        return dg.linear(x, self.weight2, self.bias2)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_parameters_that_only_some_ranks_use(size):
    """No flag: rank 0 skips the middle layer, then all do, then rank 0 again; zeros count in the mean."""
    x, y = batches(1, 2 * size)[0]

    def run(comm):
        model = DistributedDataParallel(Branching(), comm, bucket_cap_mb=SMALL)

        def gradients(middle):
            model.zero_grad()
            logits = model(dg.Tensor(part(x, comm)), middle=middle)
            dg.softmax_cross_entropy(logits, target=part(y, comm)).mean().backward()
            return gradients_of(model)

        return [gradients(middle) for middle in (comm.rank > 0, False, comm.rank > 0)]

    module = Branching()
    losses = []
    for rank in range(size):
        rows = slice(2 * rank, 2 * rank + 2)
        logits = module(dg.Tensor(x[rows]), middle=rank > 0)
        losses.append(dg.softmax_cross_entropy(logits, target=y[rows]).mean())
    (sum(losses[1:], losses[0]) / size).backward()
    for some, none, again in ThreadWorld(size).run(run):
        assert_equal_gradients(some, gradients_of(module))
        assert_equal_gradients(again, gradients_of(module))  # where the last ones lay, nothing is left
        assert [g is None for g in none] == [False, False, True, True, False, False]


def test_parameters_frozen_and_thawed_in_mid_training():
    x, y = batches(1, 6)[0]

    def run(comm):
        module = Network()
        model = DistributedDataParallel(module, comm, bucket_cap_mb=SMALL)
        optimizer = AdamW(model.parameters(), lr=0.1)
        seen = []
        for frozen in (False, True, False):
            module.weight1.requires_grad_(not frozen)
            optimizer.zero_grad()
            mean_loss(model, part(x, comm), part(y, comm)).backward()
            optimizer.step()
            seen.append((module.weight1.grad is None, module.weight1.detach().numpy().copy()))
        return seen, parameters_of(model), optimizer.state_dict()["state"]

    alone = ThreadWorld(1).run(run)[0]
    for seen, parameters, state in ThreadWorld(2).run(run):
        assert [is_none for is_none, _ in seen] == [False, True, False]
        assert np.array_equal(seen[0][1], seen[1][1])
        assert not np.array_equal(seen[1][1], seen[2][1])
        np.testing.assert_allclose(parameters, alone[1], rtol=1e-9)
        for number, entry in state.items():
            assert entry["step"] == alone[2][number]["step"]
            np.testing.assert_allclose(entry["exp_avg"], alone[2][number]["exp_avg"], rtol=1e-9)


def test_parameters_start_as_rank_zeros():
    def run(comm):
        model = DistributedDataParallel(Network(seed=comm.rank), comm)
        return parameters_of(model)

    for parameters in ThreadWorld(3).run(run):
        assert np.array_equal(parameters, parameters_of(Network(seed=0)))


def test_modules_that_differ_are_an_error_with_the_parameter():
    class Wider(Network):
        def __init__(self):
            super().__init__()
            self.weight1 = Parameter(np.zeros((13, 16)))

    def run(comm):
        with pytest.raises(CommMismatchError, match=r"weight1.*\(1[23], 16\).*weight1.*\(1[23], 16\)"):
            DistributedDataParallel(Wider() if comm.rank else Network(), comm)

    ThreadWorld(2).run(run)


def test_gradients_lie_in_the_buckets():
    def run(comm):
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL)
        x, y = batches(1, 4)[0]
        mean_loss(model, x, y).backward()
        for bucket in model.reducer.buckets:
            for parameter in bucket.parameters:
                assert np.shares_memory(parameter.grad.numpy(), bucket.flat.grad)
                assert np.shares_memory(parameter.detach().numpy(), bucket.flat.data)

    ThreadWorld(2).run(run)


@pytest.mark.parametrize("zeros", [False, True])
def test_accumulating_onto_a_mean_adds_to_it(zeros):
    (x, y), (x2, y2) = batches(1, 11)[0], batches(1, 4, seed=2)[0]
    first, second = reference_gradients(x, y), reference_gradients(x2, y2)

    def run(comm):
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL)
        mean_loss(model, part(x, comm), part(y, comm)).backward()
        if zeros:
            model.zero_grad(set_to_none=False)
        with model.no_sync():
            mean_loss(model, part(x2[:3], comm), part(y2[:3], comm)).backward()
        mean_loss(model, part(x2[3:], comm), part(y2[3:], comm)).backward()
        return gradients_of(model)

    for got in ThreadWorld(2).run(run):
        assert_equal_gradients(got, second if zeros else [a + b for a, b in zip(first, second, strict=True)])


def test_buckets_are_reduced_before_backward_ends():
    """The last layer's gradient must be on its way while the first layer's is computed."""

    def run(comm):
        module = Network()
        model = DistributedDataParallel(module, comm, bucket_cap_mb=SMALL)
        issued = []
        module.weight0.register_post_accumulate_grad_hook(
            lambda _: issued.append([bucket.launched for bucket in model.reducer.buckets])
        )
        x, y = batches(1, 4)[0]
        for _ in range(2):
            mean_loss(model, x, y).backward()
        return issued

    for learning, (first, *_, last) in ThreadWorld(2).run(run):
        assert not any(learning)  # the first step finds out whether others communicate in backward
        assert first
        assert not last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device_ids": [0]}, r"unexpected argument 'device_ids'; it trains where the module lies: .*\.to\("),
        ({"find_unused_parameters": True}, "unused parameters are found without it"),
        ({"comm": [0]}, "comm must be a Communicator, one of mpi4py, or None, got list"),
    ],
)
def test_arguments_of_pytorch_that_are_not_needed(arguments, message):
    with pytest.raises(TypeError, match=f"DistributedDataParallel: .*{message}"):
        DistributedDataParallel(dg.nn.Linear(2, 1), **arguments)


def test_a_module_can_be_wrapped_once():
    module = Network()
    DistributedDataParallel(module, init("single"))
    with pytest.raises(GraphError, match="another DistributedDataParallel"):
        DistributedDataParallel(module, init("single"))


class Backwards(Network):
    """Uses its layers in another order than it names them."""

    def __init__(self):
        super().__init__()
        self._parameters = dict(reversed(self._parameters.items()))


def test_buckets_follow_the_order_in_which_gradients_become_ready():
    def run(comm):
        module = Backwards()
        model = DistributedDataParallel(module, comm, bucket_cap_mb=SMALL)
        optimizer = AdamW(model.parameters(), lr=1e-2)
        plans = []
        homes = [p.leaf_state().flat for p in model.parameters()]
        for x, y in STEPS[:4]:
            optimizer.zero_grad()
            mean_loss(model, part(x, comm), part(y, comm)).backward()
            optimizer.step()
            plans.append([p.shape for bucket in model.reducer.buckets for p in bucket.parameters])
        assert [p.leaf_state().flat for p in model.parameters()] == homes  # a better order moves no storage
        return plans, module.weight0.detach().numpy().copy()

    expected = train(STEPS[:4]).weight0.detach().numpy()
    results = ThreadWorld(3).run(run)
    for plans, weight in results:
        assert plans == results[0][0]
        assert plans[0][0] == (16, FEATURES)  # the first layer, by the names' order
        assert plans[1][:2] == [(12,), (CLASSES, 12)]  # the last layer, once readiness is known
        assert plans[1] == plans[2] == plans[3]
        np.testing.assert_allclose(weight, expected, rtol=1e-9)


def test_replicas_that_drift_are_an_error_with_parameter_ranks_and_step():
    def run(comm):
        model = DistributedDataParallel(Network(), comm, check_replicas_every=2)
        optimizer = AdamW(model.parameters(), lr=1e-2)
        for step, (x, y) in enumerate(STEPS[:4]):
            optimizer.zero_grad()
            if step == 3:
                with pytest.raises(
                    CommMismatchError, match=r"in bias1; ranks \[0, 2\] against \[1\].*step 1\b"
                ):
                    mean_loss(model, x, y)
                return
            mean_loss(model, x, y).backward()
            optimizer.step()
            if step == 2 and comm.rank == 1:
                with dg.no_grad():
                    model.module.bias1[3] = 7.0

    ThreadWorld(3).run(run)


def test_watching_costs_less_than_a_hundredth_of_a_step():
    """Statistics of each, and a comparison of the replicas in a hundred; benchmarks/ddp.py prints both."""
    layers = [
        dg.nn.Linear(512, 512),
        dg.nn.ReLU(),
        dg.nn.Linear(512, 512),
        dg.nn.ReLU(),
        dg.nn.Linear(512, 9),
    ]
    model = DistributedDataParallel(dg.nn.Sequential(*layers), init("single"), check_replicas_every=100)
    x, y = np.ones((512, 512), np.float32), np.arange(512) % 9
    counting, comparing = [], []
    for step in range(15):
        model.stats(reset=True)
        mean_loss(model, x, y).backward()
        model.check_replicas()
        stats = model.stats()
        if step > 4:  # the first ones compile
            counting.append(stats.counting_s / stats.step_s)
            comparing.append(stats.comparing_s / stats.step_s / model.check_replicas_every)
    assert 0 < np.median(counting) < 0.01
    assert 0 < np.median(comparing) < 0.01


def test_statistics_count_bytes_and_times():
    def run(comm):
        model = DistributedDataParallel(Network(), comm, bucket_cap_mb=SMALL, check_replicas_every=3)
        for step, (x, y) in enumerate(STEPS[:4]):
            mean_loss(model, x, y).backward()
            model.zero_grad()
            if step == 0:
                model.stats(reset=True)
        stats = model.stats(reset=True)
        assert stats.num_steps == 3
        assert stats.num_bytes == 3 * sum(bucket["num_bytes"] for bucket in stats.buckets)
        assert 0 < stats.computing_s <= stats.backward_s
        assert 0.0 <= stats.hidden_share <= 1.0
        assert stats.slowest_rank in range(comm.size)
        assert 0 < stats.counting_s < stats.step_s
        assert 0 < stats.comparing_s < stats.step_s
        assert stats.watching_share == (stats.counting_s + stats.comparing_s) / stats.step_s
        assert model.stats().num_steps == 0

    ThreadWorld(2).run(run)
