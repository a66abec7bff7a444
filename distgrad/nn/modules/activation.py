"""Activations as modules: each calls the function of its name with the settings it was made with."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.creation import zeros
from distgrad.autograd.tensor import Tensor
from distgrad.backend.rng import Generator
from distgrad.errors import OptionError, ShapeError
from distgrad.nn import init
from distgrad.nn.functional import activations as F
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


def _shown(inplace: bool) -> str:
    return ", inplace=True" if inplace else ""


class _InPlace(Module):
    """An activation that may change the input itself.

    Args:
        inplace: whether it does.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        """Whether in place."""
        return "inplace=True" if self.inplace else ""


class ReLU(_InPlace):
    """``max(x, 0)``."""

    _kernels = ("relu/x",)

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.relu(input, self.inplace)


class SELU(_InPlace):
    """:class:`ELU` scaled so that mean 0 and variance 1 stay."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.selu(input, self.inplace)


class SiLU(_InPlace):
    """``x sigmoid(x)``."""

    _kernels = ("silu", "silu/x")

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.silu(input, self.inplace)


class Mish(_InPlace):
    """``x tanh(softplus(x))``."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.mish(input, self.inplace)


class Hardsigmoid(Module):
    """``min(max(x/6 + 1/2, 0), 1)``.

    Args:
        inplace: change the input itself.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.hardsigmoid(input, self.inplace)


class Hardswish(Hardsigmoid):
    """``x hardsigmoid(x)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.hardswish(input, self.inplace)


class ELU(Module):
    """``x`` above 0, ``alpha (e^x − 1)`` below.

    Args:
        alpha: what it tends to below 0, less the sign.
        inplace: change the input itself.
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        """The settings."""
        return f"alpha={self.alpha}{_shown(self.inplace)}"


class CELU(ELU):
    """``max(x, 0) + min(0, alpha (e^(x/alpha) − 1))``."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.celu(input, self.alpha, self.inplace)


class LeakyReLU(Module):
    """``x`` above 0, ``negative_slope x`` below.

    Args:
        negative_slope: the slope below 0.
        inplace: change the input itself.
    """

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        """The settings."""
        return f"negative_slope={self.negative_slope}{_shown(self.inplace)}"


class PReLU(Module):
    """``x`` above 0, ``weight x`` below, with weights that are learned.

    Args:
        num_parameters: one slope for all, or one a channel.
        init: their initial value.
        device: where the parameter lies.
        dtype: of the parameter; None means float32.

    Attributes:
        weight: ``[num_parameters]``.
    """

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.weight = Parameter(zeros(num_parameters, dtype=dtype, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the slopes to their initial value."""
        init.constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        """``[N, num_parameters, ...]``, or any shape for one slope, and the same back."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """How many slopes."""
        return f"num_parameters={self.num_parameters}"


class RReLU(Module):
    """``x`` above 0, a random multiple of it below; in evaluation mode the mean multiple.

    Args:
        lower, upper: ends of the interval that the multiples come from.
        inplace: change the input itself.
        generator: where the random numbers come from; None means the default generator.
    """

    def __init__(
        self,
        lower: float = 1.0 / 8,
        upper: float = 1.0 / 3,
        inplace: bool = False,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.lower = lower
        self.upper = upper
        self.inplace = inplace
        self.generator = generator

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace, self.generator)

    def extra_repr(self) -> str:
        """The settings."""
        return f"lower={self.lower}, upper={self.upper}{_shown(self.inplace)}"


class Hardtanh(Module):
    """``min(max(x, min_val), max_val)``.

    Args:
        min_val, max_val: the bounds.
        inplace: change the input itself.
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        if max_val <= min_val:
            raise OptionError(f"Hardtanh: expected min_val < max_val, got {min_val} and {max_val}")
        self.min_val = min_val
        self.max_val = max_val
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        """The settings."""
        return f"min_val={self.min_val}, max_val={self.max_val}{_shown(self.inplace)}"


class ReLU6(Hardtanh):
    """``min(max(x, 0), 6)``.

    Args:
        inplace: change the input itself.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        """Whether in place."""
        return "inplace=True" if self.inplace else ""


class Threshold(Module):
    """``x`` above ``threshold``, ``value`` elsewhere.

    Args:
        threshold: the bound.
        value: what stands for elements up to it.
        inplace: change the input itself.
    """

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.value = value
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        """The settings."""
        return f"threshold={self.threshold}, value={self.value}{_shown(self.inplace)}"


class Sigmoid(Module):
    """``1 / (1 + e^-x)``."""

    _kernels = ("sigmoid", "sigmoid/x")

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.sigmoid(input)


class LogSigmoid(Module):
    """Logarithm of :class:`Sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.logsigmoid(input)


class Tanh(Module):
    """The hyperbolic tangent."""

    _kernels = ("tanh/x",)

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.tanh(input)


class Tanhshrink(Module):
    """``x − tanh x``."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.tanhshrink(input)


class Softsign(Module):
    """``x / (1 + |x|)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.softsign(input)


class GELU(Module):
    """``x Φ(x)``.

    Args:
        approximate: "none", or "tanh" for the cheaper formula.
    """

    _kernels = ("gelu", "gelu/x")

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise OptionError(f"GELU: approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        """The formula."""
        return f"approximate={self.approximate!r}"


class Softplus(Module):
    """``log(1 + e^(beta x)) / beta``.

    Args:
        beta: how closely it follows ``max(x, 0)``.
        threshold: where ``beta x`` is above it, the result is ``x``.
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """The settings."""
        return f"beta={self.beta}, threshold={self.threshold}"


class Softshrink(Module):
    """Elements moved towards 0 by ``lambd``, at most to 0.

    Args:
        lambd: how far.
    """

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.softshrink(input, self.lambd)

    def extra_repr(self) -> str:
        """The distance."""
        return str(self.lambd)


class Hardshrink(Softshrink):
    """``x`` where ``|x| > lambd``, 0 elsewhere."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.hardshrink(input, self.lambd)


class GLU(Module):
    """The first half of an axis times the sigmoid of the second.

    Args:
        dim: the axis.
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Any shape; the axis is half as long after."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        """The axis."""
        return f"dim={self.dim}"


class Softmax(Module):
    """``e^x / Σ e^x`` along an axis.

    Args:
        dim: the axis; None means, with a warning, 0 for 0, 1 or 3 axes, else 1.
    """

    _kernels = ("softmax", "softmax/x")

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        """The axis."""
        return f"dim={self.dim}"


class Softmin(Softmax):
    """:class:`Softmax` of −x."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.softmin(input, self.dim)


class LogSoftmax(Softmax):
    """``x − log Σ e^x`` along an axis."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, and the same back."""
        return F.log_softmax(input, self.dim)


class Softmax2d(Module):
    """:class:`Softmax` over the channels of ``[N, C, H, W]`` or ``[C, H, W]``."""

    def forward(self, input: Tensor) -> Tensor:
        """The same shape back."""
        if input.ndim not in (3, 4):
            raise ShapeError(f"Softmax2d: expected [N, C, H, W] or [C, H, W], got {list(input.shape)}")
        return F.softmax(input, -3)
