"""What kernels on the host and on GPUs know of windows that move over axes."""

from __future__ import annotations

from typing import Any

__all__ = ["output_lengths"]


def output_lengths(
    spatial: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool = False
) -> tuple[int, ...]:
    """Lengths of the output's axes; below 1 where the kernel does not fit."""
    lengths = []
    for n, k, s, p, d in zip(spatial, kernel, stride, padding, dilation, strict=True):
        free = n + 2 * p - d * (k - 1) - 1
        more = ceil_mode and free % s and (free // s + 1) * s < n + p
        lengths.append(free // s + 1 + bool(more))
    return tuple(lengths)
