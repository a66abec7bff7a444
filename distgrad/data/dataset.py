"""Datasets: what has a length and gives a sample for an index, and streams, which are only iterated."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.backend.rng import Generator, default_generator
from distgrad.errors import ShapeError

__all__ = [
    "ChainDataset",
    "ConcatDataset",
    "Dataset",
    "IterableDataset",
    "StackDataset",
    "Subset",
    "TensorDataset",
    "random_split",
]


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)  # a sample


class Indexed(Protocol[T_co]):
    """What serves as a dataset."""

    def __getitem__(self, index: Any, /) -> T_co:
        """Return one sample."""

    def __len__(self) -> int:
        """Return the number of samples."""


class Dataset(ABC, Generic[T_co]):
    """The base of datasets; whatever has ``__getitem__`` and ``__len__`` serves as well.

    ``Dataset[tuple[Tensor, int]]`` says what a sample is, to type checkers.
    """

    @abstractmethod
    def __getitem__(self, index: Any) -> T_co:
        """Return one sample."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    def __add__(self, other: Dataset[T]) -> ConcatDataset[T_co | T]:
        """This dataset, then ``other``."""
        return ConcatDataset([self, other])


class IterableDataset(ABC, Generic[T_co]):
    """The base of datasets that are iterated, not indexed.

    Every worker of a loader iterates a copy of its own: to give each sample once, leave out what is another
    worker's (``dg.data.get_worker_info()``) or another rank's; or give all of them, and the loader a
    :class:`~distgrad.data.stream.DistributedStream` of it, which deals them out.
    """

    @abstractmethod
    def __iter__(self) -> Iterator[T_co]:
        """Iterate over one epoch's samples."""

    def __add__(self, other: IterableDataset[T]) -> ChainDataset[T_co | T]:
        """This dataset, then ``other``."""
        return ChainDataset([self, other])


class ConcatDataset(Dataset[T_co]):
    """Datasets one after another.

    Args:
        datasets: one or more, with lengths.

    Attributes:
        cumulative_sizes: where each one ends.

    Raises:
        ValueError: there is none.
        TypeError: one is only iterable.
    """

    def __init__(self, datasets: Iterable[Indexed[T_co]]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: expected one or more datasets, got none")
        if any(isinstance(dataset, IterableDataset) for dataset in self.datasets):
            raise TypeError("ConcatDataset: expected datasets with indices; put streams into a ChainDataset")
        self.cumulative_sizes = list(accumulate(map(len, self.datasets)))

    def __getitem__(self, index: int) -> T_co:
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"ConcatDataset: index {index} is out of range for {len(self)} samples")
        part = bisect_right(self.cumulative_sizes, place)
        return self.datasets[part][place - (self.cumulative_sizes[part - 1] if part else 0)]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


class ChainDataset(IterableDataset[T_co]):
    """Streams one after another.

    Args:
        datasets: iterable datasets.

    Raises:
        TypeError: one is not an :class:`IterableDataset`.
    """

    def __init__(self, datasets: Iterable[IterableDataset[T_co]]) -> None:
        self.datasets = list(datasets)
        for dataset in self.datasets:
            if not isinstance(dataset, IterableDataset):
                raise TypeError(f"ChainDataset: expected IterableDatasets, got {type(dataset).__name__}")

    def __iter__(self) -> Iterator[T_co]:
        return chain.from_iterable(self.datasets)


class TensorDataset(Dataset[tuple[Any, ...]]):
    """Arrays of equal length; sample i is the tuple of their rows i.

    Args:
        tensors: tensors or arrays, ``[n, ...]`` each.

    Raises:
        ShapeError: none is given, one has no axis, or their lengths differ.
    """

    def __init__(self, *tensors: Tensor | np.ndarray) -> None:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if len({shape[:1] for shape in shapes}) != 1 or shapes[0] == ():
            raise ShapeError(
                f"TensorDataset: expected one or more tensors of equal length along axis 0, "
                f"got shapes {shapes}; pass tensors with one row a sample"
            )
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])


class StackDataset(Dataset[Any]):
    """Datasets of equal length side by side; sample i holds the samples i of all of them.

    Args:
        *args: datasets; a sample is a tuple.
        **kwargs: datasets by name, in their place; a sample is a dict.

    Raises:
        ValueError: none is given, both kinds are, or their lengths differ.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        lengths = [len(each) for each in (*args, *kwargs.values())]
        if bool(args) == bool(kwargs) or len(set(lengths)) > 1:
            raise ValueError(
                "StackDataset: expected datasets of equal length, all by position or all by name, got "
                f"{len(args)} and {len(kwargs)} of lengths {lengths}"
            )
        self.datasets: Any = kwargs or args

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, dict):
            return {name: dataset[index] for name, dataset in self.datasets.items()}
        return tuple(dataset[index] for dataset in self.datasets)

    def __len__(self) -> int:
        return len(
            next(iter(self.datasets.values())) if isinstance(self.datasets, dict) else self.datasets[0]
        )


class Subset(Dataset[T_co]):
    """Some samples of a dataset, in a given order.

    Args:
        dataset: where the samples come from.
        indices: which of them, int ``[m]``.
    """

    def __init__(self, dataset: Indexed[T_co], indices: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.intp)

    def __getitem__(self, index: int) -> T_co:
        return self.dataset[int(self.indices[index])]

    def __len__(self) -> int:
        return len(self.indices)


def random_split(
    dataset: Indexed[T], lengths: Sequence[int | float], generator: Generator | None = None
) -> list[Subset[T]]:
    """Cut a dataset at random into parts that do not overlap.

    Args:
        dataset: what to cut.
        lengths: numbers of samples that sum to the dataset's length, or fractions that sum to 1: each
            rounds down, and the samples left over go to the first parts, one each.
        generator: where the random numbers come from (default: the one that ``dg.manual_seed`` seeds).

    Returns:
        One subset a length.

    Raises:
        ValueError: the lengths do not sum to the dataset's length or to 1, or one is negative.
    """
    n = len(dataset)
    counts = [int(length) for length in lengths]
    if math.isclose(sum(lengths), 1.0):
        counts = [math.floor(n * fraction) for fraction in lengths]
        for part in range(n - sum(counts)):
            counts[part % len(counts)] += 1
    if sum(counts) != n or min(counts, default=0) < 0:
        raise ValueError(
            f"random_split: expected lengths that sum to {n}, the dataset's length, or to 1, "
            f"got {list(lengths)}; correct them"
        )
    order = (default_generator if generator is None else generator).permutation(n).tolist()
    ends = accumulate(counts)
    return [Subset(dataset, order[end - count : end]) for count, end in zip(counts, ends, strict=True)]
