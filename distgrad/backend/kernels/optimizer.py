"""Optimizers' updates in one pass over flat arrays, in place."""

from __future__ import annotations

import math
from typing import Any

from distgrad.backend.kernels.support import is_plain, jit
from distgrad.backend.threads import run_parts

_PART = 1 << 16  # elements worth a thread


@jit
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


@jit
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
    if not is_plain(p, g, m, v, top):
        return None
    arrays = [p, g, m, v] if top is None else [p, g, m, v, top]
    kernel = _adam if top is None else _adam_largest
    values = [p.dtype.type(number) for number in numbers]
    run_parts(lambda start, stop: kernel(*(x[start:stop] for x in arrays), *values), p.size, _PART)
    return p


@jit
def _sgd(p: Any, g: Any, sign: Any, decay: Any, rate: Any) -> None:
    for i in range(p.size):
        p[i] -= rate * (sign * g[i] + decay * p[i])


@jit
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
    if not is_plain(p, g, b):
        return None
    values = [p.dtype.type(number) for number in numbers]
    if b is None:
        run_parts(lambda start, stop: _sgd(p[start:stop], g[start:stop], *values[:3]), p.size, _PART)
    else:
        arrays = [p, g, b]
        run_parts(
            lambda start, stop: _sgd_momentum(*(x[start:stop] for x in arrays), *values, nesterov),
            p.size,
            _PART,
        )
    return p
