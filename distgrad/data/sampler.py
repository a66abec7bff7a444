"""In which order samples are drawn, how they are grouped into batches, and which rank takes which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Sized
from itertools import chain, islice
from typing import Any, Generic, TypeVar

import numpy as np

from distgrad.autograd.random import multinomial
from distgrad.backend.rng import Generator, default_generator
from distgrad.comm.registry import init

__all__ = [
    "BatchSampler",
    "DistributedSampler",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
    "check_batch_size",
]

T_co = TypeVar("T_co", covariant=True)

_ROUND = 1 << 16  # indices that are drawn at once with replacement: whole blocks of random words


class Sampler(ABC, Generic[T_co]):
    """The base of every sampler: an iterable of sample indices, or of lists of them.

    Args:
        data_source: taken for the sake of subclasses that pass it on; not used.
    """

    def __init__(self, data_source: Any = None) -> None:
        pass

    @abstractmethod
    def __iter__(self) -> Iterator[T_co]:
        """Draw one epoch."""

    def __len__(self) -> int:
        """How many times the next epoch draws.

        Raises:
            TypeError: the sampler does not say.
        """
        raise TypeError(f"{type(self).__name__} has no length; define __len__ where len(loader) is needed")


class _Resumable(Sampler[Any]):
    """A sampler whose next epoch may begin at a later place of its order."""

    _index = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the next epoch begins: ``index`` counts samples of the order that all ranks share."""
        return {"index": self._index}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next epoch, and it alone, begin where the state says."""
        self._index = int(state_dict["index"])

    def _begin(self) -> int:
        start, self._index = self._index, 0
        return start


class SequentialSampler(_Resumable):
    """Draw 0, 1, …, n−1.

    Args:
        data_source: the dataset, of which only the length n is asked.
    """

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._begin(), len(self.data_source)))

    def __len__(self) -> int:
        return max(0, len(self.data_source) - self._index)


class RandomSampler(_Resumable):
    """Draw the indices of a dataset in random order, another one each epoch.

    Args:
        data_source: the dataset, of which only the length n is asked.
        replacement: whether an index may come again before the others have come.
        num_samples: how many indices an epoch draws (default n); beyond n without replacement, whole
            permutations follow one another. They are drawn as they are asked for: memory does not grow with
            ``num_samples``.
        generator: where the random numbers come from (default: the one that ``dg.manual_seed`` seeds).

    Raises:
        ValueError: ``num_samples`` is negative or no whole number, or positive for an empty dataset.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        if num_samples is not None and (
            not isinstance(num_samples, int | np.integer)
            or num_samples < 0
            or (num_samples > 0 and len(data_source) == 0)
        ):
            raise ValueError(
                f"RandomSampler: cannot draw num_samples={num_samples} from a dataset of {len(data_source)}; "
                "pass a whole number from 0 on, and a dataset that is not empty"
            )
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        self._order_state: dict[str, int] | None = None

    @property
    def num_samples(self) -> int:
        """How many indices an epoch draws."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def state_dict(self) -> dict[str, Any]:
        """Where the next epoch begins: ``index``, and the generator from which its order is drawn."""
        state = self._order_state
        return {
            "index": self._index,
            "generator": self._source.get_state() if state is None else state,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next epoch, and it alone, have the order and begin at the place that the state says.

        A generator of the sampler's own goes on from there; the one that ``dg.manual_seed`` seeds belongs to
        others too and stays where it is.
        """
        super().load_state_dict(state_dict)
        self._order_state = dict(state_dict["generator"])

    @property
    def _source(self) -> Generator:
        return default_generator if self.generator is None else self.generator

    def __iter__(self) -> Iterator[int]:
        state, self._order_state = self._order_state, None
        source = self._source
        if state is not None:
            if self.generator is None:
                source = Generator()
            source.set_state(state)
        return self._order(source, self._begin())

    def _order(self, source: Generator, start: int) -> Iterator[int]:
        """The epoch from ``start`` on, drawn in rounds.

        The source passes over the whole epoch at once, so that later draws of others do not mix in.
        """
        n, total = len(self.data_source), self.num_samples
        if not total:
            return iter(())
        size = _ROUND if self.replacement else n
        rounds, rest = divmod(total, size)
        own = Generator.at(source.reserve(size, rounds))  # an index takes a random word
        if rest:
            source.reserve(rest if self.replacement else n)  # a permutation is drawn whole
        own.reserve(size, start // size)
        bounds = range(start - start % size, total, size)
        drawn = ((first, self._draw(own, n, min(size, total - first))) for first in bounds)
        return chain.from_iterable(order[max(0, start - first) :].tolist() for first, order in drawn)

    def _draw(self, source: Generator, n: int, count: int) -> np.ndarray:
        """One round: ``count`` of the numbers 0 … n−1."""
        return source.integers(0, n, (count,)) if self.replacement else source.permutation(n)[:count]

    def __len__(self) -> int:
        return max(0, self.num_samples - self._index)


class SubsetRandomSampler(RandomSampler):
    """Draw some of a dataset's indices in random order, another one each epoch.

    Args:
        indices: which of them, int ``[n]``.
        generator: where the random numbers come from (default: the one that ``dg.manual_seed`` seeds).
    """

    def __init__(self, indices: Sequence[int] | np.ndarray, generator: Generator | None = None) -> None:
        super().__init__(indices, generator=generator)
        self.indices = indices

    def _order(self, source: Generator, start: int) -> Iterator[int]:
        return (int(self.indices[place]) for place in super()._order(source, start))


class WeightedRandomSampler(RandomSampler):
    """Draw indices 0, 1, …, n−1 with given weights.

    Args:
        weights: float ``[n]`` from 0 on, not all 0; they need not sum to 1.
        num_samples: how many indices an epoch draws.
        replacement: whether an index may come again in an epoch.
        generator: where the random numbers come from (default: the one that ``dg.manual_seed`` seeds).

    Raises:
        ValueError: weights below 0, or all of them 0.
        ShapeError: more draws than weights above 0, without replacement.
    """

    def __init__(
        self,
        weights: Sequence[float] | np.ndarray,
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(weights, replacement, num_samples, generator)
        self.weights = np.asarray(weights, dtype=np.float64)
        checked = min(num_samples, 1) if replacement else num_samples
        multinomial(self.weights, checked, replacement=replacement, generator=Generator())

    def _draw(self, source: Generator, n: int, count: int) -> np.ndarray:
        return multinomial(self.weights, count, replacement=self.replacement, generator=source).numpy()


class DistributedSampler(_Resumable):
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
        if epoch != self.epoch:
            self._index = 0
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the next epoch begins: its number, and ``index`` in the order that all ranks share.

        The state is the same on every rank, and fits any number of them.
        """
        return {"epoch": self.epoch, "index": self._index}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the epoch, and let its order begin at the index; :meth:`set_epoch` with another ends that."""
        self.epoch = int(state_dict["epoch"])
        super().load_state_dict(state_dict)

    @property
    def total_size(self) -> int:
        """How many samples all ranks draw together."""
        n = len(self.dataset)
        return n - n % self.num_replicas if self.drop_last else n

    @property
    def num_samples(self) -> int:
        """How many samples this rank draws next: what is left over the ranks, to within one sample."""
        return len(range(self._index + self.rank, self.total_size, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        n, mine = len(self.dataset), slice(self._begin() + self.rank, self.total_size, self.num_replicas)
        if not self.shuffle:
            return iter(range(n)[mine])
        order = Generator(self.seed, stream=self.epoch).permutation(n)
        return iter(order[mine].tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[Any]):
    """Group a sampler's indices into batches, equally many on every rank.

    The number of batches is that of global batches: n over ``batch_size × R``, for the n samples that the R
    ranks of a :class:`DistributedSampler` draw together; any other sampler stands for one rank. A rank whose
    samples are used up before the last global batch gets an empty list for it, so that it takes part in the
    collectives of that step.

    Args:
        sampler: an iterable of indices; without a length the batch sampler has none either.
        batch_size: how many indices a batch holds on each rank.
        drop_last: whether to leave out the last global batch if it is not full.

    Raises:
        ValueError: ``batch_size`` is not positive.
    """

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool) -> None:
        check_batch_size(batch_size, "BatchSampler")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    @property
    def global_batch_size(self) -> int:
        """How many samples all ranks' batches of one step hold together, where none is cut short."""
        distributed = isinstance(self.sampler, DistributedSampler)
        return self.batch_size * (self.sampler.num_replicas if distributed else 1)

    def __iter__(self) -> Iterator[list[Any]]:
        if not isinstance(self.sampler, DistributedSampler):
            return self._until_used_up(iter(self.sampler))
        num_batches, indices = len(self), iter(self.sampler)
        return (list(islice(indices, self.batch_size)) for _ in range(num_batches))

    def _until_used_up(self, indices: Iterator[Any]) -> Iterator[list[Any]]:
        while batch := list(islice(indices, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        if isinstance(self.sampler, DistributedSampler):
            left = max(0, self.sampler.total_size - self.sampler.state_dict()["index"])
        else:
            left = len(self.sampler)
        step = self.global_batch_size
        return left // step if self.drop_last else -(-left // step)


def check_batch_size(batch_size: Any, where: str) -> None:
    """Refuse what is no number of samples.

    Raises:
        ValueError: it is not a positive whole number.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"{where}: batch_size must be a positive whole number, got {batch_size!r}")
