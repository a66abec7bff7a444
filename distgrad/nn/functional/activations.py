"""Activations, by PyTorch's names and arguments."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import namespace as ops
from distgrad.autograd.tensor import Tensor
from distgrad.nn.functional.arguments import in_place

__all__ = ["log_softmax", "relu", "relu_", "sigmoid", "softmax", "softmin", "tanh"]


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(x, 0)``."""
    return in_place(input, ops.relu(input), inplace, "relu")


def relu_(input: Tensor) -> Tensor:
    """:func:`relu` in place."""
    return relu(input, inplace=True)


def sigmoid(input: Tensor) -> Tensor:
    """``1 / (1 + e^-x)``."""
    return ops.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return ops.tanh(input)


def _converted(input: Tensor, dtype: Any) -> Tensor:
    return input if dtype is None else ops.astype(input, dtype)


def softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """``e^x / Σ e^x`` along an axis.

    Args:
        input: any shape.
        dim: the axis.
        dtype: convert to it first; None doesn't.
    """
    return ops.softmax(_converted(input, dtype), axis=dim)


def softmin(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """:func:`softmax` of −x."""
    return ops.softmax(-_converted(input, dtype), axis=dim)


def log_softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """``x − log Σ e^x`` along an axis; the arguments are those of :func:`softmax`."""
    return ops.log_softmax(_converted(input, dtype), axis=dim)
