"""Which learning rate to begin with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.backend.rng import default_generator
from distgrad.comm.base import Communicator
from distgrad.comm.registry import init
from distgrad.errors import DataError, OptionError
from distgrad.nn.module import Module
from distgrad.optim.optimizer import Optimizer

__all__ = ["LRCurve", "find_lr"]

_SMOOTHING = 0.9  # of the losses
_RISE = 3.0  # above the best smoothed loss, in its size: the sweep ends


@dataclass
class LRCurve:
    """What :func:`find_lr` has seen.

    Attributes:
        lrs: learning rates, growing.
        losses: at each of them, smoothed over the steps before.
        suggestion: the rate at which the loss falls fastest.
    """

    lrs: list[float]
    losses: list[float]
    suggestion: float


def find_lr(
    model: Module,
    optimizer: Optimizer,
    loss: Callable[[Any], Tensor],
    loader: Iterable[Any],
    *,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    steps: int = 100,
    comm: Communicator | None = None,
) -> LRCurve:
    """Train for some steps with a learning rate that grows from step to step, and put everything back.

    The sweep ends early once the loss is three times the best's size above it (four times a
    positive one), or no number. Parameters, buffers, optimizer
    and random numbers are as before afterwards, also after an error; there are no gradients then.

    ::

        def loss(batch):
            return F.cross_entropy(model(batch[0]), batch[1])

        curve = dg.train.find_lr(model, optimizer, loss, loader)
        optimizer.param_groups[0]["lr"] = curve.suggestion

    Collective: yes; blocks: yes.

    Args:
        model: what is trained, as it is called by ``loss``.
        optimizer: of its parameters; all groups get the same rate.
        loss: of a batch, a tensor with one element.
        loader: gives batches; begun anew when it ends.
        min_lr, max_lr: the first and the last rate; in between they grow by one factor.
        steps: at most; from 10.
        comm: the ranks, whose losses are averaged so that all end at the same step; None means the
            world's, ``dg.comm.init()``.

    Raises:
        OptionError: rates out of order, or too few steps.
        DataError: the loader gave no batch, or is an iterator that ends; or the first loss is no number.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017.
    """
    if not 0 < min_lr < max_lr < math.inf or type(steps) is not int or steps < 10:
        raise OptionError(
            "find_lr: expected 0 < min_lr < max_lr < inf and steps a whole number from 10, got "
            f"{min_lr}, {max_lr}, {steps}"
        )
    ranks = (init() if comm is None else comm).host
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    drawn = default_generator.get_state()
    try:
        return _sweep(
            optimizer, loss, loader, min_lr * (max_lr / min_lr) ** (np.arange(steps) / (steps - 1)), ranks
        )
    finally:
        model.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])
        optimizer.zero_grad()
        default_generator.set_state(drawn)


def _sweep(
    optimizer: Optimizer, loss: Callable[[Any], Tensor], loader: Iterable[Any], lrs: Any, ranks: Communicator
) -> LRCurve:
    found: list[float] = []
    mean, best = 0.0, math.inf
    batches = iter(loader)
    for step, lr in enumerate(lrs.tolist()):
        if (batch := next(batches, None)) is None:
            batches = iter(loader)
            if (batch := next(batches, None)) is None:
                raise DataError(
                    "find_lr: the loader gave no batch; pass one with data, which can begin anew, as a "
                    "DataLoader does and an iterator does not"
                )
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        value = loss(batch)
        value.backward()
        optimizer.step()
        now = float(ranks.all_reduce(np.array([float(value.detach())]), "mean")[0])
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * now
        smoothed = mean / (1 - _SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed) or (found and smoothed - best > _RISE * abs(best)):
            break
        found.append(smoothed)
        best = min(best, smoothed)
    if not found:
        raise DataError(
            f"find_lr: the loss is {now} at the first batch already, before any step; look at the data "
            "and the loss"
        )
    tried = lrs[: len(found)].tolist()
    return LRCurve(tried, found, _steepest(tried, found))


def _steepest(lrs: list[float], losses: list[float]) -> float:
    """Where the loss falls fastest over the logarithm of the rate; the first rate if there are too few."""
    if len(losses) < 3:
        return lrs[0]
    return lrs[int(np.argmin(np.gradient(losses, np.log(lrs))))]
