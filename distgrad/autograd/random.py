"""Tensors of random numbers.

Each function takes a ``generator``; None means the default one, which ``manual_seed`` seeds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.casting import DEFAULTS
from distgrad.autograd.dispatch import as_array
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, activated, device_of, resolve, to_device
from distgrad.backend.rng import Generator, default_generator
from distgrad.errors import DTypeError, OptionError, ShapeError

__all__ = [
    "bernoulli",
    "multinomial",
    "normal",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "randperm",
]

_FEW = 1024  # comparisons a row, below which comparing all is faster than a search a row


def _shape(size: tuple[Any, ...]) -> tuple[int, ...]:
    """Lengths of the axes, from separate numbers or one tuple.

    Raises:
        ShapeError: a negative length.
    """
    shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int | np.integer) else size
    if any(n < 0 for n in shape):
        raise ShapeError(f"random: lengths of axes must be 0 or more, got {list(shape)}")
    return shape


def _floating(dtype: Any, where: str) -> np.dtype[Any]:
    found = DEFAULTS[float] if dtype is None else np.dtype(dtype)
    if found.char not in "efd":
        raise DTypeError(f"{where}: dtype must be real floating-point, got {found}")
    return found


def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers uniform on [0, 1).

    Args:
        *size: lengths of the axes, as separate numbers or one tuple.
        generator: where the numbers come from.
        dtype: real floating-point; None means float32.
        device: where it shall lie; None means the default device, the CPU.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """
    source, kind = generator or default_generator, _floating(dtype, "rand")
    return Tensor(source.uniform(_shape(size), kind, resolve(device)), requires_grad)


def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers of the standard normal distribution; arguments as in ``rand``."""
    source, kind = generator or default_generator, _floating(dtype, "randn")
    return Tensor(source.normal(_shape(size), kind, resolve(device)), requires_grad)


def rand_like(x: Any, /, *, generator: Generator | None = None, dtype: Any = None) -> Tensor:
    """As ``rand``, with the shape of ``x``, on its device, and of its dtype unless said otherwise."""
    return rand(x.shape, generator=generator, dtype=dtype or x.dtype, device=x.device)


def randn_like(x: Any, /, *, generator: Generator | None = None, dtype: Any = None) -> Tensor:
    """As ``randn``, with the shape of ``x``, on its device, and of its dtype unless said otherwise."""
    return randn(x.shape, generator=generator, dtype=dtype or x.dtype, device=x.device)


def normal(
    mean: float,
    std: float,
    size: tuple[int, ...],
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers of a normal distribution.

    Args:
        mean: of the distribution.
        std: its standard deviation.
        size: lengths of the axes.
        generator: where the numbers come from.
        dtype: real floating-point; None means float32.
        device: where it shall lie; None means the default device, the CPU.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """
    place, kind = resolve(device), _floating(dtype, "normal")
    values = (generator or default_generator).normal(tuple(size), kind, place)
    with activated(place):
        return Tensor(as_array(values * std + mean), requires_grad)


def randint(
    low: int,
    high: int,
    size: tuple[int, ...],
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
) -> Tensor:
    """Whole numbers uniform on [low, high).

    Args:
        low: the smallest.
        high: one more than the largest.
        size: lengths of the axes.
        generator: where the numbers come from.
        dtype: of the result; None means int64.
        device: where it shall lie; None means the default device, the CPU.

    Raises:
        ValueError: an empty interval.
    """
    source, kind = generator or default_generator, dtype or DEFAULTS[int]
    return Tensor(source.integers(low, high, tuple(size), kind, resolve(device)))


def randperm(n: int, *, generator: Generator | None = None, device: Any = None) -> Tensor:
    """The numbers 0 … n−1 in random order, int64[n]."""
    return Tensor(to_device((generator or default_generator).permutation(n), resolve(device)))


def bernoulli(x: Any, /, *, generator: Generator | None = None) -> Tensor:
    """Ones with probability ``x``, zeros otherwise, an element at a time.

    Args:
        x: probabilities, real floating-point.
        generator: where the numbers come from.

    Raises:
        ValueError: a number outside [0, 1]; not looked for on a GPU, where the host would have to wait.
    """
    data = x._data if isinstance(x, Tensor) else np.asarray(x)
    dtype = _floating(data.dtype, "bernoulli")
    place = device_of(data)
    if place == CPU and not ((data >= 0) & (data <= 1)).all():
        raise ValueError("bernoulli: probabilities must lie in [0, 1]")
    draws = (generator or default_generator).uniform(data.shape, dtype, place)
    with activated(place):
        return Tensor(as_array(draws < data).astype(dtype))


def multinomial(
    x: Any, /, num_samples: int, *, replacement: bool = False, generator: Generator | None = None
) -> Tensor:
    """Indices drawn with given weights.

    Without replacement, the indices with the largest log weight + Gumbel noise are taken, which draws them
    one after another with the weights that are left. The host draws them, also for weights on a GPU.

    Args:
        x: weights from 0 on, ``[k]`` or ``[rows, k]``; they need not sum to 1.
        num_samples: how many to draw from each row.
        replacement: whether an index can be drawn twice.
        generator: where the numbers come from.

    Returns:
        int64 ``[num_samples]`` or ``[rows, num_samples]``.

    Raises:
        ShapeError: more draws than weights above 0, without replacement.
        ValueError: weights below 0, or all of them 0.

    Source: Efraimidis and Spirakis, Information Processing Letters, 2006.
    """
    data = x._data if isinstance(x, Tensor) else np.asarray(x)
    place = device_of(data)
    data = to_device(data, CPU).astype(np.float64)
    if num_samples < 1:
        raise OptionError(f"multinomial: num_samples must be 1 or more, got {num_samples}")
    if data.ndim not in (1, 2):
        raise ShapeError(f"multinomial: expected one or two axes, got {list(data.shape)}")
    if not (np.isfinite(data) & (data >= 0)).all() or not (data.sum(axis=-1) > 0).all():
        raise OptionError("multinomial: weights must be finite, 0 or more, and not all 0")
    source = generator or default_generator
    if replacement:
        shares = np.cumsum(data, axis=-1)
        draws = source.uniform((*data.shape[:-1], num_samples), np.float64) * shares[..., -1:]
        if draws[0:1].size * data.shape[-1] <= _FEW and data.ndim == 2:
            found = np.sum(draws[..., None] >= shares[:, None], axis=-1, dtype=np.int64)
            return Tensor(to_device(np.minimum(found, data.shape[-1] - 1), place))
        found = np.empty(draws.shape, np.int64)
        for row in np.ndindex(data.shape[:-1]):
            found[row] = np.searchsorted(shares[row], draws[row], side="right")
        return Tensor(to_device(found, place))
    available = int((data > 0).sum(axis=-1).min(initial=data.shape[-1]))
    if num_samples > available:
        raise ShapeError(
            f"multinomial: {num_samples} draws without replacement from {available} weights above 0"
        )
    waits = -np.log1p(-source.uniform(data.shape, np.float64))  # exponential: the first to come is drawn
    with np.errstate(divide="ignore", invalid="ignore"):
        order = np.argsort(np.where(data > 0, waits / data, math.inf), axis=-1, kind="stable")
    return Tensor(to_device(order[..., :num_samples], place))
