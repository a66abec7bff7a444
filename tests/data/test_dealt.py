"""Streams that ranks share: each sample once, also where a loader goes on with other numbers in mid-epoch."""

import itertools
import random
from types import SimpleNamespace

import pytest
from worker_datasets import Counting, Everything, Shuffled, configure

import distgrad as dg
from distgrad.checkpoint import CheckpointManager
from distgrad.data import DataLoader, DistributedStream, IterableDataset, TextStream, get_worker_info
from distgrad.errors import StateDictError


def loaders(n, num_ranks, batch_size, num_workers=0, **options):
    """One for each rank."""
    streams = [DistributedStream(Everything(n), num_ranks, rank) for rank in range(num_ranks)]
    return [DataLoader(stream, batch_size, num_workers=num_workers, **options) for stream in streams]


def take(several, num_batches=None):
    """The samples of as many batches of each loader, step by step, and where the loaders stand then."""
    steps = zip(*(itertools.islice(loader, num_batches) for loader in several), strict=True)
    taken = [sorted(int(x) for part in step for x in part) for step in steps]
    states = [loader.state_dict() for loader in several]
    assert all(state == states[0] for state in states)
    return taken, states[0]


def resume(several, state):
    for loader in several:
        loader.load_state_dict(state)
    return several


def flat(taken):
    return list(itertools.chain.from_iterable(taken))


@pytest.mark.parametrize("seed", range(20))
def test_each_sample_is_had_once_whatever_the_ranks_become(seed):
    rng = random.Random(seed)
    n, taken, state = rng.randint(0, 300), [], None
    for _ in range(4):
        several = loaders(n, rng.randint(1, 5), rng.randint(1, 6))
        if state:
            resume(several, state)
        some, state = take(several, rng.randint(0, 6))
        taken += flat(some)
    rest, _ = take(resume(loaders(n, 3, 4), state))
    assert sorted(taken + flat(rest)) == list(range(n))


def test_batches_are_those_of_a_run_that_never_stopped_where_the_global_batch_is():
    whole, _ = take(loaders(90, 1, 12))
    some, state = take(loaders(90, 4, 3), 2)
    more, state = take(resume(loaders(90, 2, 6), state), 3)
    rest, _ = take(resume(loaders(90, 3, 4), state))
    assert some + more + rest == whole


def test_ranks_without_samples_get_empty_batches_and_drop_last_none():
    whole, _ = take(loaders(13, 3, 2))
    assert whole == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [12]]
    assert [len(loader) for loader in loaders(13, 3, 2)] == [3, 3, 3]
    assert take(loaders(13, 3, 2, drop_last=True))[0] == whole[:2]
    (loader,) = resume(loaders(13, 1, 2), take(loaders(13, 3, 2), 1)[1])
    assert len(loader) == 4


def test_the_epoch_after_is_whole_and_workers_may_stay():
    """Batches of workers are those without, and of any number of them."""
    _, state = take(loaders(20, 2, 3), 2)
    (loader,) = resume(loaders(20, 1, 3, 2, persistent_workers=True), state)
    assert [batch.tolist() for batch in loader] == [[12, 13, 14], [15, 16, 17], [18, 19]]
    assert [batch.tolist() for batch in loader] == [batch.tolist() for batch in loaders(20, 1, 3)[0]]


def test_windows_of_a_text(tmp_path):
    (tmp_path / "text").write_bytes(bytes(range(241)))

    def streams(num_ranks, batch_size):
        several = [TextStream(tmp_path / "text", 4) for _ in range(num_ranks)]
        for rank, stream in enumerate(several):
            stream.rank, stream.num_replicas = rank, num_ranks
        return [
            DataLoader(stream, batch_size, collate_fn=lambda samples: [x[0] for x, _ in samples])
            for stream in several
        ]

    some, state = take(streams(3, 2), 4)
    rest, _ = take(resume(streams(2, 5), state))
    assert sorted(flat(some + rest)) == list(range(0, 240, 4))


def rows(batches):
    return [[part.tolist() for part in batch] for batch in batches]


def shared(n):
    return DistributedStream(Shuffled(n), 1, 0)


@pytest.mark.parametrize(
    ("kind", "workers"),
    [(shared, 1), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((Shuffled, 1), (Shuffled, 3)))],
)
def test_a_stream_that_draws_goes_on_with_other_workers_to_the_bit(kind, workers):
    """Its lanes, the order it draws and the random numbers are those of the workers before."""

    def make(num_workers):
        return DataLoader(kind(23), 3, num_workers=num_workers, generator=dg.Generator(5))

    loader = make(2)
    batches = iter(loader)
    begun = rows(itertools.islice(batches, 3))
    other = make(workers)
    other.load_state_dict(loader.state_dict())
    rest = rows(batches)
    assert sorted(x for batch in begun + rest for x in batch[0]) == list(range(23))
    assert rows(other) == rest


def test_a_plain_stream_goes_on_without_workers_and_in_other_batches():
    """As any number of workers, one after another in this process."""
    loader = DataLoader(Counting(50), 4, num_workers=2)
    begun = [batch.tolist() for batch in itertools.islice(loader, 3)]
    assert begun == [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14]]
    other = DataLoader(Counting(50), 3)
    other.load_state_dict(loader.state_dict())
    rest = [batch.tolist() for batch in other]
    assert rest[:3] == [[9, 11, 13], [16, 18, 20], [15, 17, 19]]
    assert sorted(flat(begun + rest)) == list(range(50))
    assert get_worker_info() is None


def test_what_only_the_stream_knows_is_asked_of_it(monkeypatch):
    world = SimpleNamespace(size=2)
    monkeypatch.setattr("distgrad.data.stream.is_initialized", lambda: True)
    monkeypatch.setattr("distgrad.data.stream.get_world", lambda: world)
    loader = DataLoader(Counting(50), 4)
    start, batches = loader.state_dict(), iter(loader)
    next(batches)
    state = loader.state_dict()
    DataLoader(Counting(50), 4).load_state_dict(state)
    world.size = 3
    other = DataLoader(Counting(50), 4)
    with pytest.raises(StateDictError, match=r"to 2 ranks, now to 3 .* let the Counting give all .*Distrib"):
        other.load_state_dict(state)
    assert len(list(other)) == 13  # as it was
    other.load_state_dict(start)
    with pytest.raises(StateDictError, match=r"to 2 ranks, now to 0 "):
        DataLoader(DistributedStream(Everything(50), 1, 0)).load_state_dict(state)


def test_a_worker_that_the_user_sets_up_is_no_other_one():
    loader = DataLoader(Counting(9), 2, num_workers=2, worker_init_fn=configure)
    state = loader.state_dict()
    state["sampler"]["index"] = [2, 0]
    DataLoader(Counting(9), 2, num_workers=2, worker_init_fn=configure).load_state_dict(state)
    with pytest.raises(StateDictError, match=r"3 workers that worker_init_fn sets up, got one of 2"):
        DataLoader(Counting(9), 2, num_workers=3, worker_init_fn=configure).load_state_dict(state)


@pytest.mark.parametrize("after", [1, 3])
def test_a_checkpoint_of_other_ranks(tmp_path, after):
    def run(comm, stop):
        loader = DataLoader(DistributedStream(Everything(40), comm.size, comm.rank), 2)
        with CheckpointManager(tmp_path, comm=comm, signals=False) as manager:
            manager.add(loader=loader)
            manager.restore_latest()
            taken = []
            for batch in loader:
                taken += batch.tolist()
                manager.step()
                if manager.finished == stop:
                    break
            manager.save()
        return taken

    before = dg.comm.ThreadWorld(2, timeout_s=60).run(run, 4)
    then = dg.comm.ThreadWorld(after, timeout_s=60).run(run, None)
    assert sorted(itertools.chain(*before, *then)) == list(range(40))


class Own(IterableDataset):
    """Has no length."""

    def __iter__(self):
        return iter(range(40))


def test_wrong_streams():
    with pytest.raises(TypeError, match="got a list"):
        DistributedStream([1, 2], 1, 0)
    with pytest.raises(TypeError, match="got a DistributedStream"):
        DistributedStream(DistributedStream(Own(), 1, 0), 1, 0)
    with pytest.raises(ValueError, match="rank=2 and num_replicas=2"):
        DistributedStream(Own(), 2, 2)
    with pytest.raises(TypeError, match="has no len"):
        len(DataLoader(DistributedStream(Own(), 1, 0)))
    assert list(DistributedStream(Own(), 3, 1)) == list(range(1, 40, 3))
