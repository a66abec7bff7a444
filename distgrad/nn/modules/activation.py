"""Activations as modules."""

from __future__ import annotations

from distgrad.autograd.tensor import Tensor
from distgrad.nn.functional import activations as F
from distgrad.nn.module import Module

__all__ = ["LogSoftmax", "ReLU", "Sigmoid", "Softmax", "Softmax2d", "Softmin", "Tanh"]


class ReLU(Module):
    """``max(x, 0)``.

    Args:
        inplace: change the input itself.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.relu(input, self.inplace)

    def extra_repr(self) -> str:
        """Whether in place."""
        return "inplace=True" if self.inplace else ""


class Sigmoid(Module):
    """``1 / (1 + e^-x)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.sigmoid(input)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.tanh(input)


class Softmax(Module):
    """``e^x / Σ e^x`` along an axis.

    Args:
        dim: the axis.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        """The axis."""
        return f"dim={self.dim}"


class Softmin(Softmax):
    """:class:`Softmax` of −x."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.softmin(input, self.dim)


class LogSoftmax(Softmax):
    """``x − log Σ e^x`` along an axis."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.log_softmax(input, self.dim)


class Softmax2d(Module):
    """:class:`Softmax` over the channels of ``[N, C, H, W]`` or ``[C, H, W]``."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.softmax(input, -3)
