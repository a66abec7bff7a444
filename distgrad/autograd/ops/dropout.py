"""Dropout: random elements, or whole channels, set to 0 while training."""

from __future__ import annotations

import math
from typing import Any

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import Shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import device_of, plain
from distgrad.backend.rng import Generator, default_generator
from distgrad.errors import OptionError, ShapeError

_SAMPLES = [
    Sample(((3, 4, 2),), {"training": False}),
    Sample(((3, 4, 2),), {"p": 0.0}),
    Sample(((3, 4, 2),), {"p": 1.0}),
]
_REJECT = Reject(((3, 4),), OptionError, "p must be in [0, 1], got 1.5", {"p": 1.5})


def _check_probability(where: str, p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise OptionError(f"{where}: p must be in [0, 1], got {p}")


def _kept(x: Array, shape: Shape, p: float, generator: Generator | None) -> Any:
    """Ones with probability 1 - p, zeros elsewhere, of the dtype of ``x``."""
    draws = (generator or default_generator).uniform(shape, x.dtype, device_of(plain(x)))
    return (draws >= p).astype(x.dtype)


def _channels(where: str, x: Array) -> Shape:
    """The shape of a mask with one element a channel."""
    if len(x.shape) < 2:
        raise ShapeError(f"{where}: x is {list(x.shape)}, expected [N, C, *]")
    return (*x.shape[:2], *(1,) * (len(x.shape) - 2))


def _scaled(x: Array, kept: Any, p: float) -> Array:
    return x * (kept * x.dtype.type(1.0 / (1.0 - p) if p < 1.0 else 0.0))


@primitive(
    math="y = x mask / (1 - p), mask = (uniform numbers ≥ p)",
    shape=lambda x, state, p: x,
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4, 2),), {"state": (5, 1, 3), "p": 0.3}),
        Sample(((),), {"state": (5, 1, 3), "p": 0.5}, note="no axes"),
        Sample(((0, 3),), {"state": (0, 0, 0), "p": 0.5}, note="empty"),
    ],
)
def random_mask(xp: Any, x: Array, /, *, state: tuple[int, int, int], p: float) -> Array:
    """Random elements set to 0, the others divided by ``1 - p``; which ones, the same state says again.

    Args:
        x: any shape.
        state: seed, stream and block of the random numbers.
        p: probability that an element is set to 0.
    """
    return _scaled(x, _kept(x, x.shape, p, Generator.at(state)), p)


@random_mask.vjp("x")
def _(xp: Any, g: Array, state: tuple[int, int, int], p: float) -> Array:
    return xp.random_mask(g, state=state, p=p)


@composite(
    math="y = x mask / (1 - p), mask Bernoulli(1 - p)",
    source="Srivastava et al., JMLR, 2014",
    dtypes="real floating-point",
    samples=_SAMPLES,
    rejects=[_REJECT],
)
def dropout(
    xp: Any, x: Array, /, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Array:
    """Random elements set to 0, the others scaled so that the mean stays.

    Args:
        x: any shape.
        p: probability that an element is set to 0.
        training: False returns ``x`` as it is.
        generator: of the random numbers; None means the default one.

    Raises:
        OptionError: a probability outside [0, 1].
    """
    _check_probability("dropout", p)
    if not training:
        return x
    state = (generator or default_generator).reserve_uniform(math.prod(x.shape), x.dtype)
    return xp.random_mask(x, state=state, p=p)


@composite(
    math="y[n, c, ...] = x[n, c, ...] mask[n, c] / (1 - p)",
    source="Tompson et al., CVPR 2015",
    dtypes="real floating-point",
    samples=_SAMPLES,
    rejects=[_REJECT, Reject(((3,),), ShapeError, "feature_dropout: x is [3]")],
)
def feature_dropout(
    xp: Any, x: Array, /, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Array:
    """Random channels set to 0 as a whole, the others scaled so that the mean stays.

    Args:
        x: ``[N, C, *]``.
        p: probability that a channel is set to 0.
        training: False returns ``x`` as it is.
        generator: of the random numbers; None means the default one.

    Raises:
        OptionError: a probability outside [0, 1].
    """
    _check_probability("feature_dropout", p)
    if not training:
        return x
    shape = _channels("feature_dropout", x)
    return _scaled(x, _kept(x, shape, p, generator), p)


_LOW = -1.7580993408473766  # where the scaled exponential linear unit levels off: -scale · alpha


def _lowered(x: Array, kept: Any, p: float) -> Array:
    """``x`` with what is dropped at the lowest value, then brought back to mean 0 and variance 1."""
    a = 1.0 / math.sqrt((1.0 - p) * (1.0 + p * _LOW * _LOW)) if p < 1.0 else 0.0
    return (a * (x * kept + _LOW * (1.0 - kept)) - a * _LOW * p).astype(x.dtype, copy=False)


@composite(
    math="y = a (x mask + low (1 - mask)) + b",
    source="Klambauer et al., NIPS 2017",
    dtypes="real floating-point",
    samples=_SAMPLES,
    rejects=[_REJECT],
)
def alpha_dropout(
    xp: Any, x: Array, /, p: float = 0.5, training: bool = False, *, generator: Generator | None = None
) -> Array:
    """Dropout for ``selu``: random elements take its lowest value; mean 0 and variance 1 stay.

    Args:
        x: any shape.
        p: probability that an element is dropped.
        training: False returns ``x`` as it is.
        generator: of the random numbers; None means the default one.

    Raises:
        OptionError: a probability outside [0, 1].
    """
    _check_probability("alpha_dropout", p)
    if not training:
        return x
    return _lowered(x, _kept(x, x.shape, p, generator), p)


@composite(
    math="y[n, c, ...] = a (x[n, c, ...] mask[n, c] + low (1 - mask[n, c])) + b",
    source="Klambauer et al., NIPS 2017; by channels as Tompson et al., CVPR 2015",
    dtypes="real floating-point",
    samples=_SAMPLES,
    rejects=[_REJECT, Reject(((3,),), ShapeError, "feature_alpha_dropout: x is [3]", {"training": True})],
)
def feature_alpha_dropout(
    xp: Any, x: Array, /, p: float = 0.5, training: bool = False, *, generator: Generator | None = None
) -> Array:
    """Dropout for ``selu``: random channels take its lowest value as a whole; mean 0 and variance 1 stay.

    Args:
        x: ``[N, C, *]``.
        p: probability that a channel is dropped.
        training: False returns ``x`` as it is.
        generator: of the random numbers; None means the default one.

    Raises:
        OptionError: a probability outside [0, 1].
    """
    _check_probability("feature_alpha_dropout", p)
    if not training:
        return x
    shape = _channels("feature_alpha_dropout", x)
    return _lowered(x, _kept(x, shape, p, generator), p)
