"""Rows of a table by index, alone or in bags; one-hot vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.casting import limits
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import ARRAY_MODULES, get_array_module
from distgrad.backend.device import CPU, device_of, plain, to_device
from distgrad.errors import OptionError, ShapeError
from distgrad.nn.parameter import write
from distgrad.tracebacks import warn_once

__all__ = ["embedding", "embedding_bag", "one_hot", "tell_dense"]


def tell_dense(sparse: bool, where: str) -> None:
    """Say once that gradients are dense, where those of the rows that were read alone are asked for."""
    if sparse:
        warn_once(
            "sparse gradients",
            f"{where}: gradients are dense also with sparse=True: all rows have one, zeros where unread",
        )


def _array(values: Any) -> Any:
    values = plain(values)
    return values if values.__class__ in ARRAY_MODULES else np.asarray(values)


def _limit_norms(weight: Tensor, index: Any, max_norm: float, norm_type: float) -> None:
    """Shorten the rows that are looked up, in place, where they are longer than ``max_norm``."""
    xp = get_array_module(weight._data)
    rows = index.reshape(-1)  # a row named twice is written twice, with the same values
    values = weight._data[rows]
    lengths = xp.linalg.norm(values, ord=norm_type, axis=1, keepdims=True)
    limited = weight._data.copy()
    limited[rows] = xp.where(lengths > max_norm, values * (max_norm / (lengths + 1e-7)), values)
    write(weight, limited, "embedding")


def _by_frequency(rows: Tensor, index: Any, num_rows: int) -> Tensor:
    """The same values, whose gradient is divided by how often their index occurs."""
    xp = get_array_module(index)
    counts = xp.add_at(xp.zeros(num_rows, dtype=np.float64), index.reshape(-1), 1)
    scale = xp.asarray(1.0 / counts[index]).reshape((*index.shape, 1)).astype(rows.dtype)
    fixed = rows.detach()
    return fixed + (rows - fixed) * scale


def embedding(
    input: Any,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of a table.

    Args:
        input: row numbers, any shape.
        weight: the table ``[num_embeddings, embedding_dim]``.
        padding_idx: the row whose gradient is 0.
        max_norm: rows longer than it are shortened, in place, before they are read.
        norm_type: p of the norm that measures them.
        scale_grad_by_freq: divide a row's gradient by how often it is read.
        sparse: taken; gradients are dense, which is said once.

    Returns:
        ``[*input, embedding_dim]``.
    """
    tell_dense(sparse, "embedding")
    index = _array(input)
    if max_norm is not None:
        _limit_norms(weight, index, max_norm, norm_type)
    rows = ops.embedding(index, weight, padding_idx=padding_idx)
    return _by_frequency(rows, index, weight.shape[0]) if scale_grad_by_freq else rows


def one_hot(tensor: Any, num_classes: int = -1) -> Tensor:
    """Vectors of 0 with a 1 at each class number; ``num_classes=-1``: one more than the largest."""
    return ops.one_hot(tensor, num_classes)


def _bags(input: Any, offsets: Any, include_last_offset: bool) -> tuple[Any, ...]:
    """Where each bag's elements stand in the flattened input, ``[B, L]``, and whether there is one."""
    if input.ndim == 2:
        if offsets is not None:
            raise OptionError("embedding_bag: offsets are for an input of one axis; leave them out")
        return _beside(input, np.arange(input.size).reshape(input.shape), np.ones(input.shape, dtype=bool))
    if input.ndim != 1 or offsets is None:
        raise ShapeError(
            f"embedding_bag: expected input [B, L], or [total] and offsets, got {list(input.shape)}"
        )
    starts = to_device(_array(offsets), CPU)  # where bags end decides shapes, so the host has to know
    if starts.ndim != 1 or (starts.size and starts[0] != 0):
        raise OptionError(f"embedding_bag: offsets must be a list that starts with 0, got {starts.tolist()}")
    ends = starts[1:] if include_last_offset else np.append(starts[1:], input.size)
    starts = starts[: len(ends)]
    lengths = ends - starts
    if np.any(lengths < 0) or np.any(ends > input.size):
        raise OptionError(f"embedding_bag: offsets {_array(offsets).tolist()} must rise, up to {input.size}")
    places = np.arange(lengths.max(initial=0))
    exists = places < lengths[:, None]
    return _beside(input, np.where(exists, starts[:, None] + places, 0), exists)


def _beside(x: Any, *arrays: np.ndarray) -> tuple[Any, ...]:
    """Arrays of the host, where ``x`` lies."""
    return tuple(to_device(each, device_of(x)) for each in arrays)


def _counts(exists: Any) -> Any:
    """How many rows each bag has, ``[B, 1]``; at least 1."""
    return get_array_module(exists).maximum(exists.sum(axis=1, keepdims=True), 1)


def _largest(rows: Tensor, exists: Any) -> Tensor:
    """The maximum of each bag's rows ``[B, L, E]``, 0 for an empty bag."""
    lowest = limits(rows.dtype).min
    largest = ops.max(ops.where(exists[:, :, None], rows, lowest), axis=1)
    return ops.where(exists.any(axis=1, keepdims=True), largest, 0.0)


def _whole_sums(
    index: Any, weight: Tensor, max_norm: float | None, norm_type: float, scale_grad_by_freq: bool
) -> Tensor:
    """Sums of bags ``[B, L]`` of which nothing is left out."""
    if scale_grad_by_freq:
        return ops.sum(embedding(index, weight, None, max_norm, norm_type, True), axis=1)
    if max_norm is not None:
        _limit_norms(weight, index, max_norm, norm_type)
    return ops.embedding_sum(index, weight)


def embedding_bag(
    input: Any,
    weight: Tensor,
    offsets: Any = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sums, means or maxima of a table's rows, a bag at a time; an empty bag gives zeros.

    Args:
        input: row numbers, ``[B, L]``, or ``[total]`` with ``offsets``.
        weight: the table ``[num_embeddings, embedding_dim]``.
        offsets: where each bag starts, ``[B]``.
        max_norm, norm_type, scale_grad_by_freq: as in :func:`embedding`.
        mode: "sum", "mean" or "max".
        sparse: taken; gradients are dense, which is said once.
        per_sample_weights: of each row number, of the input's shape; for sums only.
        include_last_offset: the last of the offsets is where the last bag ends.
        padding_idx: a row number that is passed over.

    Returns:
        ``[B, embedding_dim]``.
    """
    tell_dense(sparse, "embedding_bag")
    if mode not in ("sum", "mean", "max"):
        raise OptionError(f"embedding_bag: mode must be 'sum', 'mean' or 'max', got {mode!r}")
    if per_sample_weights is not None and mode != "sum":
        raise OptionError(f"embedding_bag: per_sample_weights are for mode='sum', got {mode!r}")
    index = _array(input)
    if index.ndim == 2 and offsets is padding_idx is per_sample_weights is None and mode != "max":
        total = _whole_sums(index, weight, max_norm, norm_type, scale_grad_by_freq)
        return total if mode == "sum" else total / max(index.shape[1], 1)
    places, exists = _bags(index, offsets, include_last_offset)
    if padding_idx is not None:
        exists = exists & (index.reshape(-1)[places] != padding_idx % weight.shape[0])
    read = embedding(index.reshape(-1), weight, None, max_norm, norm_type, scale_grad_by_freq)
    rows = ops.embedding(places, read)
    if mode == "max" and places.shape[1]:
        return _largest(rows, exists)
    if per_sample_weights is not None:
        factors = ops.getitem(ops.reshape(per_sample_weights, (-1,)), (places,))
        rows = rows * ops.expand_dims(factors, axis=-1)
    total = ops.sum(ops.where(exists[:, :, None], rows, 0.0), axis=1)
    return total / _counts(exists).astype(rows.dtype) if mode == "mean" else total
