"""The rules of the optimizers that treat elements alike, on flat arrays, each with its kernel in front.

A rule changes its arrays in place and returns the first. Optimizers' classes turn options and the step's
number into its ``numbers``; of these the first two are everywhere the gradient's sign, and what part of the
parameters joins it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.backend.kernels.table import accelerated

Numbers = tuple[float, ...]


def _rule(formula: Callable[..., Any]) -> Callable[..., Any]:
    return accelerated(formula.__name__, formula)


def _directed(sign: float, decay: float, p: Any, g: Any) -> Any:
    """The gradient with its sign, and the weight decay of ``g + λ p``."""
    if sign < 0:
        g = -g
    return g + decay * p if decay else g


@_rule
def rmsprop(xp: Any, p: Any, g: Any, v: Any, m: Any, b: Any, numbers: Numbers) -> Any:
    """v: running squares; m: running mean, or None; b: momentum, or None. Numbers: α, 1 − α, ε, μ, lr."""
    sign, decay, alpha, rest, eps, momentum, lr = numbers
    g = _directed(sign, decay, p, g)
    v *= alpha
    v += rest * (g * g)
    if m is not None:
        m += rest * (g - m)
        v = v - m * m
    change = g / (xp.sqrt(v) + eps)
    if b is not None:
        b *= momentum
        b += change
        change = b
    p -= lr * change
    return p


@_rule
def adagrad(xp: Any, p: Any, g: Any, s: Any, numbers: Numbers) -> Any:
    """s: the squares so far. Numbers: ε, lrₜ."""
    sign, decay, eps, rate = numbers
    g = _directed(sign, decay, p, g)
    s += g * g
    p -= rate * (g / (xp.sqrt(s) + eps))
    return p


@_rule
def adadelta(xp: Any, p: Any, g: Any, v: Any, d: Any, numbers: Numbers) -> Any:
    """v, d: running squares of gradients and steps. Numbers: ρ, 1 − ρ, ε, lr."""
    sign, decay, rho, rest, eps, lr = numbers
    g = _directed(sign, decay, p, g)
    v *= rho
    v += rest * (g * g)
    change = xp.sqrt(d + eps) / xp.sqrt(v + eps) * g
    d *= rho
    d += rest * (change * change)
    p -= lr * change
    return p


@_rule
def adamax(xp: Any, p: Any, g: Any, m: Any, u: Any, numbers: Numbers) -> Any:
    """m: running mean; u: the largest size. Numbers: 1 − β₁, β₂, ε, lr / (1 − β₁ᵗ)."""
    sign, decay, rest1, beta2, eps, rate = numbers
    g = _directed(sign, decay, p, g)
    m += rest1 * (g - m)
    u *= beta2
    xp.maximum(u, xp.abs(g) + eps, out=u)
    p -= rate * (m / u)
    return p


@_rule
def nadam(xp: Any, p: Any, g: Any, m: Any, v: Any, numbers: Numbers) -> Any:
    """m, v: moments.

    Numbers: what p is multiplied by, 1 − β₁, β₂, 1 − β₂, 1 / √(1 − β₂ᵗ), ε, the rates of g and of m.
    """
    sign, decay, shrink, rest1, beta2, rest2, root, eps, rate_g, rate_m = numbers
    g = _directed(sign, decay, p, g)
    if shrink != 1.0:
        p *= shrink
    m += rest1 * (g - m)
    v *= beta2
    v += rest2 * (g * g)
    scale = xp.sqrt(v) * root + eps
    p -= (rate_g * g + rate_m * m) / scale
    return p


@_rule
def radam(xp: Any, p: Any, g: Any, m: Any, v: Any, numbers: Numbers) -> Any:
    """m, v: moments.

    Numbers: what p is multiplied by, 1 − β₁, β₂, 1 − β₂, ε, lr / (1 − β₁ᵗ), and what the adaptive step is
    multiplied by, 0 where m alone decides.
    """
    sign, decay, shrink, rest1, beta2, rest2, eps, rate, trust = numbers
    g = _directed(sign, decay, p, g)
    if shrink != 1.0:
        p *= shrink
    m += rest1 * (g - m)
    v *= beta2
    v += rest2 * (g * g)
    p -= rate * (m * (trust / (xp.sqrt(v) + eps)) if trust else m)
    return p


@_rule
def rprop(xp: Any, p: Any, g: Any, before: Any, size: Any, numbers: Numbers) -> Any:
    """before: last gradient; size: of the step. Numbers: factors of shrinking and growing, size's bounds."""
    sign, decay, shrink, grow, smallest, largest = numbers
    g = _directed(sign, decay, p, g)
    turn, kind = xp.sign(g * before), p.dtype.type
    size *= xp.where(turn > 0, kind(grow), xp.where(turn < 0, kind(shrink), kind(1)))
    xp.clip(size, smallest, largest, out=size)
    before[...] = xp.where(turn < 0, 0, g)
    p -= xp.sign(before) * size
    return p


@_rule
def asgd(xp: Any, p: Any, g: Any, average: Any, numbers: Numbers) -> Any:
    """average: of the parameters. Numbers: what p is multiplied by, lrₜ, the newest's share."""
    sign, decay, shrink, rate, share = numbers
    g = _directed(sign, decay, p, g)
    p *= shrink
    p -= rate * g
    average += (p - average) * share
    return p


@_rule
def lion(xp: Any, p: Any, g: Any, m: Any, numbers: Numbers) -> Any:
    """m: momentum. Numbers: what p is multiplied by, lr, β₁, 1 − β₁, β₂, 1 − β₂."""
    sign, decay, shrink, lr, beta1, rest1, beta2, rest2 = numbers
    g = _directed(sign, decay, p, g)
    if shrink != 1.0:
        p *= shrink
    p -= lr * xp.sign(beta1 * m + rest1 * g)
    m *= beta2
    m += rest2 * g
    return p


@_rule
def lars(xp: Any, p: Any, g: Any, b: Any, numbers: Numbers) -> Any:
    """b: momentum. Numbers: μ, the layer's rate; on a device the last may be an array without axes."""
    sign, decay, momentum, rate = numbers
    g = _directed(sign, decay, p, g)
    b *= momentum
    b += rate * g
    p -= b
    return p


@_rule
def lamb_direction(xp: Any, p: Any, g: Any, m: Any, v: Any, numbers: Numbers) -> Any:
    """The moments m and v updated; returns LAMB's step before it is scaled, a new array.

    Numbers: λ, which joins the step instead, 1 − β₁, β₂, 1 − β₂, 1 / (1 − β₁ᵗ), 1 / √(1 − β₂ᵗ), ε.
    """
    sign, decay, rest1, beta2, rest2, rate, root, eps = numbers
    g = -g if sign < 0 else g
    m += rest1 * (g - m)
    v *= beta2
    v += rest2 * (g * g)
    u = rate * m / (xp.sqrt(v) * root + eps)
    u += decay * p
    return u
