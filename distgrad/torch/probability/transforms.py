"""Maps that can be undone, with their derivatives: PyTorch's ``torch.distributions.transforms``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.errors import ShapeError
from distgrad.torch.probability import constraints
from distgrad.torch.probability.distribution import lacking

__all__ = [
    "AbsTransform", "AffineTransform", "ComposeTransform", "ExpTransform", "IndependentTransform",
    "LowerCholeskyTransform", "PowerTransform", "ReshapeTransform", "SigmoidTransform", "SoftmaxTransform",
    "SoftplusTransform", "StickBreakingTransform", "TanhTransform", "Transform", "identity_transform",
]  # fmt: skip


class Transform:
    """A map with its inverse and the logarithm of its derivative.

    Subclasses write ``_call``, ``_inverse`` and ``log_abs_det_jacobian(x, y)``.

    Args:
        cache_size: 1 to keep the last pair, so that the inverse of a result is its argument.
    """

    bijective = False
    domain: Any = constraints.real
    codomain: Any = constraints.real
    sign: Any = 1

    def __init__(self, cache_size: int = 0) -> None:
        self._cache_size = cache_size
        self._kept: tuple[Any, Any] = (None, None)

    @property
    def event_dim(self) -> int:
        """How many of the last axes make one element."""
        return max(self.domain.event_dim, self.codomain.event_dim)

    @property
    def inv(self) -> Transform:
        """The inverse."""
        return _Inverse(self)

    def with_cache(self, cache_size: int = 1) -> Transform:
        """The same map, that keeps its last pair."""
        import copy

        out = copy.copy(self)
        out._cache_size, out._kept = cache_size, (None, None)
        return out

    def __call__(self, x: Tensor) -> Any:
        if self._cache_size and x is self._kept[0]:
            return self._kept[1]
        y = self._call(x)
        if self._cache_size:
            self._kept = (x, y)
        return y

    def _inv_call(self, y: Tensor) -> Any:
        if self._cache_size and y is self._kept[1]:
            return self._kept[0]
        x = self._inverse(y)
        if self._cache_size:
            self._kept = (x, y)
        return x

    def _call(self, x: Tensor) -> Any:
        raise lacking(self, "write _call")

    def _inverse(self, y: Tensor) -> Any:
        raise lacking(self, "write _inverse")

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """log |dy / dx|."""
        raise lacking(self, "write log_abs_det_jacobian")

    def forward_shape(self, shape: Any) -> Shape:
        """The shape of a result."""
        return Shape(shape)

    def inverse_shape(self, shape: Any) -> Shape:
        """The shape of an argument."""
        return Shape(shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _Inverse(Transform):
    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self._turned = transform
        self.bijective, self.sign = transform.bijective, transform.sign
        self.domain, self.codomain = transform.codomain, transform.domain

    @property
    def inv(self) -> Transform:
        """What it is the inverse of."""
        return self._turned

    def __call__(self, x: Tensor) -> Any:
        return self._turned._inv_call(x)

    def _inv_call(self, y: Tensor) -> Any:
        return self._turned(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """-log |dx / dy|."""
        return -self._turned.log_abs_det_jacobian(y, x)

    def forward_shape(self, shape: Any) -> Shape:
        """The shape of a result."""
        return self._turned.inverse_shape(shape)

    def inverse_shape(self, shape: Any) -> Shape:
        """The shape of an argument."""
        return self._turned.forward_shape(shape)


def _last_summed(x: Any, count: int) -> Any:
    """Summed over the last axes."""
    return ops.sum(x, axis=tuple(range(x.ndim - count, x.ndim))) if count else x


class ComposeTransform(Transform):
    """Several maps, one after another.

    Args:
        parts: the first comes first.
        cache_size: of each.
    """

    def __init__(self, parts: Sequence[Transform], cache_size: int = 0) -> None:
        super().__init__()
        self.parts = [part.with_cache(cache_size) if cache_size else part for part in parts]
        self.bijective = all(part.bijective for part in self.parts)
        self.sign = math.prod(part.sign for part in self.parts if not isinstance(part.sign, Tensor))
        if self.parts:
            self.domain, self.codomain = self.parts[0].domain, self.parts[-1].codomain

    @property
    def event_dim(self) -> int:
        """The most of all parts."""
        return max((part.event_dim for part in self.parts), default=0)

    def __call__(self, x: Tensor) -> Any:
        for part in self.parts:
            x = part(x)
        return x

    def _inv_call(self, y: Tensor) -> Any:
        for part in reversed(self.parts):
            y = part._inv_call(y)
        return y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """The sum of the parts'."""
        if not self.parts:
            return ops.zeros_like(x)
        total: Any = 0.0
        for part in self.parts:
            result = part(x)
            total = total + _last_summed(
                part.log_abs_det_jacobian(x, result), self.event_dim - part.event_dim
            )
            x = result
        return total

    def forward_shape(self, shape: Any) -> Shape:
        """The shape of a result."""
        for part in self.parts:
            shape = part.forward_shape(shape)
        return Shape(shape)

    def inverse_shape(self, shape: Any) -> Shape:
        """The shape of an argument."""
        for part in reversed(self.parts):
            shape = part.inverse_shape(shape)
        return Shape(shape)


identity_transform = ComposeTransform([])


class IndependentTransform(Transform):
    """A map whose last axes count as one element.

    Args:
        base_transform: the map.
        reinterpreted_batch_ndims: how many axes.
    """

    def __init__(
        self, base_transform: Transform, reinterpreted_batch_ndims: int, cache_size: int = 0
    ) -> None:
        super().__init__(cache_size)
        self.base_transform, self._count = base_transform, reinterpreted_batch_ndims
        self.bijective, self.sign = base_transform.bijective, base_transform.sign
        self.domain, self.codomain = (
            constraints.independent(each, reinterpreted_batch_ndims)
            for each in (base_transform.domain, base_transform.codomain)
        )

    def _call(self, x: Tensor) -> Any:
        return self.base_transform(x)

    def _inverse(self, y: Tensor) -> Any:
        return self.base_transform._inv_call(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """Summed over those axes."""
        return _last_summed(self.base_transform.log_abs_det_jacobian(x, y), self._count)


class ExpTransform(Transform):
    """y = exp(x)."""

    bijective = True
    codomain = constraints.positive

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

    def __init__(self, exponent: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.exponent = exponent

    def _call(self, x: Tensor) -> Any:
        return x**self.exponent

    def _inverse(self, y: Tensor) -> Any:
        return y ** (1 / self.exponent)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """log |exponent y / x|."""
        return (self.exponent * y / x).abs().log()


class SigmoidTransform(Transform):
    """y = 1 / (1 + exp(-x))."""

    bijective = True
    codomain = constraints.unit_interval

    def _call(self, x: Tensor) -> Any:
        return ops.sigmoid(x)

    def _inverse(self, y: Tensor) -> Any:
        return y.log() - (-y).log1p()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Any:
        """-softplus(x) - softplus(-x)."""
        return -ops.logaddexp(x, 0.0) - ops.logaddexp(-x, 0.0)


class SoftplusTransform(Transform):
    """y = log(1 + exp(x))."""

    bijective = True
    codomain = constraints.positive

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
        return _last_summed(ops.zeros_like(x.detach()) + found, self.event_dim)


class SoftmaxTransform(Transform):
    """Any numbers to probabilities; several give the same."""

    domain, codomain = constraints.real_vector, constraints.simplex

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

    @staticmethod
    def _offset(count: int, like: Tensor) -> Any:
        return (count - ops.cumulative_sum(ops.ones_like(like.detach()), axis=-1)).log()

    def _call(self, x: Tensor) -> Any:
        z = ops.sigmoid(x - self._offset(x.shape[-1] + 1, x))
        one = ops.ones((*x.shape[:-1], 1), dtype=x.dtype)
        left = ops.concat([one, ops.cumulative_prod(1 - z, axis=-1)], axis=-1)
        return ops.concat([z, one], axis=-1) * left

    def _inverse(self, y: Tensor) -> Any:
        kept = y[..., :-1]
        left = (1 - ops.cumulative_sum(kept, axis=-1)).clamp(min=1e-38)
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
