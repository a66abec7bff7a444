"""Pooling as modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from distgrad.autograd.tensor import Tensor
from distgrad.nn.functional import pooling as F
from distgrad.nn.module import Module

__all__ = ["MaxPool1d", "MaxPool2d", "MaxPool3d"]

Size = int | Sequence[int]


class _MaxPool(Module):
    """Largest element of each window."""

    function: ClassVar[Callable[..., Tensor]]

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation

    def forward(self, input: Tensor) -> Tensor:
        """The windows' largest elements."""
        return type(self).function(input, self.kernel_size, self.stride, self.padding, self.dilation)

    def extra_repr(self) -> str:
        """The window."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode=False"
        )


class MaxPool1d(_MaxPool):
    """Largest element of each window of ``[N, C, L]`` or ``[C, L]``.

    Args:
        kernel_size: length of the window, one number a spatial axis or one for all, as are the next three.
        stride: step of the window; None means its length.
        padding: elements, never the largest, added to both ends.
        dilation: distance of the window's elements.
    """

    function = F.max_pool1d


class MaxPool2d(_MaxPool):
    """Largest element of each window of ``[N, C, H, W]``; the arguments are those of :class:`MaxPool1d`."""

    function = F.max_pool2d


class MaxPool3d(_MaxPool):
    """Largest element of each window of ``[N, C, D, H, W]``; arguments as for :class:`MaxPool1d`."""

    function = F.max_pool3d
