"""Schedules that move the learning rate up and down, and a momentum against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from distgrad.optim.lr_scheduler.schedules import LRScheduler, give_back, kept_of, one_each
from distgrad.optim.optimizer import Optimizer

__all__ = ["CyclicLR", "OneCycleLR"]


def _momentum(group: dict[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group["momentum"])


def _set_momentum(group: dict[str, Any], value: float) -> None:
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def _check_momentum(optimizer: Optimizer, where: str) -> None:
    if not {"momentum", "betas"} & set(optimizer.defaults):
        raise ValueError(
            f"{where}: {type(optimizer).__name__} has neither momentum nor betas; pass cycle_momentum=False"
        )


class CyclicLR(LRScheduler):
    """The rate goes between two bounds along a zigzag, whose height may shrink.

    Args:
        optimizer: whose rates are set.
        base_lr: lower bound, or one a group.
        max_lr: upper bound, or one a group.
        step_size_up: steps upwards.
        step_size_down: steps downwards; None takes as many.
        mode: ``triangular``, ``triangular2`` (half the height each cycle) or ``exp_range`` (times
            ``gamma^step``).
        gamma: see mode.
        scale_fn: a height of one's own, in place of mode.
        scale_mode: whether ``scale_fn`` takes the ``cycle`` or the step (``iterations``).
        cycle_momentum: move the momentum against the rate.
        base_momentum: its value at the highest rate, or one a group.
        max_momentum: its value at the lowest rate, or one a group.
        last_epoch: as in :class:`LRScheduler`.

    Source: Smith, WACV 2017.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | Sequence[float],
        max_lr: float | Sequence[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.8,
        max_momentum: float | Sequence[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        if scale_fn is None and mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError(f"CyclicLR: mode must be triangular, triangular2 or exp_range, got {mode!r}")
        if last_epoch == -1:
            for group, rate in zip(
                optimizer.param_groups, one_each(base_lr, optimizer, "CyclicLR"), strict=True
            ):
                group["lr"] = group["initial_lr"] = rate
        self._max_lr = max_lr
        self.total_size = float(step_size_up) + float(
            step_size_up if step_size_down is None else step_size_down
        )
        self.step_ratio = step_size_up / self.total_size
        self.mode = mode
        self.scale_mode = scale_mode
        self.gamma = gamma
        self._scale_fn = scale_fn
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            _check_momentum(optimizer, "CyclicLR")
            self._base_momentum = base_momentum
            self._max_momentum = max_momentum
        super().__init__(optimizer, last_epoch)

    def _height(self) -> float:
        """How far up the zigzag is, 0 … 1, scaled."""
        step = self.last_epoch
        cycle = math.floor(1 + step / self.total_size)
        x = 1.0 + step / self.total_size - cycle
        ratio = self.step_ratio
        height = x / ratio if x <= ratio else (x - 1.0) / (ratio - 1.0)
        if self._scale_fn is not None:
            return height * self._scale_fn(cycle if self.scale_mode == "cycle" else step)
        scale = {"triangular": 1.0, "triangular2": 0.5 ** (cycle - 1), "exp_range": self.gamma**step}
        return height * float(scale[self.mode])

    def get_lr(self) -> list[float]:
        """The rates; sets the momentum on the way."""
        height = self._height()
        highs = self._each(self._max_lr)
        if self.cycle_momentum:
            momenta = (self._each(self._base_momentum), self._each(self._max_momentum))
            for group, low, high in zip(self.optimizer.param_groups, *momenta, strict=True):
                _set_momentum(group, high - (high - low) * height)
        return [low + (high - low) * height for low, high in zip(self.base_lrs, highs, strict=True)]

    def _each(self, value: Any) -> list[Any]:
        return one_each(value, self.optimizer, "CyclicLR")

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, and the attributes of a height that is a callable object."""
        return {**super().state_dict(), "_scale_fn_custom": kept_of(self._scale_fn)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken."""
        super().load_state_dict(state_dict)
        give_back(self._scale_fn, state_dict.get("_scale_fn_custom"))


class OneCycleLR(LRScheduler):
    """The rate goes up to ``max_lr`` and down to far below its start, in one cycle over the whole training.

    Args:
        optimizer: whose rates are set.
        max_lr: the highest rate, or one a group.
        total_steps: steps of the training, or
        epochs, steps_per_epoch: whose product it is.
        pct_start: share of the steps that go up.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: move the momentum against the rate.
        base_momentum: its value at the highest rate, or one a group.
        max_momentum: its value at the lowest rate, or one a group.
        div_factor: the first rate is ``max_lr / div_factor``.
        final_div_factor: the last is the first over this.
        three_phase: come back to the first rate before going below it.
        last_epoch: as in :class:`LRScheduler`.

    Source: Smith and Topin, 2018.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: pass total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if total_steps < 1 or not 0.0 <= pct_start <= 1.0 or anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                "OneCycleLR: expected total_steps of at least 1, pct_start in [0, 1] and anneal_strategy cos "
                f"or linear, got {total_steps}, {pct_start} and {anneal_strategy!r}"
            )
        self.total_steps = total_steps
        self._anneal_strategy = anneal_strategy
        peak = float(pct_start * total_steps) - 1
        self._ends = [peak, 2 * peak, total_steps - 1] if three_phase else [peak, total_steps - 1]
        self.cycle_momentum = cycle_momentum
        self._max_lr = max_lr
        self._div_factor = div_factor
        self._final_div_factor = final_div_factor
        if cycle_momentum:
            _check_momentum(optimizer, "OneCycleLR")
            self._base_momentum = base_momentum
            self._max_momentum = max_momentum
        if last_epoch == -1:
            highs = one_each(max_lr, optimizer, "OneCycleLR")
            for group, high in zip(optimizer.param_groups, highs, strict=True):
                group["initial_lr"] = high / div_factor
        super().__init__(optimizer, last_epoch)

    def _between(self, first: float, high: float, last: float) -> float:
        """The value at this step of a curve from the first value over the highest to the last."""
        turns = [first, high, first, last] if len(self._ends) == 3 else [first, high, last]
        start = 0.0
        for i, end in enumerate(self._ends):
            if self.last_epoch <= end or i == len(self._ends) - 1:
                share = (self.last_epoch - start) / (end - start) if end > start else 1.0
                break
            start = end
        a, b = turns[i], turns[i + 1]
        if self._anneal_strategy == "linear":
            return a + (b - a) * share
        return b + (a - b) / 2.0 * (1.0 + math.cos(math.pi * share))

    def get_lr(self) -> list[float]:
        """The rates; sets the momentum on the way.

        Raises:
            ValueError: a step beyond the last.
        """
        if self.last_epoch > self.total_steps:  # a loop over that many steps ends with one step more
            raise ValueError(
                f"OneCycleLR: step {self.last_epoch} of {self.total_steps}: the cycle is over; pass the "
                "number of steps that the training takes"
            )
        if self.cycle_momentum:
            momenta = (self._each(self._base_momentum), self._each(self._max_momentum))
            for group, low, high in zip(self.optimizer.param_groups, *momenta, strict=True):
                _set_momentum(group, self._between(high, low, high))
        firsts = [high / self._div_factor for high in self._each(self._max_lr)]
        return [
            self._between(first, high, first / self._final_div_factor)
            for first, high in zip(firsts, self._each(self._max_lr), strict=True)
        ]

    def _each(self, value: Any) -> list[Any]:
        return one_each(value, self.optimizer, "OneCycleLR")
