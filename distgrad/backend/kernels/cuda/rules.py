"""The optimizers' rules of ``distgrad.optim.rules``, one launch a slice; arguments are those there."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.launch import empty
from distgrad.backend.kernels.cuda.optimizer import run_rule


def _run(name: str, numbers: Any, *arrays: Any) -> Any:
    return run_rule("rules", name, arrays, *map(float, numbers))


def rmsprop(p: Any, g: Any, v: Any, m: Any, b: Any, numbers: Any) -> Any:
    """In place."""
    return _run("rmsprop", numbers, p, g, v, m, b)


def adagrad(p: Any, g: Any, s: Any, numbers: Any) -> Any:
    """In place."""
    return _run("adagrad", numbers, p, g, s)


def adadelta(p: Any, g: Any, v: Any, d: Any, numbers: Any) -> Any:
    """In place."""
    return _run("adadelta", numbers, p, g, v, d)


def adamax(p: Any, g: Any, m: Any, u: Any, numbers: Any) -> Any:
    """In place."""
    return _run("adamax", numbers, p, g, m, u)


def nadam(p: Any, g: Any, m: Any, v: Any, numbers: Any) -> Any:
    """In place."""
    return _run("nadam", numbers, p, g, m, v)


def radam(p: Any, g: Any, m: Any, v: Any, numbers: Any) -> Any:
    """In place."""
    return _run("radam", numbers, p, g, m, v)


def rprop(p: Any, g: Any, before: Any, size: Any, numbers: Any) -> Any:
    """In place."""
    return _run("rprop", numbers, p, g, before, size)


def asgd(p: Any, g: Any, average: Any, numbers: Any) -> Any:
    """In place."""
    return _run("asgd", numbers, p, g, average)


def lion(p: Any, g: Any, m: Any, numbers: Any) -> Any:
    """In place."""
    return _run("lion", numbers, p, g, m)


def lars(p: Any, g: Any, b: Any, numbers: Any) -> Any:
    """In place; a rate that lies on the device stays there, as the host would have to wait for it."""
    *known, rate = numbers
    found = rate.astype(np.float64, copy=False) if isinstance(rate, p.__class__) else None
    rates = (float(rate), None) if found is None else (0.0, found)
    return run_rule("rules", "lars", (p, g, b), *map(float, known), *rates)


def lamb_direction(p: Any, g: Any, m: Any, v: Any, numbers: Any) -> Any:
    """The moments in place; the step, a new array."""
    return _run("lamb_direction", numbers, empty(p, p.shape), p, g, m, v)
