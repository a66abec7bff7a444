"""Streams of Hugging Face's ``datasets``: every row once, over ranks and workers, whole or gone on with."""

from itertools import islice

import pytest
import streams

import distgrad as dg
from distgrad.comm import ThreadWorld
from distgrad.data import DataLoader

LENGTHS = [5, 1, 9, 0, 6, 2]  # rows in each file
TOTAL = sum(LENGTHS)


def real(lengths, **options):
    library = pytest.importorskip("datasets", reason="the datasets library is not installed")
    return streams.make_real(library, lengths, **options)


pytestmark = pytest.mark.filterwarnings("default")
kinds = pytest.mark.parametrize("make", [streams.make, real])


def numbers(batches):
    """The rows of each batch."""
    return [batch["number"].numpy().tolist() for batch in batches]


def over_ranks(size, function):
    """What a function of the communicator gives on every rank."""
    return ThreadWorld(size, timeout_s=60).run(function)


@kinds
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_row_once_and_as_many_batches_on_every_rank(make, ranks, drop_last):
    stream = make(LENGTHS)

    def run(comm):
        batches = list(DataLoader(stream, 2, drop_last=drop_last))
        assert all(len(batch["text"]) == len(batch["number"]) for batch in batches)
        return numbers(batches)

    found = over_ranks(ranks, run)
    whole = TOTAL - TOTAL % (2 * ranks) if drop_last else TOTAL
    assert len({len(batches) for batches in found}) == 1
    for step, batches in enumerate(zip(*found, strict=True)):  # as one process would have them
        rows = sorted(row for batch in batches for row in batch)
        assert rows == list(range(2 * ranks * step, min(2 * ranks * (step + 1), whole)))
    assert sum(len(batch) for batches in found for batch in batches) == whole


@kinds
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("ranks", "workers"), [(2, 2), (1, 8)])
def test_workers_read_files_of_their_own(make, ranks, workers):
    """Also where there are more of them than files."""
    stream = make(LENGTHS)
    loaders = [loader_of(stream, 2, rank, ranks, num_workers=workers) for rank in range(ranks)]
    found = [numbers(loader) for loader in loaders]
    assert len({len(batches) for batches in found}) == 1
    assert sorted(row for batches in found for batch in batches for row in batch) == list(range(TOTAL))


def loader_of(stream, batch_size, rank, ranks, **options):
    """The loader of one rank of several, without the others."""
    loader = DataLoader(stream, batch_size, **options)
    loader._stream.rank, loader._stream.ranks = rank, ranks
    return loader


@kinds
def test_a_stream_that_is_split_already_is_a_ranks_own(make):
    def run(comm):
        return numbers(DataLoader(make(LENGTHS, split=(comm.rank, comm.size)), 4))

    found = over_ranks(2, run)
    assert sorted(row for batches in found for batch in batches for row in batch) == list(range(TOTAL))


@kinds
@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1), (2, 5), (5, 2), (3, 3)])
def test_an_epoch_goes_on_on_any_number_of_ranks(make, before, after, tmp_path):
    stream = make(LENGTHS, shuffle=True)
    stream.set_epoch(4)

    def begin(comm):
        loader = DataLoader(stream, 2)
        return numbers(islice(loader, 2)), loader.state_dict()

    begun = over_ranks(before, begin)
    states = [state for _, state in begun]
    assert all(state == states[0] for state in states)
    dg.save(states[0], tmp_path / "state")
    stream.set_epoch(0)  # as in a new process

    def finish(comm):
        loader = DataLoader(stream, 3)
        loader.load_state_dict(dg.load(tmp_path / "state"))
        rest = numbers(loader)
        stream.set_epoch(5)
        return rest, numbers(loader)

    finished = over_ranks(after, finish)
    seen = [row for batches, _ in (*begun, *finished) for batch in batches for row in batch]
    assert sorted(seen) == list(range(TOTAL))
    assert sorted(row for _, second in finished for batch in second for row in batch) == list(range(TOTAL))


@kinds
@pytest.mark.timeout(300)
@pytest.mark.parametrize("taken", [8, *(pytest.param(taken, marks=pytest.mark.slow) for taken in (1, 11))])
def test_an_epoch_goes_on_in_the_same_order_with_workers(make, taken):
    """And with the same random numbers, also where one worker has read its files to the end."""
    if make is real and taken != 8:
        pytest.skip("one place of the library's own is enough")
    stream = make(LENGTHS, shuffle=True)

    def loader():
        options = {"num_workers": 2, "persistent_workers": True, "collate_fn": streams.noisy}
        return DataLoader(stream, 2, generator=dg.Generator(5), **options)

    first, epochs = loader(), []
    for epoch in (1, 7):
        stream.set_epoch(epoch)
        epochs.append([batch.tolist() for batch in first])
    assert sorted(row for batch in epochs[1] for row, _ in batch) == list(range(TOTAL))
    stream.set_epoch(1)
    second = loader()
    begun = [batch.tolist() for batch in islice(second, taken)]
    state = second.state_dict()
    stream.set_epoch(0)
    third = loader()
    third.load_state_dict(state)
    assert begun + [batch.tolist() for batch in third] == epochs[0]
    stream.set_epoch(7)
    assert [batch.tolist() for batch in third] == epochs[1]
    assert epochs[0] != epochs[1]


def test_a_place_is_left_for_another_epoch():
    loader = DataLoader(streams.make(LENGTHS), 4)
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())
    loader.dataset.set_epoch(1)
    assert sum(map(len, numbers(loader))) == TOTAL
    assert sum(map(len, numbers(loader))) == TOTAL


def test_a_place_that_does_not_fit_is_refused():
    stream = streams.make(LENGTHS)
    state = DataLoader(stream, 2, num_workers=2).state_dict()
    with pytest.raises(dg.StateDictError, match="which this dataset is not"):
        DataLoader(range(9), 2).load_state_dict(state)
    with pytest.raises(dg.StateDictError, match="in another kind of dataset"):
        DataLoader(stream, 2).load_state_dict(DataLoader(range(9), 2).state_dict())
    split = DataLoader(streams.make(LENGTHS, split=(0, 4)), 2)
    DataLoader(stream, 2).load_state_dict(split.state_dict())  # nothing of the epoch was had
    next(iter(split))
    with pytest.raises(dg.StateDictError, match=r"dealt its samples out to 4 ranks, now to 0 .* not split"):
        DataLoader(stream, 2).load_state_dict(split.state_dict())


def test_what_is_neither_indexed_nor_such_a_stream_is_refused():
    with pytest.raises(dg.DataError, match="got list_iterator; derive a class from"):
        DataLoader(iter([1, 2]), 2)
    with pytest.raises(ValueError, match="decides on the order"):
        DataLoader(streams.make(LENGTHS), 2, shuffle=True)


def test_without_a_batch_size_rows_come_alone():
    rows = list(DataLoader(streams.make([3]), None))
    assert rows == [{"number": number, "text": f"row {number}"} for number in range(3)]
    assert list(DataLoader(streams.make([]), 2)) == []
