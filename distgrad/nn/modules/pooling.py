"""Pooling as modules, of ``[N, C, ...]`` or of one sample without N."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from distgrad.autograd.ops.shape_rules import pairs
from distgrad.autograd.tensor import Tensor
from distgrad.nn.functional import pooling as F
from distgrad.nn.module import Module

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]

Size = int | Sequence[int]


class _Pool(Module):
    """A pooling function with its settings."""

    function: ClassVar[Callable[..., Any]]


class _MaxPool(_Pool):
    """Largest element of each window.

    Args:
        kernel_size: length of the window, one number a spatial axis or one for all, as are the next three.
        stride: step of the window; None means its length.
        padding: elements, never the largest, added to both ends.
        dilation: distance of the window's elements.
        return_indices: give each element's place in its channel's flattened plane too.
        ceil_mode: one more window where the last one leaves elements over.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Any:
        """The windows' largest elements."""
        return self.function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )

    def extra_repr(self) -> str:
        """The window."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class _AvgPool(_Pool):
    """Mean of each window.

    Args:
        kernel_size: length of the window, one number a spatial axis or one for all, as are the next two.
        stride: step of the window; None means its length.
        padding: zeros added to both ends.
        ceil_mode: one more window where the last one leaves elements over.
        count_include_pad: whether the zeros count in the divisor.
        divisor_override: a divisor in the place of the window's size.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """The windows' means."""
        return self.function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        """The window."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _LPPool(_Pool):
    """p-norm of each window.

    Args:
        norm_type: p.
        kernel_size: length of the window, one number a spatial axis or one for all, as is the next.
        stride: step of the window; None means its length.
        ceil_mode: one more window where the last one leaves elements over.
    """

    def __init__(
        self, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        """The windows' norms."""
        return self.function(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        """The window."""
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class _MaxUnpool(_Pool):
    """Elements put back to where max pooling took them from, zeros elsewhere.

    Args:
        kernel_size, stride, padding: the pooling's.
    """

    num_axes: ClassVar[int]

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        where = type(self).__name__
        self.kernel_size = pairs(kernel_size, self.num_axes, where, "kernel_size")
        self.stride = self.kernel_size if stride is None else pairs(stride, self.num_axes, where, "stride")
        self.padding = pairs(padding, self.num_axes, where, "padding", 0)

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """What the pooling gave with its indices, and the lengths before it (None: the shortest)."""
        return self.function(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        """The window."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AdaptiveAvgPool(_Pool):
    """Means of windows that cover each spatial axis evenly.

    Args:
        output_size: lengths of the result's spatial axes, or one for all; None keeps an axis.
    """

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        """The windows' means."""
        return self.function(input, self.output_size)

    def extra_repr(self) -> str:
        """The size."""
        return f"output_size={self.output_size}"


class _AdaptiveMaxPool(_Pool):
    """Largest elements of windows that cover each spatial axis evenly.

    Args:
        output_size: lengths of the result's spatial axes, or one for all; None keeps an axis.
        return_indices: give each element's place in its channel's flattened plane too.
    """

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        """The windows' largest elements."""
        return self.function(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        """The size."""
        return f"output_size={self.output_size}"


class MaxPool1d(_MaxPool):
    """Largest element of each window, over one axis."""

    function = F.max_pool1d


class MaxPool2d(_MaxPool):
    """Largest element of each window, over two axes."""

    _kernels = ("max_pool", "max_pool_scatter")

    function = F.max_pool2d


class MaxPool3d(_MaxPool):
    """Largest element of each window, over three axes."""

    function = F.max_pool3d


class AvgPool1d(_AvgPool):
    """Mean of each window, over one axis."""

    function = F.avg_pool1d

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        kernel = pairs(kernel_size, 1, "AvgPool1d", "kernel_size")
        steps = kernel if stride is None else pairs(stride, 1, "AvgPool1d", "stride")
        ends = pairs(padding, 1, "AvgPool1d", "padding", 0)
        super().__init__(kernel, steps, ends, ceil_mode, count_include_pad)


class AvgPool2d(_AvgPool):
    """Mean of each window, over two axes."""

    _kernels = ("sum_pool", "sum_pool_input")

    function = F.avg_pool2d


class AvgPool3d(_AvgPool):
    """Mean of each window, over three axes."""

    function = F.avg_pool3d


class LPPool1d(_LPPool):
    """p-norm of each window, over one axis."""

    function = F.lp_pool1d


class LPPool2d(_LPPool):
    """p-norm of each window, over two axes."""

    function = F.lp_pool2d


class LPPool3d(_LPPool):
    """p-norm of each window, over three axes."""

    function = F.lp_pool3d


class MaxUnpool1d(_MaxUnpool):
    """Elements put back to where max pooling took them from, over one axis."""

    num_axes = 1
    function = F.max_unpool1d


class MaxUnpool2d(_MaxUnpool):
    """Elements put back to where max pooling took them from, over two axes."""

    num_axes = 2
    function = F.max_unpool2d


class MaxUnpool3d(_MaxUnpool):
    """Elements put back to where max pooling took them from, over three axes."""

    num_axes = 3
    function = F.max_unpool3d


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Means of windows that cover each axis evenly, over one axis."""

    function = F.adaptive_avg_pool1d


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Means of windows that cover each axis evenly, over two axes."""

    function = F.adaptive_avg_pool2d


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Means of windows that cover each axis evenly, over three axes."""

    function = F.adaptive_avg_pool3d


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Largest elements of windows that cover each axis evenly, over one axis."""

    function = F.adaptive_max_pool1d


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Largest elements of windows that cover each axis evenly, over two axes."""

    function = F.adaptive_max_pool2d


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Largest elements of windows that cover each axis evenly, over three axes."""

    function = F.adaptive_max_pool3d
