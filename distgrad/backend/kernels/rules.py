"""The optimizers' rules, of one element each; what an optimizer's class makes of its options are the numbers.

A rule's arrays are the parameters p, their gradients g and the state, by the names that state dicts have. The
gradient's ``sign`` is −1 to go up; ``decay`` is λ of ``g + λ p``; ``shrink`` is what p is multiplied by where
the decay is decoupled. A step's corrections for moments that began with zeros are among the numbers.
"""

from __future__ import annotations

from typing import Any

from distgrad.backend.kernels.elementwise import (
    Elementwise,
    Factor,
    Measured,
    elementwise,
    inlined,
    maximum,
    minimum,
    sign_of,
    sqrt,
)

__all__ = ["RULES"]


@inlined
def directed(g: float, p: float, sign: Factor, decay: float) -> float:
    """The gradient to go down by; a part of p joins it, but not 0 times an infinity."""
    down = sign * g
    return down + decay * p if decay != 0 else down


@elementwise
def sgd(
    p: float, g: float, momentum_buffer: float | None,
    *, sign: Factor, decay: float, lr: float, momentum: float, share: Factor, nesterov: float,
) -> Any:  # fmt: skip
    """share: of g in the momentum; nesterov: 1 takes ``g + μ b`` for b."""
    change = directed(g, p, sign, decay)
    if momentum_buffer is not None:
        momentum_buffer = momentum * momentum_buffer + share * change
        change = change + momentum * momentum_buffer if nesterov != 0 else momentum_buffer
    p = p - lr * change
    return p, momentum_buffer


@elementwise
def adam(
    p: float, g: float, exp_avg: float, exp_avg_sq: float, max_exp_avg_sq: float | None,
    *, sign: Factor, decay: float, shrink: Factor, beta1: float, rest1: float, beta2: float, rest2: float,
    root: float, eps: float, rate: float,
) -> Any:  # fmt: skip
    """rest1, rest2: 1 − β; root: 1 / √(1 − β₂ᵗ); rate: lr / (1 − β₁ᵗ)."""
    g = directed(g, p, sign, decay)
    exp_avg = beta1 * exp_avg + rest1 * g
    exp_avg_sq = beta2 * exp_avg_sq + rest2 * (g * g)
    square = exp_avg_sq
    if max_exp_avg_sq is not None:
        max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
        square = max_exp_avg_sq
    p = shrink * p - rate * (exp_avg / (sqrt(square) * root + eps))
    return p, exp_avg, exp_avg_sq, max_exp_avg_sq


@elementwise
def rmsprop(
    p: float, g: float, square_avg: float, grad_avg: float | None, momentum_buffer: float | None,
    *, sign: Factor, decay: float, alpha: float, rest: float, eps: float, momentum: float, lr: float,
) -> Any:  # fmt: skip
    """rest: 1 − α."""
    g = directed(g, p, sign, decay)
    square_avg = alpha * square_avg + rest * (g * g)
    square = square_avg
    if grad_avg is not None:
        grad_avg = grad_avg + rest * (g - grad_avg)
        square = square_avg - grad_avg * grad_avg
    change = g / (sqrt(square) + eps)
    if momentum_buffer is not None:
        momentum_buffer = change + momentum * momentum_buffer
        change = momentum_buffer
    p = p - lr * change
    return p, square_avg, grad_avg, momentum_buffer


@elementwise
def adagrad(
    p: float, g: float, sum: float, *, sign: Factor, decay: float, eps: float, rate: float
) -> Any:  # fmt: skip
    """rate: lrₜ."""
    g = directed(g, p, sign, decay)
    sum = sum + g * g
    p = p - rate * (g / (sqrt(sum) + eps))
    return p, sum


@elementwise
def adadelta(
    p: float, g: float, square_avg: float, acc_delta: float,
    *, sign: Factor, decay: float, rho: float, rest: float, eps: float, lr: float,
) -> Any:  # fmt: skip
    """rest: 1 − ρ."""
    g = directed(g, p, sign, decay)
    square_avg = rho * square_avg + rest * (g * g)
    change = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
    acc_delta = rho * acc_delta + rest * (change * change)
    p = p - lr * change
    return p, square_avg, acc_delta


@elementwise
def adamax(
    p: float, g: float, exp_avg: float, exp_inf: float,
    *, sign: Factor, decay: float, rest1: float, beta2: float, eps: float, rate: float,
) -> Any:  # fmt: skip
    """rest1: 1 − β₁; rate: lr / (1 − β₁ᵗ)."""
    g = directed(g, p, sign, decay)
    exp_avg = exp_avg + rest1 * (g - exp_avg)
    exp_inf = maximum(beta2 * exp_inf, abs(g) + eps)
    p = p - rate * (exp_avg / exp_inf)
    return p, exp_avg, exp_inf


@elementwise
def nadam(
    p: float, g: float, exp_avg: float, exp_avg_sq: float,
    *, sign: Factor, decay: float, shrink: Factor, rest1: float, beta2: float, rest2: float, root: float,
    eps: float, rate_g: float, rate_m: float,
) -> Any:  # fmt: skip
    """rest1, rest2: 1 − β; root: 1 / √(1 − β₂ᵗ); rate_g, rate_m: of the gradient and of its mean."""
    g = directed(g, p, sign, decay)
    exp_avg = exp_avg + rest1 * (g - exp_avg)
    exp_avg_sq = beta2 * exp_avg_sq + rest2 * (g * g)
    p = shrink * p - (rate_g * g + rate_m * exp_avg) / (sqrt(exp_avg_sq) * root + eps)
    return p, exp_avg, exp_avg_sq


@elementwise
def radam(
    p: float, g: float, exp_avg: float, exp_avg_sq: float,
    *, sign: Factor, decay: float, shrink: Factor, rest1: float, beta2: float, rest2: float, eps: float,
    rate: float, trust: float,
) -> Any:  # fmt: skip
    """rest1, rest2: 1 − β; rate: lr / (1 − β₁ᵗ); trust: in the variance, 0 where the mean alone decides."""
    g = directed(g, p, sign, decay)
    exp_avg = exp_avg + rest1 * (g - exp_avg)
    exp_avg_sq = beta2 * exp_avg_sq + rest2 * (g * g)
    change = exp_avg * (trust / (sqrt(exp_avg_sq) + eps)) if trust > 0 else exp_avg
    p = shrink * p - rate * change
    return p, exp_avg, exp_avg_sq


@elementwise
def rprop(
    p: float, g: float, prev: float, step_size: float,
    *, sign: Factor, decay: float, shrink: float, grow: float, smallest: float, largest: float,
) -> Any:  # fmt: skip
    """shrink, grow: factors of the step's size; smallest, largest: its bounds."""
    g = directed(g, p, sign, decay)
    turn = g * prev
    step_size = step_size * grow if turn > 0 else step_size * shrink if turn < 0 else step_size
    step_size = minimum(maximum(step_size, smallest), largest)
    prev = 0.0 if turn < 0 else g
    p = p - sign_of(prev) * step_size
    return p, prev, step_size


@elementwise
def asgd(
    p: float, g: float, ax: float,
    *, sign: Factor, decay: float, shrink: float, rate: float, share: float,
) -> Any:  # fmt: skip
    """rate: lrₜ; share: of the newest parameters in their average."""
    g = directed(g, p, sign, decay)
    p = shrink * p - rate * g
    ax = ax + (p - ax) * share
    return p, ax


@elementwise
def lion(
    p: float, g: float, exp_avg: float,
    *, sign: Factor, decay: float, shrink: Factor, lr: float, beta1: float, rest1: float, beta2: float,
    rest2: float,
) -> Any:  # fmt: skip
    """rest1, rest2: 1 − β."""
    g = directed(g, p, sign, decay)
    p = shrink * p - lr * sign_of(beta1 * exp_avg + rest1 * g)
    exp_avg = beta2 * exp_avg + rest2 * g
    return p, exp_avg


@elementwise
def lars(
    p: float, g: float, momentum_buffer: float,
    *, sign: Factor, decay: float, momentum: float, rate: Measured,
) -> Any:  # fmt: skip
    """rate: the layer's."""
    g = directed(g, p, sign, decay)
    momentum_buffer = momentum * momentum_buffer + rate * g
    p = p - momentum_buffer
    return p, momentum_buffer


@elementwise
def lamb(
    u: float, p: float, g: float, exp_avg: float, exp_avg_sq: float,
    *, sign: Factor, decay: float, rest1: float, beta2: float, rest2: float, rate: float, root: float,
    eps: float,
) -> Any:  # fmt: skip
    """u: the step before it is scaled; rest1, rest2: 1 − β; rate, root: 1 / (1 − β₁ᵗ), 1 / √(1 − β₂ᵗ)."""
    down = sign * g
    exp_avg = exp_avg + rest1 * (down - exp_avg)
    exp_avg_sq = beta2 * exp_avg_sq + rest2 * (down * down)
    u = rate * exp_avg / (sqrt(exp_avg_sq) * root + eps) + decay * p
    return u, exp_avg, exp_avg_sq


RULES = {rule.name: rule for rule in list(globals().values()) if isinstance(rule, Elementwise)}
