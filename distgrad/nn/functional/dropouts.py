"""Dropout, by PyTorch's names and arguments.

Each function takes ``input``; ``p``, the probability to be dropped; ``training``, False to return the input;
``inplace``, to change the input itself; and ``generator`` of the random numbers, None for the default one.
"""

from __future__ import annotations

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.backend.rng import Generator
from distgrad.nn.functional.arguments import batched, in_place

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """Elements set to 0 with probability p, the others divided by 1 − p."""
    return in_place(input, ops.dropout(input, p, training, generator=generator), inplace, "dropout")


def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """Dropout for networks of SELUs: mean 0 and variance 1 stay."""
    y = ops.alpha_dropout(input, p, training, generator=generator)
    return in_place(input, y, inplace, "alpha_dropout")


def feature_alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """As :func:`alpha_dropout`, but whole channels of ``[N, C, ...]``."""
    y = ops.feature_alpha_dropout(input, p, training, generator=generator)
    return in_place(input, y, inplace, "feature_alpha_dropout")


def _drop_channels(
    x: Tensor, ndim: int, p: float, training: bool, inplace: bool, generator: Generator | None
) -> Tensor:
    where = f"dropout{ndim - 2}d"
    y = batched(x, ndim, where, lambda x: ops.feature_dropout(x, p, training, generator=generator))
    return in_place(x, y, inplace and training, where)


def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """As :func:`dropout`, but whole channels of ``[N, C, L]`` or ``[C, L]``."""
    return _drop_channels(input, 3, p, training, inplace, generator)


def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """As :func:`dropout`, but whole channels of ``[N, C, H, W]`` or ``[C, H, W]``."""
    return _drop_channels(input, 4, p, training, inplace, generator)


def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """As :func:`dropout`, but whole channels of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""
    return _drop_channels(input, 5, p, training, inplace, generator)
