"""When training has stopped to pay."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.comm.base import Communicator
from distgrad.comm.registry import init
from distgrad.errors import OptionError

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Says when a number has not become better for a while, the same on all ranks.

    ::

        stopping = dg.train.EarlyStopping(patience=5)
        for epoch in range(100):
            ...
            if stopping.step(metrics.compute()["loss"]):
                break

    Args:
        patience: how many calls in a row may bring nothing better; the next one says to stop.
        mode: ``"min"`` where less is better, ``"max"`` where more is.
        min_delta: how much better a number must be to count.
        comm: the ranks; None means the world's, ``dg.comm.init()``.

    Attributes:
        best: the best number so far; None before the first.
        best_step: in which call it came, from 0.
        is_best: whether the last call brought it.
    """

    def __init__(
        self, patience: int, *, mode: str = "min", min_delta: float = 0.0, comm: Communicator | None = None
    ) -> None:
        if mode not in ("min", "max"):
            raise OptionError(f"EarlyStopping: mode must be 'min' or 'max', got {mode!r}")
        if not patience >= 0 or not min_delta >= 0:
            raise OptionError(
                f"EarlyStopping: patience and min_delta must be 0 or more, got {patience} and {min_delta}"
            )
        self.patience, self.mode, self.min_delta, self.comm = patience, mode, min_delta, comm
        self.best: float | None = None
        self.best_step, self.is_best = -1, False
        self._step = 0

    def step(self, value: float) -> bool:
        """Take in the next number; where ranks have different ones, their mean counts. NaN is never better.

        Collective: yes; blocks: yes.

        Returns:
            Whether to stop.
        """
        ranks = (init() if self.comm is None else self.comm).host
        mean = float(ranks.all_reduce(np.array([float(value)]), "mean")[0])
        sign = 1 if self.mode == "min" else -1
        self.is_best = not math.isnan(mean) and (
            self.best is None or sign * mean < sign * self.best - self.min_delta
        )
        if self.is_best:
            self.best, self.best_step = mean, self._step
        self._step += 1
        return self._step - 1 - self.best_step > self.patience

    def state_dict(self) -> dict[str, Any]:
        """What goes on after a restart: ``best``, ``best_step``, and ``step``, the number of calls."""
        return {"best": self.best, "best_step": self.best_step, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        best = state_dict["best"]
        self.best = None if best is None else float(best)
        self.best_step, self._step = int(state_dict["best_step"]), int(state_dict["step"])
