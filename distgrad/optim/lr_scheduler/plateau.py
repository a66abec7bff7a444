"""A schedule that watches a number and cuts the learning rate when it stops getting better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.backend.recording import effect
from distgrad.optim.lr_scheduler.schedules import LRScheduler, one_each
from distgrad.optim.optimizer import Optimizer

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau(LRScheduler):
    """The rate times ``factor`` when a number has not got better for a while.

    Args:
        optimizer: whose rates are set.
        mode: ``"min"`` if smaller is better, else ``"max"``.
        factor: below 1.
        patience: steps without getting better that are let pass.
        threshold: by how much it must get better to count.
        threshold_mode: ``"rel"`` or ``"abs"``.
        cooldown: steps after a cut that do not count.
        min_lr: lower bound of the rates, or one a group.
        eps: a cut smaller than this is left undone.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"ReduceLROnPlateau: mode must be min or max and threshold_mode rel or abs, got {mode!r}, "
                f"{threshold_mode!r}"
            )
        if not factor < 1.0:
            raise ValueError(f"ReduceLROnPlateau: factor must be below 1, got {factor}")
        self.optimizer = optimizer
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self._min_lr = min_lr
        one_each(min_lr, optimizer, "ReduceLROnPlateau")
        self.eps = eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self.last_epoch = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    @effect
    def step(  # type: ignore[override]  # PyTorch's order
        self, metrics: Any = None, epoch: float | None = None
    ) -> None:
        """Look at this step's number.

        Args:
            metrics: what should get better; a number or a tensor with one element.
            epoch: which step this is; the next if None.
        """
        value = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(value):
            self.best = value
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._cut()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _cut(self) -> None:
        lows = one_each(self._min_lr, self.optimizer, "ReduceLROnPlateau")
        for group, low in zip(self.optimizer.param_groups, lows, strict=True):
            rate = max(group["lr"] * self.factor, low)
            if group["lr"] - rate > self.eps:
                group["lr"] = rate

    def _is_better(self, value: float) -> bool:
        if math.isinf(self.best):  # any number is better than none, and NaN is none
            return value < self.best if self.mode == "min" else value > self.best
        margin = self.threshold * (self.best if self.threshold_mode == "rel" else 1.0)
        return value < self.best - margin if self.mode == "min" else value > self.best + margin
