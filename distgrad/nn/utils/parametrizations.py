"""Weights of a fixed norm: what is trained is another tensor, or two."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.random import randn
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.nn.module import Module
from distgrad.nn.utils.norms import as_matrix, checked_norm, iterate, norm_except, rows_axis
from distgrad.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

__all__ = ["remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm"]


class _WeightNorm(Module):
    """``w = g v / ‖v‖``, with a norm for each index of an axis.

    Args:
        dim: the axis; −1 for one norm of all elements.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        """The weight from its norms and its direction."""
        return v * (g / norm_except(v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The norms and the direction of a weight."""
        return norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Train norm and direction of a weight apart: ``w = g v / ‖v‖``.

    Args:
        module: whose weight it is.
        name: the weight's.
        dim: the axis along which every index has a norm of its own; None or −1 for one norm of all.

    Returns:
        The module; ``parametrizations.weight.original0`` is g, ``original1`` is v.

    Raises:
        OptionError: an axis that the weight does not have.

    Source: Salimans and Kingma, NIPS 2016.
    """
    dim = checked_norm(getattr(module, name, None), dim)
    return register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Make a weight with :func:`weight_norm` a plain one of the same values; returns the module."""
    return _remove(module, name, _WeightNorm, "remove_weight_norm")


class _SpectralNorm(Module):
    """``w / σ``, with the largest singular value σ of w as a matrix, found by power iteration.

    Args:
        weight: w.
        n_power_iterations: steps of the iteration in each call while training.
        dim: the axis that counts the matrix's rows.
        eps: below which a norm counts as this.
    """

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        if not -weight.ndim <= dim < weight.ndim:
            raise ShapeError(f"spectral_norm: dim={dim} is no axis of a weight {list(weight.shape)}")
        if n_power_iterations < 1:
            raise OptionError(
                f"spectral_norm: n_power_iterations must be 1 or more, got {n_power_iterations}"
            )
        self.dim = dim % weight.ndim
        self.n_power_iterations = n_power_iterations
        self.eps = eps
        if weight.ndim > 1:
            matrix = as_matrix(weight.detach(), self.dim)
            for name, length in zip(("_u", "_v"), matrix.shape, strict=True):
                start = randn(length, dtype=weight.dtype)
                self.register_buffer(name, ops.normalize(start, axis=0, eps=eps))
            self._iterate(matrix, 15)

    def _iterate(self, matrix: Tensor, count: int) -> None:
        """Bring u and v nearer to the singular vectors of the largest singular value, in place."""
        for _ in range(count):
            iterate(self._u, matrix, self._v, self.eps)
            iterate(self._v, ops.matrix_transpose(matrix), self._u, self.eps)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight over its largest singular value."""
        if weight.ndim == 1:
            return ops.normalize(weight, axis=0, eps=self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            self._iterate(matrix.detach(), self.n_power_iterations)
        u, v = self._u.clone(), self._v.clone()  # the next call changes them, and backward needs these
        return weight / ops.sum(u * ops.matmul(matrix, v))

    def right_inverse(self, value: Any) -> Any:
        """The weight itself: one of norm 1 stays as it is."""
        return value


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """Divide a weight by its largest singular value.

    Args:
        module: whose weight it is.
        name: the weight's.
        n_power_iterations: steps of the power iteration in each call while training.
        eps: below which a norm counts as this.
        dim: the axis that counts the rows of the weight as a matrix; None means 1 for transposed
            convolutions and 0 for all others.

    Returns:
        The module; ``parametrizations.weight.original`` is the weight before.

    Raises:
        OptionError: a name that is no tensor of the module.

    Source: Miyato et al., ICLR 2018.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise OptionError(f"spectral_norm: {type(module).__name__} has no parameter or buffer {name!r}")
    dim = rows_axis(module) if dim is None else dim
    return register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Make a weight with :func:`spectral_norm` a plain one of the same values; returns the module."""
    return _remove(module, name, _SpectralNorm, "remove_spectral_norm")


def _remove(module: Module, name: str, kind: type[Module], where: str) -> Module:
    if not is_parametrized(module, name) or not isinstance(module.parametrizations[name][0], kind):
        raise OptionError(f"{where}: {name!r} of {type(module).__name__} has no such norm")
    return remove_parametrizations(module, name)
