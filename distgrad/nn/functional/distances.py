"""Lengths, angles and distances of vectors."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.ops.shape_rules import mixed_dtypes
from distgrad.autograd.tensor import Tensor

__all__ = ["bilinear", "cosine_similarity", "normalize", "pairwise_distance"]


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Vectors along an axis divided by their p-norm, or by ``eps`` where that is larger."""
    return ops.normalize(input, p=p, axis=dim, eps=eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """``Σ x1 x2 / (‖x1‖ ‖x2‖)`` along an axis, norms no smaller than ``eps``."""
    return ops.cosine_similarity(x1, x2, axis=dim, eps=eps)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """``‖x1 − x2 + eps‖_p`` along the last axis.

    Args:
        x1, x2: shapes that broadcast.
        p: order of the norm.
        eps: added to every difference.
        keepdim: keep the last axis, with length 1.
    """
    return ops.pairwise_distance(x1, x2, p=p, eps=eps, keepdims=keepdim)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    """``y_o = input1ᵀ weight_o input2 + bias_o``.

    Args:
        input1: ``[..., in1_features]``.
        input2: ``[..., in2_features]``.
        weight: ``[out_features, in1_features, in2_features]``.
        bias: ``[out_features]``, or None.
    """
    for each in (input1, input2):
        if each.dtype != weight.dtype:
            raise mixed_dtypes("bilinear", each, weight)
    y = ops.einsum("...i,oij,...j->...o", input1, weight, input2)
    return y if bias is None else y + bias
