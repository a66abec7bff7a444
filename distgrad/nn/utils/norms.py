"""What norms of weights are made of: parts of a tensor, its matrix, and a step of the power iteration."""

from __future__ import annotations

import math
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn.module import Module
from distgrad.nn.modules.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from distgrad.nn.parameter import write

__all__ = ["as_matrix", "checked_norm", "iterate", "norm_except", "rows_axis"]


def norm_except(v: Tensor, dim: int) -> Tensor:
    """The norms of a tensor's parts along an axis, which stays; of −1 the norm of all elements."""
    if dim == -1:
        return ops.sqrt(ops.sum(ops.square(v)))
    axes = tuple(axis for axis in range(v.ndim) if axis != dim)
    return ops.sqrt(ops.sum(ops.square(v), axis=axes, keepdims=True))


def checked_norm(weight: Any, dim: int | None) -> int:
    """The axis for :func:`norm_except`.

    Raises:
        OptionError: the weight does not have it.
    """
    dim = -1 if dim is None else dim
    if isinstance(weight, Tensor) and not -1 <= dim < weight.ndim:
        raise OptionError(f"weight_norm: dim must be from -1 to {weight.ndim - 1} or None, got {dim}")
    return dim


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """A weight with an axis as rows and all others as columns."""
    rest = [axis for axis in range(weight.ndim) if axis != dim]
    turned = ops.permute_dims(weight, (dim, *rest))
    return ops.reshape(turned, (weight.shape[dim], math.prod(weight.shape[axis] for axis in rest)))


def iterate(to: Tensor, matrix: Tensor, vector: Tensor, eps: float) -> None:
    """Set a vector to the direction of ``matrix @ vector``, in place."""
    write(to, ops.normalize(ops.matmul(matrix, vector), axis=0, eps=eps)._data, "spectral_norm")


def rows_axis(module: Module) -> int:
    """The axis that counts the rows of a layer's weight as a matrix."""
    return 1 if isinstance(module, ConvTranspose1d | ConvTranspose2d | ConvTranspose3d) else 0
