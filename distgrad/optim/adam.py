"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from distgrad.backend.array_module import get_array_module
from distgrad.backend.kernels.table import accelerated
from distgrad.optim.optimizer import Optimizer, whole_runs

__all__ = ["Adam", "AdamW"]


def _update(xp: Any, p: Any, g: Any, m: Any, v: Any, top: Any, numbers: tuple[float, ...]) -> Any:
    """The rule in place, on arrays; returns ``p``.

    Args:
        xp: the arrays' module.
        p, g, m, v: ``[n]`` parameters, gradients, first and second moments.
        top: ``[n]``, the largest second moments; None without amsgrad.
        numbers: sign of g, what part of p joins it, what p is multiplied by, β₁, 1 − β₁, β₂, 1 − β₂,
            1 / √(1 − β₂ᵗ), ε, lr / (1 − β₁ᵗ).
    """
    sign, coupled, shrink, beta1, rest1, beta2, rest2, root, eps, rate = numbers
    if sign < 0:
        g = -g
    if coupled:
        g = g + coupled * p
    if shrink != 1.0:
        p *= shrink
    m *= beta1
    m += rest1 * g
    v *= beta2
    squared = g * g
    squared *= rest2
    v += squared
    if top is not None:
        v = xp.maximum(top, v, out=top)
    change = xp.sqrt(v, out=squared)
    change *= root
    change += eps
    xp.divide(m, change, out=change)
    change *= rate
    p -= change
    return p


_rule = accelerated("adam", _update)


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

    _kernels = ("adam",)

    state_names: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    block_elements: ClassVar[int] = whole_runs("adam")

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

    def update(
        self, group: dict[str, Any], p: np.ndarray, g: np.ndarray, state: dict[str, np.ndarray], step: int
    ) -> None:
        """Apply the rule above."""
        (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        coupled, shrink = (0.0, 1.0 - lr * decay) if group["decoupled_weight_decay"] else (decay, 1.0)
        _rule(
            get_array_module(p),
            p,
            g,
            state["exp_avg"],
            state["exp_avg_sq"],
            state["max_exp_avg_sq"] if group["amsgrad"] else None,
            (
                *(
                    -1.0 if group["maximize"] else 1.0,
                    coupled,
                    shrink,
                    beta1,
                    1.0 - beta1,
                    beta2,
                    1.0 - beta2,
                ),
                *(1.0 / math.sqrt(1.0 - beta2**step), group["eps"], lr / (1.0 - beta1**step)),
            ),
        )


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
