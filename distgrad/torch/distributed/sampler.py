"""``torch.utils.data.distributed.DistributedSampler``: every rank draws as many samples as the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized

import numpy as np

from distgrad.backend.rng import Generator
from distgrad.data.sampler import DistributedSampler as _Dealing
from distgrad.torch.distributed.groups import get_rank, get_world_size

__all__ = ["DistributedSampler"]


class DistributedSampler(_Dealing):
    """Deal one order of the dataset out to the ranks, and repeat samples so that all draw as many.

    ``dg.data.DistributedSampler`` repeats none: there the last batch may be smaller on some ranks.

    Args:
        dataset: the dataset, of which only the length n is asked.
        num_replicas, rank: None takes those of ``init_process_group``.
        shuffle: whether the order is random, keyed by ``seed`` and the epoch.
        seed: the same number on every rank.
        drop_last: leave out the last n mod R samples instead.

    Raises:
        ValueError: ``rank`` is outside 0..num_replicas−1.
    """

    def __init__(
        self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None, shuffle: bool = True,
        seed: int = 0, drop_last: bool = False,
    ) -> None:  # fmt: skip
        num_replicas = get_world_size() if num_replicas is None else num_replicas
        super().__init__(
            dataset, num_replicas, get_rank() if rank is None else rank, shuffle, seed, drop_last
        )

    @property
    def total_size(self) -> int:
        """How many samples all ranks draw together."""
        n, ranks = len(self.dataset), self.num_replicas
        rounds = n // ranks if self.drop_last and n % ranks else math.ceil(n / ranks)
        return rounds * ranks

    def __iter__(self) -> Iterator[int]:
        n, mine = len(self.dataset), slice(self._begin() + self.rank, self.total_size, self.num_replicas)
        order = Generator(self.seed, stream=self.epoch).permutation(n) if self.shuffle else np.arange(n)
        return iter(np.resize(order, self.total_size)[mine].tolist())
