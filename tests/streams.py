"""A double of the streams of Hugging Face's ``datasets``: what a loader asks of them."""

import importlib
import random
from types import SimpleNamespace

import distgrad as dg


class Stream:
    """Files of numbers, read one after another in an order of the epoch's.

    Args:
        files: lists of numbers.
        shuffle: whether the order of the files depends on the epoch.
        split: rank and number of ranks that ``split_dataset_by_node`` has split it over.
    """

    def __init__(self, files, shuffle=False, split=None):
        self.files, self.shuffle, self._epoch = files, shuffle, 0
        self._distributed = split and SimpleNamespace(rank=split[0], world_size=split[1])

    def __iter__(self):
        files = list(self.files)
        if self.shuffle:
            random.Random(self._epoch).shuffle(files)
        rows = [{"number": number, "text": f"row {number}"} for file in files for number in file]
        split = self._distributed
        yield from rows if split is None else rows[split.rank :: split.world_size]

    @property
    def epoch(self):
        return self._epoch

    @property
    def num_shards(self):
        return len(self.files)

    def set_epoch(self, epoch):
        self._epoch = epoch

    def shard(self, num_shards, index, contiguous=True):
        assert 0 <= index < num_shards <= len(self.files)
        assert not contiguous
        part = Stream(self.files[index::num_shards], self.shuffle)
        part._distributed = self._distributed
        return part


def make(lengths, shuffle=False, split=None):
    """A stream of the numbers from 0 on in files of these lengths."""
    ends = [sum(lengths[: place + 1]) for place in range(len(lengths))]
    files = [list(range(end - length, end)) for length, end in zip(lengths, ends, strict=True)]
    return Stream(files, shuffle, split)


def make_real(library, lengths, shuffle=False, split=None):
    """The same as a stream of the library itself."""
    stream = library.IterableDataset.from_generator(rows, gen_kwargs={"files": make(lengths).files})
    if shuffle:
        stream = stream.shuffle(seed=3, buffer_size=7)
    if split is None:
        return stream
    return importlib.import_module("datasets.distributed").split_dataset_by_node(stream, *split)


def rows(files):
    """Rows of a list of files."""
    for file in files:
        yield from ({"number": number, "text": f"row {number}"} for number in file)


def noisy(batch):
    """Rows as numbers, each with a random one: a ``collate_fn``."""
    return dg.asarray([[row["number"], random.random()] for row in batch], dtype=dg.float64)
