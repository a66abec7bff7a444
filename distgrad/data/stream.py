"""Streams as a loader sees them, and streams that it deals out to ranks and workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from distgrad import env
from distgrad.comm.registry import get_world, init, is_initialized
from distgrad.data.dataset import IterableDataset
from distgrad.data.place import Place
from distgrad.data.worker import get_worker_info, iterate_as
from distgrad.errors import StateDictError

__all__ = ["DistributedStream", "OwnStream", "SharedDataset", "SharedStream", "Stream"]

T_co = TypeVar("T_co", covariant=True)


class Stream(ABC):
    """A stream in lanes, each read by one worker or by several in turn, and the place where its epoch stands.

    Args:
        num_lanes: in a new epoch; one that is gone on with keeps its own.

    Attributes:
        rank, ranks: which samples of a lane are this rank's: in turn those of as many; 0 of 1 for all.
        dealt_to: ranks among which the stream itself chooses its samples; 0 if the loader deals them out.
    """

    rank, ranks = 0, 1
    dealt_to = 0

    def __init__(self, num_lanes: int) -> None:
        self.num_lanes = max(1, num_lanes)
        self._place: Place | None = None

    @property
    def epoch(self) -> int:
        """The stream's own number of its epoch, for one that has such."""
        return 0

    @property
    def given(self) -> int:
        """How many samples the next epoch leaves out."""
        return 0 if self._place is None else sum(self._place.counts)

    @abstractmethod
    def iterate(self, place: Place, lane: int) -> Iterator[Any]:
        """The samples of a lane for all ranks, from the start of a place's epoch."""

    def begin(self) -> Place:
        """Where the next epoch begins; the one behind it begins at its start.

        A place in an epoch is left for the start of another once the stream was sent to that.
        """
        place, self._place = self._place, None
        return place if place is not None and place.epoch == self.epoch else self.start()

    def start(self) -> Place:
        """The start of the stream's epoch."""
        return Place(self.epoch, (0,) * self.num_lanes)

    def state_dict(self, place: Place | None = None) -> dict[str, Any]:
        """A place (default: where the next epoch begins) as plain values."""
        place = place or self._place or self.start()
        state = {"stream_epoch": place.epoch, "index": list(place.counts), "next": place.next}
        return {**state, "split": self.dealt_to}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next epoch begin at a place.

        Raises:
            StateDictError: it is one in no stream, or within an epoch whose samples the stream itself has
                dealt out to another number of ranks.
        """
        if "stream_epoch" not in state:
            raise StateDictError(
                "DataLoader: expected a place in a stream, got one in another kind of dataset"
            )
        place = Place(int(state["stream_epoch"]), tuple(map(int, state["index"])), int(state["next"]))
        self.check(place, int(state["split"]))
        self._place = place

    def check(self, place: Place, dealt_to: int) -> None:
        """Refuse a place at which only the stream knows what was had.

        Raises:
            StateDictError: it is within an epoch that was dealt out to another number of ranks.
        """
        if any(place.counts) and dealt_to != self.dealt_to:
            raise StateDictError(
                f"DataLoader: the stream itself dealt its samples out to {dealt_to} ranks, now to "
                f"{self.dealt_to} (0: the loader does), and only it knows which were had; "
                f"{self.advice}, or save at the start of an epoch, or leave the loader out of what is "
                "restored, which begins its epoch anew"
            )

    @property
    def advice(self) -> str:
        """What makes places fit any number of ranks."""
        return "go on with as many"


class OwnStream(Stream):
    """A dataset that is iterated, and deals its samples out itself, to workers by ``get_worker_info``.

    Its lanes are the workers that an epoch began with: worker w is asked for lane l as worker l of as many.

    Args:
        dataset: the dataset.
        num_workers: 0 if none beside this process.
        set_up: whether a function of the user's sets the copy of each worker up.
    """

    def __init__(self, dataset: IterableDataset[Any], num_workers: int, set_up: bool) -> None:
        super().__init__(num_workers)
        self.dataset, self.set_up = dataset, set_up
        self.dealt_to = get_world().size if is_initialized() else env.read().world_size or 1

    def iterate(self, place: Place, lane: int) -> Iterator[Any]:
        """The samples of a lane for this rank."""
        return iterate_as(lane, len(place.counts), self.dataset)

    def check(self, place: Place, dealt_to: int) -> None:
        """Refuse a place of other ranks, or of other workers where the user sets each up."""
        super().check(place, dealt_to)
        if self.set_up and any(place.counts) and len(place.counts) != self.num_lanes:
            raise StateDictError(
                f"DataLoader: expected a place in a stream of {self.num_lanes} workers that worker_init_fn "
                f"sets up, got one of {len(place.counts)}; pass num_workers={len(place.counts)}, or let the "
                "dataset ask dg.data.get_worker_info() in its __iter__"
            )

    @property
    def advice(self) -> str:
        """What makes places fit any number of ranks."""
        return (
            f"let the {type(self.dataset).__name__} give all samples on every rank and pass the loader "
            "dg.data.DistributedStream(dataset), whose places fit any number"
        )


class SharedDataset(IterableDataset[T_co]):
    """A stream whose samples a loader deals out, in batches to workers and in turn to ranks.

    Batch b of all ranks together is of the samples from ``b × batch_size × R`` on, which rank r of R takes in
    turn. So it is the same for any number of workers, and a place in an epoch is a number of samples, for
    any number of ranks and workers, and any batch size.

    Attributes:
        rank, num_replicas: whose samples are taken, of how many.
    """

    rank: int
    num_replicas: int

    @abstractmethod
    def iterate_whole(self) -> Iterator[T_co]:
        """All samples, in an order that ranks and workers share."""

    def __iter__(self) -> Iterator[T_co]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        first, step = self.rank + worker * self.num_replicas, self.num_replicas * num_workers
        return islice(self.iterate_whole(), first, None, step)


class SharedStream(Stream):
    """A :class:`SharedDataset`, in one lane that all workers read in turn.

    Args:
        dataset: the dataset.
    """

    def __init__(self, dataset: SharedDataset[Any]) -> None:
        super().__init__(1)
        self.dataset = dataset
        self.rank, self.ranks = dataset.rank, dataset.num_replicas

    def iterate(self, place: Place, lane: int) -> Iterator[Any]:
        """All samples for all ranks."""
        return self.dataset.iterate_whole()


class DistributedStream(SharedDataset[T_co]):
    """Deals a stream's samples out to the ranks and their loaders' workers: each goes to exactly one of them.

    Sample k goes to rank k mod R, and a loader of it gives every rank the same number of batches, the last
    of which may be smaller or empty. It goes on in mid-epoch on any number of ranks and workers, with the
    batches of one that never stopped where the global batch is the same. Each worker of each rank iterates
    the whole stream for that, and throws away what is not its own: a dataset with indices and a
    :class:`~distgrad.data.sampler.DistributedSampler` costs less.

    Args:
        dataset: gives all samples, in the same order on every rank.
        num_replicas: the number of ranks, R (default: the size of the world, ``dg.comm.init()``).
        rank: whose samples to give, in 0..R−1 (default: this process's rank in the world).

    Raises:
        ValueError: ``num_replicas`` is not positive or ``rank`` is outside 0..R−1.
        TypeError: a dataset that is dealt out already, or is none that is iterated.
    """

    def __init__(
        self, dataset: IterableDataset[T_co], num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        if isinstance(dataset, SharedDataset) or not isinstance(dataset, IterableDataset):
            raise TypeError(
                "DistributedStream: expected an IterableDataset that gives all samples on every rank, got a "
                f"{type(dataset).__name__}; pass what is dealt out already, or has indices, to the DataLoader"
            )
        self.num_replicas = init().size if num_replicas is None else num_replicas
        self.rank = init().rank if rank is None else rank
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(
                f"DistributedStream: expected 0 <= rank < num_replicas, got rank={self.rank} and "
                f"num_replicas={self.num_replicas}; leave both out to take the world's"
            )
        self.dataset = dataset

    def iterate_whole(self) -> Iterator[T_co]:
        """All samples of all ranks and workers."""
        return iterate_as(0, 1, self.dataset)

    def __len__(self) -> int:
        """The number of samples of all ranks, where the stream knows it.

        Raises:
            TypeError: it does not.
        """
        return len(self.dataset)  # type: ignore[arg-type]
