"""Normalisation, by PyTorch's names and arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import get_array_module
from distgrad.backend.device import to_device
from distgrad.backend.kernels.table import accelerated
from distgrad.errors import OptionError, ShapeError

__all__ = [
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "rms_norm",
]


def _moved(
    xp: Any,
    running_mean: Any,
    running_var: Any,
    mean: Any,
    variance: Any,
    momentum: Any,
    unbiased: float,
    batches: Any = None,
) -> Any:
    """Running statistics moved in place; a momentum in an array weighs as the number would.

    ``batches`` counts one more; without a momentum the running ones are means over as many.
    """
    if batches is not None:
        batches += 1  # where it lies
    if momentum is None:
        momentum = 1.0 / batches
    for running, values in ((running_mean, mean), (running_var, variance)):
        if running is not None:
            new, old = momentum, 1.0 - momentum
            if hasattr(momentum, "astype"):
                new, old = new.astype(values.dtype), old.astype(running.dtype)
            running[...] = old * running + new * (values if values is mean else values * unbiased)
    return running_mean


_move = accelerated("running_statistics", _moved)


def _track(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Any,
    variance: Any,
    momentum: Any,
    count: int,
    where: str,
    batches: Tensor | None = None,
) -> None:
    """Move running statistics towards new ones, in place.

    Args:
        running_mean, running_var: ``[C]``; None: not kept.
        mean, variance: arrays ``[C]``; the mean's degree of freedom is taken out of the variance.
        momentum: how far; a number or an array; None: they are means over all batches.
        count: elements that the variance is of.
        where: the caller, for messages about values changed in place.
        batches: how many batches there were, which counts one more.
    """
    kept = [each for each in (running_mean, running_var) if each is not None]
    if not kept:
        return
    if kept[0]._data.__class__ is not mean.__class__:
        mean, variance = (to_device(each, kept[0].device) for each in (mean, variance))
    arrays = (None if each is None else each._data for each in (running_mean, running_var))
    counter = None if batches is None else batches._data
    _move(get_array_module(mean), *arrays, mean, variance, momentum, count / (count - 1), counter)
    for each in kept if batches is None else (*kept, batches):
        each.changed(where)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel brought to mean 0 and variance 1 over the batch, then scaled and shifted.

    Args:
        input: ``[N, C, ...]``.
        running_mean, running_var: ``[C]``, what stands for the batch's own mean and variance if not
            ``training``, and is moved towards them in place if it is; None: not kept.
        weight, bias: ``[C]``, or None.
        training: use the batch's mean and variance.
        momentum: how far the running ones move; a number, or a float64 array without axes beside them.
        eps: added to the variance.

    Raises:
        ShapeError: one element a channel in training, which has no variance.
    """
    if not training:
        if running_mean is None or running_var is None:
            raise OptionError("batch_norm: without training the running mean and variance must be given")
        return ops.batch_norm_inference(input, running_mean, running_var, weight, bias, eps=eps)
    return counted_batch_norm(input, running_mean, running_var, weight, bias, momentum, eps, None)


def counted_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: Any,
    eps: float,
    batches: Tensor | None,
) -> Tensor:
    """Batch norm in training, that counts its batches as it moves the running statistics.

    Args:
        input, running_mean, running_var, weight, bias, eps: as in :func:`batch_norm`.
        momentum: as there; None: the running ones are means over all batches.
        batches: how many there were, which counts one more; None: not counted.

    Raises:
        ShapeError: one element a channel, which has no variance.
    """
    y, mean, variance = ops.batch_norm_with_statistics(input, weight, bias, eps=eps)
    count = input.size // input.shape[1] if input.shape[1] else 0
    if count == 1:
        raise ShapeError(f"batch_norm: one element a channel has no variance; got {list(input.shape)}")
    if count:  # a rank may have no data
        _track(running_mean, running_var, mean._data, variance._data, momentum, count, "batch_norm", batches)
    elif batches is not None:
        batches._data += 1
        batches.changed("batch_norm")
    return y


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each sample's channels brought to mean 0 and variance 1, then scaled and shifted.

    Args:
        input: ``[N, C, ...]``.
        running_mean, running_var, weight, bias, momentum, eps: as in :func:`batch_norm`.
        use_input_stats: use each sample's mean and variance rather than the running ones.

    Raises:
        ShapeError: one element a channel of a sample, which has no variance.
    """
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    count = math.prod(input.shape[2:])
    if count == 1:
        raise ShapeError(f"instance_norm: one element a channel has no variance; got {list(input.shape)}")
    y = ops.instance_norm(input, weight, bias, eps=eps)
    if input.size and (running_mean is not None or running_var is not None):
        axes = tuple(range(2, input.ndim))
        mean = input._data.mean(axis=axes).mean(axis=0)
        variance = input._data.var(axis=axes).mean(axis=0)
        _track(running_mean, running_var, mean, variance, momentum, count, "instance_norm")
    return y


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Each sample's last axes brought to mean 0 and variance 1, then scaled and shifted.

    Args:
        input: ``[..., *normalized_shape]``.
        normalized_shape: lengths of the axes normalised over.
        weight, bias: of that shape, or None.
        eps: added to the variance.
    """
    return ops.layer_norm(input, weight, bias, normalized_shape=tuple(normalized_shape), eps=eps)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Each sample's last axes divided by their root mean square, then scaled.

    Args:
        input: ``[..., *normalized_shape]``.
        normalized_shape: lengths of the axes normalised over.
        weight: of that shape, or None.
        eps: added to the mean square; None: the dtype's smallest step from 1.
    """
    return ops.rms_norm(input, weight, normalized_shape=tuple(normalized_shape), eps=eps)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Each sample's groups of channels brought to mean 0 and variance 1, then scaled and shifted.

    Args:
        input: ``[N, C, ...]``.
        num_groups: parts that the channels are divided into.
        weight, bias: ``[C]``, or None.
        eps: added to the variance.
    """
    return ops.group_norm(input, weight, bias, num_groups=num_groups, eps=eps)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Each element divided by ``(k + alpha · mean square of the channels around it) ^ beta``.

    Args:
        input: ``[N, C, ...]``.
        size: how many neighbouring channels count.
        alpha, beta, k: of the divisor.

    Source: Krizhevsky et al., NIPS 2012; the mean in place of the sum is PyTorch's.
    """
    if input.ndim < 3:
        raise ShapeError(f"local_response_norm: expected [N, C, ...], got {list(input.shape)}")
    channels = input.shape[1]
    padded = ops.put_zeros(
        ops.square(input),
        (slice(None), slice(size // 2, size // 2 + channels)),
        (input.shape[0], channels + size - 1, *input.shape[2:]),
    )
    total = ops.getitem(padded, (slice(None), slice(0, channels)))
    for first in range(1, size):
        total = total + ops.getitem(padded, (slice(None), slice(first, first + channels)))
    return input / (k + total * (alpha / size)) ** beta
