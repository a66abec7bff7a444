"""Norms without running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.autograd.creation import ones, zeros
from distgrad.autograd.tensor import Tensor
from distgrad.errors import ShapeError
from distgrad.nn import init
from distgrad.nn.functional import normalization as F
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter

__all__ = ["GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"]


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)


class LayerNorm(Module):
    """Each sample's last axes brought to mean 0 and variance 1, then scaled and shifted.

    Args:
        normalized_shape: lengths of the axes normalised over.
        eps: added to the variance.
        elementwise_affine: whether a weight is learned.
        bias: whether, with the weight, a bias is.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.

    Source: Ba et al., arXiv:1607.06450, 2016.
    """

    _kernels = ("layer_norm", "layer_norm/x")

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.weight = Parameter(ones(shape, dtype=dtype, device=device)) if elementwise_affine else None
        self.bias = (
            Parameter(zeros(shape, dtype=dtype, device=device)) if elementwise_affine and bias else None
        )

    def reset_parameters(self) -> None:
        """Set weights to 1 and biases to 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """``[..., *normalized_shape]``, and the same back."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The settings."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """Each sample's last axes divided by their root mean square, then scaled.

    Args:
        normalized_shape: lengths of the axes normalised over.
        eps: added to the mean square; None: the dtype's smallest step from 1.
        elementwise_affine: whether a weight is learned.
        device: where the parameter lies.
        dtype: of the parameter; None means float32.

    Source: Zhang and Sennrich, NeurIPS 2019.
    """

    _kernels = ("rms_norm", "rms_norm/x")

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.weight = Parameter(ones(shape, dtype=dtype, device=device)) if elementwise_affine else None

    def reset_parameters(self) -> None:
        """Set weights to 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """``[..., *normalized_shape]``, and the same back."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """The settings."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Each sample's groups of channels brought to mean 0 and variance 1, then scaled and shifted.

    Args:
        num_groups: parts that the channels are divided into.
        num_channels: C.
        eps: added to the variance.
        affine: whether a weight is learned.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.
        bias: whether, with the weight, a bias is.

    Source: Wu and He, ECCV 2018.
    """

    _kernels = ("group_norm", "group_norm/x")

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ShapeError(
                f"GroupNorm: num_channels={num_channels} must divide into num_groups={num_groups} parts"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self.weight = Parameter(ones(num_channels, dtype=dtype, device=device)) if affine else None
        self.bias = Parameter(zeros(num_channels, dtype=dtype, device=device)) if affine and bias else None

    def reset_parameters(self) -> None:
        """Set weights to 1 and biases to 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """``[N, num_channels, ...]``, and the same back."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The settings."""
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LocalResponseNorm(Module):
    """Each element divided by ``(k + alpha · mean square of the channels around it) ^ beta``.

    Args:
        size: how many neighbouring channels count.
        alpha, beta, k: of the divisor.

    Source: Krizhevsky et al., NIPS 2012.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, ...]``, and the same back."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """The settings."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
