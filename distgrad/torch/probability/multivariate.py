"""Distributions of vectors."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from distgrad.autograd.creation import eye
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.random import randn
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.torch.probability import constraints
from distgrad.torch.probability.distribution import Distribution, ExponentialFamily
from distgrad.torch.probability.gamma import standard_gamma

__all__ = ["Dirichlet", "MultivariateNormal", "squared_distance"]


class Dirichlet(ExponentialFamily):
    """A distribution of probabilities that sum to 1.

    Args:
        concentration: ``[..., k]``, what pulls to each.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "concentration": constraints.independent(constraints.positive, 1)
    }
    support = constraints.simplex
    has_rsample = True

    def __init__(self, concentration: Tensor, validate_args: bool | None = None) -> None:
        if concentration.ndim < 1:
            raise ShapeError("Dirichlet: concentration must be [..., k], got a single number")
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args)

    _total = property(lambda self: ops.sum(self.concentration, axis=-1, keepdims=True))
    mean = property(lambda self: self.concentration / self._total)

    @property
    def mode(self) -> Any:
        """(a - 1) / Σ (a - 1), or the largest where one is below 1."""
        less = (self.concentration - 1).clamp(min=0.0)
        found = less / ops.sum(less, axis=-1, keepdims=True)
        low = ops.all(self.concentration < 1, axis=-1, keepdims=True)
        highest = eye(int(self.event_shape[0]), dtype=found.dtype)[ops.argmax(self.concentration, axis=-1)]
        return ops.where(low, highest, found)

    @property
    def variance(self) -> Any:
        """a (s - a) / (s² (s + 1)), s the sum."""
        return self.concentration * (self._total - self.concentration) / (self._total**2 * (self._total + 1))

    def rsample(self, sample_shape: Any = ()) -> Any:
        """Gamma numbers over their sum."""
        shape = tuple(self._extended_shape(sample_shape))
        drawn = standard_gamma(ops.broadcast_to(self.concentration, shape))
        return drawn / ops.sum(drawn, axis=-1, keepdims=True)

    def log_prob(self, value: Tensor) -> Any:
        """Σ (a - 1) log x + log Γ(s) - Σ log Γ(a)."""
        a = self.concentration
        kernel = ops.sum((a - 1.0).xlogy(self._checked(value)), axis=-1)
        return kernel + ops.sum(a, axis=-1).lgamma() - ops.sum(a.lgamma(), axis=-1)

    def entropy(self) -> Any:
        """Σ log Γ(a) - log Γ(s) - (k - s) ψ(s) - Σ (a - 1) ψ(a)."""
        a, k = self.concentration, int(self.event_shape[0])
        total = ops.sum(a, axis=-1)
        return (
            ops.sum(a.lgamma(), axis=-1)
            - total.lgamma()
            - (k - total) * total.digamma()
            - ops.sum((a - 1.0) * a.digamma(), axis=-1)
        )


def squared_distance(scale_tril: Tensor, off: Tensor) -> Any:
    """|L⁻¹ x|² for the last axis, with the others broadcast."""
    batch = ops.broadcast_to(scale_tril, (*off.shape[:-1], *scale_tril.shape[-2:]))
    solved = ops.solve_triangular(batch, ops.expand_dims(off, axis=-1), upper=False)
    return ops.sum(solved * solved, axis=(-2, -1))


class MultivariateNormal(Distribution):
    """The normal distribution of vectors.

    Args:
        loc: the mean, ``[..., k]``.
        covariance_matrix: ``[..., k, k]``; or
        precision_matrix: its inverse; or
        scale_tril: its lower Cholesky factor.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real_vector,
        "covariance_matrix": constraints.positive_definite,
        "precision_matrix": constraints.positive_definite,
        "scale_tril": constraints.lower_cholesky,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        covariance_matrix: Any = None,
        precision_matrix: Any = None,
        scale_tril: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        given = {
            "covariance_matrix": covariance_matrix,
            "precision_matrix": precision_matrix,
            "scale_tril": scale_tril,
        }
        held = [name for name, value in given.items() if value is not None]
        if len(held) != 1:
            raise OptionError(f"MultivariateNormal: expected one of {list(given)}, got {held or 'none'}")
        if loc.ndim < 1 or given[held[0]].ndim < 2:
            raise ShapeError(f"MultivariateNormal: expected loc [..., k] and {held[0]} [..., k, k]")
        matrix = given[held[0]]
        k = int(loc.shape[-1])
        batch = np.broadcast_shapes(loc.shape[:-1], matrix.shape[:-2])
        self.loc = ops.broadcast_to(loc, (*batch, k))
        self.__dict__[held[0]] = ops.broadcast_to(matrix, (*batch, k, k))
        super().__init__(batch, (k,), validate_args)

    @cached_property
    def scale_tril(self) -> Any:
        """The lower Cholesky factor of the covariance."""
        if "covariance_matrix" in self.__dict__:
            return ops.cholesky(self.covariance_matrix)
        turned = ops.flip(ops.cholesky(ops.flip(self.precision_matrix, axis=(-2, -1))), axis=(-2, -1))
        return ops.inv(ops.matrix_transpose(turned))

    @cached_property
    def covariance_matrix(self) -> Any:
        """L Lᵀ."""
        return self.scale_tril @ ops.matrix_transpose(self.scale_tril)

    @cached_property
    def precision_matrix(self) -> Any:
        """The covariance's inverse."""
        return ops.inv(self.covariance_matrix)

    mean = mode = property(lambda self: self.loc)
    variance = property(lambda self: ops.sum(self.scale_tril**2, axis=-1))

    def rsample(self, sample_shape: Any = ()) -> Any:
        """loc + L ε."""
        shape = tuple(self._extended_shape(sample_shape))
        noise = randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + ops.squeeze(self.scale_tril @ ops.expand_dims(noise, axis=-1), axis=-1)

    def _half_log_det(self) -> Any:
        return ops.sum(self.scale_tril.diagonal(dim1=-2, dim2=-1).log(), axis=-1)

    def log_prob(self, value: Tensor) -> Any:
        """-½ (k log 2π + |L⁻¹ (x - loc)|²) - log det L."""
        far = squared_distance(self.scale_tril, self._checked(value) - self.loc)
        k = int(self.event_shape[0])
        return -0.5 * (k * math.log(2 * math.pi) + far) - self._half_log_det()

    def entropy(self) -> Any:
        """½ k (1 + log 2π) + log det L."""
        k = int(self.event_shape[0])
        return 0.5 * k * (1.0 + math.log(2 * math.pi)) + self._half_log_det()
