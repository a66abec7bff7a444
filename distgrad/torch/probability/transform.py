"""What all maps that can be undone share, and maps made of others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.torch.probability import constraints
from distgrad.torch.probability.distribution import lacking

__all__ = ["ComposeTransform", "IndependentTransform", "Transform", "identity_transform", "last_summed"]


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
    #: Attributes that two equal maps of a class have in common; None where only a map itself is its equal.
    _parameters: tuple[str, ...] | None = None

    def __init__(self, cache_size: int = 0) -> None:
        self._cache_size = cache_size
        self._kept: tuple[Any, Any] = (None, None)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other) or self._parameters is None:
            return False
        return all(_same(getattr(self, name), getattr(other, name)) for name in self._parameters)

    __hash__ = None  # type: ignore[assignment]  # parameters are tensors

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


def _same(first: Any, second: Any) -> bool:
    """Whether parameters are equal; tensors are where all their elements are."""
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        return bool(ops.all(ops.equal(first, second)))
    return bool(first == second)


class _Inverse(Transform):
    _parameters = ("_turned",)

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


def last_summed(x: Any, count: int) -> Any:
    """Summed over the last axes."""
    return ops.sum(x, axis=tuple(range(x.ndim - count, x.ndim))) if count else x


def _widened(sides: Sequence[tuple[Any, Any]]) -> Any:
    """The set at the far end of maps, with as many axes to an element as the widest of them asks for.

    Args:
        sides: of each map the set at the far and at the near side, the nearest map first.
    """
    axes = sides[0][1].event_dim
    for far, near in sides:
        axes = max(axes + far.event_dim - near.event_dim, far.event_dim)
    found = sides[-1][0]
    return constraints.independent(found, axes - found.event_dim) if axes > found.event_dim else found


class ComposeTransform(Transform):
    """Several maps, one after another.

    Args:
        parts: the first comes first.
        cache_size: of each.
    """

    _parameters = ("parts",)

    def __init__(self, parts: Sequence[Transform], cache_size: int = 0) -> None:
        super().__init__()
        self.parts = [part.with_cache(cache_size) if cache_size else part for part in parts]
        self.bijective = all(part.bijective for part in self.parts)
        if self.parts:
            self.domain = _widened([(part.domain, part.codomain) for part in reversed(self.parts)])
            self.codomain = _widened([(part.codomain, part.domain) for part in self.parts])

    @property
    def sign(self) -> Any:
        """The product of the parts'."""
        return math.prod((part.sign for part in self.parts), start=1)

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
        axes = self.domain.event_dim
        for part in self.parts:
            result = part(x)
            total = total + last_summed(part.log_abs_det_jacobian(x, result), axes - part.domain.event_dim)
            axes += part.codomain.event_dim - part.domain.event_dim
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

    _parameters = ("base_transform", "_count")

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
        return last_summed(self.base_transform.log_abs_det_jacobian(x, y), self._count)

    def forward_shape(self, shape: Any) -> Shape:
        """The base's."""
        return self.base_transform.forward_shape(shape)

    def inverse_shape(self, shape: Any) -> Shape:
        """The base's."""
        return self.base_transform.inverse_shape(shape)
