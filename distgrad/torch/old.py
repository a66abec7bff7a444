"""Functions of ``torch`` that later ones stand for, and settings that programs ask in passing."""

from __future__ import annotations

import itertools
import math
from typing import Any

from distgrad.autograd import creation
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.layouts import joined
from distgrad.autograd.meanings import places
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.nn.functional import binary, dropouts, pooling

__all__ = [
    "binary_cross_entropy_with_logits", "chain_matmul", "feature_dropout", "frobenius_norm",
    "is_inference", "max_pool1d_with_indices",
    "nonzero_static", "norm_except_dim", "nuclear_norm",
    "unravel_index", "unsafe_split_with_sizes",
]  # fmt: skip

_REDUCTIONS = ("none", "mean", "sum")


def chain_matmul(*matrices: Tensor, out: Tensor | None = None) -> Tensor:
    """The product of several matrices, in the order that takes the fewest operations."""
    found: Tensor = ops.multi_dot(*matrices) if len(matrices) > 1 else matrices[0]
    if out is None:
        return found
    out._data[...] = found._data
    out.changed("out=")
    return out


def nuclear_norm(input: Tensor, dim: Any = (-2, -1), keepdim: bool = False) -> Tensor:
    """The sum of the singular values of matrices."""
    found: Tensor = ops.norm(input, "nuc", axis=tuple(dim), keepdims=keepdim)
    return found


def frobenius_norm(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """The root of the sum of the elements' squares."""
    axes = tuple(dim) if isinstance(dim, tuple | list) else (dim,)
    found: Tensor = ops.sqrt(ops.sum(ops.square(ops.abs(input)), axis=axes or None, keepdims=keepdim))
    return found


def norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:
    """Norms over all axes but one, which stay with length 1; with ``dim=-1`` over all."""
    axes = tuple(each for each in range(v.ndim) if each != dim % v.ndim) if dim != -1 else None
    found: Tensor = ops.vector_norm(v, ord=pow, axis=axes, keepdims=axes is not None)
    return found


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Places in a tensor of that shape of the elements that these indices have in row order.

    Raises:
        ShapeError: an index beyond the last element.
    """
    lengths = (shape,) if isinstance(shape, int) else tuple(int(each) for each in shape)
    count = math.prod(lengths)
    if not bool(ops.all((indices >= 0) & (indices < count))):
        raise ShapeError(f"unravel_index: expected indices from 0 to {count - 1} in shape {list(lengths)}")
    steps = [*itertools.accumulate(reversed(lengths[1:]), lambda a, b: a * b, initial=1)][::-1]
    return tuple((indices // step) % n for step, n in zip(steps, lengths, strict=True))


def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """The first ``size`` places of elements that are not 0; ``fill_value`` where there are fewer."""
    if size < 0:
        raise OptionError(f"nonzero_static: size must be at least 0, got {size}")
    found = places(input, False)[:size]
    rest = creation.full((size - len(found), input.ndim), fill_value, dtype=found.dtype, device=found.device)
    whole: Tensor = joined([found, rest], 0)
    return whole


def unsafe_split_with_sizes(input: Tensor, split_sizes: Any, dim: int = 0) -> Any:
    """As ``split``."""
    return ops.split(input, list(split_sizes), axis=dim)


def max_pool1d_with_indices(input: Tensor, *args: Any, **options: Any) -> Any:
    """``max_pool1d`` with the places of the maxima."""
    return pooling.max_pool1d(input, *args, **options | {"return_indices": True})


def feature_dropout(input: Tensor, p: float, train: bool) -> Tensor:
    """Whole channels set to 0 with that probability, the others scaled."""
    shape = (*input.shape[:2], *(1,) * (input.ndim - 2))
    kept = creation.ones(shape, dtype=input.dtype, device=input.device)
    return input * dropouts.dropout(kept, p, train)


def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Any = None, pos_weight: Any = None, reduction: int = 1
) -> Tensor:
    """As ``nn.functional.binary_cross_entropy_with_logits``; 0 stands for no reduction, 1 for the mean."""
    return binary.binary_cross_entropy_with_logits(
        input, target, weight, reduction=_REDUCTIONS[reduction], pos_weight=pos_weight
    )


def is_inference(input: Tensor) -> bool:
    """No: tensors made under ``inference_mode`` are like others."""
    return False
