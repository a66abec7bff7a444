"""Samples become batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import native
from distgrad.data.dataset import Subset, TensorDataset
from distgrad.errors import DataError

__all__ = ["AsOne", "Share", "default_collate", "default_convert", "fetch", "fetch_next", "pin"]

_DTYPES = {bool: np.bool_, int: np.int64, float: np.float32}


def default_collate(batch: Sequence[Any]) -> Any:
    """Put samples of one structure together, arrays along a new axis 0.

    Tensors, arrays and numbers become a Tensor ``[len(batch), ...]`` (Python floats float32, ints int64);
    tuples and lists become a list of collated columns, a named tuple or dict keeps its kind, and strings stay
    a list.

    Args:
        batch: the samples, at least one.

    Returns:
        The structure of a sample with batches at its leaves.

    Raises:
        DataError: the samples differ in structure or shape, or hold something that has no batch.
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return _stack([sample._data for sample in batch])
    if isinstance(first, (np.ndarray, np.generic)):
        return _stack(batch)
    if type(first) in _DTYPES:
        return Tensor(np.asarray(batch, dtype=_DTYPES[type(first)]))
    if isinstance(first, (str, bytes)):
        return list(batch)
    if isinstance(first, Mapping):
        _check_alike("keys", [sorted(map(str, sample)) for sample in batch])
        return {key: default_collate([sample[key] for sample in batch]) for key in first}
    if isinstance(first, Sequence):
        _check_alike("length", [len(sample) for sample in batch])
        columns = [default_collate(column) for column in zip(*batch, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else columns
    raise DataError(
        f"default_collate: expected tensors, arrays, numbers, strings, or tuples, lists and dicts of them, "
        f"got {type(first).__name__}; pass a collate_fn that puts such samples together"
    )


def default_convert(data: Any) -> Any:
    """NumPy arrays inside a sample as tensors in the same memory; all else as it is.

    Args:
        data: a sample: a tensor, an array, or tuples, lists and dicts of them.
    """
    if isinstance(data, (np.ndarray, np.generic)) and data.dtype.kind in "biufc":
        return Tensor(data if isinstance(data, np.ndarray) else np.asarray(data))
    if isinstance(data, Mapping):
        return {key: default_convert(value) for key, value in data.items()}
    if isinstance(data, (tuple, list)):
        parts = [default_convert(value) for value in data]
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    return data


class AsOne:
    """Makes of a list of one sample what ``convert`` makes of the sample.

    Args:
        convert: takes a sample.
    """

    def __init__(self, convert: Callable[[Any], Any]) -> None:
        self.convert = convert

    def __call__(self, samples: list[Any]) -> Any:
        (sample,) = samples
        return self.convert(sample)


def fetch(dataset: Any, indices: Sequence[Any], collate_fn: Callable[[list[Any]], Any]) -> Any:
    """Read the samples at ``indices`` as one batch.

    A :class:`TensorDataset`, also under a :class:`Subset`, is indexed once for the whole batch. An empty
    batch has the structure and dtypes of any other, with zero rows.

    Args:
        dataset: what to read, with at least one sample.
        indices: which samples; may be empty.
        collate_fn: puts samples together.
    """
    while type(dataset) is Subset:  # exactly: a subclass may give other samples
        indices = dataset.indices[np.asarray(indices, dtype=np.intp)].tolist()
        dataset = dataset.dataset
    if type(dataset) is TensorDataset and collate_fn is default_collate:
        rows = np.asarray(indices, dtype=np.intp)
        arrays = (t._data if isinstance(t, Tensor) else t for t in dataset.tensors)
        return [Tensor(array[rows]) for array in arrays]
    if len(indices) == 0:
        return _without_rows(collate_fn([dataset[0]]))
    return collate_fn([dataset[index] for index in indices])


class Share(NamedTuple):
    """Which of a stream's next samples make a batch.

    Attributes:
        batch_size: samples for each rank, if there are as many.
        rank: whose batch it is.
        ranks: how many take turns; 1 where the stream is one rank's own.
    """

    batch_size: int
    rank: int = 0
    ranks: int = 1

    @property
    def total(self) -> int:
        """Samples of all ranks' batches together."""
        return self.batch_size * self.ranks


def fetch_next(
    samples: Iterator[Any], share: Share, drop_last: bool, collate_fn: Callable[[list[Any]], Any]
) -> Any:
    """Read the next samples of a stream as one batch; None at its end.

    Where only other ranks get samples, the batch has the structure of any other, with zero rows.

    Args:
        samples: the stream.
        share: which of them to take.
        drop_last: whether fewer than all ranks' count as the end.
        collate_fn: puts samples together.
    """
    batch = list(islice(samples, share.total))
    if not batch or (drop_last and len(batch) < share.total):
        return None
    own = batch[share.rank :: share.ranks]
    return collate_fn(own) if own else _without_rows(collate_fn(batch[:1]))


def pin(batch: Any) -> Any:
    """A batch with its tensors in pinned memory; what is no tensor and holds none stays as it is.

    Args:
        batch: tensors in lists, tuples and dicts, and objects with a ``pin_memory`` method.
    """
    if hasattr(batch, "pin_memory"):
        return batch.pin_memory()
    if isinstance(batch, Mapping):
        return {key: pin(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [pin(value) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _stack(arrays: Sequence[Any]) -> Tensor:
    _check_alike("shape", [array.shape for array in arrays])
    return Tensor(np.stack([native(array) for array in arrays]))


def _check_alike(what: str, values: list[Any]) -> None:
    for place, value in enumerate(values):
        if value != values[0]:
            raise DataError(
                f"default_collate: expected samples of one {what}, got {values[0]} at place 0 of the "
                f"batch and {value} at place {place}; pad or cut them in the dataset, or pass a collate_fn"
            )


def _without_rows(batch: Any) -> Any:
    """The batch with its leaves cut to zero rows."""
    if isinstance(batch, Mapping):
        return {key: _without_rows(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)) and not any(isinstance(leaf, (str, bytes)) for leaf in batch):
        columns = [_without_rows(value) for value in batch]
        return type(batch)(*columns) if hasattr(batch, "_fields") else type(batch)(columns)
    if isinstance(batch, Tensor):
        return Tensor(batch._data[:0])
    if isinstance(batch, list) or getattr(batch, "ndim", 0) > 0:
        return batch[:0]
    return batch
