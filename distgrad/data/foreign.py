"""Streams of Hugging Face's ``datasets``, dealt out to ranks and workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from distgrad.comm.registry import init
from distgrad.data.place import Place
from distgrad.data.stream import Stream
from distgrad.errors import DataError

__all__ = ["ForeignStream", "is_foreign", "refuse_without_length"]


class _Stream(Protocol):
    """What is asked of a ``datasets.IterableDataset``."""

    num_shards: int
    epoch: int

    def __iter__(self) -> Iterator[Any]: ...
    def shard(self, num_shards: int, index: int, contiguous: bool = True) -> _Stream: ...
    def set_epoch(self, epoch: int) -> None: ...


def is_foreign(dataset: Any) -> bool:
    """Whether a dataset is such a stream: iterated, without a length, of files that can be dealt out."""
    asked = ("__iter__", "shard", "num_shards", "set_epoch", "epoch")
    return not hasattr(dataset, "__len__") and all(hasattr(dataset, name) for name in asked)


class ForeignStream(Stream):
    """A stream whose files are dealt to lanes, and whose samples in turn to ranks.

    Lane l has the same files on every rank, and of each ``batch_size × R`` samples in their order rank r
    takes those at r, r+R, …: so all ranks have the same number of batches, the last of which may be
    smaller, and a place in the epoch is the same for all of them and for any number R. A stream that
    ``split_dataset_by_node`` has split already is one rank's own.

    Args:
        stream: a ``datasets.IterableDataset``, or what has its methods.
        num_workers: processes that read it; 0 if none beside this one.
    """

    def __init__(self, stream: _Stream, num_workers: int) -> None:
        super().__init__(num_workers)
        self.stream = stream
        split = getattr(stream, "_distributed", None)
        if split is None:
            world = init()
            self.rank, self.ranks = world.rank, world.size
        else:
            self.dealt_to = int(getattr(split, "world_size", 1))

    @property
    def epoch(self) -> int:
        """The stream's own number of its epoch."""
        return int(self.stream.epoch)

    @property
    def advice(self) -> str:
        """What makes places fit any number of ranks."""
        return "go on with as many, or give the loader the stream that is not split by node"

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next epoch begin at a place, and send the stream to its epoch."""
        super().load_state_dict(state)
        self.stream.set_epoch(int(state["stream_epoch"]))

    def iterate(self, place: Place, lane: int) -> Iterator[Any]:
        """The samples of a lane's files, for all ranks."""
        self.stream.set_epoch(place.epoch)
        part, parts = self.stream, min(len(place.counts), int(self.stream.num_shards))
        if lane >= parts > 0:
            return iter(())
        if parts > 1:
            part = part.shard(num_shards=parts, index=lane, contiguous=False)
            part.set_epoch(place.epoch)
        return iter(part)


def refuse_without_length(dataset: Any) -> None:
    """Say what is wrong with a dataset that has neither indices nor is a stream.

    Raises:
        DataError: always, where it has no length.
    """
    if not hasattr(dataset, "__len__"):
        raise DataError(
            "DataLoader: expected a dataset with __getitem__ and __len__, a dg.data.IterableDataset or a "
            f"stream of Hugging Face's datasets, got {type(dataset).__name__}; derive a class from "
            "dg.data.IterableDataset whose __iter__ gives its samples"
        )
