"""Optimizers' updates in one pass over flat arrays, in place."""

from __future__ import annotations

import math
from typing import Any

from distgrad.backend.kernels.support import is_plain, kernel
from distgrad.backend.threads import run_parts

_PART = 1 << 16  # elements worth a thread


def run_rule(kernel: Any, arrays: tuple[Any, ...], numbers: Any, *options: bool) -> Any:
    """The kernel over parts of the arrays, of which the first is returned; None may stand for one."""
    if not is_plain(*arrays):
        return None
    first = arrays[0]
    flat = [None if x is None else x.reshape(-1) for x in arrays]
    values = [first.dtype.type(number) for number in numbers]

    def run(start: int, stop: int) -> None:
        kernel(*(None if x is None else x[start:stop] for x in flat), *values, *options)

    run_parts(run, first.size, _PART)
    return first


@kernel("x1 x1 x1 x1 x x x x x x x x x x", elementwise=True)
def _adam(
    p: Any, g: Any, m: Any, v: Any, sign: Any, decay: Any, shrink: Any, beta1: Any, rest1: Any, beta2: Any,
    rest2: Any, root: Any, eps: Any, rate: Any,
) -> None:  # fmt: skip
    for i in range(p.size):
        gradient = sign * g[i] + decay * p[i]
        first = beta1 * m[i] + rest1 * gradient
        second = beta2 * v[i] + rest2 * (gradient * gradient)
        m[i] = first
        v[i] = second
        p[i] = shrink * p[i] - rate * (first / (math.sqrt(second) * root + eps))


@kernel("x1 x1 x1 x1 x1 x x x x x x x x x x", rare=True, elementwise=True)
def _adam_largest(
    p: Any, g: Any, m: Any, v: Any, top: Any, sign: Any, decay: Any, shrink: Any, beta1: Any, rest1: Any,
    beta2: Any, rest2: Any, root: Any, eps: Any, rate: Any,
) -> None:  # fmt: skip
    for i in range(p.size):
        gradient = sign * g[i] + decay * p[i]
        first = beta1 * m[i] + rest1 * gradient
        second = beta2 * v[i] + rest2 * (gradient * gradient)
        m[i] = first
        v[i] = second
        top[i] = max(top[i], second)
        p[i] = shrink * p[i] - rate * (first / (math.sqrt(top[i]) * root + eps))


def adam(p: Any, g: Any, m: Any, v: Any, top: Any, numbers: Any) -> Any:
    """Adam's and AdamW's rule; ``numbers`` are those of the formula."""
    if top is None:
        return run_rule(_adam, (p, g, m, v), numbers)
    return run_rule(_adam_largest, (p, g, m, v, top), numbers)


@kernel("x1 x1 x x x", elementwise=True)
def _sgd(p: Any, g: Any, sign: Any, decay: Any, rate: Any) -> None:
    for i in range(p.size):
        p[i] -= rate * (sign * g[i] + decay * p[i])


@kernel("x1 x1 x1 x x x x x b", elementwise=True)
def _sgd_momentum(
    p: Any, g: Any, b: Any, sign: Any, decay: Any, rate: Any, keep: Any, share: Any, nesterov: bool
) -> None:
    for i in range(p.size):
        gradient = sign * g[i] + decay * p[i]
        momentum = keep * b[i] + share * gradient
        b[i] = momentum
        p[i] -= rate * (gradient + keep * momentum if nesterov else momentum)


def sgd(p: Any, g: Any, b: Any, numbers: Any, nesterov: bool) -> Any:
    """The rule of gradient descent with momentum; ``numbers`` are those of the formula."""
    if b is None:
        return run_rule(_sgd, (p, g), numbers[:3])
    return run_rule(_sgd_momentum, (p, g, b), numbers, nesterov)
