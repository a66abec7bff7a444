"""Datasets for tests of the loader's workers, which import them by name."""

import os
import random
import signal
import sys
import time
from collections import namedtuple

import numpy as np

import distgrad as dg
from distgrad.data import Dataset, IterableDataset, get_worker_info

Point = namedtuple("Point", "x y")


class Structures(Dataset):
    """Samples of every kind that collates, of a size that differs from batch to batch."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __getitem__(self, index):
        return {
            "rows": np.full((1 + index // 4 * 300, 3), index, np.float32),
            "point": Point(index, np.float64(index) / 3),
            "name": str(index),
            "none": np.zeros((0, 2), np.int8),
            "tensor": dg.asarray([index, -index]),
        }

    def __len__(self):
        return self.n


class Noise(Structures):
    """Random numbers of every kind."""

    def __getitem__(self, index):
        return dg.rand(2), np.random.rand(), random.random()  # noqa: NPY002 (what users write)


class Where(Structures):
    """Who makes a sample."""

    def __getitem__(self, index):
        info = get_worker_info()
        return os.getpid(), info.id, info.num_workers, info.seed, len(info.dataset)


class Own(Exception):
    """Cannot be made again from what pickle keeps."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class Trouble(Structures):
    """Something happens at index 5."""

    def __init__(self, n, kind):
        super().__init__(n)
        self.kind = kind

    def __getitem__(self, index):
        if index == 5:
            getattr(self, self.kind)()
        return index

    def key(self):
        raise KeyError("no such sample")

    def own(self):
        raise Own(1, 2)

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def exit(self):
        sys.exit(3)

    def sleep(self):
        time.sleep(100)

    def lambdas(self):
        raise ValueError(lambda: 0)


class Broken(Structures):
    """Cannot be unpickled."""

    def __setstate__(self, state):
        raise OSError("the file is gone")


class Written(Structures):
    """Writes into its own array, which its fellows must not see."""

    def __init__(self, n):
        super().__init__(n)
        self.count = np.zeros(1000, np.int64)

    def __getitem__(self, index):
        self.count += 1
        return self.count[0]


class Counting(IterableDataset):
    """0 … n−1, each from one worker alone."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(range(first, self.n, step))


class Everything(IterableDataset):
    """0 … n−1 on every rank and in every worker."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))

    def __len__(self):
        return self.n


class Shuffled(Counting):
    """0 … n−1, dealt to workers, in an order drawn while it is iterated, each with a random number."""

    def __iter__(self):
        numbers = list(super().__iter__())
        while numbers:
            yield numbers.pop(random.randrange(len(numbers))), random.random()


def configure(worker):
    """Set a worker's copy of a stream up by its number."""
    info = get_worker_info()
    info.dataset.n += worker


def first_of(samples):
    """Collate with a function of one's own."""
    return samples[0]


def write_number(worker):
    """Set up a worker so that the test sees it."""
    with open(os.environ["DISTGRAD_TEST_FILE"], "a") as file:
        file.write(f"{worker}\n")


def number_of(sample):
    """The number that a sample of a tar file has as its text."""
    return int(sample["txt"])
