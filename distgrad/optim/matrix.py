"""Rules that look at a parameter as a whole: layer-wise trust, factored moments, orthogonal steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from distgrad.backend.array_module import get_array_module
from distgrad.backend.kernels.elementwise import Elementwise
from distgrad.backend.kernels.rules import RULES
from distgrad.backend.whole import norm_of
from distgrad.errors import ShapeError
from distgrad.optim.adam import descent
from distgrad.optim.optimizer import Optimizer

__all__ = ["LAMB", "LARS", "Adafactor", "Muon"]

State = dict[str, np.ndarray]
Group = dict[str, Any]


def _norm(x: Any) -> Any:
    """The norm of all elements: a number; on a device an array without axes, since a number would wait."""
    if isinstance(x, np.ndarray):
        return math.sqrt(float(x.ravel() @ x.ravel()))
    return norm_of((x,)).astype(x.dtype)


def _unless_zero(sizes: tuple[Any, Any], trust: Callable[[], Any]) -> Any:
    """What ``trust`` makes of two norms; 1 where either is 0."""
    if isinstance(sizes[0], float):
        return trust() if all(sizes) else 1.0
    return get_array_module(sizes[0]).where((sizes[0] > 0) & (sizes[1] > 0), trust(), 1.0)


def _at_least(least: float, x: Any) -> Any:
    """The larger of the two."""
    return max(least, x) if isinstance(x, float) else get_array_module(x).maximum(x, least)


class LAMB(Optimizer):
    """Adam whose step is scaled to the size of each parameter: ``p = p − lr ‖p‖ / ‖u‖ u``.

    ``u = m̂ / (√v̂ + ε) + λ p``; the ratio is 1 where either norm is 0.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: ε.
        weight_decay: λ.
        maximize: go up instead of down.

    Source: You et al., ICLR 2020.
    """

    rule: ClassVar[Elementwise] = RULES["lamb"]
    elementwise: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options)

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """Those of the rule, and the learning rate."""
        beta1, beta2 = group["betas"]
        return {
            **descent(group),
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "rate": 1.0 / (1.0 - beta1**step),
            "root": 1.0 / math.sqrt(1.0 - beta2**step),
            "eps": group["eps"],
            "lr": group["lr"],
        }

    def update(self, group: Group, p: np.ndarray, g: np.ndarray, state: State, step: int) -> None:
        """Apply the rule above."""
        numbers, u = self.numbers(group, step), get_array_module(p).empty_like(p)
        self._apply_rule((u, p, g), state, numbers)
        sizes = _norm(p), _norm(u)
        p -= numbers["lr"] * _unless_zero(sizes, lambda: sizes[0] / sizes[1]) * u


class LARS(Optimizer):
    """Momentum descent with a rate a parameter.

    ``b = μ b + lr η ‖p‖ / (‖g‖ + λ ‖p‖ + ε) (g + λ p); p = p − b``

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        momentum: μ.
        weight_decay: λ.
        trust_coefficient: η.
        eps: ε.
        maximize: go up instead of down.

    Source: You et al., 2017.
    """

    rule: ClassVar[Elementwise] = RULES["lars"]
    elementwise: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, {**options, "trust_coefficient": trust_coefficient, "maximize": maximize})

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """Those of the rule but the layer's rate, and what that is made of."""
        own = ("momentum", "lr", "trust_coefficient", "eps")
        return {**descent(group), **{name: group[name] for name in own}}

    def update(self, group: Group, p: np.ndarray, g: np.ndarray, state: State, step: int) -> None:
        """Apply the rule above."""
        numbers, sizes = self.numbers(group, step), (_norm(p), _norm(g))
        decay, least = numbers["decay"], numbers["eps"]
        trust = _unless_zero(
            sizes, lambda: numbers["trust_coefficient"] * sizes[0] / (sizes[1] + decay * sizes[0] + least)
        )
        self._apply_rule((p, g), state, {**numbers, "rate": numbers["lr"] * trust})


class Adafactor(Optimizer):
    """Adam's second moment kept as a row and a column a matrix, with steps relative to the parameter's size.

    Args:
        params: parameters or groups of them.
        lr: largest relative step.
        beta2_decay: c of the second moment's weight ``1 − t^c``.
        eps: (ε₁ added to squares; None takes the dtype's resolution, ε₂ the smallest size of a parameter).
        d: largest root mean square of an unscaled step.
        weight_decay: λ of ``p = p − lr λ p``.
        maximize: go up instead of down.

    Source: Shazeer and Stern, ICML 2018.
    """

    elementwise: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize})

    def check_options(self, group: Group) -> None:
        """As the others, but ``eps`` is a pair."""
        super().check_options({k: v for k, v in group.items() if k != "eps"})

    def state_shapes(self, group: Group, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """A row and a column for matrices (and stacks of them), the whole for vectors."""
        if len(shape) > 1:
            return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}
        return {"variance": shape}

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """The newest square's weight in the moments, the largest relative step, and the other options."""
        return {
            "sign": -1.0 if group["maximize"] else 1.0,
            "weight": float(step) ** group["beta2_decay"],
            "rate": min(group["lr"], 1.0 / math.sqrt(step)),
            "shrink": 1.0 - group["lr"] * group["weight_decay"],
            "smallest": group["eps"][1],
            "d": group["d"],
        }

    def update(self, group: Group, p: np.ndarray, g: np.ndarray, state: State, step: int) -> None:
        """Apply the rule of the paper."""
        xp, numbers = get_array_module(p), self.numbers(group, step)
        g = -g if numbers["sign"] < 0 else g
        tiny, weight = group["eps"][0], numbers["weight"]
        tiny = float(np.finfo(p.dtype).eps) if tiny is None else tiny
        rate = numbers["rate"] * _at_least(numbers["smallest"], _norm(p) / math.sqrt(p.size))
        p *= numbers["shrink"]
        if "row_var" in state:
            row, column = state["row_var"], state["col_var"]
            squares = g * g
            row += weight * (squares.mean(axis=-1, keepdims=True) - row)
            column += weight * (squares.mean(axis=-2, keepdims=True) - column)
            v = row @ column / xp.maximum(row.mean(axis=-2, keepdims=True), tiny)
        else:
            state["variance"] += weight * (g * g - state["variance"])
            v = state["variance"]
        u = g / xp.sqrt(xp.maximum(v, tiny * tiny))
        p -= rate / _at_least(1.0, _norm(u) / (math.sqrt(u.size) * numbers["d"])) * u


#: By ``adjust_lr_fn``, what the learning rate of a matrix of so many rows and columns is multiplied by.
_SCALES: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_unclamped": lambda rows, columns: math.sqrt(rows / columns),
}


class Muon(Optimizer):
    """Momentum whose matrix is brought close to orthogonal before each step.

    Args:
        params: matrices, ``[rows, columns]``.
        lr: learning rate; scaled by ``√max(1, rows / columns)``, or as ``adjust_lr_fn`` says.
        weight_decay: λ of ``p = p − lr λ p``.
        momentum: μ of ``b = μ b + (1 − μ) g``.
        nesterov: take ``μ b + (1 − μ) g`` for b.
        ns_coefficients: (a, b, c) of the iteration ``x = a x + (b y + c y²) x`` with ``y = x xᵀ``.
        eps: smallest norm that the matrix is divided by.
        ns_steps: number of iterations.
        adjust_lr_fn: ``"original"`` (as None), ``"match_rms_adamw"``, ``0.2 √max(rows, columns)``, or
            ``"spectral_unclamped"``, ``√(rows / columns)``.

    Source: Jordan et al., 2024; computed in the parameters' own dtype, not in bfloat16.
    """

    state_names: ClassVar[tuple[str, ...]] = ("momentum_buffer",)
    elementwise: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        options: Group = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
        options |= {"ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps}
        super().__init__(params, {**options, "adjust_lr_fn": adjust_lr_fn})

    def check_options(self, group: Group) -> None:
        """Only matrices can be made orthogonal."""
        super().check_options(group)
        if group["adjust_lr_fn"] not in (None, *_SCALES):
            raise ValueError(
                f"Muon: adjust_lr_fn must be one of {', '.join(map(repr, _SCALES))}, "
                f"got {group['adjust_lr_fn']!r}"
            )
        for parameter in group["params"]:
            if parameter.ndim != 2:
                raise ShapeError(
                    f"Muon: expected matrices, got {list(parameter.shape)}; give the others to AdamW"
                )

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """The momentum, the learning rate, and what the parameters are multiplied by."""
        lr = group["lr"]
        return {"momentum": group["momentum"], "lr": lr, "shrink": 1.0 - lr * group["weight_decay"]}

    def update(self, group: Group, p: np.ndarray, g: np.ndarray, state: State, step: int) -> None:
        """Apply the rule above."""
        numbers, b = self.numbers(group, step), state["momentum_buffer"]
        momentum = numbers["momentum"]
        b += (1.0 - momentum) * (g - b)
        x = g + momentum * (b - g) if group["nesterov"] else b
        x = _orthogonalized(x, group["ns_coefficients"], group["ns_steps"], group["eps"])
        scale = _SCALES[group["adjust_lr_fn"] or "original"](*p.shape)
        p *= numbers["shrink"]
        p -= numbers["lr"] * scale * x


def _orthogonalized(
    x: np.ndarray, coefficients: tuple[float, float, float], steps: int, eps: float
) -> np.ndarray:
    """Newton and Schulz's iteration towards the nearest matrix with orthogonal rows or columns."""
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / _at_least(eps, _norm(x))
    for _ in range(steps):
        y = x @ x.T
        x = a * x + (b * y + c * (y @ y)) @ x
    return x.T if tall else x
