"""Convolution and transposed convolution in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.ops.shape_rules import mixed_dtypes, pairs
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.nn.functional.arguments import batched
from distgrad.nn.functional.padding import pad

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "same_padding",
]

Size = int | Sequence[int]


def same_padding(kernel_size: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) for each axis so that a convolution with stride 1 keeps the length."""
    totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def _check_bias(bias: Tensor | None, channels: int, where: str) -> None:
    if bias is not None and bias.shape != (channels,):
        raise ShapeError(f"{where}: bias is {list(bias.shape)} but there are {channels} output channels")


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size | str,
    dilation: Size,
    groups: int,
    spatial: int,
) -> Tensor:
    where = f"conv{spatial}d"
    steps = pairs(stride, spatial, where, "stride")
    spread = pairs(dilation, spatial, where, "dilation")

    if weight.ndim != spatial + 2:
        raise ShapeError(f"{where}: weight must have {spatial + 2} axes, got {list(weight.shape)}")

    def run(x: Tensor) -> Tensor:
        if not isinstance(padding, str):
            ends = pairs(padding, spatial, where, "padding", 0)
        elif padding == "valid":
            ends = (0,) * spatial
        elif padding == "same":
            if set(steps) != {1}:
                raise OptionError(f"{where}: padding='same' needs stride 1, got {stride}")
            sides = same_padding(weight.shape[2:], spread)
            ends = tuple(before for before, _ in sides)
            if any(before != after for before, after in sides):  # an even kernel: one more at the end
                x = pad(x, [n for before, after in reversed(sides) for n in (0, after - before)])
        else:
            raise OptionError(f"{where}: padding must be numbers, 'same' or 'valid', got {padding!r}")
        _check_bias(bias, weight.shape[0], where)
        return ops.convolution(x, weight, bias, stride=steps, padding=ends, dilation=spread, groups=groups)

    return batched(x, spatial + 2, where, run)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution over one axis.

    Args:
        input: ``[N, C, L]`` or ``[C, L]``.
        weight: ``[O, C / groups, K]``.
        bias: ``[O]``, or None.
        stride: step of the kernel.
        padding: zeros added to both ends; "valid" for none, "same" to keep the length.
        dilation: distance of the kernel's elements.
        groups: parts that the channels are divided into.
    """
    return _conv(input, weight, bias, stride, padding, dilation, groups, 1)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution over two axes: ``[N, C, H, W]``; the arguments are those of :func:`conv1d`."""
    return _conv(input, weight, bias, stride, padding, dilation, groups, 2)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution over three axes: ``[N, C, D, H, W]``; the arguments are those of :func:`conv1d`."""
    return _conv(input, weight, bias, stride, padding, dilation, groups, 3)


def _lengthened(x: Tensor, counts: list[int]) -> Tensor:
    """``x`` with zeros at its spatial axes' ends: outputs that only a longer input's convolution has."""
    widths = ((0, 0), (0, 0), *((0, count) for count in counts))
    return ops.pad_constant(x, pad_width=widths) if any(counts) else x


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    output_padding: Size,
    groups: int,
    dilation: Size,
    spatial: int,
) -> Tensor:
    where = f"conv_transpose{spatial}d"
    steps = pairs(stride, spatial, where, "stride")
    ends = pairs(padding, spatial, where, "padding", 0)
    extra = pairs(output_padding, spatial, where, "output_padding", 0)
    spread = pairs(dilation, spatial, where, "dilation")
    for e, s, d in zip(extra, steps, spread, strict=True):
        if not 0 <= e < max(s, d):
            raise OptionError(
                f"{where}: output_padding must be smaller than stride or dilation, got {output_padding}"
            )

    def run(x: Tensor) -> Tensor:
        if weight.ndim != spatial + 2 or x.shape[1] != weight.shape[0]:
            raise ShapeError(
                f"{where}: x is {list(x.shape)} but weight is {list(weight.shape)} and expects "
                f"{weight.shape[0]} channels"
            )
        if x.dtype != weight.dtype:
            raise mixed_dtypes(where, x, weight)
        lengths = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + e + 1
            for n, s, p, d, k, e in zip(
                x.shape[2:], steps, ends, spread, weight.shape[2:], extra, strict=True
            )
        )
        y = ops.convolution_input(
            _lengthened(x, [e // s for e, s in zip(extra, steps, strict=True)]),
            weight,
            shape=(x.shape[0], weight.shape[1] * groups, *lengths),
            stride=steps,
            padding=ends,
            dilation=spread,
            groups=groups,
        )
        _check_bias(bias, y.shape[1], where)
        return y if bias is None else y + ops.reshape(bias, (1, -1, *(1,) * (y.ndim - 2)))

    return batched(x, spatial + 2, where, run)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transpose of a convolution over one axis: its gradient as a layer.

    Args:
        input: ``[N, C, L]`` or ``[C, L]``.
        weight: ``[C, O / groups, K]``.
        bias: ``[O]``, or None.
        stride, padding, dilation, groups: of the convolution that it is the transpose of.
        output_padding: elements added to the output's end, where several lengths fit that convolution.
    """
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation, 1)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transpose of a convolution over two axes; the arguments are those of :func:`conv_transpose1d`."""
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation, 2)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transpose of a convolution over three axes; the arguments are those of :func:`conv_transpose1d`."""
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation, 3)
