"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from distgrad.optim.optimizer import Optimizer

__all__ = ["SGD"]


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
        if group["maximize"]:
            g = -g
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        if group["momentum"]:
            b = state["momentum_buffer"]
            b *= group["momentum"]
            b += g if step == 1 else (1.0 - group["dampening"]) * g
            g = g + group["momentum"] * b if group["nesterov"] else b
        p -= group["lr"] * g
