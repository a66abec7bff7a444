"""Grids of images, and image files: torchvision's ``utils``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.autograd.creation import full
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import ShapeError
from distgrad.torch.vision.images import from_array

__all__ = ["make_grid", "save_image"]


def _scaled(x: Tensor, value_range: tuple[float, float] | None) -> Any:
    low, high = (float(x.min()), float(x.max())) if value_range is None else value_range
    return (x.clamp(low, high) - low) / max(high - low, 1e-5)


def make_grid(
    tensor: Any,
    nrow: int = 8,
    padding: int = 2,
    normalize: bool = False,
    value_range: tuple[float, float] | None = None,
    scale_each: bool = False,
    pad_value: float = 0.0,
) -> Tensor:
    """Images side by side in one.

    Args:
        tensor: ``[N, C, H, W]``, ``[C, H, W]``, ``[H, W]``, or a list of images.
        nrow: images in a row.
        padding: pixels between them.
        normalize: whether they are scaled to [0, 1].
        value_range: what becomes 0 and 1; None for the smallest and the largest.
        scale_each: whether each image is scaled by itself.
        pad_value: of the pixels between.

    Returns:
        ``[C, rows, columns]``, of three channels where there was one.

    Raises:
        ShapeError: no images.
    """
    x = ops.stack(list(tensor), axis=0) if isinstance(tensor, list | tuple) else tensor
    x = x.detach()
    if not 2 <= x.ndim <= 4:
        raise ShapeError(f"make_grid: expected [N, C, H, W], got {list(x.shape)}")
    if x.ndim == 2:
        x = ops.expand_dims(x, axis=0)
    if x.ndim == 3:
        x = ops.expand_dims(x, axis=0)
    if x.shape[1] == 1:
        x = ops.concat([x, x, x], axis=1)
    if normalize and scale_each:
        x = ops.stack([_scaled(each, value_range) for each in x], axis=0)
    elif normalize:
        x = _scaled(x, value_range)
    count, channels, height, width = x.shape
    if count == 1:
        return x[0]
    columns = min(nrow, count)
    rows = math.ceil(count / columns)
    height, width = height + padding, width + padding
    grid = full((channels, height * rows + padding, width * columns + padding), pad_value, dtype=x.dtype)
    for place in range(count):
        top, left = place // columns * height + padding, place % columns * width + padding
        grid[:, top : top + height - padding, left : left + width - padding] = x[place]
    return grid


def save_image(tensor: Any, fp: Any, format: str | None = None, **options: Any) -> None:
    """Write a grid of images, numbers in [0, 1], to a file; options as in :func:`make_grid`."""
    grid = make_grid(tensor, **options)
    pixels = (grid * 255 + 0.5).clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
    from_array(pixels).save(fp if hasattr(fp, "write") else Path(fp), format=format)
