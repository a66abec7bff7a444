"""Convolution and transposed convolution as modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from distgrad.autograd.creation import zeros
from distgrad.autograd.ops.shape_rules import pairs
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.nn import init
from distgrad.nn.functional import convolution as F
from distgrad.nn.functional.padding import pad
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

Size = int | Sequence[int]
_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(Module):
    """What a convolution and its transpose share: sizes, weight, bias and their initial values."""

    _kernels = ("convolution", "convolution/weight", "convolution/bias", "convolution_input")

    num_axes: ClassVar[int]
    transposed: ClassVar[bool] = False
    output_padding: Any
    padding_mode: str = "zeros"
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        dilation: Size,
        groups: int,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ShapeError(
                f"{where}: in_channels={in_channels} and out_channels={out_channels} must both divide into "
                f"groups={groups}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pairs(kernel_size, self.num_axes, where, "kernel_size")
        self.stride = pairs(stride, self.num_axes, where, "stride")
        self.dilation = pairs(dilation, self.num_axes, where, "dilation")
        self.groups = groups
        self.output_padding = (0,) * self.num_axes

    def _make_parameters(self, weight_shape: tuple[int, ...], bias: bool, device: Any, dtype: Any) -> None:
        self.weight = Parameter(zeros(weight_shape, dtype=dtype, device=device))
        self.bias = Parameter(zeros(self.out_channels, dtype=dtype, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values: uniform on ±1/√fan_in."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in, _ = init.fan_in_and_out(self.weight)
        if self.bias is not None and fan_in:
            init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def _settings(self, padding: Any, others: dict[str, tuple[Any, Any]]) -> str:
        """The sizes, and those of the other settings that are not as usual."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        ones, none = (1,) * self.num_axes, (0,) * self.num_axes
        settings = {"padding": (padding, none), "dilation": (self.dilation, ones), **others}
        settings |= {"groups": (self.groups, 1), "bias": (self.bias is not None, True)}
        return text + "".join(
            f", {name}={value!r}" if name == "padding_mode" else f", {name}={value}"
            for name, (value, usual) in settings.items()
            if value != usual
        )


class _Conv(_Convolution):
    """Convolution over some axes."""

    function: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups)
        where = type(self).__name__
        if padding_mode not in _MODES:
            raise OptionError(f"{where}: padding_mode must be one of {_MODES}, got {padding_mode!r}")
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise OptionError(f"{where}: padding must be numbers, 'same' or 'valid', got {padding!r}")
            if padding == "same" and set(self.stride) != {1}:
                raise OptionError(f"{where}: padding='same' needs stride 1, got {self.stride}")
            self.padding: Any = padding
        else:
            self.padding = pairs(padding, self.num_axes, where, "padding", 0)
        self.padding_mode = padding_mode
        self._make_parameters((out_channels, in_channels // groups, *self.kernel_size), bias, device, dtype)

    def _sides(self) -> list[tuple[int, int]]:
        """What is added before and after, one pair a spatial axis."""
        if self.padding == "same":
            return F.same_padding(self.kernel_size, self.dilation)
        return [(n, n) for n in ((0,) * self.num_axes if self.padding == "valid" else self.padding)]

    def forward(self, input: Tensor) -> Tensor:
        """``[N, in_channels, ...]`` to ``[N, out_channels, ...]``, or both without N."""
        padding = self.padding
        if self.padding_mode != "zeros":
            sides = [n for side in reversed(self._sides()) for n in side]
            input = pad(input, sides, self.padding_mode)
            padding = 0
        function = type(self).function
        return function(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """The sizes, and what is not as usual."""
        return self._settings(self.padding, {}) + (
            "" if self.padding_mode == "zeros" else f", padding_mode={self.padding_mode}"
        )


class Conv1d(_Conv):
    """Convolution over one axis of ``[N, C, L]`` or ``[C, L]``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: the kernel's length, one number a spatial axis or one for all, as are the next ones.
        stride: step of the kernel.
        padding: elements added to both ends; "valid" for none, "same" to keep the length.
        dilation: distance of the kernel's elements.
        groups: parts that the channels are divided into; each output part sees one input part.
        bias: whether a bias is added.
        padding_mode: what is added: "zeros", or the input's own elements as in ``nn.functional.pad``:
            "reflect", "replicate", "circular".
        device: where the parameters lie.
        dtype: of the parameters; None means float32.

    Attributes:
        weight: ``[out_channels, in_channels / groups, *kernel_size]``.
        bias: ``[out_channels]``.
    """

    num_axes = 1
    function = F.conv1d


class Conv2d(_Conv):
    """Convolution over two axes of ``[N, C, H, W]``; the arguments are those of :class:`Conv1d`."""

    num_axes = 2
    function = F.conv2d


class Conv3d(_Conv):
    """Convolution over three axes of ``[N, C, D, H, W]``; the arguments are those of :class:`Conv1d`."""

    num_axes = 3
    function = F.conv3d


class _ConvTranspose(_Convolution):
    """The transpose of a convolution over some axes."""

    transposed = True

    function: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups)
        where = type(self).__name__
        if padding_mode != "zeros":
            raise OptionError(f"{where}: padding_mode must be 'zeros', got {padding_mode!r}")
        self.padding = pairs(padding, self.num_axes, where, "padding", 0)
        self.output_padding = pairs(output_padding, self.num_axes, where, "output_padding", 0)
        self._make_parameters((in_channels, out_channels // groups, *self.kernel_size), bias, device, dtype)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """``[N, in_channels, ...]`` to ``[N, out_channels, ...]``, or both without N.

        Args:
            input: the batch.
            output_size: the spatial lengths wanted; None takes those that ``output_padding`` gives.
        """
        extra = self.output_padding if output_size is None else self._extra(input, output_size)
        function = type(self).function
        return function(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def _extra(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """The output padding that leads to the lengths wanted."""
        wanted = tuple(output_size)[-self.num_axes :]
        least = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                input.shape[-self.num_axes :],
                self.stride,
                self.padding,
                self.dilation,
                self.kernel_size,
                strict=True,
            )
        )
        most = tuple(n + s - 1 for n, s in zip(least, self.stride, strict=True))
        if len(wanted) != len(least) or any(
            not a <= w <= b for a, w, b in zip(least, wanted, most, strict=True)
        ):
            raise ShapeError(
                f"{type(self).__name__}: output_size must lie between {least} and {most}, got {output_size}"
            )
        return tuple(w - n for w, n in zip(wanted, least, strict=True))

    def extra_repr(self) -> str:
        """The sizes, and what is not as usual."""
        return self._settings(self.padding, {"output_padding": (self.output_padding, (0,) * self.num_axes)})


class ConvTranspose1d(_ConvTranspose):
    """The transpose of a convolution: its gradient as a layer.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: the kernel's length, one number a spatial axis or one for all, as are the next ones.
        stride, padding, dilation, groups: of the convolution that it is the transpose of.
        output_padding: elements added to the output's end, where several lengths fit that convolution.
        bias: whether a bias is added.
        padding_mode: "zeros" only.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.

    Attributes:
        weight: ``[in_channels, out_channels / groups, *kernel_size]``.
        bias: ``[out_channels]``.
    """

    num_axes = 1
    function = F.conv_transpose1d


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution over two axes; the arguments are those of :class:`ConvTranspose1d`."""

    num_axes = 2
    function = F.conv_transpose2d


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution over three axes; the arguments are those of :class:`ConvTranspose1d`."""

    num_axes = 3
    function = F.conv_transpose3d
