"""``torch.nn.utils.weight_norm`` and ``spectral_norm``: a weight that is made anew before each call.

What is trained stands under names of its own beside it (``weight_g``, ``weight_v``; ``weight_orig``,
``weight_u``, ``weight_v``), as programs from before ``nn.utils.parametrizations`` read, set and save them.
"""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.modes import no_grad
from distgrad.autograd.random import randn
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter
from distgrad.nn.utils.norms import as_matrix, checked_norm, iterate, norm_except, rows_axis

__all__ = ["SpectralNorm", "WeightNorm", "remove_spectral_norm", "remove_weight_norm", "spectral_norm",
           "weight_norm"]  # fmt: skip


class WeightNorm:
    """Before a module's call: ``w = g v / ‖v‖``.

    Args:
        name: w's.
        dim: the axis with a norm for each of its indices; −1 for one of all elements.
    """

    def __init__(self, name: str, dim: int) -> None:
        self.name, self.dim = name, dim

    def compute_weight(self, module: Module) -> Any:
        """w from its norms and its direction."""
        g, v = getattr(module, f"{self.name}_g"), getattr(module, f"{self.name}_v")
        return v * (g / norm_except(v, self.dim))

    def __call__(self, module: Module, inputs: Any) -> None:
        """Make the weight of this call."""
        setattr(module, self.name, self.compute_weight(module))


class SpectralNorm:
    """Before a module's call: ``w / σ``, with the largest singular value σ by power iteration.

    Args:
        name: w's.
        n_power_iterations: steps of the iteration in each call while training.
        dim: the axis that counts the rows of w as a matrix.
        eps: below which a norm counts as this.
    """

    def __init__(self, name: str, n_power_iterations: int, dim: int, eps: float) -> None:
        self.name, self.dim, self.n_power_iterations, self.eps = name, dim, n_power_iterations, eps

    def compute_weight(self, module: Module, do_power_iteration: bool) -> Any:
        """w; the singular vectors come nearer by the iteration."""
        weight = getattr(module, f"{self.name}_orig")
        u, v = getattr(module, f"{self.name}_u"), getattr(module, f"{self.name}_v")
        matrix = as_matrix(weight, self.dim)
        if do_power_iteration:
            for _ in range(self.n_power_iterations):
                iterate(v, ops.matrix_transpose(matrix.detach()), u, self.eps)
                iterate(u, matrix.detach(), v, self.eps)
        u, v = u.clone(), v.clone()  # the next call changes them, and backward needs these
        return weight / ops.sum(u * ops.matmul(matrix, v))

    def __call__(self, module: Module, inputs: Any) -> None:
        """Make the weight of this call."""
        setattr(module, self.name, self.compute_weight(module, module.training))


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Train norm and direction of a weight apart, as ``weight_g`` and ``weight_v``.

    Args:
        module: whose weight it is.
        name: the weight's.
        dim: the axis along which every index has a norm of its own; None or −1 for one norm of all.

    Raises:
        RuntimeError: the weight has such norms already.
        OptionError: it is no parameter, or has no such axis.

    Source: Salimans and Kingma, NIPS 2016.
    """
    weight = _taken(module, name, WeightNorm, "weight_norm")
    norm = WeightNorm(name, checked_norm(weight, dim))
    del module._parameters[name]
    with no_grad():
        module.register_parameter(f"{name}_g", Parameter(norm_except(weight, norm.dim)))
    module.register_parameter(f"{name}_v", Parameter(weight.detach()))
    setattr(module, name, norm.compute_weight(module))
    module.register_forward_pre_hook(norm)
    return module


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """Divide a weight by its largest singular value; trained is ``weight_orig``.

    Args:
        module: whose weight it is.
        name: the weight's.
        n_power_iterations: steps of the power iteration in each call while training.
        eps: below which a norm counts as this.
        dim: the axis that counts the rows of the weight as a matrix; None means 1 for transposed
            convolutions and 0 for all others.

    Raises:
        RuntimeError: the weight has such a norm already.
        OptionError: it is no parameter, or ``n_power_iterations`` is below 1.

    Source: Miyato et al., ICLR 2018.
    """
    weight = _taken(module, name, SpectralNorm, "spectral_norm")
    if n_power_iterations < 1:
        raise OptionError(f"spectral_norm: n_power_iterations must be 1 or more, got {n_power_iterations}")
    norm = SpectralNorm(name, n_power_iterations, rows_axis(module) if dim is None else dim, eps)
    matrix = as_matrix(weight.detach(), norm.dim)
    del module._parameters[name]
    module.register_parameter(f"{name}_orig", weight)
    setattr(module, name, weight.detach())
    for letter, length in zip("uv", matrix.shape, strict=True):
        start = ops.normalize(randn(length, dtype=weight.dtype), axis=0, eps=eps)
        module.register_buffer(f"{name}_{letter}", start)
    module.register_forward_pre_hook(norm)
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Make a weight with :func:`weight_norm` a plain parameter of the same values; returns the module."""
    norm = _removed(module, name, WeightNorm, "remove_weight_norm")
    return _made_plain(module, norm.compute_weight(module), name, "g", "v")


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Make a weight with :func:`spectral_norm` a plain parameter of its values; returns the module."""
    norm = _removed(module, name, SpectralNorm, "remove_spectral_norm")
    with no_grad():
        weight = norm.compute_weight(module, False)
    return _made_plain(module, weight, name, "u", "v", "orig")


def _hooks(module: Module, name: str, kind: type) -> list[Any]:
    hooks = [] if module._hooks is None else module._hooks.forward_pre
    return [each for each in hooks if isinstance(each.function, kind) and vars(each.function)["name"] == name]


def _taken(module: Module, name: str, kind: type, where: str) -> Parameter:
    """The parameter that gets a norm."""
    if _hooks(module, name, kind):
        raise RuntimeError(f"{where}: {name!r} of {type(module).__name__} has such a norm already")
    weight = module._parameters.get(name)
    if not isinstance(weight, Parameter):
        raise OptionError(f"{where}: {type(module).__name__} has no parameter {name!r}")
    return weight


def _removed(module: Module, name: str, kind: type, where: str) -> Any:
    """The norm of a weight, which stands before no call any more."""
    found = _hooks(module, name, kind)
    if not found or module._hooks is None:
        raise ValueError(f"{where}: {name!r} of {type(module).__name__} has no such norm")
    module._hooks.forward_pre.remove(found[0])
    return found[0].function


def _made_plain(module: Module, weight: Tensor, name: str, *letters: str) -> Module:
    delattr(module, name)
    for letter in letters:
        delattr(module, f"{name}_{letter}")
    module.register_parameter(name, Parameter(weight.detach()))
    return module
