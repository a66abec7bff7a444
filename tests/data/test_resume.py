"""Epochs that go on in the middle: any sampler, any number of workers, any number of ranks."""

from itertools import chain, islice

import numpy as np
import pytest
from worker_datasets import Counting, Noise

import distgrad as dg
from distgrad.backend.rng import Generator
from distgrad.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, TensorDataset

# Passes over one order, to compare them.
pytestmark = pytest.mark.filterwarnings("ignore:DataLoader. a second epoch:UserWarning")

DATA = TensorDataset(np.arange(50))


def rows(batches):
    return [(batch[0] if isinstance(batch, list) else batch).numpy().tolist() for batch in batches]


LOADERS = {
    "in order": lambda workers: DataLoader(DATA, 4, num_workers=workers),
    "shuffled": lambda workers: DataLoader(DATA, 4, shuffle=True, num_workers=workers),
    "own generator": lambda workers: DataLoader(
        DATA, 4, shuffle=True, generator=Generator(5), num_workers=workers
    ),
    "with replacement": lambda workers: DataLoader(
        DATA, 4, sampler=RandomSampler(DATA, True, 30, Generator(5)), num_workers=workers
    ),
    "longer than the data": lambda workers: DataLoader(
        DATA, 4, sampler=RandomSampler(DATA, num_samples=120), num_workers=workers
    ),
    "batch sampler": lambda workers: DataLoader(
        DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 7, True), num_workers=workers
    ),
    "list of batches": lambda workers: DataLoader(
        DATA, batch_sampler=[[i, 2 * i] for i in range(20)], num_workers=workers
    ),
    "list of indices": lambda workers: DataLoader(DATA, 4, sampler=range(40, 10, -1), num_workers=workers),
    "stream": lambda workers: DataLoader(Counting(50), 4, num_workers=workers),
    "distributed": lambda workers: DataLoader(DATA, 4, sampler=DistributedSampler(DATA), num_workers=workers),
}


RANDOM = ("shuffled", "own generator", "with replacement", "longer than the data", "batch sampler")


CASES = [(name, 0, taken) for name in LOADERS for taken in (0, 3, "all")]
CASES += [(name, 2, 3) for name in ("shuffled", "distributed", "list of batches", "stream")]


@pytest.mark.parametrize(("name", "workers", "taken"), CASES)
def test_the_rest_of_an_epoch_and_the_next(name, workers, taken, tmp_path):
    make = LOADERS[name]
    dg.manual_seed(1)
    loader = make(workers)
    epoch, taken = rows(loader), len(loader) if taken == "all" and name != "stream" else taken
    taken = 13 if taken == "all" else taken
    second = rows(loader)
    assert (epoch == second) == (
        name not in ("shuffled", "own generator", "with replacement", "longer than the data", "batch sampler")
    )

    dg.manual_seed(1)
    loader = make(workers)
    batches = iter(loader)
    begun = [next(batches) for _ in range(taken)]
    random_state = dg.default_generator.get_state()
    dg.save(loader.state_dict(), tmp_path / "loader")
    del batches

    dg.manual_seed(77)
    other = make(workers)
    other.load_state_dict(dg.load(tmp_path / "loader"))
    dg.default_generator.set_state(random_state)
    if name != "stream":
        assert len(other) == len(epoch) - taken
    rest = rows(other)
    assert rows(begun) + rest == epoch
    if name != "stream":
        assert len(other) == len(epoch)
    assert rows(other) == second


def test_a_state_before_the_first_batch_and_after_loading():
    loader = LOADERS["own generator"](0)
    state = loader.state_dict()
    epoch = rows(loader)
    other = LOADERS["own generator"](0)
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert rows(other) == epoch


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1), (2, 5), (4, 2)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_another_number_of_ranks(before, after, drop_last):
    """Global batches of 60 go on as they would have on the first ranks."""
    data = range(150)

    def run(size, state, epoch, steps=None):
        loaders = []
        for rank in range(size):
            sampler = DistributedSampler(data, size, rank, seed=2)
            loaders.append(DataLoader(data, 60 // size, sampler=sampler, drop_last=drop_last))
            if state is not None:
                loaders[-1].load_state_dict(state)
            sampler.set_epoch(epoch)
        together = zip(*loaders, strict=True)
        batches = [sorted(chain(*rows(step))) for step in islice(together, steps)]
        states = [loader.state_dict() for loader in loaders]
        assert all(other == states[0] for other in states)
        return batches, states[0]

    whole, _ = run(before, None, 3)
    first, state = run(before, None, 3, steps=1)
    assert state["sampler"] == {"epoch": 3, "index": 60}
    rest, _ = run(after, state, 3)
    assert first + rest == whole
    assert len(rest) == (1 if drop_last else 2)
    other, _ = run(after, state, 4)  # another epoch begins at its start
    assert other == run(before, None, 4)[0]


def test_random_numbers_of_workers_go_on():
    def draw(loader):
        return [[part.numpy().tolist() for part in batch] for batch in loader]

    loader = DataLoader(Noise(12), 2, num_workers=2)
    first = draw(loader)
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    state = loader.state_dict()
    rest = draw(batches)
    assert rest != first[2:]
    other = DataLoader(Noise(12), 2, num_workers=1)
    other.load_state_dict(state)
    assert draw(other) == rest


@pytest.mark.parametrize(("taken", "workers"), [(1, 0), (3, 0), (6, 0), (6, 1)])
def test_set_epoch_begins_the_next_epoch_of_random_numbers_too(taken, workers):
    """Also where the epoch was over when its state was taken, as a loop over steps has it."""

    def epochs(loader, numbers):
        found = []
        for epoch in numbers:
            loader.sampler.set_epoch(epoch)
            batches = [[part.numpy().tolist() for part in batch] for batch in loader]
            found.append((loader.state_dict(), batches if workers else len(batches)))
        return found

    def make():
        data = Noise(12)
        return DataLoader(data, 2, sampler=DistributedSampler(data, 1, 0), num_workers=workers)

    loader = make()
    loader.sampler.set_epoch(1)
    list(islice(loader, taken))
    state = loader.state_dict()
    other = make()
    other.load_state_dict(state)
    assert epochs(other, [2]) == epochs(loader, [2])
