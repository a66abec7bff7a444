"""The optimizers' rules of ``distgrad.optim.rules`` in one pass; arguments and numbers are those there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.optimizer import run_rule
from distgrad.backend.kernels.support import kernel


@kernel("x1 x1 x1 n n x x x x x x x", elementwise=True)
def _rmsprop(
    p: Any, g: Any, v: Any, m: Any, b: Any, sign: Any, decay: Any, alpha: Any, rest: Any, eps: Any,
    momentum: Any, lr: Any,
) -> None:  # fmt: skip
    for i in range(p.size):
        gradient = sign * g[i] + decay * p[i]
        square = alpha * v[i] + rest * (gradient * gradient)
        v[i] = square
        if m is not None:
            mean = m[i] + rest * (gradient - m[i])
            m[i] = mean
            square -= mean * mean
        change = gradient / (math.sqrt(square) + eps)
        if b is not None:
            change += momentum * b[i]
            b[i] = change
        p[i] -= lr * change


def rmsprop(p: Any, g: Any, v: Any, m: Any, b: Any, numbers: Any) -> Any:
    """In place."""
    return run_rule(_rmsprop, (p, g, v, m, b), numbers)


@kernel("x1 x1 x1 x x x x", elementwise=True)
def _adagrad(p: Any, g: Any, s: Any, sign: Any, decay: Any, eps: Any, rate: Any) -> None:
    for i in range(p.size):
        gradient = sign * g[i] + decay * p[i]
        square = s[i] + gradient * gradient
        s[i] = square
        p[i] -= rate * (gradient / (math.sqrt(square) + eps))


def adagrad(p: Any, g: Any, s: Any, numbers: Any) -> Any:
    """In place."""
    return run_rule(_adagrad, (p, g, s), numbers)


@kernel("x1 x1 x1 x1 x x x x x x", elementwise=True)
def _adadelta(
    p: Any, g: Any, v: Any, d: Any, sign: Any, decay: Any, rho: Any, rest: Any, eps: Any, lr: Any
) -> None:
    for i in range(p.size):
        gradient = sign * g[i] + decay * p[i]
        square = rho * v[i] + rest * (gradient * gradient)
        v[i] = square
        change = math.sqrt(d[i] + eps) / math.sqrt(square + eps) * gradient
        d[i] = rho * d[i] + rest * (change * change)
        p[i] -= lr * change


def adadelta(p: Any, g: Any, v: Any, d: Any, numbers: Any) -> Any:
    """In place."""
    return run_rule(_adadelta, (p, g, v, d), numbers)


@kernel("x1 x1 x1 x1 x x x x x x", elementwise=True)
def _adamax(
    p: Any, g: Any, m: Any, u: Any, sign: Any, decay: Any, rest1: Any, beta2: Any, eps: Any, rate: Any
) -> None:
    for i in range(p.size):
        gradient = sign * g[i] + decay * p[i]
        mean = m[i] + rest1 * (gradient - m[i])
        m[i] = mean
        size, before = abs(gradient) + eps, beta2 * u[i]
        largest = before if (before >= size) | (before != before) else size  # NaN is largest
        u[i] = largest
        p[i] -= rate * (mean / largest)


def adamax(p: Any, g: Any, m: Any, u: Any, numbers: Any) -> Any:
    """In place."""
    return run_rule(_adamax, (p, g, m, u), numbers)


@kernel("x1 x1 x1 x1 x x x x x x x x x x", elementwise=True)
def _nadam(
    p: Any, g: Any, m: Any, v: Any, sign: Any, decay: Any, shrink: Any, rest1: Any, beta2: Any, rest2: Any,
    root: Any, eps: Any, rate_g: Any, rate_m: Any,
) -> None:  # fmt: skip
    for i in range(p.size):
        gradient = sign * g[i] + decay * p[i]
        mean = m[i] + rest1 * (gradient - m[i])
        square = beta2 * v[i] + rest2 * (gradient * gradient)
        m[i] = mean
        v[i] = square
        p[i] = shrink * p[i] - (rate_g * gradient + rate_m * mean) / (math.sqrt(square) * root + eps)


def nadam(p: Any, g: Any, m: Any, v: Any, numbers: Any) -> Any:
    """In place."""
    return run_rule(_nadam, (p, g, m, v), numbers)


@kernel("x1 x1 x1 x1 x x x x x x x x x", elementwise=True)
def _radam(
    p: Any, g: Any, m: Any, v: Any, sign: Any, decay: Any, shrink: Any, rest1: Any, beta2: Any, rest2: Any,
    eps: Any, rate: Any, trust: Any,
) -> None:  # fmt: skip
    one = p.dtype.type(1)
    for i in range(p.size):
        gradient = sign * g[i] + decay * p[i]
        mean = m[i] + rest1 * (gradient - m[i])
        square = beta2 * v[i] + rest2 * (gradient * gradient)
        m[i] = mean
        v[i] = square
        scale = trust / (math.sqrt(square) + eps) if trust > 0 else one
        p[i] = shrink * p[i] - rate * (mean * scale)


def radam(p: Any, g: Any, m: Any, v: Any, numbers: Any) -> Any:
    """In place."""
    return run_rule(_radam, (p, g, m, v), numbers)


@kernel("x1 x1 x1 x1 x x x x x x", elementwise=True)
def _rprop(
    p: Any, g: Any, before: Any, size: Any, sign: Any, decay: Any, shrink: Any, grow: Any, smallest: Any,
    largest: Any,
) -> None:  # fmt: skip
    zero = p.dtype.type(0)
    for i in range(p.size):
        gradient = sign * g[i] + decay * p[i]
        turn = gradient * before[i]
        length = size[i]
        length = length * grow if turn > zero else length * shrink if turn < zero else length
        length = largest if length > largest else smallest if length < smallest else length
        kept = zero if turn < zero else gradient
        size[i] = length
        before[i] = kept
        p[i] -= length if kept > zero else -length if kept < zero else kept * length  # NaN stays


def rprop(p: Any, g: Any, before: Any, size: Any, numbers: Any) -> Any:
    """In place."""
    return run_rule(_rprop, (p, g, before, size), numbers)


@kernel("x1 x1 x1 x x x x x", elementwise=True)
def _asgd(p: Any, g: Any, average: Any, sign: Any, decay: Any, shrink: Any, rate: Any, share: Any) -> None:
    for i in range(p.size):
        new = shrink * p[i] - rate * (sign * g[i] + decay * p[i])
        p[i] = new
        average[i] += (new - average[i]) * share


def asgd(p: Any, g: Any, average: Any, numbers: Any) -> Any:
    """In place."""
    return run_rule(_asgd, (p, g, average), numbers)


@kernel("x1 x1 x1 x x x x x x x x", elementwise=True)
def _lion(
    p: Any, g: Any, m: Any, sign: Any, decay: Any, shrink: Any, lr: Any, beta1: Any, rest1: Any, beta2: Any,
    rest2: Any,
) -> None:  # fmt: skip
    zero = p.dtype.type(0)
    for i in range(p.size):
        gradient = sign * g[i] + decay * p[i]
        ahead = beta1 * m[i] + rest1 * gradient
        change = lr if ahead > zero else -lr if ahead < zero else ahead  # NaN stays
        p[i] = shrink * p[i] - change
        m[i] = beta2 * m[i] + rest2 * gradient


def lion(p: Any, g: Any, m: Any, numbers: Any) -> Any:
    """In place."""
    return run_rule(_lion, (p, g, m), numbers)


@kernel("x1 x1 x1 x x x x", elementwise=True)
def _lars(p: Any, g: Any, b: Any, sign: Any, decay: Any, momentum: Any, rate: Any) -> None:
    for i in range(p.size):
        change = momentum * b[i] + rate * (sign * g[i] + decay * p[i])
        b[i] = change
        p[i] -= change


def lars(p: Any, g: Any, b: Any, numbers: Any) -> Any:
    """In place."""
    return run_rule(_lars, (p, g, b), numbers)


@kernel("x1 x1 x1 x1 x1 x x x x x x x x", elementwise=True)
def _lamb_direction(
    u: Any, p: Any, g: Any, m: Any, v: Any, sign: Any, decay: Any, rest1: Any, beta2: Any, rest2: Any,
    rate: Any, root: Any, eps: Any,
) -> None:  # fmt: skip
    for i in range(p.size):
        gradient = sign * g[i]
        mean = m[i] + rest1 * (gradient - m[i])
        square = beta2 * v[i] + rest2 * (gradient * gradient)
        m[i] = mean
        v[i] = square
        u[i] = rate * mean / (math.sqrt(square) * root + eps) + decay * p[i]


def lamb_direction(p: Any, g: Any, m: Any, v: Any, numbers: Any) -> Any:
    """The moments in place; the step, a new array."""
    return run_rule(_lamb_direction, (np.empty_like(p), p, g, m, v), numbers)
