"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

from distgrad.backend.kernels.elementwise import Elementwise
from distgrad.backend.kernels.rules import RULES
from distgrad.optim.optimizer import Optimizer

__all__ = ["Adam", "AdamW", "descent"]


def descent(group: dict[str, Any]) -> dict[str, float]:
    """What most rules begin with: the gradient's sign, and the weight decay of it or of the parameters."""
    sign, decay = -1.0 if group["maximize"] else 1.0, group.get("weight_decay", 0.0)
    if group.get("decoupled_weight_decay"):
        return {"sign": sign, "decay": 0.0, "shrink": 1.0 - group["lr"] * decay}
    return {"sign": sign, "decay": decay, "shrink": 1.0}


class Adam(Optimizer):
    """Steps scaled by running moments of the gradient.

    ``m = β₁ m + (1 − β₁) g; v = β₂ v + (1 − β₂) g²; p = p − lr (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)``

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: ε.
        weight_decay: λ of ``g + λ p``.
        amsgrad: divide by the largest v so far.
        maximize: go up instead of down.
        decoupled_weight_decay: shrink the parameters directly, as :class:`AdamW` does.

    Source: Kingma and Ba, ICLR 2015; amsgrad: Reddi et al., ICLR 2018.
    """

    rule: ClassVar[Elementwise] = RULES["adam"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The moments, and the largest second one for amsgrad."""
        return (*self.state_names, "max_exp_avg_sq") if group["amsgrad"] else self.state_names

    def numbers(self, group: dict[str, Any], step: int) -> dict[str, float]:
        """Those of the rule."""
        beta1, beta2 = group["betas"]
        return {
            **descent(group),
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "root": 1.0 / math.sqrt(1.0 - beta2**step),
            "eps": group["eps"],
            "rate": group["lr"] / (1.0 - beta1**step),
        }


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters directly: ``p = p − lr λ p`` before each step.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: ε.
        weight_decay: λ.
        amsgrad: divide by the largest v so far.
        maximize: go up instead of down.

    Source: Loshchilov and Hutter, ICLR 2019.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True
        )
