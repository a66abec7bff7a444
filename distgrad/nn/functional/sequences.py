"""Losses of label sequences, and attention between sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import get_array_module
from distgrad.backend.device import CPU, plain, to_device
from distgrad.errors import ShapeError
from distgrad.nn.functional.arguments import check_reduction, mean_or_sum

__all__ = ["ctc_loss", "scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Each query's mean of the values, weighted by ``softmax(query keyᵀ scale + attn_mask)``.

    Args:
        query: ``[N, ..., H, L, E]``.
        key: ``[N, ..., H, S, E]``.
        value: ``[N, ..., H, S, Ev]``.
        attn_mask: broadcasts to ``[N, ..., H, L, S]``; booleans, true where a query may look, or numbers that
            are added to the scores.
        dropout_p: probability that a weight is set to 0, also outside training.
        is_causal: query i sees keys 0 … i only.
        scale: what scores are multiplied by; None means 1/√E.
        enable_gqa: key and value have fewer heads, each shared by as many neighbouring query heads.

    Returns:
        ``[N, ..., H, L, Ev]``.
    """
    return ops.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attn_mask,
        dropout_p=dropout_p,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
    )


def _array(values: Any) -> np.ndarray:
    """On the host, where lengths have to be known."""
    return np.asarray(to_device(values._data, CPU) if isinstance(values, Tensor) else values)


def _flat(targets: Any) -> bool:
    """Whether labels come one sequence after another, or as nested lists."""
    return not hasattr(targets, "ndim") or targets.ndim == 1


def _label_rows(targets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Labels as ``[N, S]``, also where they came one sequence after another."""
    if targets.ndim != 1:
        return targets
    if targets.size != lengths.sum():
        raise ShapeError(f"ctc_loss: {targets.size} labels in a row for target_lengths {lengths.tolist()}")
    rows = np.zeros((len(lengths), lengths.max(initial=0)), dtype=targets.dtype)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = targets
    return rows


def ctc_loss(
    log_probs: Tensor,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Negative log-likelihood of label sequences of unknown alignment.

    Args:
        log_probs: logarithms of the classes' probabilities, ``[T, N, C]`` or ``[T, C]``.
        targets: class numbers ``[N, S]``, ``[S]``, or those of all sequences in one row.
        input_lengths: time steps of each sequence, ``[N]`` or ``[]``.
        target_lengths: labels of each sequence, ``[N]`` or ``[]``.
        blank: the class that stands for no label.
        reduction: "none", "sum", or "mean", which divides each sequence's loss by its number of labels first.
        zero_infinity: 0 instead of ∞ where a sequence is too short for its labels.
    """
    check_reduction(reduction, "ctc_loss")
    one = log_probs.ndim == 2
    batch = ops.expand_dims(log_probs, axis=1) if one else log_probs
    host = [np.atleast_1d(_array(each)) for each in (input_lengths, target_lengths)]
    labels = _label_rows(_array(targets), host[1]) if _flat(targets) else plain(targets)
    steps, lengths, labels = (to_device(each, log_probs.device) for each in (*host, labels))
    losses = ops.ctc_loss(batch, labels, steps, lengths, blank=blank, zero_infinity=zero_infinity)
    if reduction == "mean":
        losses = losses / get_array_module(lengths).maximum(lengths, 1).astype(losses.dtype)
    if one and reduction == "none":
        return ops.squeeze(losses, 0)
    return mean_or_sum(losses, reduction, "ctc_loss")
