"""Samplers: orders, and that ranks share every epoch out exactly."""

import tracemalloc
from itertools import chain, islice

import numpy as np
import pytest

from distgrad.backend.rng import Generator
from distgrad.comm.threads import ThreadWorld
from distgrad.data.sampler import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from distgrad.errors import ShapeError

LENGTHS = [0, 1, 2, 7, 30, 31, 100]
SIZES = [1, 2, 3, 5]


def steps_of(
    n: int, size: int, batch_size: int, *, drop_last: bool = False, **options
) -> list[list[list[int]]]:
    """``[rank][step]`` → indices."""
    samplers = [DistributedSampler(range(n), num_replicas=size, rank=rank, **options) for rank in range(size)]
    return [list(BatchSampler(sampler, batch_size, drop_last)) for sampler in samplers]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_sample_goes_to_exactly_one_rank(n, size, shuffle):
    samplers = [DistributedSampler(range(n), size, rank, shuffle) for rank in range(size)]
    drawn = [list(sampler) for sampler in samplers]
    assert sorted(chain.from_iterable(drawn)) == list(range(n))
    assert [len(part) for part in drawn] == [len(sampler) for sampler in samplers]
    assert max(map(len, drawn)) - min(map(len, drawn)) <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_ranks_take_the_same_number_of_balanced_batches(n, size, batch_size):
    ranks = steps_of(n, size, batch_size)
    assert {len(steps) for steps in ranks} == {-(-n // (batch_size * size))}
    for step in zip(*ranks, strict=True):
        counts = [len(batch) for batch in step]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) >= size or min(counts) == 0
        assert sum(counts) > 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", LENGTHS)
def test_the_batches_of_a_step_are_one_process_batch_of_the_global_size(n, size):
    global_batch_size = 30  # a multiple of every size
    alone = steps_of(n, 1, global_batch_size, seed=3)[0]
    together = steps_of(n, size, global_batch_size // size, seed=3)
    for whole, parts in zip(alone, zip(*together, strict=True), strict=True):
        dealt = [parts[place % size][place // size] for place in range(len(whole))]
        assert dealt == whole
        assert sum(map(len, parts)) == len(whole)


def test_a_rank_with_no_sample_left_gets_an_empty_batch():
    ranks = steps_of(13, 3, 4, shuffle=False)
    assert [steps[-1] for steps in ranks] == [[12], [], []]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", LENGTHS)
def test_drop_last_leaves_only_full_batches_and_the_same_number_of_them(n, size):
    for steps in steps_of(n, size, 4, drop_last=True):
        assert len(steps) == n // (4 * size)
        assert all(len(batch) == 4 for batch in steps)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", LENGTHS)
def test_the_samplers_own_drop_last_evens_the_ranks_out(n, size):
    samplers = [DistributedSampler(range(n), size, rank, drop_last=True) for rank in range(size)]
    drawn = [list(sampler) for sampler in samplers]
    assert {len(part) for part in drawn} == {n // size} == {len(sampler) for sampler in samplers}
    assert len(set(chain.from_iterable(drawn))) == n // size * size
    assert {sampler.total_size for sampler in samplers} == {n // size * size}


def test_the_order_follows_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = DistributedSampler(range(50), 1, 0, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    orders = {(seed, epoch): order(seed, epoch) for seed in (0, 1, 7) for epoch in (0, 1, 2)}
    assert len({tuple(drawn) for drawn in orders.values()}) == len(orders)
    assert order(7, 2) == orders[7, 2]
    assert list(range(50)) not in orders.values()


@pytest.mark.parametrize("size", SIZES)
def test_the_default_is_the_calling_rank_of_the_world(size):
    drawn = ThreadWorld(size).run(lambda world: list(DistributedSampler(range(7), shuffle=False)))
    assert drawn == [list(range(rank, 7, size)) for rank in range(size)]


def test_a_program_that_was_started_alone_is_a_world_of_one():
    assert list(DistributedSampler(range(5), shuffle=False)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("num_replicas", "rank"), [(2, 2), (2, -1), (0, 0), (-1, 0)])
def test_a_rank_outside_the_world_is_rejected(num_replicas, rank):
    with pytest.raises(ValueError, match=rf"rank={rank} and num_replicas={num_replicas}"):
        DistributedSampler(range(5), num_replicas, rank)


def test_random_sampler_permutes_anew_each_epoch_and_repeats_from_its_seed():
    sampler = RandomSampler(range(20), generator=Generator(5))
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert list(RandomSampler(range(20), generator=Generator(5))) == first


def test_random_sampler_with_num_samples():
    assert len(list(RandomSampler(range(20), num_samples=6, generator=Generator(1)))) == 6
    drawn = list(RandomSampler(range(4), num_samples=10, generator=Generator(1)))
    assert sorted(drawn[:4]) == sorted(drawn[4:8]) == [0, 1, 2, 3]
    assert len(drawn) == 10
    drawn = list(RandomSampler(range(4), replacement=True, num_samples=100, generator=Generator(1)))
    assert len(drawn) == 100
    assert set(drawn) == {0, 1, 2, 3}
    assert list(RandomSampler([], generator=Generator(1))) == []
    assert list(RandomSampler([], replacement=True, generator=Generator(1))) == []


WEIGHTS = np.array([0.0, 3.0, 1.0, 0.0, 2.0])


def drawn_at_once(kind, count, source):
    """What a sampler of ``SAMPLERS`` draws, by NumPy from all the random words."""
    if kind == "permutations":
        rounds = [np.argsort(source.bits(7), kind="stable") for _ in range(-(-count // 7))]
        return np.concatenate(rounds)[:count]
    if kind == "replacement":
        return source.bits(count) % np.uint64(7)
    shares = np.cumsum(WEIGHTS)
    draws = (source.bits(count) >> np.uint64(11)) * 2.0**-53 * shares[-1]
    return (shares <= draws[:, None]).sum(axis=1)


SAMPLERS = {
    "permutations": lambda count, source: RandomSampler(range(7), False, count, source),
    "replacement": lambda count, source: RandomSampler(range(7), True, count, source),
    "weights": lambda count, source: WeightedRandomSampler(WEIGHTS, count, generator=source),
}


COUNTS = [("permutations", count) for count in (1, 7, 20, 1001)]
COUNTS += [(kind, count) for kind in ("replacement", "weights") for count in (1, 7, 65535, 65536, 140001)]


@pytest.mark.parametrize(("kind", "count"), COUNTS)
def test_an_epoch_in_rounds_is_the_one_drawn_at_once(kind, count):
    source, other = Generator(3), Generator(3)
    sampler = SAMPLERS[kind](count, source)
    indices = iter(sampler)
    expected = drawn_at_once(kind, count, other)
    assert source.get_state() == other.get_state()  # before an index is drawn
    source.bits(99)
    np.testing.assert_array_equal(list(indices), expected)
    begin = {"index": count // 2, "generator": Generator(3).get_state()}
    sampler.load_state_dict(begin)
    np.testing.assert_array_equal(list(sampler), expected[count // 2 :])


@pytest.mark.parametrize("kind", SAMPLERS)
def test_an_epoch_of_ten_thousand_million_takes_little_memory(kind):
    count = 10**10
    tracemalloc.start()
    sampler = SAMPLERS[kind](count, Generator(3))
    first = list(islice(sampler, 100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    assert len(sampler) == count
    np.testing.assert_array_equal(first, drawn_at_once(kind, 100, Generator(3)))
    sampler.load_state_dict({"index": count - 3, "generator": Generator(3).get_state()})
    last = list(iter(sampler))  # list(sampler) makes room for len(sampler)
    assert len(last) == 3
    assert set(last) <= set(range(7))


@pytest.mark.parametrize(("data", "num_samples"), [(range(3), -1), (range(3), 1e10), ([], 2)])
def test_random_sampler_rejects(data, num_samples):
    with pytest.raises(ValueError, match=f"num_samples={num_samples} from a dataset of {len(data)}"):
        RandomSampler(data, num_samples=num_samples)


def test_batch_sampler_takes_any_sized_iterable():
    assert list(BatchSampler(SequentialSampler("abcde"), 2, drop_last=False)) == [[0, 1], [2, 3], [4]]
    assert list(BatchSampler(["x", "y", "z"], 2, drop_last=True)) == [["x", "y"]]


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None, np.float32(2)])
def test_batch_sampler_rejects(batch_size):
    with pytest.raises(ValueError, match="batch_size must be a positive whole number"):
        BatchSampler([0], batch_size, drop_last=False)


def test_a_subset_in_random_order():
    generator = Generator(3)
    sampler = SubsetRandomSampler([5, 7, 11, 13], generator)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == [5, 7, 11, 13]
    assert len({tuple(sampler) for _ in range(20)}) > 5
    state = sampler.state_dict()
    after = list(sampler)
    sampler.load_state_dict({**state, "index": 2})
    assert list(sampler) == after[2:]


def test_weights_decide_how_often_an_index_is_drawn():
    sampler = WeightedRandomSampler([1.0, 0.0, 3.0], 8000, generator=Generator(1))
    counts = np.bincount(list(sampler), minlength=3)
    assert len(sampler) == 8000
    assert counts[1] == 0
    assert abs(counts[2] / 8000 - 0.75) < 0.02
    assert sorted(WeightedRandomSampler([1.0, 2.0, 3.0], 3, replacement=False)) == [0, 1, 2]
    with pytest.raises(ShapeError, match="multinomial"):
        WeightedRandomSampler([1.0, 0.0], 2, replacement=False)
    with pytest.raises(ValueError, match="weights must be"):
        WeightedRandomSampler([-1.0, 2.0], 1)
