"""Rows of a table by index. Reading rows and adding to rows are each other's gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.scatter import add_at_positions, check_index
from distgrad.autograd.ops.shape_rules import Into, Shape, first_dtype, last_dtype
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import DTypeError, OutOfBoundsError, ShapeError

_INDEX = np.array([[1, 0, 1], [4, 1, 2]])


@primitive(
    math="y[..., :] = weight[index[...], :]",
    shape=lambda index, weight, **attributes: (*index, *weight[1:]),
    result=last_dtype,
    samples=[
        Sample((_INDEX, (5, 3))),
        Sample((_INDEX, (5, 3)), {"padding_idx": 1}, note="a row without gradient", grad=False),
        Sample((np.array(2), (5, 3)), note="one index"),
        Sample((_INDEX[:0], (5, 3)), note="empty"),
    ],
    rejects=[
        Reject((_INDEX, (4, 3)), OutOfBoundsError, "embedding: index holds 4, but the axis has length 4"),
        Reject((_INDEX * 1.0, (5, 3)), DTypeError, "must hold integers"),
        Reject((_INDEX, (5,)), ShapeError, "weight is [5], expected [num_embeddings, embedding_dim]"),
    ],
)
def embedding(xp: Any, index: Array, weight: Array, /, *, padding_idx: int | None = None) -> Array:
    """Rows of a table.

    Args:
        index: integers, any shape.
        weight: ``[num_embeddings, embedding_dim]``.
        padding_idx: the row whose gradient is 0.

    Returns:
        ``[*index, embedding_dim]``.
    """
    if weight.ndim != 2:
        raise ShapeError(
            f"embedding: weight is {list(weight.shape)}, expected [num_embeddings, embedding_dim]"
        )
    check_index("embedding", index, weight.shape[0])
    return xp.take(weight, index, axis=0)


@embedding.vjp("weight")
def _(
    xp: Any, g: Array, index: Array, weight_shape: Shape, padding_idx: int | None, into: Into
) -> Array:  # the kernel alone writes home: others begin with zeros of their own
    if padding_idx is not None:
        g = g * xp.expand_dims(index != padding_idx % weight_shape[0], axis=-1)
    return xp.embedding_weight(g, index, num_embeddings=weight_shape[0])


@primitive(
    math="y[r, :] = Σ cotangent[..., :] over index[...] = r",
    shape=lambda cotangent, index, num_embeddings: (num_embeddings, cotangent[-1]),
    result=first_dtype,
    samples=[
        Sample(((2, 3, 4), _INDEX), {"num_embeddings": 5}),
        Sample(((0, 3, 4), _INDEX[:0]), {"num_embeddings": 5}, note="empty"),
    ],
    rejects=[
        Reject(((3, 4), _INDEX), ShapeError, "cotangent is [3, 4]", {"num_embeddings": 5}),
        Reject(((2, 3, 4), _INDEX), OutOfBoundsError, "index holds 4", {"num_embeddings": 4}),
    ],
)
def embedding_weight(xp: Any, cotangent: Array, index: Array, /, *, num_embeddings: int) -> Array:
    """Rows added up by index; the transpose of :func:`embedding` in its table.

    Args:
        cotangent: ``[*index, embedding_dim]``.
        index: integers, any shape.
        num_embeddings: rows of the result.
    """
    width = cotangent.shape[-1]
    if cotangent.shape != (*index.shape, width):
        raise ShapeError(f"embedding: cotangent is {list(cotangent.shape)} but index {list(index.shape)}")
    check_index("embedding", index, num_embeddings)
    positions = index.reshape(-1, 1) * width + xp.arange(width)
    return add_at_positions(xp, num_embeddings * width, positions, cotangent).reshape(num_embeddings, width)


@embedding_weight.vjp("cotangent")
def _(xp: Any, g: Array, index: Array) -> Array:
    return xp.embedding(index, g)


@primitive(
    math="y[..., :] = Σ_l weight[index[..., l], :]",
    shape=lambda index, weight: (*index[:-1], *weight[1:]),
    samples=[
        Sample((_INDEX, (5, 3))),
        Sample((np.array([2, 2]), (5, 3)), note="one bag"),
        Sample((_INDEX[:0], (5, 3)), note="empty"),
        Sample((_INDEX[:, :0], (5, 3)), note="empty bags"),
    ],
    rejects=[
        Reject((_INDEX, (4, 3)), OutOfBoundsError, "embedding_sum: index holds 4, but the axis has length 4"),
        Reject((_INDEX, (5,)), ShapeError, "weight is [5], expected [num_embeddings, embedding_dim]"),
        Reject((np.array(2), (5, 3)), ShapeError, "index is [], expected [..., L]"),
    ],
)
def embedding_sum(xp: Any, index: Array, weight: Array, /) -> Array:
    """Sums of a table's rows, those of a bag of indices each.

    Args:
        index: integers, ``[..., L]``.
        weight: ``[num_embeddings, embedding_dim]``.

    Returns:
        ``[..., embedding_dim]``.
    """
    if index.ndim == 0:
        raise ShapeError("embedding_sum: index is [], expected [..., L]")
    if weight.ndim != 2:
        raise ShapeError(
            f"embedding_sum: weight is {list(weight.shape)}, expected [num_embeddings, embedding_dim]"
        )
    check_index("embedding_sum", index, weight.shape[0])
    return xp.sum(xp.take(weight, index, axis=0), axis=-2)


@embedding_sum.vjp("weight")
def _(xp: Any, g: Array, index: Array, weight_shape: Shape, into: Into) -> Array:
    rows = xp.broadcast_to(xp.expand_dims(g, axis=-2), (*index.shape, weight_shape[1]))
    return xp.embedding_weight(rows, index, num_embeddings=weight_shape[0])
