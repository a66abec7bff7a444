"""Batch norm and instance norm as modules, with running means and variances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from distgrad.autograd.creation import ones, zeros
from distgrad.autograd.tensor import Tensor
from distgrad.backend.meta import META
from distgrad.errors import ShapeError
from distgrad.nn import init
from distgrad.nn.functional import normalization as F
from distgrad.nn.functional.arguments import batched
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
]


class _Norm(Module):
    """Parameters and running statistics of a norm over channels.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: how far the running mean and variance move in a step; None: they are plain averages.
        affine: whether a weight is learned.
        track_running_stats: whether running ones are kept, and used in evaluation mode.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.
        bias: whether, with the weight, a bias is.
    """

    _kernels = ("batch_norm_with_statistics", "batch_norm_with_statistics/x")

    _version = 2  # before it batches were not counted

    ndims: ClassVar[tuple[int, ...]]  # axes that an input may have
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: Any,
        dtype: Any,
        bias: bool,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight = Parameter(ones(num_features, dtype=dtype, device=device)) if affine else None
        self.bias = Parameter(zeros(num_features, dtype=dtype, device=device)) if affine and bias else None
        tracked, place = track_running_stats, {"dtype": dtype, "device": device}
        self.register_buffer("running_mean", zeros(num_features, **place) if tracked else None)
        self.register_buffer("running_var", ones(num_features, **place) if tracked else None)
        count = zeros((), dtype=np.int64, device=device) if tracked else None
        self.register_buffer("num_batches_tracked", count)

    def _upgrade(self, state_dict: dict[str, Any], prefix: str, local_metadata: Mapping[str, Any]) -> None:
        """Let the count be what it is where a file's version has none, or is not known."""
        count, key = self.num_batches_tracked, f"{prefix}num_batches_tracked"
        if count is not None and local_metadata.get("version", 1) < 2:
            state_dict.setdefault(key, zeros((), dtype=np.int64) if count.device == META else count)

    def reset_running_stats(self) -> None:
        """Forget the running mean and variance."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Set weights to 1 and biases to 0, and forget the running statistics."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _check(self, input: Tensor, channels: int) -> None:
        if input.ndim not in self.ndims or input.shape[channels] != self.num_features:
            raise ShapeError(
                f"{type(self).__name__}: expected {' or '.join(map(str, self.ndims))} axes and "
                f"{self.num_features} channels, got {list(input.shape)}"
            )

    def extra_repr(self) -> str:
        """The settings."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Norm):
    """Batch norm over some axes."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        """``[N, num_features, ...]``, and the same back."""
        self._check(input, 1)
        running = self.running_mean, self.running_var
        if not self.training and self.track_running_stats:
            return F.batch_norm(input, *running, self.weight, self.bias, eps=self.eps)
        counted = self.training and self.track_running_stats
        momentum = self.momentum if counted else self.momentum or 0.0
        batches = self.num_batches_tracked if counted else None
        return F.counted_batch_norm(input, *running, self.weight, self.bias, momentum, self.eps, batches)


class BatchNorm1d(_BatchNorm):
    """Batch norm of ``[N, C]`` or ``[N, C, L]``.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: how far the running mean and variance move in a step; None: they are plain averages.
        affine: whether a weight is learned.
        track_running_stats: whether a running mean and variance are kept, and used in evaluation mode.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.
        bias: whether, with the weight, a bias is.

    Source: Ioffe and Szegedy, ICML 2015.
    """

    ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch norm of ``[N, C, H, W]``; the arguments are those of :class:`BatchNorm1d`."""

    ndims = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch norm of ``[N, C, D, H, W]``; the arguments are those of :class:`BatchNorm1d`."""

    ndims = (5,)


class _InstanceNorm(_Norm):
    """Instance norm over some axes."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        """``[N, num_features, ...]``, or without N, and the same back."""
        self._check(input, input.ndim - self.ndims[0])
        return batched(
            input,
            self.ndims[1],
            type(self).__name__,
            lambda x: F.instance_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                self.training or not self.track_running_stats,
                self.momentum or 0.0,
                self.eps,
            ),
        )


class InstanceNorm1d(_InstanceNorm):
    """Instance norm of ``[N, C, L]`` or ``[C, L]``.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: how far the running mean and variance move in a step.
        affine: whether a weight is learned.
        track_running_stats: whether a running mean and variance are kept, and used in evaluation mode.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.
        bias: whether, with the weight, a bias is.

    Source: Ulyanov et al., arXiv:1607.08022, 2016.
    """

    ndims = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Instance norm of ``[N, C, H, W]`` or ``[C, H, W]``; arguments as for :class:`InstanceNorm1d`."""

    ndims = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Instance norm of ``[N, C, D, H, W]`` or ``[C, D, H, W]``; arguments as for :class:`InstanceNorm1d`."""

    ndims = (4, 5)
