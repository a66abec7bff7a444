"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from distgrad.backend.array_module import get_array_module
from distgrad.backend.kernels.table import accelerated
from distgrad.optim.optimizer import Optimizer, whole_runs

__all__ = ["SGD"]


def _update(xp: Any, p: Any, g: Any, b: Any, numbers: tuple[float, ...], nesterov: bool) -> Any:
    """The rule in place, on arrays; returns ``p``.

    Args:
        xp: the arrays' module.
        p, g: ``[n]`` parameters and gradients.
        b: ``[n]``, the momentum; None without.
        numbers: sign of g, λ, lr, μ, what part of g the momentum takes.
        nesterov: take ``g + μ b`` for b.
    """
    sign, decay, lr, keep, share = numbers
    if sign < 0:
        g = -g
    if decay:
        g = g + decay * p
    if b is not None:
        b *= keep
        b += g if share == 1.0 else share * g
        g = g + keep * b if nesterov else b
    p -= lr * g
    return p


_rule = accelerated("sgd", _update)


class SGD(Optimizer):
    """Gradient descent with momentum: ``b = μ b + (1 − τ) g; p = p − lr b``.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        momentum: μ; 0 takes the gradient itself.
        dampening: τ; not applied at the first step, which starts the momentum with the gradient.
        weight_decay: λ of ``g + λ p``.
        nesterov: take ``g + μ b`` for b.
        maximize: go up instead of down.

    Source: Sutskever et al., ICML 2013, with the learning rate outside the momentum, as PyTorch has it.
    """

    _kernels = ("sgd",)

    block_elements: ClassVar[int] = whole_runs("sgd")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("SGD: nesterov needs a momentum above 0 and no dampening")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The momentum, where there is one."""
        return ("momentum_buffer",) if group["momentum"] else ()

    def update(
        self, group: dict[str, Any], p: np.ndarray, g: np.ndarray, state: dict[str, np.ndarray], step: int
    ) -> None:
        """Apply the rule above."""
        momentum = group["momentum"]
        sign = -1.0 if group["maximize"] else 1.0
        share = 1.0 if step == 1 else 1.0 - group["dampening"]
        buffer = state["momentum_buffer"] if momentum else None
        numbers = (sign, group["weight_decay"], group["lr"], momentum, share)
        _rule(get_array_module(p), p, g, buffer, numbers, group["nesterov"])
