"""Rules that leave the rows alone which a batch did not use."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from distgrad.backend.array_module import get_array_module
from distgrad.optim.optimizer import Optimizer

__all__ = ["SparseAdam"]


class SparseAdam(Optimizer):
    """Adam whose parameters and moments change only in rows with a gradient, as an embedding's.

    A row counts as used where any element of its gradient is not 0.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: ε, added before the moments' bias is corrected.
        maximize: go up instead of down.

    Source: Kingma and Ba, ICLR 2015; rows of their own as in PyTorch.
    """

    elementwise: ClassVar[bool] = False
    state_names: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize})

    def numbers(self, group: dict[str, Any], step: int) -> dict[str, float]:
        """The sign, the newest gradient's weight in the moments, and the rate with their bias corrected."""
        beta1, beta2 = group["betas"]
        return {
            "sign": -1.0 if group["maximize"] else 1.0,
            "rest1": 1.0 - beta1,
            "rest2": 1.0 - beta2,
            "rate": group["lr"] * math.sqrt(1.0 - beta2**step) / (1.0 - beta1**step),
            "eps": group["eps"],
        }

    def update(
        self, group: dict[str, Any], p: np.ndarray, g: np.ndarray, state: dict[str, np.ndarray], step: int
    ) -> None:
        """``m = β₁ m + (1 − β₁) g`` and so on, in the rows that were used."""
        xp, numbers = get_array_module(p), self.numbers(group, step)
        g = -g if numbers["sign"] < 0 else g
        used = g != 0
        if p.ndim > 1:
            used = xp.any(used.reshape(len(p), -1), axis=1).reshape(-1, *[1] * (p.ndim - 1))
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean += xp.where(used, numbers["rest1"] * (g - mean), 0.0).astype(mean.dtype, copy=False)
        square += xp.where(used, numbers["rest2"] * (g * g - square), 0.0).astype(square.dtype, copy=False)
        change = numbers["rate"] * mean / (xp.sqrt(square) + numbers["eps"])
        p -= xp.where(used, change, 0.0).astype(p.dtype, copy=False)
