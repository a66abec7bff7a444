"""``tune=True`` keeps what is fastest on all ranks, says so, and leaves bits alone that are promised."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.comm import ThreadWorld
from distgrad.comm.threads import current
from distgrad.errors import GraphError
from distgrad.parallel import DistributedDataParallel, tuning

STEPS = 80  # which are enough for three sizes and two numbers of threads


@pytest.fixture(autouse=True)
def restored_threads():
    before = dg.get_num_threads()
    yield
    dg.set_num_threads(before)


@pytest.fixture
def clock(monkeypatch):
    """A clock of one's own for each rank: a step takes what its number of buckets and threads say."""
    now = {}

    class Clock:
        @staticmethod
        def perf_counter():
            return now[current().rank]

    monkeypatch.setattr(tuning, "time", Clock)
    return now


def build(width=128):
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(8)))
    rng = np.random.default_rng(0)  # the ranks are threads, which share distgrad's generator
    with dg.no_grad():
        for parameter in model.parameters():
            parameter.copy_(dg.asarray(rng.uniform(-1, 1, parameter.shape).astype(np.float32) / width**0.5))
    return model


def train(comm, steps, seconds=lambda rank, buckets: 1.0, now=None, **options):
    """Parameters and what was found, after as many steps as the clock is told of."""
    if now is not None:
        now[comm.rank] = 0.0
    ddp = DistributedDataParallel(build(), comm, check_replicas_every=0, **options)
    optimizer = dg.optim.SGD(ddp.parameters(), lr=0.01)
    rng = np.random.default_rng(comm.rank)
    batches = [rng.standard_normal((2, 128)).astype(np.float32) for _ in range(4)]
    for step in range(steps):
        optimizer.zero_grad()
        (ddp(dg.asarray(batches[step % 4])) ** 2).mean().backward()
        optimizer.step()
        if now is not None:
            now[comm.rank] += seconds(comm.rank, len(ddp.reducer.buckets))
    return [p.detach().numpy().copy() for p in ddp.parameters()], ddp.tuned, len(ddp.reducer.buckets)


def run(size, *arguments, **options):
    """:func:`train` on every rank."""
    return ThreadWorld(size, timeout_s=60).run(lambda comm: train(comm, STEPS, *arguments, **options))


@pytest.mark.parametrize("size", [2, 3])
def test_all_ranks_keep_what_the_slowest_has_least_of(size, clock, capsys):
    """Rank 1 alone finds many buckets slow: all keep few."""

    def seconds(rank, buckets):
        return 0.01 * buckets if rank == 1 else 0.001 / buckets

    found = run(size, seconds, clock, tune=True, bucket_cap_mb=0.25)
    (_, tuned, buckets), *others = found
    assert tuned is not None
    assert all(other[1] == tuned and other[2] == buckets for other in others)
    counts = [round(step_s / 0.01) for _, threads, step_s in tuned.trials if threads == tuned.trials[0][1]]
    assert len(set(counts)) == len(counts) >= 3  # each candidate has its own number of buckets
    assert buckets == min(counts)
    assert tuned.bucket_cap_mb > 0.25
    assert f"DistributedDataParallel: tuned to {tuned}" in capsys.readouterr().err


def test_what_is_hardly_faster_changes_nothing(clock):
    found = run(2, lambda rank, buckets: 1.0 + 1e-3 * buckets, clock, tune=True, bucket_cap_mb=0.25)
    assert found[0][1].bucket_cap_mb == 0.25


@pytest.mark.parametrize("size", [2, 3])
def test_buckets_that_come_and_go_train_to_the_same_bits(size, monkeypatch):
    dg.set_num_threads(1)
    monkeypatch.setattr(tuning.os, "sched_getaffinity", lambda pid: {0})  # so that threads stay
    plain, tuned = (run(size, bucket_cap_mb=0.25, tune=tune) for tune in (False, True))
    assert len(tuned[0][1].trials) >= 3
    for expected, *found in zip(plain[0][0], *(each[0] for each in tuned), strict=True):
        for parameter in found:
            np.testing.assert_array_equal(parameter, expected)


def test_threads_are_tried_once_a_bucket_size_is_chosen(monkeypatch, clock):
    dg.set_num_threads(1)
    monkeypatch.setattr(tuning.os, "sched_getaffinity", lambda pid: set(range(4)))
    seconds = lambda rank, buckets: 1.0 / dg.get_num_threads()  # noqa: E731
    found = run(2, seconds, clock, tune=True, bucket_cap_mb=0.25)
    assert [trial[1] for trial in found[0][1].trials[-2:]] == [1, 2]
    assert found[0][1].num_threads == dg.get_num_threads() == 2


def test_ranks_of_other_numbers_of_threads_try_the_same_ones(monkeypatch, clock):
    """Rank 0 has the one thread already that both of them try; without a word between them it would stop."""
    now = {}
    monkeypatch.setattr(tuning, "get_num_threads", lambda: now.setdefault(current().rank, current().rank + 1))
    monkeypatch.setattr(tuning, "set_num_threads", lambda threads: now.update({current().rank: threads}))
    monkeypatch.setattr(tuning.os, "sched_getaffinity", lambda pid: {0})
    found = run(2, lambda rank, buckets: 1.0, clock, tune=True, bucket_cap_mb=0.25)
    assert [[threads for _, threads, _ in each[1].trials[-2:]] for each in found] == [[1, 1], [2, 1]]
    assert now == {0: 1, 1: 2}  # nothing is gained, and each has what it had


def accumulate(comm, passes):
    ddp = DistributedDataParallel(build(16), comm, tune=True, check_replicas_every=0)
    x = dg.asarray(np.full((2, 16), comm.rank + 1.0, np.float32))
    for number in range(STEPS):
        with ddp.no_sync():
            for _ in range(passes(comm.rank, number)):
                ddp(x).sum().backward()
        ddp(x).sum().backward()
    return ddp.tuned


@pytest.mark.parametrize(
    "passes", [lambda rank, step: 2, lambda rank, step: (rank + step) % 3], ids=["even", "uneven"]
)
def test_steps_of_several_backward_passes_are_tuned(passes):
    found = ThreadWorld(3, timeout_s=60).run(accumulate, passes)
    assert found[0] is not None
    assert found[1:] == found[:1] * 2


def test_a_hook_waits_until_the_buckets_stay(clock):
    def use(comm):
        clock[comm.rank] = 0.0
        ddp = DistributedDataParallel(build(16), comm, tune=True)
        with pytest.raises(GraphError, match="use_hook: tune=True is still trying"):
            ddp.use_hook(dg.parallel.fp16)

    ThreadWorld(2, timeout_s=60).run(use)


def train_exactly(comm, tune):
    ddp = DistributedDataParallel(build(16), comm, exact=True, shards=4, tune=tune, check_replicas_every=0)
    optimizer = dg.optim.SGD(ddp.parameters(), lr=0.1)
    x = dg.asarray(np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32))
    for _ in range(40):
        optimizer.zero_grad()
        for part in ddp.shards(x):
            (ddp(part) ** 2).mean().backward()
        optimizer.step()
    assert ddp.tuned is None
    return [p.detach().numpy().copy() for p in ddp.parameters()]


def test_exact_mode_keeps_its_bits_and_says_that_nothing_is_tried(capsys):
    first = ThreadWorld(1).run(train_exactly, False)[0]
    assert not capsys.readouterr().err
    for size in (1, 2, 3, 5):  # the last has a rank without a shard
        for parameters in ThreadWorld(size, timeout_s=60).run(train_exactly, True):
            for a, b in zip(first, parameters, strict=True):
                np.testing.assert_array_equal(a, b)
        assert capsys.readouterr().err.count("finds nothing to try in exact mode") == 1


@pytest.mark.filterwarnings("ignore:fp16 does not pay")
@pytest.mark.parametrize("options", [{"shard": "optimizer"}, {"hook": dg.parallel.fp16}])
def test_buckets_that_results_depend_on_stay(options, clock):
    found = run(2, lambda rank, buckets: 1.0, clock, tune=True, bucket_cap_mb=0.25, **options)
    assert {cap for cap, _, _ in found[0][1].trials} == {0.25}
