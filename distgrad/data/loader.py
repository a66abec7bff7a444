"""Iterate over a dataset in batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any, Generic, TypedDict, TypeVar, Unpack, overload

import numpy as np

from distgrad import env
from distgrad.autograd.modes import is_grad_enabled
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import find_accelerator
from distgrad.backend.rng import Generator, default_generator
from distgrad.data.collate import AsOne, Share, default_collate, default_convert, fetch, fetch_next, pin
from distgrad.data.dataset import Indexed, IterableDataset
from distgrad.data.foreign import ForeignStream, is_foreign, refuse_without_length
from distgrad.data.place import Piece, Pieces, Place, Reader
from distgrad.data.sampler import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    check_batch_size,
)
from distgrad.data.stream import OwnStream, SharedDataset, SharedStream, Stream
from distgrad.data.worker import Payload
from distgrad.data.worker_pool import END, WorkerPool, runs_unguarded
from distgrad.errors import StateDictError
from distgrad.names.lacking import unexpected
from distgrad.trace import span
from distgrad.tracebacks import warn_once

__all__ = ["DataLoader"]

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)
S = TypeVar("S")

#: What :func:`default_collate` makes one tensor of.
Leaf = Tensor | np.ndarray | np.generic | float
Samples = Indexed[S] | IterableDataset[S]


#: Values of PyTorch's arguments that ask for what there is.
_SAY_NOTHING: dict[str, tuple[Any, ...]] = {
    "in_order": (True,),
    "multiprocessing_context": (None, "spawn"),
    "pin_memory_device": ("",),
}


class Options(TypedDict, total=False):
    """The arguments by keyword of a :class:`DataLoader`."""

    pin_memory: bool
    drop_last: bool
    timeout: float
    worker_init_fn: Callable[[int], Any] | None
    generator: Generator | None
    prefetch_factor: int | None
    persistent_workers: bool


class DataLoader(Generic[Batch_co]):
    """An iterable of batches; every iteration over it is one epoch.

    A type checker knows the batches by the dataset's samples, or by what ``collate_fn`` returns.

    With a :class:`~distgrad.data.sampler.DistributedSampler` every rank gets its own part of each global
    batch and the same number of batches; where samples run out the last batch is smaller, possibly of zero
    rows.

    With workers, batches are made ahead of their use, in the same order for any number of workers. Workers
    are interpreters of their own, which is safe beside MPI and threads; they get the dataset and the
    functions by pickle. If some of these are defined in the script itself, the workers import the script, so
    that what it does must stand under ``if __name__ == "__main__":``; from a notebook's cells or a prompt
    they come through cloudpickle, where that is installed. In a worker the random numbers of distgrad, NumPy
    and Python depend on seed, epoch and batch alone, where epochs are counted from when the seed was set.

    Args:
        dataset: has ``__getitem__`` and ``__len__``, or is an
            :class:`~distgrad.data.dataset.IterableDataset`, or a stream of Hugging Face's ``datasets``: its
            files are dealt to the workers, and their samples in turn to the ranks.
        batch_size: samples a batch, on each rank; None gives the samples themselves, one at a time.
        shuffle: whether to draw in random order, another one each epoch.
        sampler: draws the indices, in place of ``shuffle``.
        batch_sampler: draws lists of indices, in place of ``batch_size``, ``shuffle``, ``sampler`` and
            ``drop_last``.
        num_workers: processes that make batches; with 0 the iterating one does.
        collate_fn: makes a batch of a list of samples, or with ``batch_size=None`` whatever of a sample
            (default: :func:`default_collate`, or :func:`default_convert`).
        pin_memory: give batches in pinned memory, which ``to(device, non_blocking=True)`` sends without a
            copy in between. Tensors in lists, tuples and dicts are pinned, and what has a ``pin_memory``
            method. Where there is no GPU, a warning says so and nothing is pinned.
        drop_last: whether to leave out the last batch if it is not full.
        timeout: seconds to wait for a worker's batch; 0 waits as long as the worker lives.
        worker_init_fn: called in each worker with its number before anything else.
        generator: where ``shuffle`` takes its random numbers and the workers their seeds (default: what
            ``dg.manual_seed`` seeds).
        prefetch_factor: batches that each worker has under way (default 2).
        persistent_workers: whether the workers stay for the next epoch.
        **others: none; PyTorch's other arguments are met by an error that says what stands for them.

    Raises:
        ValueError: arguments that exclude each other, or one outside its range.
    """

    _place: Place | None = None  # of a stream: where the epoch stands
    _seeding: tuple[Generator, int] | None = None  # as it was when an iteration began last

    @overload
    def __init__(
        self: DataLoader[Batch],
        dataset: Samples[Any],
        batch_size: int | None = ...,
        shuffle: bool | None = ...,
        sampler: Any = ...,
        batch_sampler: Any = ...,
        num_workers: int = ...,
        *,
        collate_fn: Callable[[list[Any]], Batch],
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self: DataLoader[Tensor],
        dataset: Samples[Leaf],
        batch_size: int = ...,
        shuffle: bool | None = ...,
        sampler: Any = ...,
        batch_sampler: Any = ...,
        num_workers: int = ...,
        collate_fn: None = ...,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self: DataLoader[list[Tensor]],
        dataset: Samples[tuple[Leaf, ...]] | Samples[list[Leaf]],
        batch_size: int = ...,
        shuffle: bool | None = ...,
        sampler: Any = ...,
        batch_sampler: Any = ...,
        num_workers: int = ...,
        collate_fn: None = ...,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self: DataLoader[dict[str, Tensor]],
        dataset: Samples[dict[str, Leaf]],
        batch_size: int = ...,
        shuffle: bool | None = ...,
        sampler: Any = ...,
        batch_sampler: Any = ...,
        num_workers: int = ...,
        collate_fn: None = ...,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self: DataLoader[Any],
        dataset: Any,
        batch_size: int | None = ...,
        shuffle: bool | None = ...,
        sampler: Any = ...,
        batch_sampler: Any = ...,
        num_workers: int = ...,
        collate_fn: None = ...,
        **options: Unpack[Options],
    ) -> None: ...

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        *,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        generator: Generator | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        **others: Any,
    ) -> None:
        _check_others(others)
        stream = _make_stream(dataset, num_workers, worker_init_fn is not None)
        iterable, shuffle = stream is not None, bool(shuffle)
        _check_order(iterable, batch_size, shuffle, sampler, batch_sampler, drop_last)
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        if batch_sampler is None and not iterable:
            sampler = _make_sampler(dataset, shuffle, generator) if sampler is None else sampler
            batch_sampler = BatchSampler(sampler, batch_size or 1, drop_last)
        elif isinstance(batch_sampler, BatchSampler):
            sampler = batch_sampler.sampler
        self.dataset, self._stream = dataset, stream
        self.batch_size = batch_size
        self.sampler, self.batch_sampler = sampler, batch_sampler
        self.num_workers = num_workers
        self.collate_fn = collate_fn or (default_convert if batch_size is None else default_collate)
        self._collate = AsOne(self.collate_fn) if batch_size is None else self.collate_fn
        self.pin_memory, self.drop_last = pin_memory, drop_last
        self.timeout, self.worker_init_fn = timeout, worker_init_fn
        self.generator = generator
        self.prefetch_factor = prefetch_factor or (2 if num_workers else None)
        self.persistent_workers = persistent_workers
        self.multiprocessing_context, self.pin_memory_device, self.in_order = None, "", True
        self._idle: WorkerPool | None = None
        self._epoch = 0  # of the iteration that began last, counted since the seed was set
        self._begun: dict[str, Any] | None = None  # the sampler's state when it began
        self._learnt: dict[str, Any] | None = None  # the same of the last one not under no_grad
        self._num_batches = 0  # that it has given
        self._skip = 0  # batches that the next iteration leaves out, where the sampler cannot do it
        self._within = False  # whether the next iteration is to go on within an epoch

    def __iter__(self) -> Iterator[Batch_co]:
        self._look_for_mistakes()
        self._place = None if self._stream is None else self._stream.begin()
        state = self._sampler_state()
        left = self._within and not np.any(state["index"])  # by set_epoch: that epoch was over
        seeding = (self._source, self._source.num_seedings)
        if self._begun is not None or left:
            self._epoch = self._epoch + 1 if seeding == self._seeding else 0
        self._seeding = seeding
        self._within = False
        skip, self._skip = self._skip, 0
        self._begun, self._num_batches = state, 0
        if is_grad_enabled():
            self._learnt = state
        seeds = [self._source.seed & (1 << 64) - 1, self._epoch, getattr(self.sampler, "rank", 0)]
        seed = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1)  # fits int64
        batches = self._batches(skip, seed)
        if self.pin_memory and find_accelerator() is None:
            warnings.warn(
                "DataLoader: pin_memory=True, but there is no GPU; batches stay where they are", stacklevel=2
            )
        elif self.pin_memory:
            batches = map(pin, batches)
        return self._count(batches)

    def _look_for_mistakes(self) -> None:
        """Warn of an order that is likely not meant."""
        sampler, ranks = self.sampler, env.read().world_size or 1
        if isinstance(sampler, RandomSampler) and ranks > 1:
            warn_once(
                "batches",
                f"DataLoader: shuffle=True without a sampler gives each of {ranks} ranks the whole dataset; "
                "pass sampler=DistributedSampler(dataset), which shuffles too",
            )
        learns = isinstance(sampler, DistributedSampler) and sampler.shuffle and is_grad_enabled()
        before = self._learnt if learns else None
        if before == {"epoch": getattr(sampler, "epoch", None), "index": 0}:
            warn_once(
                "epoch",
                "DataLoader: a second epoch in the order of the first; call sampler.set_epoch(epoch) before "
                "each",
            )

    def __len__(self) -> int:
        if self._stream is None:
            num_batches = len(self.batch_sampler)
        else:
            left, total = len(self.dataset) - self._stream.given, self._share.total
            num_batches = left // total if self.drop_last else -(-left // total)
        return max(0, num_batches - self._skip)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: in which epoch, and after which batch of those it has given.

        With a :class:`~distgrad.data.sampler.DistributedSampler`, of a
        :class:`~distgrad.data.stream.DistributedStream` or of a stream of Hugging Face's ``datasets``, it is
        the same on every rank, and fits any number of them.
        """
        if self._begun is None or self._stream is not None:
            return {"epoch": self._epoch, "sampler": self._sampler_state()}
        index = self._begun["index"] + self._num_batches * self._step
        return {"epoch": self._epoch, "sampler": {**self._begun, "index": index}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next iteration go on where :meth:`state_dict` was taken.

        A sampler or batch sampler of the user's own, without a ``load_state_dict``, is drawn from its start;
        what was given already is left out. A stream is read from its start, to leave the same out.

        Raises:
            StateDictError: a place in a stream where there is none, or in none where there is; or within an
                :class:`~distgrad.data.dataset.IterableDataset` that dealt itself out to another number of
                ranks: only it knows which samples those had.
        """
        state, sampler = state_dict["sampler"], self._stream or self._resumable
        if self._stream is None and "stream_epoch" in state:
            raise StateDictError("DataLoader: the state is a place in a stream, which this dataset is not")
        if sampler is not None:
            sampler.load_state_dict(state)
        self._skip = int(state["index"]) if sampler is None else 0
        self._epoch, self._begun, self._learnt = int(state_dict["epoch"]), None, None
        self._seeding = (self._source, self._source.num_seedings)
        self._place, self._within = None, bool(np.any(state["index"]))

    @property
    def _source(self) -> Generator:
        return default_generator if self.generator is None else self.generator

    @property
    def _resumable(self) -> Any:
        """The sampler whose index counts samples; None where batches are counted."""
        return self.sampler if hasattr(self.sampler, "load_state_dict") else None

    @property
    def _share(self) -> Share:
        stream = self._stream
        return Share(self.batch_size or 1, *((0, 1) if stream is None else (stream.rank, stream.ranks)))

    @property
    def _step(self) -> int:
        return self.batch_sampler.global_batch_size if self._resumable is not None else 1

    def _sampler_state(self) -> dict[str, Any]:
        if self._stream is not None:
            return self._stream.state_dict(self._place)
        return {"index": self._skip} if self._resumable is None else self._resumable.state_dict()

    def _count(self, batches: Iterator[Any]) -> Iterator[Any]:
        end = object()
        while True:
            with span("data.next", batch=self._num_batches):
                batch = next(batches, end)
            if batch is end:
                return
            self._num_batches += 1
            yield batch

    def _batches(self, skip: int, seed: int) -> Iterator[Any]:
        """The batches of one epoch, the first ``skip`` left out."""
        if self._stream is not None and self._place is not None:
            return self._made_of_stream(self._stream, self._place, seed)
        first = self._sampler_state()["index"] // self._step
        return self._made(islice(iter(self.batch_sampler), skip, None), seed, first)

    def _made(self, batches: Iterator[list[Any]], seed: int, first: int) -> Iterator[Any]:
        if _count_workers(self.num_workers, told=True):
            for _, batch in self._made_by_workers(zip(count(first), batches), seed):
                yield batch
        else:
            for indices in batches:
                yield fetch(self.dataset, indices, self._collate)

    def _made_of_stream(self, stream: Stream, place: Place, seed: int) -> Iterator[Any]:
        """The batches of a stream from a place on, which moves with each."""
        pieces = Pieces(place, self._share)
        if _count_workers(self.num_workers, told=True):
            made = self._made_by_workers(pieces, seed, place)
        else:
            made = self._made_here(pieces, Reader(stream, place))
        for piece, batch in made:
            if batch is END:
                pieces.end(piece.lane)
            else:
                self._place = place = place.after(piece)
                yield batch

    def _made_here(self, pieces: Pieces, reader: Reader) -> Iterator[tuple[Piece, Any]]:
        for _, piece in pieces:
            batch = fetch_next(reader.seek(piece), piece.share, self.drop_last, self._collate)
            yield piece, END if batch is None else batch

    def _made_by_workers(
        self, tasks: Iterator[tuple[int, Any]], seed: int, place: Place | None = None
    ) -> Iterator[tuple[Any, Any]]:
        pool, self._idle = self._idle, None
        if pool is None:
            payload = Payload(self.dataset, self._stream, self._collate, self.worker_init_fn, self.drop_last)
            pool = WorkerPool(payload, self.num_workers, self.prefetch_factor or 2, self.timeout, seed)
        complete = False
        try:
            yield from pool.run(tasks, seed, place)
            complete = True
        finally:
            if complete and self.persistent_workers and self._idle is None:
                self._idle = pool
            else:
                pool.close()


def _make_stream(dataset: Any, num_workers: int, set_up: bool) -> Stream | None:
    """What reads a dataset that is iterated; None for one with indices."""
    if isinstance(dataset, SharedDataset):
        return SharedStream(dataset)
    num_workers = _count_workers(num_workers)
    if isinstance(dataset, IterableDataset):
        return OwnStream(dataset, num_workers, set_up)
    return ForeignStream(dataset, num_workers) if is_foreign(dataset) else None


def _make_sampler(dataset: Any, shuffle: bool, generator: Generator | None) -> Any:
    refuse_without_length(dataset)
    return RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)


def _check_order(
    iterable: bool, batch_size: Any, shuffle: bool, sampler: Any, batch_sampler: Any, drop_last: bool
) -> None:
    if iterable and (shuffle or sampler is not None or batch_sampler is not None):
        raise ValueError(
            "DataLoader: an IterableDataset decides on the order; pass it without shuffle, sampler and "
            "batch_sampler"
        )
    if batch_size is not None:
        check_batch_size(batch_size, "DataLoader")
    elif drop_last:
        raise ValueError(
            "DataLoader: batch_size=None makes no batches, so that drop_last drops none; leave it out"
        )
    if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
        raise ValueError(
            "DataLoader: batch_sampler decides on batch_size, shuffle, sampler and drop_last; "
            "pass it alone, or those without it"
        )
    if sampler is not None and shuffle:
        raise ValueError("DataLoader: sampler decides on the order; pass it or shuffle=True, not both")


def need_no_guard() -> None:
    """Let programs without a main guard, which workers would run again, make their batches themselves."""
    global _guard_is_optional
    _guard_is_optional = True


_guard_is_optional = False


def _count_workers(num_workers: int, told: bool = False) -> int:
    """How many workers there will be; none in a program without a guard that need not have one."""
    if not (num_workers and _guard_is_optional and runs_unguarded()):
        return num_workers
    if told:
        warn_once(
            "main guard",
            "DataLoader: the program has no `if __name__ == '__main__':`, so workers would run it again; "
            "batches are made in this process",
        )
    return 0


def _check_others(others: dict[str, Any]) -> None:
    for name, value in others.items():
        if name not in _SAY_NOTHING or value not in _SAY_NOTHING[name]:
            raise unexpected("DataLoader", name)


def _check_workers(
    num_workers: int, timeout: float, prefetch_factor: int | None, persistent_workers: bool
) -> None:
    if num_workers < 0 or timeout < 0 or (prefetch_factor is not None and prefetch_factor < 1):
        raise ValueError(
            "DataLoader: expected num_workers and timeout of at least 0 and prefetch_factor of at least 1, "
            f"got num_workers={num_workers}, timeout={timeout}, prefetch_factor={prefetch_factor}"
        )
    if not num_workers and (timeout or prefetch_factor is not None or persistent_workers):
        raise ValueError(
            "DataLoader: timeout, prefetch_factor and persistent_workers serve worker processes; "
            "pass num_workers, or leave them out"
        )
