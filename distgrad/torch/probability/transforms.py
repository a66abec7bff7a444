"""Maps that can be undone, with their derivatives: PyTorch's ``torch.distributions.transforms``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.errors import ShapeError
from distgrad.torch.probability import constraints
from distgrad.torch.probability.distribution import broadcast_all
from distgrad.torch.probability.transform import (
    ComposeTransform,
    IndependentTransform,
    Transform,
    identity_transform,
    last_summed,
)

__all__ = [
    "AbsTransform", "AffineTransform", "ComposeTransform", "ExpTransform", "IndependentTransform",
    "LowerCholeskyTransform", "PowerTransform", "ReshapeTransform", "SigmoidTransform", "SoftmaxTransform",
    "SoftplusTransform", "StickBreakingTransform", "TanhTransform", "Transform", "identity_transform",
]  # fmt: skip


def _broadcast(shape: Any, *parameters: Any) -> Shape:
    """The shape of numbers of this shape and parameters together."""
    return Shape(
        np.broadcast_shapes(tuple(shape), *(tuple(getattr(each, "shape", ())) for each in parameters))
    )


def _clipped_sigmoid(x: Tensor) -> Any:
    """The logistic function, kept inside (0, 1) so that its inverse and logarithm are finite."""
    return _inside(ops.sigmoid(x))


def _inside(y: Tensor) -> Any:
    limits = np.finfo(y.dtype)
    return y.clamp(float(limits.tiny), 1.0 - float(limits.eps))


class ExpTransform(Transform):
    """y = exp(x)."""

    bijective = True
    codomain = constraints.positive
    _parameters = ()

    def _call(self, x: Tensor) -> Any:
        return x.exp()

    def _inverse(self, y: Tensor) -> Any:
        return y.log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """x."""
        return x


class PowerTransform(Transform):
    """y = x to a power, of positive numbers."""

    bijective = True
    domain = codomain = constraints.positive
    _parameters = ("exponent",)

    def __init__(self, exponent: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        (self.exponent,) = broadcast_all(exponent)

    @property
    def sign(self) -> Any:
        """Whether it rises."""
        return self.exponent.sign()

    def _call(self, x: Tensor) -> Any:
        return x**self.exponent

    def _inverse(self, y: Tensor) -> Any:
        return y ** (1 / self.exponent)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """log |exponent y / x|."""
        return (self.exponent * y / x).abs().log()

    def forward_shape(self, shape: Any) -> Shape:
        """The shape of a result."""
        return _broadcast(shape, self.exponent)

    inverse_shape = forward_shape


class SigmoidTransform(Transform):
    """y = 1 / (1 + exp(-x))."""

    bijective = True
    codomain = constraints.unit_interval
    _parameters = ()

    def _call(self, x: Tensor) -> Any:
        return _clipped_sigmoid(x)

    def _inverse(self, y: Tensor) -> Any:
        y = _inside(y)
        return y.log() - (-y).log1p()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """-softplus(x) - softplus(-x)."""
        return -ops.logaddexp(x, 0.0) - ops.logaddexp(-x, 0.0)


class SoftplusTransform(Transform):
    """y = log(1 + exp(x))."""

    bijective = True
    codomain = constraints.positive
    _parameters = ()

    def _call(self, x: Tensor) -> Any:
        return ops.logaddexp(x, 0.0)

    def _inverse(self, y: Tensor) -> Any:
        return (-(-y).expm1()).log() + y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """-softplus(-x)."""
        return -ops.logaddexp(-x, 0.0)


class TanhTransform(Transform):
    """y = tanh(x)."""

    bijective = True
    codomain = constraints.interval(-1.0, 1.0)
    _parameters = ()

    def _call(self, x: Tensor) -> Any:
        return x.tanh()

    def _inverse(self, y: Tensor) -> Any:
        return y.atanh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """log(1 - tanh² x), without cancellation: 2 (log 2 - x - softplus(-2 x))."""
        return 2.0 * (math.log(2.0) - x - ops.logaddexp(-2.0 * x, 0.0))


class AbsTransform(Transform):
    """y = |x|."""

    codomain = constraints.positive
    _parameters = ()

    def _call(self, x: Tensor) -> Any:
        return x.abs()

    def _inverse(self, y: Tensor) -> Any:
        return y


class AffineTransform(Transform):
    """y = loc + scale x.

    Args:
        loc, scale: numbers or tensors.
        event_dim: how many of the last axes make one element.
    """

    bijective = True
    _parameters = ("loc", "scale", "event_dim")

    def __init__(self, loc: Any, scale: Any, event_dim: int = 0, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.loc, self.scale = loc, scale
        if event_dim:
            self.domain = self.codomain = constraints.independent(constraints.real, event_dim)

    @property
    def sign(self) -> Any:
        """Whether it rises."""
        return self.scale.sign() if isinstance(self.scale, Tensor) else math.copysign(1, self.scale)

    def _call(self, x: Tensor) -> Any:
        return self.loc + self.scale * x

    def _inverse(self, y: Tensor) -> Any:
        return (y - self.loc) / self.scale

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """log |scale|."""
        scale = self.scale
        found = scale.abs().log() if isinstance(scale, Tensor) else math.log(abs(scale))
        return last_summed(ops.zeros_like(x.detach()) + found, self.event_dim)

    def forward_shape(self, shape: Any) -> Shape:
        """The shape of a result."""
        return _broadcast(shape, self.loc, self.scale)

    inverse_shape = forward_shape


class SoftmaxTransform(Transform):
    """Any numbers to probabilities; several give the same."""

    domain, codomain = constraints.real_vector, constraints.simplex
    _parameters = ()

    def _call(self, x: Tensor) -> Any:
        return ops.softmax(x, axis=-1)

    def _inverse(self, y: Tensor) -> Any:
        return y.log()


class StickBreakingTransform(Transform):
    """k numbers to k + 1 probabilities, each a share of what is left.

    Source: Carpenter et al., "Stan", Journal of Statistical Software, 2017.
    """

    bijective = True
    domain, codomain = constraints.real_vector, constraints.simplex
    _parameters = ()

    @staticmethod
    def _offset(count: int, like: Tensor) -> Any:
        return (count - ops.cumulative_sum(ops.ones_like(like.detach()), axis=-1)).log()

    def _call(self, x: Tensor) -> Any:
        z = _clipped_sigmoid(x - self._offset(x.shape[-1] + 1, x))
        one = ops.ones((*x.shape[:-1], 1), dtype=x.dtype)
        left = ops.concat([one, ops.cumulative_prod(1 - z, axis=-1)], axis=-1)
        return ops.concat([z, one], axis=-1) * left

    def _inverse(self, y: Tensor) -> Any:
        kept = y[..., :-1]
        left = (1 - ops.cumulative_sum(kept, axis=-1)).clamp(min=float(np.finfo(y.dtype).tiny))
        return kept.log() - left.log() + self._offset(y.shape[-1], kept)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """Σ (-x + log sigmoid(x) + log y), x less its offset."""
        x = x - self._offset(x.shape[-1] + 1, x)
        return ops.sum(-x - ops.logaddexp(-x, 0.0) + y[..., :-1].log(), axis=-1)

    def forward_shape(self, shape: Any) -> Shape:
        """One more."""
        return Shape((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Any) -> Shape:
        """One less."""
        return Shape((*shape[:-1], shape[-1] - 1))


class LowerCholeskyTransform(Transform):
    """Any square matrix to a lower triangular one with a positive diagonal."""

    domain, codomain = constraints.independent(constraints.real, 2), constraints.lower_cholesky
    _parameters = ()

    def _call(self, x: Tensor) -> Any:
        return ops.tril(x, k=-1) + ops.diag_embed(x.diagonal(dim1=-2, dim2=-1).exp())

    def _inverse(self, y: Tensor) -> Any:
        return ops.tril(y, k=-1) + ops.diag_embed(y.diagonal(dim1=-2, dim2=-1).log())


class ReshapeTransform(Transform):
    """The last axes in another shape.

    Args:
        in_shape, out_shape: of an argument's and a result's last axes.
    """

    bijective = True
    _parameters = ("in_shape", "out_shape")

    def __init__(self, in_shape: Any, out_shape: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.in_shape, self.out_shape = Shape(in_shape), Shape(out_shape)
        if math.prod(in_shape) != math.prod(out_shape):
            raise ShapeError(f"ReshapeTransform: {list(in_shape)} and {list(out_shape)} differ in number")
        self.domain, self.codomain = (
            constraints.independent(constraints.real, len(shape)) for shape in (in_shape, out_shape)
        )

    def _batch(self, x: Tensor, shape: Shape) -> tuple[int, ...]:
        return tuple(x.shape[: x.ndim - len(shape)])

    def _call(self, x: Tensor) -> Any:
        return ops.reshape(x, (*self._batch(x, self.in_shape), *self.out_shape))

    def _inverse(self, y: Tensor) -> Any:
        return ops.reshape(y, (*self._batch(y, self.out_shape), *self.in_shape))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """0."""
        return ops.zeros(self._batch(x, self.in_shape), dtype=x.dtype)

    def forward_shape(self, shape: Any) -> Shape:
        """The shape of a result."""
        return Shape((*shape[: len(shape) - len(self.in_shape)], *self.out_shape))

    def inverse_shape(self, shape: Any) -> Shape:
        """The shape of an argument."""
        return Shape((*shape[: len(shape) - len(self.out_shape)], *self.in_shape))
