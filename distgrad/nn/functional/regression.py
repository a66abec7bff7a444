"""Losses between values, each with PyTorch's ``reduction``: "none", "mean" or "sum"."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.casting import WEAK
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.backend.device import at_hand, plain
from distgrad.errors import OptionError, ShapeError
from distgrad.nn.functional.arguments import as_values, check_reduction, mean_or_sum
from distgrad.tracebacks import warn_once

__all__ = ["gaussian_nll_loss", "huber_loss", "l1_loss", "mse_loss", "poisson_nll_loss", "smooth_l1_loss"]


def same_shape(input: Tensor, target: Any, where: str) -> Any:
    """The target in the input's dtype, if it has its shape: [N] with [N, 1] is [N, N] by mistake.

    Raises:
        ShapeError: shapes that differ.
    """
    if input.shape != target.shape:
        raise ShapeError(
            f"{where}: input is {list(input.shape)} but target {list(target.shape)}; give both the same shape"
        )
    return as_values(target, input)


def _paired(input: Tensor, target: Any, where: str) -> tuple[Tensor, Any]:
    """Input and target in one shape and dtype.

    Where PyTorch's names are used, other shapes are broadcast, with a warning, as PyTorch does it.

    Raises:
        ShapeError: shapes that differ.
    """
    if WEAK and input.shape != target.shape:
        met = f"{where}: input is {list(input.shape)} but target {list(target.shape)}"
        input, target = ops.broadcast_arrays(input, target)
        warn_once(
            f"{where} of unlike shapes",
            f"{met}: both are broadcast to {list(input.shape)}, which is seldom meant; give them one shape",
        )
    return input, same_shape(input, target, where)


def _weighted(losses: Tensor, weight: Any, reduction: str, where: str) -> Tensor:
    """The losses times a weight, reduced; the mean divides by the sum of the weights."""
    check_reduction(reduction, where)
    if weight is None:
        return mean_or_sum(losses, reduction, where)
    total = ops.sum(ops.broadcast_to(weight, losses.shape))
    losses = losses * weight
    return ops.sum(losses) / total if reduction == "mean" else mean_or_sum(losses, reduction, where)


def mse_loss(input: Tensor, target: Any, reduction: str = "mean", weight: Any = None) -> Tensor:
    """Squared error ``(input − target)²``.

    Args:
        input: any shape.
        target: of that shape.
        reduction: "none", "mean" or "sum".
        weight: of each element, or None; the mean divides by their sum.
    """
    input, target = _paired(input, target, "mse_loss")
    return _weighted(ops.square(input - target), weight, reduction, "mse_loss")


def l1_loss(input: Tensor, target: Any, reduction: str = "mean", weight: Any = None) -> Tensor:
    """Absolute error ``|input − target|``; the arguments are those of :func:`mse_loss`."""
    input, target = _paired(input, target, "l1_loss")
    return _weighted(ops.abs(input - target), weight, reduction, "l1_loss")


def smooth_l1_loss(input: Tensor, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """Squared error over ``2 beta`` up to an error of ``beta``, absolute error less ``beta / 2`` beyond."""
    if beta < 0:
        raise OptionError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    input, target = _paired(input, target, "smooth_l1_loss")
    return mean_or_sum(ops.smooth_l1_loss(input, target, beta=beta), reduction, "smooth_l1_loss")


def huber_loss(
    input: Tensor, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None
) -> Tensor:
    """Half the squared error up to an error of ``delta``, ``delta`` times the absolute error beyond.

    Args:
        input, target, reduction, weight: as in :func:`mse_loss`.
        delta: where the one goes over into the other.
    """
    if delta <= 0:
        raise OptionError(f"huber_loss: delta must be positive, got {delta}")
    input, target = _paired(input, target, "huber_loss")
    return _weighted(ops.huber_loss(input, target, delta=delta), weight, reduction, "huber_loss")


def poisson_nll_loss(
    input: Tensor,
    target: Any,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of counts under a Poisson distribution.

    Args:
        input: the distribution's mean, or its logarithm.
        target: counts.
        log_input: whether ``input`` holds logarithms.
        full: add Stirling's approximation of log(target!).
        eps: added to a mean before its logarithm is taken.
        reduction: "none", "mean" or "sum".
    """
    losses = ops.poisson_nll_loss(input, as_values(target, input), log_input=log_input, full=full, eps=eps)
    return mean_or_sum(losses, reduction, "poisson_nll_loss")


def gaussian_nll_loss(
    input: Tensor, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """Negative log-likelihood of values under a normal distribution.

    Args:
        input: the distribution's mean.
        target: values.
        var: its variance: a number, the input's shape with 1 for axes that share it, or that without the
            last axis.
        full: add the constant log(2π)/2.
        eps: the least variance.
        reduction: "none", "mean" or "sum".

    Raises:
        OptionError: a negative variance.
    """
    values: Any = plain(var)
    values = values if values.__class__ in ARRAY_MODULES else np.asarray(values)
    if at_hand(values) and values.size and values.min() < 0:
        raise OptionError(f"gaussian_nll_loss: var must not be negative, got {values.min()}")
    sizes = zip(values.shape, input.shape, strict=False)
    if values.ndim and not (values.ndim == input.ndim and all(n in (1, m) for n, m in sizes)):
        if values.shape != input.shape[:-1]:
            raise ShapeError(f"gaussian_nll_loss: var is {list(values.shape)} for {list(input.shape)}")
        var = ops.expand_dims(var, axis=-1)
    losses = ops.gaussian_nll_loss(input, as_values(target, input), var, full=full, eps=eps)
    return mean_or_sum(losses, reduction, "gaussian_nll_loss")
