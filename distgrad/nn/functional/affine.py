"""Linear maps, embeddings, distances."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import operations
from distgrad.autograd.ops import linalg
from distgrad.autograd.ops.shape_rules import normalize_axes
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError

__all__ = ["flatten", "linear", "unflatten"]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``y = x weightᵀ + bias`` over the last axis.

    Args:
        input: ``[..., in]``.
        weight: ``[out, in]``.
        bias: ``[out]``, or None.

    Returns:
        ``[..., out]``.
    """
    return linalg.linear(input, weight, bias)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from ``start_dim`` to ``end_dim``, both included, joined into one."""
    if input.ndim == 0:
        return operations.reshape(input, (1,))
    start = normalize_axes(start_dim, input.ndim, "flatten")[0]
    end = normalize_axes(end_dim, input.ndim, "flatten")[0]
    if start > end:
        raise OptionError(f"flatten: start_dim={start_dim} lies behind end_dim={end_dim}")
    shape = input.shape
    joined = 1
    for length in shape[start : end + 1]:
        joined *= length
    return operations.reshape(input, (*shape[:start], joined, *shape[end + 1 :]))


def unflatten(input: Tensor, dim: int, sizes: Any) -> Tensor:
    """One axis parted into several, of lengths ``sizes`` (one of which may be −1)."""
    (axis,) = normalize_axes(dim, input.ndim, "unflatten")
    return operations.reshape(input, (*input.shape[:axis], *sizes, *input.shape[axis + 1 :]))
