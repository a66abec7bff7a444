"""Dropout as modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from distgrad.autograd.tensor import Tensor
from distgrad.backend.rng import Generator
from distgrad.errors import OptionError
from distgrad.nn.functional import dropouts as F
from distgrad.nn.module import Module

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _Dropout(Module):
    """Random zeros in training mode, nothing in evaluation mode.

    Args:
        p: probability of an element (or channel) to be dropped.
        inplace: change the input itself.
        generator: where the random numbers come from; None means the default generator.
    """

    _kernels = ("random_mask", "random_mask/x")

    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, p: float = 0.5, inplace: bool = False, generator: Generator | None = None) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise OptionError(f"{type(self).__name__}: p must be a probability from 0 to 1, got {p}")
        self.p = p
        self.inplace = inplace
        self.generator = generator

    def forward(self, input: Tensor) -> Tensor:
        """The same shape."""
        return type(self).function(input, self.p, self.training, self.inplace, self.generator)

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """Elements set to 0 with probability p, the others divided by 1 − p; arguments as in the base."""

    function = F.dropout


class Dropout1d(_Dropout):
    """Whole channels of ``[N, C, L]`` set to 0."""

    function = F.dropout1d


class Dropout2d(_Dropout):
    """Whole channels of ``[N, C, H, W]`` set to 0."""

    function = F.dropout2d


class Dropout3d(_Dropout):
    """Whole channels of ``[N, C, D, H, W]`` set to 0."""

    function = F.dropout3d


class AlphaDropout(_Dropout):
    """Dropout for networks of SELUs: keeps mean 0 and variance 1."""

    function = F.alpha_dropout


class FeatureAlphaDropout(_Dropout):
    """As :class:`AlphaDropout`, but whole channels of ``[N, C, ...]``."""

    function = F.feature_alpha_dropout
