"""Samples become batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.casting import WEAK
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import native
from distgrad.data.dataset import Subset, TensorDataset
from distgrad.errors import DataError

__all__ = [
    "AsOne",
    "Share",
    "collate",
    "default_collate",
    "default_collate_fn_map",
    "default_convert",
    "fetch",
    "fetch_next",
    "pin",
]


def collate(batch: Sequence[Any], *, collate_fn_map: Mapping[Any, Callable[..., Any]] | None = None) -> Any:
    """Put samples of one structure together, their leaves by functions that are found by kind.

    Args:
        batch: the samples, at least one.
        collate_fn_map: for a class, or a tuple of some, a function ``f(batch, collate_fn_map=...)`` that puts
            its samples together; one of the very class comes before one of a base, and among these the first.

    Returns:
        The structure of a sample, its containers of their kinds (tuples become lists), with what the
        functions gave at its leaves.

    Raises:
        DataError: the samples differ in structure, or hold something that no function takes.
    """
    first, known = batch[0], collate_fn_map or {}
    function = known.get(type(first)) or next((f for k, f in known.items() if isinstance(first, k)), None)
    if function is not None:
        return function(batch, collate_fn_map=collate_fn_map)
    if isinstance(first, Mapping):
        _check_alike("keys", [sorted(map(str, sample)) for sample in batch])
        parts = {key: collate([each[key] for each in batch], collate_fn_map=collate_fn_map) for key in first}
        return like(first, parts)
    if isinstance(first, Sequence):
        _check_alike("length", [len(sample) for sample in batch])
        columns = [collate(column, collate_fn_map=collate_fn_map) for column in zip(*batch, strict=True)]
        return columns if type(first) is tuple else like(first, columns)
    raise DataError(
        f"default_collate: expected tensors, arrays, numbers, strings, or tuples, lists and dicts of them, "
        f"got {type(first).__name__}; pass a collate_fn that puts such samples together"
    )


def default_collate(batch: Sequence[Any]) -> Any:
    """Put samples of one structure together, arrays along a new axis 0.

    Tensors, arrays and numbers become a Tensor ``[len(batch), ...]`` (ints int64, Python floats float32, or
    float64 where tensors without axes are weak, as PyTorch has both); tuples become a list of collated
    columns, other containers keep their kind, and strings stay as they are. What else is in
    ``default_collate_fn_map`` is put together by the function there.

    Args:
        batch: the samples, at least one.

    Returns:
        The structure of a sample with batches at its leaves.

    Raises:
        DataError: the samples differ in structure or shape, or hold something that has no batch.
    """
    return collate(batch, collate_fn_map=default_collate_fn_map)


def _tensors(batch: Sequence[Any], *, collate_fn_map: Any = None) -> Tensor:
    return _stack([each._data for each in batch])


def _arrays(batch: Sequence[Any], *, collate_fn_map: Any = None) -> Tensor:
    kinds = {each.dtype for each in batch if each.dtype.kind in "OSUV"}
    if kinds:
        raise DataError(f"default_collate: expected arrays of numbers, got {kinds.pop()}; pass a collate_fn")
    return _stack(batch)


def _numbers(batch: Sequence[Any], *, collate_fn_map: Any = None) -> Tensor:
    is_float = any(isinstance(each, float) for each in batch)
    floats = np.float64 if WEAK and isinstance(batch[0], float) else np.float32
    return Tensor(np.asarray(batch, dtype=floats if is_float else None))


def _as_given(batch: Sequence[Any], *, collate_fn_map: Any = None) -> Any:
    return batch


#: The functions that put leaves together, by their kinds; more may be added.
default_collate_fn_map: dict[Any, Callable[..., Any]] = {
    Tensor: _tensors,
    (str, bytes): _as_given,
    (np.ndarray, np.generic): _arrays,
    (bool, int, float): _numbers,
}


def like(container: Any, parts: Any) -> Any:
    """A container of the same kind with other entries; a dict or list where its kind takes none.

    Args:
        container: what is copied.
        parts: a dict of the entries, or a list.
    """
    kind = type(container)
    if hasattr(container, "_fields"):
        return kind(*parts)
    try:
        if isinstance(container, MutableMapping):
            clone: Any = copy.copy(container)  # a defaultdict keeps what it makes
            clone.update(parts)
        elif kind is not list and isinstance(container, MutableSequence):
            clone = copy.copy(container)
            clone[:] = parts
        else:
            clone = parts if kind in (list, range) else kind(parts)
    except TypeError:
        return parts
    return clone


def default_convert(data: Any) -> Any:
    """NumPy arrays inside a sample as tensors in the same memory; all else as it is.

    Args:
        data: a sample: a tensor, an array, or containers of them, which keep their kinds.
    """
    if isinstance(data, (np.ndarray, np.generic)) and data.dtype.kind in "biufc":
        return Tensor(data if isinstance(data, np.ndarray) else np.asarray(data))
    return each_part(default_convert, data)


def each_part(function: Callable[[Any], Any], data: Any) -> Any:
    """A container with a function applied to its entries; what is none stays as it is."""
    if isinstance(data, Mapping):
        return like(data, {key: function(value) for key, value in data.items()})
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes, range)):
        return like(data, [function(value) for value in data])
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
    return each_part(pin, batch)


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
        return like(batch, {key: _without_rows(value) for key, value in batch.items()})
    if isinstance(batch, (tuple, list)) and not any(isinstance(leaf, (str, bytes)) for leaf in batch):
        columns = [_without_rows(value) for value in batch]
        return type(batch)(*columns) if hasattr(batch, "_fields") else type(batch)(columns)
    if isinstance(batch, Tensor):
        return Tensor(batch._data[:0])
    if isinstance(batch, (tuple, list)) or getattr(batch, "ndim", 0) > 0:
        return batch[:0]
    return batch
