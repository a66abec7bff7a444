"""Datasets, collation and the loader."""

from collections import namedtuple

import numpy as np
import pytest

from distgrad.autograd.tensor import Tensor
from distgrad.backend.rng import Generator
from distgrad.comm.registry import init
from distgrad.data.collate import default_collate, default_convert, fetch
from distgrad.data.dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from distgrad.data.loader import DataLoader
from distgrad.data.sampler import BatchSampler, DistributedSampler, SequentialSampler
from distgrad.errors import DataError, ShapeError

Point = namedtuple("Point", "x y")


class Squares(Dataset):
    """Samples of every kind that collates."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        return {
            "row": np.full(3, index, np.float32),
            "point": Point(index, float(index**2)),
            "name": str(index),
        }

    def __len__(self):
        return self.n


def collate_samples(batch):
    """Another function than the default, so that the loader reads sample by sample."""
    return default_collate(batch)


def arrays(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n * 6, dtype=np.float32).reshape(n, 2, 3), np.arange(n) * 10


@pytest.mark.parametrize("wrap", [np.asarray, Tensor])
def test_tensor_dataset_batches_are_tensors_of_the_right_rows(wrap):
    x, y = arrays(7)
    batches = list(DataLoader(TensorDataset(wrap(x), wrap(y)), batch_size=3))
    assert [batch[0].shape for batch in batches] == [(3, 2, 3), (3, 2, 3), (1, 2, 3)]
    assert all(isinstance(tensor, Tensor) for batch in batches for tensor in batch)
    np.testing.assert_array_equal(np.concatenate([batch[0]._data for batch in batches]), x)
    np.testing.assert_array_equal(np.concatenate([batch[1]._data for batch in batches]), y)
    assert batches[0][0]._data.dtype == np.float32
    assert batches[0][1]._data.dtype == y.dtype


@pytest.mark.parametrize("wrap", [np.asarray, Tensor])
def test_indexing_whole_batches_equals_collating_samples(wrap):
    dataset = TensorDataset(*map(wrap, arrays(11)))
    subset = Subset(Subset(dataset, range(1, 11)), [5, 0, 9, 3])
    for source, indices in ((dataset, [4, 0, 10]), (subset, [3, 1]), (subset, [])):
        whole = fetch(source, indices, default_collate)
        one_by_one = fetch(source, indices, collate_samples)
        for a, b in zip(whole, one_by_one, strict=True):
            np.testing.assert_array_equal(a._data, b._data)
            assert a._data.dtype == b._data.dtype
            assert a.shape == b.shape


def test_a_subclass_that_changes_its_samples_is_not_bypassed():
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return tuple(2 * tensor for tensor in super().__getitem__(index))

    class Negated(Subset):
        def __getitem__(self, index):
            return tuple(-tensor for tensor in super().__getitem__(index))

    x, y = arrays(4)
    (batch,) = DataLoader(Doubled(x, y), batch_size=4)
    np.testing.assert_array_equal(batch[0]._data, 2 * x)
    (batch,) = DataLoader(Negated(TensorDataset(x, y), [2, 1]), batch_size=4)
    np.testing.assert_array_equal(batch[1]._data, [-20, -10])


def test_default_collate_keeps_the_structure():
    batch = default_collate([Squares(9)[2], Squares(9)[3]])
    np.testing.assert_array_equal(batch["row"]._data, [[2, 2, 2], [3, 3, 3]])
    assert isinstance(batch["point"], Point)
    np.testing.assert_array_equal(batch["point"].x._data, [2, 3])
    np.testing.assert_array_equal(batch["point"].y._data, [4.0, 9.0])
    assert batch["name"] == ["2", "3"]
    dtypes = [batch["row"]._data.dtype, batch["point"].x._data.dtype, batch["point"].y._data.dtype]
    assert dtypes == [np.float32, np.int64, np.float32]
    flags, tensors = default_collate([(True, Tensor(np.ones(2))), (False, Tensor(np.zeros(2)))])
    assert flags._data.tolist() == [True, False]
    assert tensors.shape == (2, 2)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([np.zeros(2), np.zeros(3)], r"one shape, got \(2,\) at place 0 of the batch and \(3,\) at place 1"),
        ([(1, 2), (1, 2), (1,)], "one length, got 2 at place 0 of the batch and 1 at place 2"),
        ([{"a": 1}, {"b": 1}], r"one keys, got \['a'\]"),
        ([object()], "got object; pass a collate_fn"),
    ],
)
def test_default_collate_rejects(samples, message):
    with pytest.raises(DataError, match=message):
        default_collate(samples)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "samples"])
def test_ranks_share_an_epoch_and_an_empty_batch_has_the_structure_of_the_others(size, whole):
    n, batch_size = 4 * size + 1, 2
    dataset = TensorDataset(*arrays(n))
    options = {} if whole else {"collate_fn": collate_samples}
    seen = []
    for rank in range(size):
        loader = DataLoader(dataset, batch_size, sampler=DistributedSampler(dataset, size, rank), **options)
        batches = list(loader)
        assert len(batches) == len(loader) == 3
        assert batches[-1][0].shape == (int(rank == 0), 2, 3)
        assert batches[-1][0]._data.dtype == np.float32
        seen += [label for batch in batches for label in batch[1]._data.tolist()]
    assert sorted(seen) == [10 * index for index in range(n)]


def test_an_empty_batch_of_structured_samples():
    batch = fetch(Squares(3), [], default_collate)
    assert batch["row"].shape == (0, 3)
    assert batch["point"].y.shape == (0,)
    assert isinstance(batch["point"], Point)
    assert batch["name"] == []
    assert fetch(Squares(3), [], lambda samples: (np.zeros((len(samples), 4)), 7))[1] == 7


def test_loader_shuffles_anew_each_epoch():
    loader = DataLoader(TensorDataset(np.arange(50)), 10, shuffle=True, generator=Generator(3))
    epochs = [[label for (batch,) in loader for label in batch._data.tolist()] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]


def test_loader_over_plain_sequences_and_custom_batches():
    loader = DataLoader(list("abcde"), 2, drop_last=True)
    assert list(loader) == [["a", "b"], ["c", "d"]]
    assert len(loader) == 2
    assert list(DataLoader("abcde", batch_sampler=[[4, 0], [1]], collate_fn="".join)) == ["ea", "b"]
    assert list(DataLoader([])) == []


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": [0], "shuffle": True},
        {"batch_sampler": [[0]], "batch_size": 2},
        {"batch_sampler": [[0]], "drop_last": True},
        {"batch_sampler": BatchSampler(SequentialSampler([1]), 1, False), "shuffle": True},
        {"batch_size": 0},
    ],
)
def test_loader_rejects_arguments_that_do_not_go_together(options):
    with pytest.raises(ValueError, match=r"DataLoader|batch_size"):
        DataLoader([1, 2, 3], **options)


@pytest.mark.parametrize("tensors", [(), (np.zeros((2, 3)), np.zeros(3)), (np.float32(1),)])
def test_tensor_dataset_rejects(tensors):
    with pytest.raises(ShapeError, match="equal length along axis 0"):
        TensorDataset(*tensors)


@pytest.mark.parametrize(
    ("lengths", "counts"),
    [
        ([3, 7], [3, 7]),
        ([0.25, 0.75], [3, 7]),
        ([1 / 3] * 3, [4, 3, 3]),
        ([10], [10]),
        ([0, 10, 0], [0, 10, 0]),
    ],
)
def test_random_split_covers_everything_once(lengths, counts):
    parts = random_split(TensorDataset(np.arange(10)), lengths, Generator(1))
    assert [len(part) for part in parts] == counts
    drawn = [int(sample) for part in parts for (sample,) in part]
    assert sorted(drawn) == list(range(10))
    assert drawn != list(range(10))
    again = random_split(range(10), lengths, Generator(1))
    assert [part.indices.tolist() for part in again] == [part.indices.tolist() for part in parts]


@pytest.mark.parametrize("lengths", [[3, 3], [0.5, 0.6], [12, -2], []])
def test_random_split_rejects(lengths):
    with pytest.raises(ValueError, match="lengths that sum to 10"):
        random_split(range(10), lengths)


@pytest.mark.ranks(2)
def test_workers_beside_mpi():
    comm = init()
    dataset = TensorDataset(np.arange(41))
    loader = DataLoader(dataset, 4, sampler=DistributedSampler(dataset), num_workers=2)
    mine = np.concatenate([batch.numpy() for (batch,) in loader])
    count = comm.all_reduce(np.bincount(mine, minlength=41))
    np.testing.assert_array_equal(count, 1)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(np.arange(3.0))

    def __len__(self):
        return 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_without_batches_the_samples_come_one_at_a_time(num_workers):
    options = {"batch_size": None, "num_workers": num_workers}
    loader = DataLoader(Squares(5), **options)
    samples = list(loader)
    assert len(loader) == len(samples) == 5
    assert [sample["name"] for sample in samples] == list("01234")
    assert isinstance(samples[3]["row"], Tensor)
    assert samples[3]["row"].shape == (3,)
    assert samples[3]["point"] == Point(3, 9.0)
    assert {float(x) for x in DataLoader(Stream(), **options)} == {0.0, 1.0, 2.0}
    assert len(DataLoader(Stream(), **options)) == 3
    shuffled = DataLoader(list(range(9)), shuffle=True, generator=Generator(3), collate_fn=abs, **options)
    assert sorted(shuffled) == list(range(9))
    rows = TensorDataset(np.arange(7))
    whole = DataLoader(rows, sampler=BatchSampler(SequentialSampler(rows), 3, False), **options)
    assert [part.tolist() for (part,) in whole] == [[0, 1, 2], [3, 4, 5], [6]]  # indexed by the list


def test_samples_one_at_a_time_go_on_where_they_were():
    loader = DataLoader(list(range(7)), batch_size=None, shuffle=True)
    samples = iter(loader)
    seen = [next(samples) for _ in range(3)]
    state = loader.state_dict()
    other = DataLoader(list(range(7)), batch_size=None, shuffle=True)
    other.load_state_dict(state)
    assert list(other) == list(samples)
    assert len(seen) == 3


def test_what_may_be_none():
    x = np.arange(4)
    (batch,) = DataLoader(TensorDataset(x), batch_size=4, shuffle=None, collate_fn=None)
    np.testing.assert_array_equal(batch[0].numpy(), x)
    with pytest.raises(ValueError, match="batch_size=None makes no batches"):
        DataLoader(TensorDataset(x), batch_size=None, drop_last=True)


def test_pinning_where_there_is_no_gpu_says_so_and_goes_on(monkeypatch):
    monkeypatch.setattr("distgrad.data.loader.find_accelerator", lambda: None)
    loader = DataLoader(TensorDataset(np.arange(4)), 2, pin_memory=True)
    with pytest.warns(UserWarning, match="pin_memory=True, but there is no GPU"):
        batches = list(loader)
    assert [batch[0].tolist() for batch in batches] == [[0, 1], [2, 3]]


def test_datasets_side_by_side():
    images, labels = TensorDataset(np.arange(6.0).reshape(3, 2)), [4, 5, 6]
    pair, named = StackDataset(images, labels), StackDataset(image=images, label=labels)
    assert (len(pair), pair[1][1], len(named), named[2]["label"]) == (3, 5, 3, 6)
    (batch,) = DataLoader(named, batch_size=3)
    assert batch["label"].tolist() == [4, 5, 6]
    for wrong in (
        lambda: StackDataset(images, [1]),
        StackDataset,
        lambda: StackDataset(images, label=labels),
    ):
        with pytest.raises(ValueError, match="StackDataset: expected datasets of equal length"):
            wrong()


def test_arrays_of_a_sample_become_tensors_in_the_same_memory():
    array, point = np.ones(2), namedtuple("Point", "x y")
    sample = default_convert({"a": array, "b": (np.float32(2), "text"), "c": point(array, [array])})
    assert np.shares_memory(sample["a"].numpy(), array)
    assert isinstance(sample["b"], tuple)
    assert sample["b"][1] == "text"
    assert isinstance(sample["c"].y[0], Tensor)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("pin_memory_device", "serves all GPUs"),
        ("multiprocessing_context", "interpreters of their own"),
        ("in_order", "always come in order"),
        ("x", "leave it"),
    ],
)
def test_arguments_of_pytorch_that_are_not_needed(argument, message):
    with pytest.raises(TypeError, match=f"DataLoader: unexpected argument '{argument}'; .*{message}"):
        DataLoader([1], **{argument: False})


def test_datasets_one_after_another():
    parts = [TensorDataset(np.arange(start, stop)) for start, stop in ((0, 2), (2, 3), (3, 7))]
    for joined in (ConcatDataset(parts), parts[0] + parts[1] + parts[2]):
        assert len(joined) == 7
        assert [int(joined[i][0]) for i in range(7)] == list(range(7))
        assert [int(joined[i - 7][0]) for i in range(7)] == list(range(7))
        for index in (7, -8):
            with pytest.raises(IndexError, match=f"index {index} is out of range for 7 samples"):
                joined[index]
    assert ConcatDataset(parts).cumulative_sizes == [2, 3, 7]
    with pytest.raises(ValueError, match="got none"):
        ConcatDataset([])


def test_streams_one_after_another():
    class Stream(IterableDataset):
        def __init__(self, start, stop):
            self.bounds = start, stop

        def __iter__(self):
            return iter(range(*self.bounds))

    parts = [Stream(0, 2), Stream(2, 2), Stream(2, 5)]
    assert list(ChainDataset(parts)) == list(parts[0] + parts[1] + parts[2]) == list(range(5))
    with pytest.raises(TypeError, match="put streams into a ChainDataset"):
        ConcatDataset(parts)
    with pytest.raises(TypeError, match="expected IterableDatasets, got list"):
        ChainDataset([[1, 2]])
