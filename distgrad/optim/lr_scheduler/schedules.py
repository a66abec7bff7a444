"""Learning rates as functions of the step, under PyTorch's names.

Most schedules are written as a factor on the rate at hand, so that several can be chained. Call ``step()``
once an epoch (or a batch), after the optimizer's.
"""

from __future__ import annotations

import inspect
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from distgrad.backend.recording import effect
from distgrad.errors import StateDictError
from distgrad.optim.optimizer import Optimizer

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "PolynomialLR",
    "StepLR",
]


class LRScheduler:
    """Base of the schedules.

    Args:
        optimizer: whose groups' ``lr`` is set.
        last_epoch: the last step taken before; −1 starts, and takes the groups' ``lr`` as their initial ones.
            Otherwise the groups hold the rates of the step after it, as an optimizer's loaded state has them.

    Attributes:
        last_epoch: steps taken.
        base_lrs: the initial rates, one a group. A group that the optimizer is given later starts with its
            rate at the next step.

    Raises:
        KeyError: ``last_epoch`` is not −1, and a group lacks its ``initial_lr``.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: expected an Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(f"{type(self).__name__}: to resume, group {number} must have 'initial_lr'")
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch: float = last_epoch
        self._last_lr: list[float] = []
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def get_lr(self) -> list[float]:
        """The rates of step ``last_epoch``, from the groups' rates at hand."""
        ratio = self.ratio()
        return [group["lr"] * ratio for group in self.optimizer.param_groups]

    def ratio(self) -> float:
        """What the rates at hand are multiplied by to get those of step ``last_epoch``."""
        raise TypeError(f"{type(self).__name__}: a schedule must define ratio or get_lr")

    def _get_closed_form_lr(self) -> list[float]:
        """The rates of step ``last_epoch``, whatever those at hand are."""
        return self.get_lr()

    @effect
    def step(self, epoch: float | None = None) -> None:
        """Go on by one step, or to any, and set the rates.

        Args:
            epoch: the step to go to, from the initial rates; the next if None.
        """
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            self.base_lrs.append(group.setdefault("initial_lr", group["lr"]))
        self._step_count += 1
        if epoch is None:
            self.last_epoch += 1
            self._set(self.get_lr())
        else:
            self.last_epoch = epoch
            self._set(self._get_closed_form_lr())

    def _restart(self) -> None:
        """Begin anew, from the groups' rates at hand."""
        self.last_epoch = -1
        self.step()

    def _set(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = list(rates)

    def get_last_lr(self) -> list[float]:
        """The rates that were set last."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands; functions that it was given are not part of it."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name != "optimizer" and not callable(value) and not _holds_functions(value)
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken.

        Args:
            state_dict: PyTorch's too, for a schedule that was built with the same arguments.

        Raises:
            StateDictError: it lacks something, as that of another schedule does; nothing is changed then.
        """
        own = LRScheduler.state_dict(self).keys()
        missing = sorted(name for name in own - state_dict.keys() if not name.startswith("_"))
        if missing:
            raise StateDictError(
                f"load_state_dict: the state lacks {missing}, which {type(self).__name__} keeps; load the "
                "state of a schedule of the same kind"
            )
        self.__dict__.update({name: state_dict[name] for name in own & state_dict.keys()})


def _holds_functions(value: Any) -> bool:
    return isinstance(value, list) and any(callable(item) or isinstance(item, LRScheduler) for item in value)


def one_each(value: Any, optimizer: Optimizer, where: str) -> list[Any]:
    """A value for each group, from one for all or a list of them."""
    count = len(optimizer.param_groups)
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise ValueError(
            f"{where}: expected {count} values, one a group, got {len(values)}; pass as many, or one for all"
        )
    return values


def kept_of(f: Callable[..., Any] | None) -> dict[str, Any] | None:
    """What goes into a state of a function that a schedule was given: the attributes of a callable object."""
    return None if f is None or inspect.isroutine(f) else dict(vars(f))


def give_back(f: Callable[..., Any] | None, kept: dict[str, Any] | None) -> None:
    """Set what :func:`kept_of` took."""
    if f is not None and kept is not None:
        vars(f).update(kept)


class _ByFunctions(LRScheduler):
    """A schedule by functions of the step: one, or one a group."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.lr_lambda = lr_lambda
        super().__init__(optimizer, last_epoch)

    @property
    def lr_lambdas(self) -> list[Callable[[float], float]]:
        """f of each group."""
        return one_each(self.lr_lambda, self.optimizer, type(self).__name__)

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, and the attributes of callable objects."""
        return {**super().state_dict(), "lr_lambdas": [kept_of(f) for f in self.lr_lambdas]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken."""
        super().load_state_dict(state_dict)
        for f, kept in zip(self.lr_lambdas, state_dict.get("lr_lambdas", ()), strict=False):
            give_back(f, kept)


class LambdaLR(_ByFunctions):
    """``lr = initial lr · f(step)``.

    Args:
        optimizer: whose rates are set.
        lr_lambda: f, or one a group.
        last_epoch: as in :class:`LRScheduler`.
    """

    def get_lr(self) -> list[float]:
        """The rates."""
        return [base * f(self.last_epoch) for f, base in zip(self.lr_lambdas, self.base_lrs, strict=True)]


class MultiplicativeLR(_ByFunctions):
    """``lr = lr · f(step)``.

    Args:
        optimizer: whose rates are set.
        lr_lambda: f, or one a group.
        last_epoch: as in :class:`LRScheduler`.
    """

    def get_lr(self) -> list[float]:
        """The rates."""
        groups = self.optimizer.param_groups
        if self.last_epoch == 0 or self._is_initial:
            return [group["lr"] for group in groups]
        return [group["lr"] * f(self.last_epoch) for f, group in zip(self.lr_lambdas, groups, strict=True)]


class StepLR(LRScheduler):
    """The rate times ``gamma`` every ``step_size`` steps."""

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def ratio(self) -> float:
        """γ at every ``step_size``-th step."""
        return self.gamma if self.last_epoch > 0 and self.last_epoch % self.step_size == 0 else 1.0

    def _get_closed_form_lr(self) -> list[float]:
        return [base * self.gamma ** (self.last_epoch // self.step_size) for base in self.base_lrs]


class MultiStepLR(LRScheduler):
    """The rate times ``gamma`` at each of the ``milestones``; a step named twice counts twice."""

    def __init__(
        self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones: Counter[float] = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def ratio(self) -> float:
        """γ at a milestone."""
        return float(self.gamma ** self.milestones[self.last_epoch])

    def _get_closed_form_lr(self) -> list[float]:
        passed = bisect_right(sorted(self.milestones.elements()), self.last_epoch)
        return [base * self.gamma**passed for base in self.base_lrs]


class ConstantLR(LRScheduler):
    """The rate times ``factor`` for the first ``total_iters`` steps."""

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        if not 0.0 <= factor <= 1.0:
            raise ValueError(f"ConstantLR: factor must lie in [0, 1], got {factor}")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def ratio(self) -> float:
        """The constant at the first step, its inverse at the last."""
        if self.last_epoch == 0:
            return self.factor
        return 1.0 / self.factor if self.last_epoch == self.total_iters else 1.0

    def _get_closed_form_lr(self) -> list[float]:
        factor = self.factor if self.last_epoch < self.total_iters else 1.0
        return [base * factor for base in self.base_lrs]


class LinearLR(LRScheduler):
    """The rate times a factor that goes from ``start_factor`` to ``end_factor`` in ``total_iters`` steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0.0 < start_factor <= 1.0 or not 0.0 <= end_factor <= 1.0:
            raise ValueError(
                f"LinearLR: factors must lie in (0, 1] and [0, 1], got {start_factor} and {end_factor}"
            )
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _at(self, step: float) -> float:
        return self.start_factor + (self.end_factor - self.start_factor) * step / self.total_iters

    def ratio(self) -> float:
        """The line's value over that of the step before."""
        if self.last_epoch == 0:
            return self.start_factor
        if self._is_initial or self.last_epoch > self.total_iters:
            return 1.0
        return self._at(self.last_epoch) / self._at(self.last_epoch - 1)

    def _get_closed_form_lr(self) -> list[float]:
        return [base * self._at(min(self.last_epoch, self.total_iters)) for base in self.base_lrs]


class ExponentialLR(LRScheduler):
    """The rate times ``gamma`` every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def ratio(self) -> float:
        """γ, but not at the start."""
        return self.gamma if self.last_epoch > 0 and not self._is_initial else 1.0

    def _get_closed_form_lr(self) -> list[float]:
        return [base * self.gamma**self.last_epoch for base in self.base_lrs]


class PolynomialLR(LRScheduler):
    """The initial rate times ``(1 − step / total_iters)^power``, and 0 from ``total_iters`` on."""

    def __init__(
        self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1
    ) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def ratio(self) -> float:
        """The polynomial's value over that of the step before."""
        step, total = self.last_epoch, self.total_iters
        if step == 0 or step > total or self._is_initial:
            return 1.0
        return float(((1.0 - step / total) / (1.0 - (step - 1) / total)) ** self.power)

    def _get_closed_form_lr(self) -> list[float]:
        left = 1.0 - min(self.last_epoch, self.total_iters) / self.total_iters
        return [base * left**self.power for base in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """``lr = η + (initial − η) (1 + cos(π step / T)) / 2``: down to η in T steps, and up again after.

    Args:
        optimizer: whose rates are set.
        T_max: T.
        eta_min: η.
        last_epoch: as in :class:`LRScheduler`.

    Source: Loshchilov and Hutter, ICLR 2017, without restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates, from those at hand, so that the schedule can be chained."""
        step, period, low = self.last_epoch, self.T_max, self.eta_min
        groups = self.optimizer.param_groups
        if step == 0 or self._is_initial:
            return [group["lr"] for group in groups]
        if (step - 1 - period) % (2 * period) == 0:
            rise = (1.0 - math.cos(math.pi / period)) / 2.0
            return [
                group["lr"] + (base - low) * rise for base, group in zip(self.base_lrs, groups, strict=True)
            ]
        ratio = (1.0 + math.cos(math.pi * step / period)) / (1.0 + math.cos(math.pi * (step - 1) / period))
        return [ratio * (group["lr"] - low) + low for group in groups]

    def _get_closed_form_lr(self) -> list[float]:
        height = (1.0 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2.0
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """A cosine from the initial rate to ``eta_min`` over and over, each ``T_mult`` times as long as the last.

    Args:
        optimizer: whose rates are set.
        T_0: steps of the first.
        T_mult: a whole number of at least 1.
        eta_min: the lowest rate.
        last_epoch: as in :class:`LRScheduler`.

    Source: Loshchilov and Hutter, ICLR 2017.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if T_0 < 1 or T_mult < 1:
            raise ValueError(
                f"CosineAnnealingWarmRestarts: T_0 and T_mult must be at least 1, got {T_0}, {T_mult}"
            )
        self.T_0 = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    @effect
    def step(self, epoch: float | None = None) -> None:
        """Go on by one step, or to any: ``epoch + batch / num_batches``, say."""
        self.T_cur: float = self.last_epoch + 1 if epoch is None else epoch
        self.T_i = self.T_0
        while self.T_cur >= self.T_i:
            self.T_cur, self.T_i = self.T_cur - self.T_i, self.T_i * self.T_mult
        super().step(None if epoch is None else math.floor(epoch))

    def get_lr(self) -> list[float]:
        """The rates."""
        height = (1.0 + math.cos(math.pi * self.T_cur / self.T_i)) / 2.0
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]
