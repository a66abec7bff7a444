"""Schedules made of others: side by side, or one after another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from distgrad.backend.recording import effect
from distgrad.errors import StateDictError
from distgrad.optim.lr_scheduler.schedules import LRScheduler
from distgrad.optim.optimizer import Optimizer

__all__ = ["ChainedScheduler", "SequentialLR"]


class ChainedScheduler(LRScheduler):
    """Several schedules on one optimizer, each stepping at every step.

    Args:
        schedulers: of one optimizer.
        optimizer: theirs; None takes it from them.

    Raises:
        ValueError: none, or schedules of several optimizers or another one.
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        self._schedulers = _of_one_optimizer(schedulers, type(self).__name__)
        if optimizer not in (None, schedulers[0].optimizer):
            raise ValueError(f"{type(self).__name__}: the schedules must belong to the optimizer")
        self.optimizer = schedulers[0].optimizer
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    @effect
    def step(self) -> None:  # type: ignore[override]  # each has steps of its own
        """Step each in turn."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _restart(self) -> None:
        for scheduler in self._schedulers:
            scheduler._restart()
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Where each stands."""
        states = [scheduler.state_dict() for scheduler in self._schedulers]
        return {**super().state_dict(), "_schedulers": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken."""
        states = state_dict.get("_schedulers", ())
        if len(states) != len(self._schedulers):
            raise StateDictError(
                f"load_state_dict: the state holds {len(states)} schedules, this one "
                f"{len(self._schedulers)}; build the schedule as it was"
            )
        super().load_state_dict(state_dict)
        for scheduler, state in zip(self._schedulers, states, strict=True):
            scheduler.load_state_dict(state)


def _of_one_optimizer(schedulers: Sequence[LRScheduler], where: str) -> list[LRScheduler]:
    if not schedulers:
        raise ValueError(f"{where}: expected at least one schedule")
    if any(scheduler.optimizer is not schedulers[0].optimizer for scheduler in schedulers):
        raise ValueError(f"{where}: the schedules must belong to one optimizer")
    return list(schedulers)


class SequentialLR(ChainedScheduler):
    """One schedule after another, each from its own beginning.

    Args:
        optimizer: whose rates are set.
        schedulers: of that optimizer.
        milestones: the steps at which the second, the third … take over.

    Raises:
        ValueError: not one milestone fewer than schedules.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]
    ) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: {len(schedulers)} schedules need {len(schedulers) - 1} milestones, "
                f"got {len(milestones)}"
            )
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        super().__init__(schedulers, optimizer)
        self._milestones = list(milestones)
        self._restart()

    def _restart(self) -> None:
        self.last_epoch = 0
        self._begin(self._schedulers[0])

    def _begin(self, scheduler: LRScheduler) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"])
        scheduler._restart()
        self._last_lr = scheduler.get_last_lr()

    @effect
    def step(self) -> None:  # type: ignore[override]  # each has steps of its own
        """Step the schedule whose turn it is."""
        self.last_epoch += 1
        place = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[place]
        if place > 0 and self._milestones[place - 1] == self.last_epoch:
            self._begin(scheduler)
        else:
            scheduler.step()
            self._last_lr = scheduler.get_last_lr()
