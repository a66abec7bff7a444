"""Training that begins again from its last commit after a collective has failed.

The state is kept in memory. What is had here is the part inside the ranks: where a collective ends with an
error on all of them (calls that did not match, a backward pass that failed somewhere, a deadline), they
join anew, go back to the last commit and go on. Ranks do not come or go: when the process of one ends, the
launcher ends the job, and ``distgrad run --max-restarts`` starts it anew from what the program has saved.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterator, Sized
from typing import Any

from distgrad.horovod.functions import (
    allgather_object,
    broadcast_object,
    broadcast_optimizer_state,
    broadcast_parameters,
)
from distgrad.horovod.optimizer import rejoin
from distgrad.horovod.sets import HorovodInternalError, global_process_set, init, shutdown
from distgrad.nn.module import Module
from distgrad.optim.optimizer import Optimizer

__all__ = ["ElasticSampler", "ObjectState", "State", "TorchState", "run"]

_MAX_FAILURES = 100  # in a row without a commit, after which the error is the program's own


class State:
    """What a program can go back to.

    Attributes:
        commits: how many there were.
    """

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self.commits = 0

    def register_reset_callbacks(self, callbacks: list[Callable[[], None]]) -> None:
        """Have functions called after the ranks have joined anew."""
        self._callbacks += callbacks

    def on_reset(self) -> None:
        """Call them."""
        for callback in self._callbacks:
            callback()

    def commit(self) -> None:
        """Keep the state as it is now."""
        self.save()
        self.commits += 1

    def check_host_updates(self) -> None:
        """Nothing: the hosts of a job do not change."""

    def save(self) -> None:
        """Keep the state."""
        raise TypeError(f"{type(self).__name__}: define save")

    def restore(self) -> None:
        """Go back to what was kept."""
        raise TypeError(f"{type(self).__name__}: define restore")

    def sync(self) -> None:
        """Take rank 0's state.

        Collective: yes; blocks: yes.
        """
        raise TypeError(f"{type(self).__name__}: define sync")


class ObjectState(State):
    """Values that are kept by their names, as attributes."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self._names = list(values)
        self.__dict__.update(values)
        self._kept: dict[str, Any] = {}

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def save(self) -> None:
        """Keep copies of the values."""
        self._kept = copy.deepcopy(self._values())

    def restore(self) -> None:
        """Take the copies."""
        self.__dict__.update(copy.deepcopy(self._kept))

    def sync(self) -> None:
        """Take rank 0's values, and keep them.

        Collective: yes; blocks: yes.
        """
        self.__dict__.update(broadcast_object(self._values()))
        self.save()


class TorchState(ObjectState):
    """A model, an optimizer, samplers and values.

    Args:
        model: the network.
        optimizer: its optimizer.
        **values: values, and further networks, optimizers and samplers.
    """

    def __init__(
        self, model: Module | None = None, optimizer: Optimizer | None = None, **values: Any
    ) -> None:
        given = {"model": model, "optimizer": optimizer, **values}
        self._handled = {name: each for name, each in given.items() if hasattr(each, "load_state_dict")}
        plain = {name: each for name, each in given.items() if name not in self._handled and each is not None}
        super().__init__(**plain)
        self.__dict__.update(self._handled)
        self._states: dict[str, Any] = {}
        self.save()

    def save(self) -> None:
        """Keep copies of everything."""
        super().save()
        self._states = {name: copy.deepcopy(each.state_dict()) for name, each in self._handled.items()}

    def restore(self) -> None:
        """Take the copies."""
        super().restore()
        for name, each in self._handled.items():
            each.load_state_dict(copy.deepcopy(self._states[name]))

    def sync(self) -> None:
        """Take rank 0's state; what samplers have processed is of all ranks.

        Collective: yes; blocks: yes.
        """
        for each in self._handled.values():
            if isinstance(each, Module):
                broadcast_parameters(each.state_dict(), 0)
            elif isinstance(each, Optimizer):
                broadcast_optimizer_state(each, 0)
            elif isinstance(each, ElasticSampler):
                each.merge()
            else:
                each.load_state_dict(broadcast_object(each.state_dict()))
        super().sync()


class ElasticSampler:
    """Deals the samples that no rank has processed yet out to the ranks.

    Args:
        dataset: of which only the length is asked.
        shuffle: whether in a random order, keyed by ``seed`` and the epoch.
        seed: the same on every rank.

    Attributes:
        processed_indices: of this epoch.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int = 0) -> None:
        self.dataset, self.shuffle, self.seed = dataset, shuffle, seed
        self.epoch = 0
        self.processed_indices: set[int] = set()
        self.reset()

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; at its end, or before its first batch."""
        self.epoch = epoch
        self.processed_indices = set()
        self.reset()

    def record_batch(self, batch_idx: int, batch_size: int) -> None:
        """Note that this rank has processed a batch."""
        start = batch_idx * batch_size
        self.processed_indices.update(self._own[start : start + batch_size])

    def reset(self) -> None:
        """Deal out anew."""
        self.num_replicas, self.rank = global_process_set.size(), global_process_set.rank()
        left = [index for index in range(len(self.dataset)) if index not in self.processed_indices]
        if self.shuffle:
            random.Random(self.seed + self.epoch).shuffle(left)
        self.num_samples = -(-len(left) // self.num_replicas)
        whole = self.num_samples * self.num_replicas
        left = (left * (-(-whole // max(1, len(left)))))[:whole]
        self._own = left[self.rank :: self.num_replicas]

    def merge(self) -> None:
        """Take what all ranks have processed.

        Collective: yes; blocks: yes.
        """
        for other in allgather_object((self.epoch, self.processed_indices)):
            if other[0] == self.epoch:
                self.processed_indices |= other[1]
        self.reset()

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and what was processed."""
        return {"epoch": self.epoch, "processed_indices": set(self.processed_indices)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self.epoch, self.processed_indices = state_dict["epoch"], set(state_dict["processed_indices"])
        self.reset()

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._own))

    def __len__(self) -> int:
        return self.num_samples


def run(func: Callable[..., Any]) -> Callable[..., Any]:
    """``func(state, ...)``, begun again from the last commit after a collective has failed.

    Raises:
        HorovodInternalError: the ranks do not come together any more, or fail without a commit in between.
    """

    @functools.wraps(func)
    def wrapper(state: State, *args: Any, **options: Any) -> Any:
        failures, commits = 0, state.commits
        while True:
            state.sync()
            try:
                return func(state, *args, **options)
            except HorovodInternalError:
                failures = 1 if state.commits > commits else failures + 1
                commits = state.commits
                if failures > _MAX_FAILURES:
                    raise
            _join_anew()
            state.restore()
            state.on_reset()

    return wrapper


def _join_anew() -> None:
    """Leave a world in which nothing can be sent any more, and come together again."""
    shutdown()
    init()
    rejoin()
