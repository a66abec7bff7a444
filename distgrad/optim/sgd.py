"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from distgrad.backend.kernels.elementwise import Elementwise
from distgrad.backend.kernels.rules import RULES
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

    rule: ClassVar[Elementwise] = RULES["sgd"]

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

    def numbers(self, group: dict[str, Any], step: int) -> dict[str, float]:
        """Those of the rule; the first gradient is the first momentum."""
        return {
            "sign": -1.0 if group["maximize"] else 1.0,
            "decay": group["weight_decay"],
            "lr": group["lr"],
            "momentum": group["momentum"],
            "share": 1.0 if step == 1 else 1.0 - group["dampening"],
            "nesterov": float(group["nesterov"]),
        }
