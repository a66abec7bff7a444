"""Losses of ``torch.nn`` that mean something else than those of ``dg.nn``, or are not there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.autograd.creation import asarray
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.nn.functional import classification, sequences
from distgrad.nn.functional.arguments import mean_or_sum
from distgrad.nn.module import Module
from distgrad.nn.modules import sequence_loss
from distgrad.nn.modules.linear import Linear

__all__ = [
    "CTCLoss", "LinearCrossEntropyLoss", "LinearCrossEntropyOptions", "ctc_loss", "linear_cross_entropy",
]  # fmt: skip


def ctc_loss(
    log_probs: Tensor,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """As ``dg.nn.functional.ctc_loss``, but with the gradient of the logits behind a log-softmax.

    PyTorch gives ``log_probs`` that gradient, p minus the posterior, wherever they come from. Behind a
    log-softmax the two train alike.
    """
    losses = sequences.ctc_loss(
        log_probs, targets, input_lengths, target_lengths, blank, "none", zero_infinity
    )
    steps, labels = (
        np.atleast_1d(np.asarray(getattr(each, "_data", each))) for each in (input_lengths, target_lengths)
    )
    batch = log_probs if log_probs.ndim == 3 else ops.expand_dims(log_probs, axis=1)
    counted = asarray(np.arange(batch.shape[0])[:, None] < steps, device=log_probs.device)
    mass = ops.sum(ops.where(counted, ops.sum(ops.exp(batch), axis=2), 0.0), axis=0)
    mass = mass if log_probs.ndim == 3 else ops.squeeze(mass, 0)
    mass = ops.where(ops.isfinite(losses.detach()) & (losses.detach() != 0), mass - mass.detach(), 0.0)
    losses = losses + ops.astype(mass, losses.dtype)
    if reduction == "mean":
        lengths = asarray(np.maximum(labels, 1).reshape(losses.shape), device=log_probs.device)
        losses = losses / ops.astype(lengths, losses.dtype)
    return mean_or_sum(losses, reduction, "ctc_loss")


class CTCLoss(sequence_loss.CTCLoss):
    """As ``dg.nn.CTCLoss``, with the gradient of :func:`ctc_loss`."""

    def forward(self, log_probs: Tensor, targets: Any, input_lengths: Any, target_lengths: Any) -> Tensor:
        """``[T, N, C]``, labels, and how many time steps and labels each sequence has."""
        return ctc_loss(
            log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction, self.zero_infinity
        )


@dataclass
class LinearCrossEntropyOptions:
    """How PyTorch cuts the classes into pieces; taken: here the scores are computed whole."""

    chunking_strategy: Any = None
    batch_chunk_size: int | None = None
    allow_retain_graph: bool = False


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Any,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    """The cross entropy of scores ``W x + b``.

    Args:
        input: ``[N, features]`` or ``[features]``.
        linear_weight: ``[C, d1, …, features]``.
        target: classes ``[N, d1, …]``, or probabilities ``[N, C, d1, …]``.
        linear_bias: ``[C, d1, …]``.
        weight, reduction, label_smoothing: of ``cross_entropy``.
        ignore_index: of it, for classes alone; None is −100.
        options: taken: of the memory that is used.

    Raises:
        ShapeError: shapes that do not fit.
        OptionError: ``ignore_index`` beside probabilities.
    """
    extent, features = linear_weight.shape[:-1], linear_weight.shape[-1]
    if input.ndim not in (1, 2) or input.shape[-1] != features or (input.ndim == 1 and len(extent) > 1):
        raise ShapeError(
            f"linear_cross_entropy: input is {list(input.shape)} for weights {list(linear_weight.shape)}; "
            "expected [N, features]"
        )
    if linear_bias is not None and linear_bias.shape != extent:
        raise ShapeError(
            f"linear_cross_entropy: linear_bias is {list(linear_bias.shape)}, expected {list(extent)}"
        )
    rows = ops.reshape(linear_weight, (-1, features))
    scores = ops.reshape(ops.matmul(input, rows.T), (*input.shape[:-1], *extent))
    scores = scores if linear_bias is None else scores + linear_bias
    if ignore_index is not None and target.shape == scores.shape:
        raise OptionError("linear_cross_entropy: ignore_index goes with classes, not with probabilities")
    ignored = -100 if ignore_index is None else ignore_index
    return classification.cross_entropy(scores, target, weight, ignored, reduction, label_smoothing)


class LinearCrossEntropyLoss(Module):
    """A linear layer and the cross entropy of its scores; see :func:`linear_cross_entropy`.

    Args:
        in_features: of each sample.
        num_classes: C.
        out_features: d1, … of the targets.
        bias: whether scores have a bias.
        device, dtype: of the layer.
        reduction, weight, ignore_index, label_smoothing, options: of the function.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
    ) -> None:
        super().__init__()
        self._extent = (num_classes, *out_features)
        self.linear = Linear(in_features, math.prod(self._extent), bias=bias, device=device, dtype=dtype)
        self.register_buffer("weight", weight)
        self._options = {"reduction": reduction, "ignore_index": ignore_index,
                         "label_smoothing": label_smoothing, "options": options}  # fmt: skip

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """The loss of ``[N, in_features]``."""
        weight = ops.reshape(self.linear.weight, (*self._extent, -1))
        bias = None if self.linear.bias is None else ops.reshape(self.linear.bias, self._extent)
        return linear_cross_entropy(
            input,
            weight,
            target,
            linear_bias=bias,
            weight=self.weight,
            **self._options,
        )
