"""Iterate over a dataset in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from distgrad.backend.rng import Generator
from distgrad.data.collate import default_collate, fetch
from distgrad.data.sampler import BatchSampler, RandomSampler, SequentialSampler

__all__ = ["DataLoader"]


class DataLoader:
    """An iterable of batches; every iteration over it is one epoch.

    With a :class:`~distgrad.data.sampler.DistributedSampler` every rank gets its own part of each global
    batch and the same number of batches; where samples run out the last batch is smaller, possibly of zero
    rows.

    Args:
        dataset: has ``__getitem__`` and ``__len__``.
        batch_size: samples a batch, on each rank.
        shuffle: whether to draw in random order, another one each epoch.
        sampler: draws the indices, in place of ``shuffle``.
        batch_sampler: draws lists of indices, in place of ``batch_size``, ``shuffle``, ``sampler`` and
            ``drop_last``.
        collate_fn: makes a batch of a list of samples.
        drop_last: whether to leave out the last batch if it is not full.
        generator: where ``shuffle`` takes its random numbers (default: what ``dg.manual_seed`` seeds).

    Raises:
        ValueError: arguments that exclude each other, or a ``batch_size`` that is not positive.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Any = None,
        batch_sampler: Any = None,
        *,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        drop_last: bool = False,
        generator: Generator | None = None,
    ) -> None:
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError(
                "DataLoader: batch_sampler decides on batch_size, shuffle, sampler and drop_last; "
                "pass it alone, or those without it"
            )
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: sampler decides on the order; pass it or shuffle=True, not both")
        if generator is not None and not shuffle:
            raise ValueError("DataLoader: generator serves shuffle=True; give it to your sampler instead")
        if batch_sampler is None:
            if sampler is None:
                shuffled = RandomSampler(dataset, generator=generator)
                sampler = shuffled if shuffle else SequentialSampler(dataset)
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset = dataset
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.collate_fn = collate_fn

    def __iter__(self) -> Iterator[Any]:
        for indices in self.batch_sampler:
            yield fetch(self.dataset, indices, self.collate_fn)

    def __len__(self) -> int:
        return len(self.batch_sampler)
