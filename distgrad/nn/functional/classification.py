"""Losses between class scores and classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.backend.array_module import ARRAY_MODULES, get_array_module
from distgrad.backend.device import at_hand, follow, plain
from distgrad.errors import DTypeError, OptionError, OutOfBoundsError, ShapeError
from distgrad.nn.functional.arguments import check_reduction, mean_or_sum, roomy, sum_over

__all__ = ["cross_entropy", "nll_loss"]


def _array(values: Any) -> Any:
    values = plain(values)
    return values if values.__class__ in ARRAY_MODULES else np.asarray(values)


def _rows(x: Tensor) -> Tensor:
    """Class scores ``[N, C, d1, ...]`` or ``[C]`` as rows ``[N · d1 · ..., C]``."""
    if x.ndim > 2:
        x = ops.permute_dims(x, (0, *range(2, x.ndim), 1))
    return ops.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _check_target(x: Tensor, target: Any, where: str) -> None:
    """Class numbers must be whole numbers, one for each row of class scores."""
    expected = (*x.shape[:1], *x.shape[2:]) if x.ndim > 1 else ()
    if x.ndim == 0 or target.shape != expected:
        raise ShapeError(
            f"{where}: input is {list(x.shape)} and target {list(target.shape)}; class numbers are "
            f"{list(expected)}, one for each row of classes on axis 1"
        )
    if target.dtype.kind not in "iu":
        raise DTypeError(f"{where}: target must hold class numbers (integers), got {target.dtype}")


def _classes(x: Tensor, target: Any, ignore_index: int, where: str) -> tuple[Any, Any]:
    """Class numbers as ``[rows]``, those to be ignored as 0, and which are counted (None: all)."""
    _check_target(x, target, where)
    classes = target.reshape(-1)
    counted = classes != ignore_index
    if at_hand(classes) and counted.all():
        return classes, None
    return get_array_module(classes).where(counted, classes, 0), counted


def _class_weights(weight: Any, num_classes: int, where: str) -> Any:
    weight = _array(weight)
    if weight.shape != (num_classes,):
        raise ShapeError(f"{where}: weight is {list(weight.shape)}; expected one a class, [{num_classes}]")
    return weight


def _row_weights(weight: Any, counted: Any, classes: Any) -> Any:
    """What each row counts: its class's weight, and nothing for an ignored one; None: all alike."""
    if weight is None:
        return counted
    weights = weight[classes]
    return weights if counted is None else weights * counted


def _weighted(losses: Tensor, weights: Any, reduction: str, where: str, shape: tuple[int, ...]) -> Tensor:
    """Rows' losses that already hold their weights, reduced; the mean divides by the weights' sum."""
    if reduction == "none":
        return ops.reshape(losses, shape)
    if weights is None or reduction == "sum":
        return mean_or_sum(losses, reduction, where)
    total = weights.sum(dtype=roomy(weights.dtype))
    return sum_over(losses, float(total) if at_hand(weights) else total)


def nll_loss(
    input: Tensor,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood: ``−weight[target] input[target]``.

    Args:
        input: log-probabilities ``[N, C]``, ``[N, C, d1, ...]`` or ``[C]``.
        target: class numbers ``[N]``, ``[N, d1, ...]`` or ``[]``.
        weight: of each class, ``[C]``; None means 1.
        ignore_index: a class number that counts nothing.
        reduction: "none", "sum", or "mean", which divides by the sum of the weights.
    """
    check_reduction(reduction, "nll_loss")
    target = _array(target)
    classes, counted = _classes(input, target, ignore_index, "nll_loss")
    rows = _rows(input)
    if weight is not None:
        weight = _class_weights(weight, rows.shape[1], "nll_loss")
    _check_range(classes, rows.shape[1], "nll_loss")
    follow(classes)
    losses = -ops.getitem(rows, (get_array_module(classes).arange(rows.shape[0]), classes))
    weights = _row_weights(weight, counted, classes)
    if weights is not None:
        losses = ops.where(weights != 0, losses, 0.0)  # an ignored −log 0 is infinite
        losses = losses if weight is None else losses * weights
    return _weighted(losses, weights, reduction, "nll_loss", target.shape)


def _check_range(classes: Any, num_classes: int, where: str) -> None:
    if at_hand(classes) and classes.size and (classes.min() < 0 or classes.max() >= num_classes):
        bad = classes[(classes < 0) | (classes >= num_classes)][0]
        raise OutOfBoundsError(f"{where}: target holds class {bad}, but input has {num_classes} classes")


def cross_entropy(
    input: Tensor,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of the softmax of class scores, in nats.

    Args:
        input: scores (logits) ``[N, C]``, ``[N, C, d1, ...]`` or ``[C]``.
        target: class numbers ``[N]``, ``[N, d1, ...]`` or ``[]``; or probabilities, floating, of the input's
            shape.
        weight: of each class, ``[C]``; None means 1.
        ignore_index: a class number that counts nothing; not for probabilities.
        reduction: "none"; "sum"; or "mean", which divides by the sum of the weights, for probabilities by the
            number of rows.
        label_smoothing: ε: targets become ``(1 − ε) target + ε / C``.
    """
    check_reduction(reduction, "cross_entropy")
    if not 0.0 <= label_smoothing <= 1.0:
        raise OptionError(f"cross_entropy: label_smoothing must lie between 0 and 1, got {label_smoothing}")
    num_classes = input.shape[1 if input.ndim > 1 else 0] if input.ndim else 0
    if weight is not None:
        weight = _class_weights(weight, num_classes, "cross_entropy")
    values = _array(target)
    if values.dtype.char in FLOATING and values.shape == input.shape:
        probabilities = target if isinstance(target, Tensor) else Tensor(values)
        return _soft_cross_entropy(input, probabilities, weight, reduction, label_smoothing)
    rows = _rows(input)
    if reduction == "mean" and weight is None and not label_smoothing and not at_hand(values):
        _check_target(input, values, "cross_entropy")
        ignored = {"target": values.reshape(-1), "ignore_index": ignore_index}
        return ops.counted_mean(ops.softmax_cross_entropy(rows, **ignored), **ignored)
    classes, counted = _classes(input, values, ignore_index, "cross_entropy")
    ignored = {} if counted is None else {"ignore_index": ignore_index}
    losses = ops.softmax_cross_entropy(rows, target=values.reshape(-1), **ignored)
    weights = _row_weights(weight, counted, classes)
    if weight is not None:
        losses = losses * weights
    if label_smoothing:
        if counted is not None:  # an ignored row may hold anything
            rows = ops.where(counted[:, None], rows, 0.0)
        spread = -ops.log_softmax(rows, axis=1)
        spread = ops.mean(spread if weight is None else spread * weight, axis=1)
        if counted is not None:
            spread = ops.where(counted, spread, 0.0)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * spread
    return _weighted(losses, weights, reduction, "cross_entropy", values.shape)


def _soft_cross_entropy(
    input: Tensor, target: Tensor, weight: Any, reduction: str, label_smoothing: float
) -> Tensor:
    """Cross entropy with probabilities as the target."""
    shape = (*input.shape[:1], *input.shape[2:]) if input.ndim > 1 else ()
    logits, probabilities = _rows(input), _rows(target)
    if label_smoothing:
        probabilities = (1.0 - label_smoothing) * probabilities + label_smoothing / logits.shape[1]
    scores = ops.log_softmax(logits, axis=1)
    losses = -ops.sum((scores if weight is None else scores * weight) * probabilities, axis=1)
    return _weighted(losses, None, reduction, "cross_entropy", shape)
