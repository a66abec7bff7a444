"""What the lines of :mod:`distgrad.names.functions` call where numbers are drawn at random."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd import creation
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.inplace import overwrite
from distgrad.autograd.random import multinomial
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import activated, device_of
from distgrad.backend.meta import META
from distgrad.backend.rng import Generator, default_generator
from distgrad.errors import DTypeError, OptionError


def coins(x: Any, p: float | None, generator: Generator | None) -> Any:
    """Ones with probability ``p``, or that of each element."""
    odds = x._data if p is None else np.full(x.shape, p, x.dtype)
    if ((odds < 0) | (odds > 1)).any():
        raise OptionError("bernoulli: probabilities must lie in [0, 1]")
    draws = (generator or default_generator).uniform(x.shape, _wide(x.dtype), x.device)
    found = Tensor((draws < odds).astype(x.dtype))
    if not x.requires_grad:
        return found
    return ops.add(found, ops.masked_fill(x, np.ones((), bool), 0))  # in the graph, with a gradient of 0


def _wide(dtype: np.dtype[Any]) -> Any:
    return dtype if dtype.char in "fd" else np.dtype(np.float32)


def filled_at_random(x: Any, how: str, generator: Generator | None, a: Any, b: Any) -> Any:
    """The tensor with new elements of a distribution; none are drawn for one on 'meta'."""
    if x.device == META:
        return overwrite(x, creation.empty_like(x), f"{how}_")
    source, dtype, place = generator or default_generator, _wide(x.dtype), device_of(x._data)
    if how == "whole":
        low, high = (0, a) if b is None and a else (a, b)
        if high is None:
            high = 2**24 if x.dtype.kind == "f" else int(np.iinfo(x.dtype).max)
        values = source.integers(int(low), int(high), x.shape, np.int64, place)
    elif how in ("normal", "log_normal"):
        values = source.normal(x.shape, dtype, place)
    else:
        values = source.uniform(x.shape, dtype, place)
    with activated(place) as xp:
        values = _TRANSFORMS[how](xp, values, getattr(a, "_data", a), getattr(b, "_data", b))
        return overwrite(x, Tensor(xp.asarray(values).astype(x.dtype)), f"{how}_")


_TRANSFORMS: dict[str, Callable[..., Any]] = {
    "whole": lambda xp, u, a, b: u,
    "normal": lambda xp, u, a, b: u * b + a,
    "log_normal": lambda xp, u, a, b: xp.exp(u * b + a),
    "uniform": lambda xp, u, a, b: u * (b - a) + a,
    "bernoulli": lambda xp, u, a, b: u < a,
    "exponential": lambda xp, u, a, b: -xp.log1p(-u) / a,
    "cauchy": lambda xp, u, a, b: a + b * xp.tan(math.pi * (u - 0.5)),
    "geometric": lambda xp, u, a, b: xp.ceil(xp.log1p(-u) / math.log1p(-a)),
}


def drawn(x: Any, num_samples: int, replacement: bool, generator: Generator | None) -> Any:
    """Indices drawn with given weights.

    Raises:
        DTypeError: weights that are whole numbers.
    """
    if x.dtype.kind in "biu":
        raise DTypeError(f"multinomial: expected floating-point weights, got {x.dtype}")
    return multinomial(x, num_samples, replacement=replacement, generator=generator)
