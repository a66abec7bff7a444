"""In which order samples are drawn, how they are grouped into batches, and which rank takes which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any

from distgrad.backend.rng import Generator, default_generator
from distgrad.comm.registry import init

__all__ = ["BatchSampler", "DistributedSampler", "RandomSampler", "Sampler", "SequentialSampler"]


class Sampler(ABC):
    """The base of every sampler: an iterable of sample indices (or of lists of them) that has a length."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """Draw one epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """How many times one epoch draws."""


class SequentialSampler(Sampler):
    """Draw 0, 1, …, n−1.

    Args:
        data_source: the dataset, of which only the length n is asked.
    """

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """Draw the indices of a dataset in random order, another one each epoch.

    Args:
        data_source: the dataset, of which only the length n is asked.
        replacement: whether an index may come again before the others have come.
        num_samples: how many indices an epoch draws (default n); beyond n without replacement, whole
            permutations follow one another.
        generator: where the random numbers come from (default: the one that ``dg.manual_seed`` seeds).

    Raises:
        ValueError: ``num_samples`` is negative, or positive for an empty dataset.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        if num_samples is not None and (num_samples < 0 or (num_samples > 0 and len(data_source) == 0)):
            raise ValueError(
                f"RandomSampler: cannot draw num_samples={num_samples} from a dataset of {len(data_source)}; "
                "pass a number that is not negative, and a dataset that is not empty"
            )
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator

    @property
    def num_samples(self) -> int:
        """How many indices an epoch draws."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        generator = default_generator if self.generator is None else self.generator
        n, left = len(self.data_source), self.num_samples
        if self.replacement and left:
            yield from generator.integers(0, n, (left,)).tolist()
            return
        while left > 0:
            yield from generator.permutation(n)[:left].tolist()
            left -= n

    def __len__(self) -> int:
        return self.num_samples


class DistributedSampler(Sampler):
    """Deal one order of the dataset out to the ranks: every sample goes to exactly one of them.

    Rank r of R draws positions r, r+R, r+2R, … of an order that all ranks share. So batch k of ``batch_size``
    on every rank, put together, is batch k of ``batch_size × R`` in one process, cut to within one sample
    into equal parts. PyTorch's sampler repeats samples until every rank has the same count; this one does
    not, and :class:`BatchSampler` gives all ranks the same number of batches: the last may be smaller, and
    it is empty on ranks for which no sample is left.

    Args:
        dataset: the dataset, of which only the length n is asked.
        num_replicas: the number of ranks, R (default: the size of the world, ``dg.comm.init()``).
        rank: whose samples to draw, in 0..R−1 (default: this process's rank in the world).
        shuffle: whether the order is random, keyed by ``seed`` and the epoch, rather than 0..n−1.
        seed: the same number on every rank.
        drop_last: whether to leave out the last n mod R samples of the order, so that all ranks draw alike.

    Raises:
        ValueError: ``num_replicas`` is not positive or ``rank`` is outside 0..R−1.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if num_replicas is None:
            num_replicas = init().size
        if rank is None:
            rank = init().rank
        if not 0 <= rank < num_replicas:
            raise ValueError(
                f"DistributedSampler: expected 0 <= rank < num_replicas, got rank={rank} and "
                f"num_replicas={num_replicas}; leave both out to take the world's"
            )
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: call it on every rank before each epoch, or all epochs have the same order.

        Args:
            epoch: the same number on every rank.
        """
        self.epoch = epoch

    @property
    def total_size(self) -> int:
        """How many samples all ranks draw together."""
        n = len(self.dataset)
        return n - n % self.num_replicas if self.drop_last else n

    @property
    def num_samples(self) -> int:
        """How many samples this rank draws: ``total_size`` over the ranks, to within one sample."""
        return len(range(self.rank, self.total_size, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        n, mine = len(self.dataset), slice(self.rank, self.total_size, self.num_replicas)
        if not self.shuffle:
            return iter(range(n)[mine])
        order = Generator(self.seed, stream=self.epoch).permutation(n)
        return iter(order[mine].tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler):
    """Group a sampler's indices into batches, equally many on every rank.

    The number of batches is that of global batches: n over ``batch_size × R``, for the n samples that the R
    ranks of a :class:`DistributedSampler` draw together; any other sampler stands for one rank. A rank whose
    samples are used up before the last global batch gets an empty list for it, so that it takes part in the
    collectives of that step.

    Args:
        sampler: an iterable of indices with a length.
        batch_size: how many indices a batch holds on each rank.
        drop_last: whether to leave out the last global batch if it is not full.

    Raises:
        ValueError: ``batch_size`` is not positive.
    """

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"BatchSampler: batch_size must be a positive whole number, got {batch_size!r}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[Any]]:
        indices = iter(self.sampler)
        for _ in range(len(self)):
            yield list(islice(indices, self.batch_size))

    def __len__(self) -> int:
        distributed = isinstance(self.sampler, DistributedSampler)
        total = self.sampler.total_size if distributed else len(self.sampler)
        global_batch_size = self.batch_size * (self.sampler.num_replicas if distributed else 1)
        return total // global_batch_size if self.drop_last else -(-total // global_batch_size)
