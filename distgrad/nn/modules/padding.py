"""Padding as modules: a constant, or the input's own elements again, at the ends of the spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from distgrad.autograd.ops.shape_rules import pairs
from distgrad.autograd.tensor import Tensor
from distgrad.nn.functional.padding import pad
from distgrad.nn.module import Module

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class _Pad(Module):
    """Padding of the last axes.

    Args:
        padding: (before, after) of the last axis, then of the one before it, and so on; one number for all.
    """

    num_axes: ClassVar[int]
    mode: ClassVar[str]

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = pairs(padding, 2 * self.num_axes, type(self).__name__, "padding", -math.inf)

    def forward(self, input: Tensor) -> Tensor:
        """The input with longer spatial axes."""
        return pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        """The widths."""
        return f"{self.padding}"


class _ConstantPad(_Pad):
    """Padding by a number.

    Args:
        padding: (before, after) of the last axis, then of the one before it, and so on; one number for all.
        value: the number.
    """

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        """The input with longer spatial axes."""
        return pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        """The widths and the number."""
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """A number at both ends of the last axis."""

    num_axes = 1


class ConstantPad2d(_ConstantPad):
    """A number at the ends of the last two axes."""

    num_axes = 2


class ConstantPad3d(_ConstantPad):
    """A number at the ends of the last three axes."""

    num_axes = 3


class ZeroPad1d(_Pad):
    """Zeros at the ends of the last axis."""

    num_axes = 1
    mode = "constant"
    value = 0.0


class ZeroPad2d(_Pad):
    """Zeros at the ends of the last two axes."""

    num_axes = 2
    mode = "constant"
    value = 0.0


class ZeroPad3d(_Pad):
    """Zeros at the ends of the last three axes."""

    num_axes = 3
    mode = "constant"
    value = 0.0


class ReflectionPad1d(_Pad):
    """The input mirrored at the ends of the last axis."""

    num_axes = 1
    mode = "reflect"


class ReflectionPad2d(_Pad):
    """The input mirrored at the ends of the last two axes."""

    num_axes = 2
    mode = "reflect"


class ReflectionPad3d(_Pad):
    """The input mirrored at the ends of the last three axes."""

    num_axes = 3
    mode = "reflect"


class ReplicationPad1d(_Pad):
    """The end elements repeated at the ends of the last axis."""

    num_axes = 1
    mode = "replicate"


class ReplicationPad2d(_Pad):
    """The end elements repeated at the ends of the last two axes."""

    num_axes = 2
    mode = "replicate"


class ReplicationPad3d(_Pad):
    """The end elements repeated at the ends of the last three axes."""

    num_axes = 3
    mode = "replicate"


class CircularPad1d(_Pad):
    """The other end's elements at the ends of the last axis."""

    num_axes = 1
    mode = "circular"


class CircularPad2d(_Pad):
    """The other end's elements at the ends of the last two axes."""

    num_axes = 2
    mode = "circular"


class CircularPad3d(_Pad):
    """The other end's elements at the ends of the last three axes."""

    num_axes = 3
    mode = "circular"
