"""Averages of parameters over training: plain (SWA) and exponential (EMA), and what belongs to them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.modes import no_grad
from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.nn.module import Module
from distgrad.nn.modules.batchnorm import _BatchNorm
from distgrad.nn.parameter import write
from distgrad.optim.lr_scheduler.schedules import LRScheduler, one_each
from distgrad.optim.optimizer import Optimizer

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

AverageFn = Callable[[Tensor, Tensor, Any], Any]
MultiAverageFn = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverageFn:
    """A function that moves averages in place: ``a = decay · a + (1 − decay) · p``.

    Args:
        decay: in [0, 1].

    Raises:
        ValueError: a decay outside it.
    """
    average = get_ema_avg_fn(decay)

    def ema_update(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Any) -> None:
        for a, p in zip(averaged, current, strict=True):
            write(a, average(a, p, num_averaged)._data, "ema_update")

    return ema_update


def get_swa_multi_avg_fn() -> MultiAverageFn:
    """A function that moves averages in place: ``a = a + (p − a) / (n + 1)``."""
    average = get_swa_avg_fn()

    def swa_update(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Any) -> None:
        for a, p in zip(averaged, current, strict=True):
            write(a, average(a, p, num_averaged)._data, "swa_update")

    return swa_update


def get_ema_avg_fn(decay: float = 0.999) -> AverageFn:
    """A function of one average and parameter: ``decay · a + (1 − decay) · p``.

    Args:
        decay: in [0, 1].

    Raises:
        ValueError: a decay outside it.
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"get_ema_avg_fn: decay must lie in [0, 1], got {decay}")

    def ema_update(a: Tensor, p: Tensor, num_averaged: Any) -> Tensor:
        return decay * a + (1.0 - decay) * p

    return ema_update


def get_swa_avg_fn() -> AverageFn:
    """A function of one average and parameter: ``a + (p − a) / (n + 1)``."""

    def swa_update(a: Tensor, p: Tensor, num_averaged: Any) -> Tensor:
        return a + (p - a) / (int(num_averaged) + 1)

    return swa_update


class AveragedModel(Module):
    """A copy of a model whose parameters are averages of the model's over time.

    The first :meth:`update_parameters` copies, every further one averages. Without a function the average is
    the plain mean.

    Args:
        model: what is averaged; copied, not changed; of ``DistributedDataParallel`` the module
            inside.
        device: where the copy lies (default: where the model does).
        avg_fn: gives the new average for ``(average, parameter, num_averaged)``.
        multi_avg_fn: changes the averages in place for ``(averages, parameters, num_averaged)``.
        use_buffers: whether floating buffers are averaged too; all others are copied.

    Attributes:
        module: the copy.
        n_averaged: how many updates there were.

    Raises:
        ValueError: both functions are given.

    Source: Izmailov et al., UAI 2018 (the plain mean); Polyak and Juditsky, SIAM J. Control Optim. 1992.
    """

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: AverageFn | None = None,
        multi_avg_fn: MultiAverageFn | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise ValueError("AveragedModel: avg_fn and multi_avg_fn exclude each other; pass one of them")
        self.module = copy.deepcopy(model.module if getattr(model, "is_wrapper", False) else model)
        if device is not None:
            self.module.to(device)
        self.register_buffer("n_averaged", Tensor(np.zeros((), dtype=np.int64)))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged module gives."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the model's present parameters into the average.

        Args:
            model: of the same structure as the one that was copied.

        Raises:
            ShapeError: another structure.
        """
        averaged, current = self._averaged(self.module), self._averaged(model)
        if [a.shape for a in averaged] != [p.shape for p in current]:
            raise ShapeError(
                f"AveragedModel: expected a model of {len(averaged)} averaged tensors and their shapes, "
                f"got {len(current)} tensors"
                + (", of other shapes" if len(averaged) == len(current) else "")
                + "; pass the model that was copied"
            )
        count = self.n_averaged
        with no_grad():
            if not count:
                for a, p in zip(averaged, current, strict=True):
                    write(a, p._data, "update_parameters")
            elif self.avg_fn is not None:
                for a, p in zip(averaged, current, strict=True):
                    write(a, self.avg_fn(a.detach(), p.detach(), count)._data, "update_parameters")
            else:
                average = self.multi_avg_fn or get_swa_multi_avg_fn()
                average([a.detach() for a in averaged], [p.detach() for p in current], count)
            taken = {id(a) for a in averaged}
            for a, p in zip(self.module.buffers(), model.buffers(), strict=True):
                if id(a) not in taken:
                    write(a, p._data, "update_parameters")
            write(count, count._data + 1, "update_parameters")

    def _averaged(self, model: Module) -> list[Tensor]:
        tensors: list[Tensor] = list(model.parameters())
        if self.use_buffers:
            tensors += [buffer for buffer in model.buffers() if buffer.dtype.char in FLOATING]
        return tensors


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of a model's batch norms anew, as plain means over a loader.

    Args:
        loader: batches; of a list or tuple the first entry is the model's input.
        model: its mode stays as it was.
        device: where the batches are moved (default: they stay).
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    was_training = model.training
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    try:
        with no_grad():
            for batch in loader:
                x = batch[0] if isinstance(batch, list | tuple) else batch
                model(x if device is None else x.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)


class SWALR(LRScheduler):
    """Anneal the rates to ``swa_lr`` within some steps, and stay there.

    Args:
        optimizer: whose rates are set.
        swa_lr: where they go; one for all groups or one a group.
        anneal_epochs: in how many steps.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        last_epoch: as in :class:`LRScheduler`.

    Source: Izmailov et al., UAI 2018.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Any,
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise OptionError(f"SWALR: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        if anneal_epochs < 0:
            raise ValueError(f"SWALR: anneal_epochs must be at least 0, got {anneal_epochs}")
        self.anneal_epochs = anneal_epochs
        self._anneal_strategy = anneal_strategy
        self._swa_lr = swa_lr
        for group, rate in zip(optimizer.param_groups, one_each(swa_lr, optimizer, "SWALR"), strict=True):
            group["swa_lr"] = rate
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates."""
        step = max(1, self.last_epoch) if self.anneal_epochs == 0 else self.last_epoch
        before, now = self._progress(step - 1), self._progress(step)
        rates = []
        ends = one_each(self._swa_lr, self.optimizer, "SWALR")
        for group, end in zip(self.optimizer.param_groups, ends, strict=True):
            lr, swa_lr = group["lr"], group.setdefault("swa_lr", end)
            start = swa_lr if before == 1.0 else (lr - before * swa_lr) / (1.0 - before)
            rates.append(now * swa_lr + (1.0 - now) * start)
        return rates

    def _progress(self, step: float) -> float:
        """How far from the first rates to ``swa_lr`` a step is, in [0, 1]."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return t if self._anneal_strategy == "linear" else (1.0 - math.cos(math.pi * t)) / 2.0
