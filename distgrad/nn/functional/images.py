"""Images at another size, as patches, and with channels and space exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn.functional.arguments import batched

__all__ = ["channel_shuffle", "fold", "interpolate", "pixel_shuffle", "pixel_unshuffle", "unfold", "upsample"]


def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Images at another size.

    Args:
        input: ``[N, C, ...]``.
        size: lengths of the result's spatial axes, or one for all.
        scale_factor: what lengths are multiplied by instead, one number an axis or one for all.
        mode: "nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic" or "area".
        align_corners: whether the outermost elements lie on each other rather than the outermost edges.
        recompute_scale_factor: take the scale from the lengths that ``scale_factor`` leads to, which are
            whole numbers, rather than ``scale_factor`` itself.
        antialias: False; images are not smoothed before they are made smaller.

    Raises:
        OptionError: ``antialias=True``, or ``recompute_scale_factor=True`` beside ``size``.
    """
    if antialias:
        raise OptionError(
            "interpolate: antialias=True is not offered; mode='area' takes means where images get smaller"
        )
    if recompute_scale_factor:
        if size is not None or scale_factor is None:
            raise OptionError(
                "interpolate: recompute_scale_factor=True goes with scale_factor, not with size"
            )
        spatial = input.shape[2:]
        factors = (scale_factor,) * len(spatial) if isinstance(scale_factor, int | float) else scale_factor
        size = tuple(int(n * factor) for n, factor in zip(spatial, factors, strict=True))
        scale_factor = None
    return ops.interpolate(input, size, scale_factor, mode, bool(align_corners))


upsample = interpolate


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """Patches of images as columns.

    Args:
        input: ``[N, C, H, W]`` or ``[C, H, W]``.
        kernel_size: of a patch, one number an axis or one for all, as are the next.
        dilation: distance of a patch's elements.
        padding: zeros added to both ends.
        stride: step from patch to patch.

    Returns:
        ``[N, C · prod(kernel_size), patches]``, or without N.
    """
    return batched(input, 4, "unfold", lambda x: ops.unfold(x, kernel_size, dilation, padding, stride))


def fold(
    input: Tensor,
    output_size: int | Sequence[int],
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    """Columns added up to images: the transpose of :func:`unfold`.

    Args:
        input: ``[N, C · prod(kernel_size), patches]``, or without N.
        output_size: height and width of the images.
        kernel_size, dilation, padding, stride: as there.
    """
    sizes = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    return batched(input, 3, "fold", lambda x: ops.fold(x, sizes, kernel_size, dilation, padding, stride))


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """Channels spread over space: ``[..., C r², H, W]`` becomes ``[..., C, H r, W r]``."""
    return ops.pixel_shuffle(input, upscale_factor)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """Space gathered into channels: ``[..., C, H r, W r]`` becomes ``[..., C r², H, W]``."""
    return ops.pixel_unshuffle(input, downscale_factor)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels of all groups taken in turn."""
    return ops.channel_shuffle(input, groups)
