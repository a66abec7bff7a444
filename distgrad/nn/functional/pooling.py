"""Pooling in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from distgrad.autograd.dispatch import namespace as ops
from distgrad.autograd.ops.rules import pairs
from distgrad.autograd.tensor import Tensor
from distgrad.nn.functional.arguments import batched

__all__ = ["max_pool1d", "max_pool2d", "max_pool3d"]

Size = int | Sequence[int]


def _max_pool(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size,
    spatial: int,
) -> Tensor:
    where = f"max_pool{spatial}d"
    kernel = pairs(kernel_size, spatial, where, "kernel_size")
    steps = kernel if stride is None else pairs(stride, spatial, where, "stride")
    ends = pairs(padding, spatial, where, "padding")
    spread = pairs(dilation, spatial, where, "dilation")
    return batched(
        x,
        spatial + 2,
        where,
        lambda x: ops.max_pool(x, kernel_size=kernel, stride=steps, padding=ends, dilation=spread),
    )


def max_pool1d(
    input: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1
) -> Tensor:
    """Largest element of each window of ``[N, C, L]`` or ``[C, L]``.

    Args:
        input: the signal.
        kernel_size: length of the window.
        stride: step of the window; None means its length.
        padding: elements, never the largest, added to both ends.
        dilation: distance of the window's elements.
    """
    return _max_pool(input, kernel_size, stride, padding, dilation, 1)


def max_pool2d(
    input: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1
) -> Tensor:
    """Largest element of each window of ``[N, C, H, W]``; the arguments are those of :func:`max_pool1d`."""
    return _max_pool(input, kernel_size, stride, padding, dilation, 2)


def max_pool3d(
    input: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1
) -> Tensor:
    """Largest element of each window of ``[N, C, D, H, W]``; arguments as for :func:`max_pool1d`."""
    return _max_pool(input, kernel_size, stride, padding, dilation, 3)
