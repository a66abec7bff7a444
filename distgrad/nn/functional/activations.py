"""Activations, by PyTorch's names and arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.autograd.casting import limits
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.meanings import softmax_axis
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import activated
from distgrad.backend.rng import Generator, default_generator
from distgrad.errors import OptionError
from distgrad.nn.functional.arguments import in_place

__all__ = [
    "celu",
    "celu_",
    "elu",
    "elu_",
    "gelu",
    "glu",
    "gumbel_softmax",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardtanh_",
    "leaky_relu",
    "leaky_relu_",
    "log_softmax",
    "logsigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "relu_",
    "rrelu",
    "rrelu_",
    "selu",
    "selu_",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "threshold_",
]


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(x, 0)``."""
    return in_place(input, ops.relu(input), inplace, "relu")


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """``min(max(x, 0), 6)``."""
    return in_place(input, ops.relu6(input), inplace, "relu6")


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` above 0, ``alpha (e^x − 1)`` below."""
    return in_place(input, ops.elu(input, alpha=alpha), inplace, "elu")


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """:func:`elu` scaled so that mean 0 and variance 1 stay."""
    return in_place(input, ops.selu(input), inplace, "selu")


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``max(x, 0) + min(0, alpha (e^(x/alpha) − 1))``."""
    return in_place(input, ops.celu(input, alpha=alpha), inplace, "celu")


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """``x`` above 0, ``negative_slope x`` below."""
    return in_place(input, ops.leaky_relu(input, negative_slope=negative_slope), inplace, "leaky_relu")


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """``x`` above 0, ``weight x`` below.

    Args:
        input: ``[N, C, ...]``.
        weight: ``[C]`` or ``[1]``.
    """
    return ops.prelu(input, weight)


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """``x`` above 0, a random multiple of it below.

    Args:
        input: any shape.
        lower, upper: ends of the interval that the multiples come from.
        training: False takes the interval's middle.
        inplace: change the input itself.
        generator: where the random numbers come from; None means the default generator.
    """
    y = ops.rrelu(input, lower=lower, upper=upper, training=training, generator=generator)
    return in_place(input, y, inplace, "rrelu")


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """``min(max(x, min_val), max_val)``."""
    return in_place(input, ops.hardtanh(input, min_val=min_val, max_val=max_val), inplace, "hardtanh")


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """``min(max(x/6 + 1/2, 0), 1)``."""
    kept = input.clone() if inplace else input  # what its operations save must outlive the change
    return in_place(input, ops.hardsigmoid(kept), inplace, "hardsigmoid")


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x hardsigmoid(x)``."""
    kept = input.clone() if inplace else input  # as in hardsigmoid
    return in_place(input, ops.hardswish(kept), inplace, "hardswish")


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``x sigmoid(x)``."""
    return in_place(input, ops.silu(input), inplace, "silu")


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x tanh(softplus(x))``."""
    return in_place(input, ops.mish(input), inplace, "mish")


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """``x`` above ``threshold``, ``value`` elsewhere."""
    return in_place(input, ops.threshold(input, threshold, value), inplace, "threshold")


def _always_in_place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def changed(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return function(input, *args, **kwargs, inplace=True)

    changed.__name__ = f"{function.__name__}_"
    changed.__doc__ = f":func:`{function.__name__}` in place; it takes the same arguments."
    return changed


relu_ = _always_in_place(relu)
elu_ = _always_in_place(elu)
celu_ = _always_in_place(celu)
selu_ = _always_in_place(selu)
leaky_relu_ = _always_in_place(leaky_relu)
rrelu_ = _always_in_place(rrelu)
hardtanh_ = _always_in_place(hardtanh)
threshold_ = _always_in_place(threshold)


def sigmoid(input: Tensor) -> Tensor:
    """``1 / (1 + e^-x)``."""
    return ops.sigmoid(input)


def logsigmoid(input: Tensor) -> Tensor:
    """Logarithm of :func:`sigmoid`."""
    return ops.logsigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return ops.tanh(input)


def tanhshrink(input: Tensor) -> Tensor:
    """``x − tanh x``."""
    return ops.tanhshrink(input)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """``x Φ(x)``; ``approximate="tanh"`` for the cheaper formula."""
    return ops.gelu(input, approximate=approximate)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + e^(beta x)) / beta``; ``x`` where ``beta x`` is above ``threshold``."""
    return ops.softplus(input, beta=beta, threshold=threshold)


def softsign(input: Tensor) -> Tensor:
    """``x / (1 + |x|)``."""
    return ops.softsign(input)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Elements moved towards 0 by ``lambd``, at most to 0."""
    if lambd < 0:
        raise OptionError(f"softshrink: lambd must not be negative, got {lambd}")
    return ops.softshrink(input, lambd=lambd)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """``x`` where ``|x| > lambd``, 0 elsewhere."""
    return ops.hardshrink(input, lambd=lambd)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half of an axis times the sigmoid of the second."""
    return ops.glu(input, axis=dim)


def _converted(input: Tensor, dtype: Any) -> Tensor:
    return input if dtype is None else ops.astype(input, dtype)


def softmax(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """``e^x / Σ e^x`` along an axis.

    Args:
        input: any shape.
        dim: the axis; None means, with a warning, 0 for 0, 1 or 3 axes, else 1.
        dtype: convert to it first; None doesn't.
    """
    return ops.softmax(_converted(input, dtype), axis=softmax_axis(input, dim, "softmax"))


def softmin(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """:func:`softmax` of −x."""
    return ops.softmax(-_converted(input, dtype), axis=softmax_axis(input, dim, "softmin"))


def log_softmax(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """``x − log Σ e^x`` along an axis; the arguments are those of :func:`softmax`."""
    return ops.log_softmax(_converted(input, dtype), axis=softmax_axis(input, dim, "log_softmax"))


def gumbel_softmax(
    logits: Tensor, tau: float = 1.0, hard: bool = False, dim: int = -1, generator: Generator | None = None
) -> Tensor:
    """A random choice among classes that gradients flow through.

    Args:
        logits: unnormalised log-probabilities, any shape.
        tau: temperature: how far from a single class the result may be.
        hard: return a single class each, one-hot, with the gradient of the soft choice.
        dim: the classes' axis.
        generator: where the random numbers come from; None means the default generator.

    Source: Jang et al., ICLR 2017.
    """
    draws = (generator or default_generator).uniform(logits.shape, logits.dtype, logits.device)
    with activated(logits.device) as xp:  # an exponential number is never 0
        noise = Tensor(-xp.log(-xp.log1p(-draws) + limits(logits.dtype).tiny))
    soft = ops.softmax((logits + noise) / tau, axis=dim)
    if not hard:
        return soft
    best = soft._data == soft._data.max(axis=dim, keepdims=True)
    chosen = best & (best.cumsum(axis=dim) == 1)
    return (chosen.astype(logits.dtype) - soft.detach()) + soft
