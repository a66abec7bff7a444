"""Streams of Hugging Face's ``datasets``, dealt out to ranks and workers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

from distgrad.comm.registry import init
from distgrad.data.dataset import IterableDataset
from distgrad.data.worker import get_worker_info
from distgrad.errors import DataError, StateDictError

__all__ = ["ForeignStream", "Place", "is_foreign", "refuse_without_length"]


class _Stream(Protocol):
    """What is asked of a ``datasets.IterableDataset``."""

    num_shards: int
    epoch: int

    def __iter__(self) -> Iterator[Any]: ...
    def shard(self, num_shards: int, index: int, contiguous: bool = True) -> _Stream: ...
    def set_epoch(self, epoch: int) -> None: ...


class Place(NamedTuple):
    """Where an epoch of a stream stands: the same on every rank.

    Attributes:
        epoch: the stream's own.
        counts: samples that all ranks together were given by each worker, ``[num_workers]``.
        next: the worker that gives the next batch.
    """

    epoch: int
    counts: tuple[int, ...]
    next: int = 0

    def after(self, worker: int, samples: int) -> Place:
        """The place behind one more batch, of as many samples for all ranks."""
        counts = tuple(count + samples * (each == worker) for each, count in enumerate(self.counts))
        return Place(self.epoch, counts, (worker + 1) % len(counts))

    def numbers(self, samples: int) -> list[int]:
        """Of each worker's next batch of as many samples: it keys the random numbers of a batch."""
        workers = len(self.counts)
        return [count // samples * workers + worker for worker, count in enumerate(self.counts)]


def is_foreign(dataset: Any) -> bool:
    """Whether a dataset is such a stream: iterated, without a length, of files that can be dealt out."""
    asked = ("__iter__", "shard", "num_shards", "set_epoch", "epoch")
    return not hasattr(dataset, "__len__") and all(hasattr(dataset, name) for name in asked)


class ForeignStream(IterableDataset[Any]):
    """A stream whose files are dealt to workers, and whose samples in turn to ranks.

    Worker w reads the same files on every rank, and of each ``batch_size × R`` samples in their order rank r
    takes those at r, r+R, …: so all ranks have the same number of batches, the last of which may be
    smaller, and a place in the epoch is the same for all of them and for any number R. A stream that
    ``split_dataset_by_node`` has split already is one rank's own.

    Args:
        stream: a ``datasets.IterableDataset``, or what has its methods.
        num_workers: processes that read it; 0 if none beside this one.

    Attributes:
        rank, ranks: whose samples are taken: this rank's of as many.
    """

    def __init__(self, stream: _Stream, num_workers: int) -> None:
        self.stream = stream
        self.num_readers = max(1, num_workers)
        self._split = getattr(stream, "_distributed", None)
        self.is_split = self._split is not None
        self.rank, self.ranks = 0, 1
        if not self.is_split:
            world = init()
            self.rank, self.ranks = world.rank, world.size
        self._place: Place | None = None

    def begin(self) -> Place:
        """Where the next epoch begins; the one behind it begins at its start.

        A place in an epoch is left for the start of another once ``stream.set_epoch`` has chosen that.
        """
        place, self._place = self._place, None
        epoch = int(self.stream.epoch)
        return place if place is not None and place.epoch == epoch else self.start()

    def start(self) -> Place:
        """The start of the stream's epoch."""
        return Place(int(self.stream.epoch), (0,) * self.num_readers)

    def state_dict(self, place: Place | None = None) -> dict[str, Any]:
        """A place (default: where the next epoch begins) as plain values."""
        place = place or self._place or self.start()
        dealt = self._dealt_to()
        return {"stream_epoch": place.epoch, "index": list(place.counts), "next": place.next, "split": dealt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next epoch begin at a place.

        Raises:
            StateDictError: it is of another number of workers; or of ranks, where the stream is split.
        """
        if "stream_epoch" not in state or len(state["index"]) != self.num_readers:
            had = len(state["index"]) if "stream_epoch" in state else None
            raise StateDictError(
                f"DataLoader: expected a place in a stream read by {self.num_readers} workers, got one "
                + ("in another kind of dataset" if had is None else f"of {had}; pass num_workers={had}")
                + ", as each reads files of its own"
            )
        if state["split"] != self._dealt_to():
            raise StateDictError(
                f"DataLoader: the stream was split by node over {state['split']} ranks, now over "
                f"{self._dealt_to()} (0: not split); go on with as many, or give the loader the stream "
                "itself, whose places fit any number of ranks"
            )
        self._place = Place(int(state["stream_epoch"]), tuple(map(int, state["index"])), int(state["next"]))
        self.stream.set_epoch(self._place.epoch)

    def _dealt_to(self) -> int:
        """Ranks that the stream was split over before it came here; 0 if it was not."""
        return int(getattr(self._split, "world_size", 1)) if self.is_split else 0

    def iterate(self, place: Place | None = None) -> Iterator[Any]:
        """The samples that this worker reads, for all ranks, from a place (default: the start) on."""
        info, place = get_worker_info(), place or self.start()
        worker = 0 if info is None else info.id
        self.stream.set_epoch(place.epoch)
        part, parts = self.stream, min(self.num_readers, int(self.stream.num_shards))
        if worker >= parts > 0:
            return iter(())
        if parts > 1:
            part = part.shard(num_shards=parts, index=worker, contiguous=False)
            part.set_epoch(place.epoch)
        return islice(iter(part), place.counts[worker], None)

    def __iter__(self) -> Iterator[Any]:
        return self.iterate()


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
