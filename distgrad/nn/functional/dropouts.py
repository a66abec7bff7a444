"""Dropout: elements or whole channels set to zero at random.

Source: Srivastava et al., JMLR 2014; whole channels: Tompson et al., CVPR 2015; alpha dropout: Klambauer
et al., NIPS 2017.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.backend.rng import Generator, default_generator
from distgrad.errors import ShapeError
from distgrad.nn.functional.arguments import in_place

__all__ = [
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
]

#: What SELU tends to for x → −∞: −scale · alpha. Source: Klambauer et al., NIPS 2017.
_SELU_FLOOR = -1.7580993408473766


def _check(p: float, where: str) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{where}: p must be a probability from 0 to 1, got {p}")


def _kept(shape: tuple[int, ...], p: float, dtype: Any, generator: Generator | None) -> np.ndarray:
    """1 where an element stays, which it does with probability 1 − p, and 0 elsewhere."""
    draw_dtype = np.float64 if dtype == np.float64 else np.float32
    return ((generator or default_generator).uniform(shape, draw_dtype) >= p).astype(dtype)


def _drop(
    x: Tensor, mask_shape: tuple[int, ...], p: float, inplace: bool, generator: Generator | None, where: str
) -> Tensor:
    if p == 0.0:
        return x
    mask = _kept(mask_shape, p, x.dtype, generator)
    if p < 1.0:
        mask *= x.dtype.type(1.0 / (1.0 - p))
    return in_place(x, x * mask, inplace, where)


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """Elements set to 0 with probability p, the others divided by 1 − p.

    Args:
        input: any shape.
        p: probability of an element to be dropped.
        training: False returns the input.
        inplace: change the input itself.
        generator: where the random numbers come from; None means the default generator.
    """
    _check(p, "dropout")
    return _drop(input, input.shape, p, inplace, generator, "dropout") if training else input


def _drop_channels(
    x: Tensor,
    spatial: int,
    p: float,
    training: bool,
    inplace: bool,
    generator: Generator | None,
) -> Tensor:
    where = f"dropout{spatial}d"
    _check(p, where)
    if x.ndim not in (spatial + 1, spatial + 2):
        raise ShapeError(f"{where}: expected [N, C] or [C] and {spatial} spatial axes, got {list(x.shape)}")
    channels = x.shape[: x.ndim - spatial]
    return _drop(x, (*channels, *(1,) * spatial), p, inplace, generator, where) if training else x


def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """As :func:`dropout`, but whole channels of ``[N, C, L]`` or ``[C, L]``."""
    return _drop_channels(input, 1, p, training, inplace, generator)


def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """As :func:`dropout`, but whole channels of ``[N, C, H, W]`` or ``[C, H, W]``."""
    return _drop_channels(input, 2, p, training, inplace, generator)


def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """As :func:`dropout`, but whole channels of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""
    return _drop_channels(input, 3, p, training, inplace, generator)


def _drop_alpha(
    x: Tensor, mask_shape: tuple[int, ...], p: float, inplace: bool, generator: Generator | None, where: str
) -> Tensor:
    """Elements set to SELU's floor, then scaled and shifted so that mean 0 and variance 1 stay."""
    if p == 0.0:
        return x
    kept = _kept(mask_shape, p, x.dtype, generator)
    if p == 1.0:
        return in_place(x, x * kept, inplace, where)
    scale = 1.0 / math.sqrt((1.0 - p) * (1.0 + p * _SELU_FLOOR**2))
    shift = -scale * _SELU_FLOOR * p
    y = x * (kept * scale) + ((1 - kept) * (scale * _SELU_FLOOR) + shift)
    return in_place(x, y, inplace, where)


def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """Dropout for networks of SELUs: mean 0 and variance 1 stay; arguments as for :func:`dropout`."""
    _check(p, "alpha_dropout")
    return _drop_alpha(input, input.shape, p, inplace, generator, "alpha_dropout") if training else input


def feature_alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """As :func:`alpha_dropout`, but whole channels of ``[N, C, ...]``."""
    where = "feature_alpha_dropout"
    _check(p, where)
    mask_shape = (*input.shape[:2], *(1,) * (input.ndim - 2))
    return _drop_alpha(input, mask_shape, p, inplace, generator, where) if training else input
