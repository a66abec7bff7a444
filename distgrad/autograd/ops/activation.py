"""Activations: an element at a time, each with a gradient of its own; at a kink the gradient is PyTorch's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import Shape, mixed_dtypes, normalize_axes, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import device_of, plain
from distgrad.backend.rng import Generator, default_generator
from distgrad.errors import AxisError, DTypeError, OptionError, ShapeError

_SAMPLES = [
    Sample(((3, 4),)),
    Sample(((),), note="no axes"),
    Sample(((0, 3),), note="empty"),
    Sample((np.array([-800.0, -30.0, 0.0, 30.0, 800.0]),), note="tails", grad=False),
]
#: Numbers on both sides of kinks at ±0.5, ±1, ±3 and 6.
_KINKED = [
    *_SAMPLES,
    Sample((np.array([-4.0, -2.0, -0.7, -0.2, 0.3, 0.8, 2.0, 5.0, 7.0]),), note="all sides"),
]
_OPTIONS: dict[str, Any] = {"shape": same_shape, "dtypes": "real floating-point"}


# -- smooth

_TANH_SCALE = math.sqrt(2.0 / math.pi)
_TANH_CUBIC = 0.044715


@primitive(
    math="y = x Φ(x), or x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))",
    source="Hendrycks and Gimpel, arXiv:1606.08415, 2016",
    samples=[*_SAMPLES, Sample(((3, 4),), {"approximate": "tanh"}), *_KINKED[-1:]],
    rejects=[Reject(((3, 4),), OptionError, "must be 'none' or 'tanh'", {"approximate": "sigmoid"})],
    **_OPTIONS,
)
def gelu(xp: Any, x: Array, /, *, approximate: str = "none") -> Array:
    """Gaussian error linear unit.

    Args:
        x: any shape.
        approximate: ``"none"`` for the error function, ``"tanh"`` for the cheaper formula.
    """
    if approximate == "tanh":
        return 0.5 * x * (1.0 + xp.tanh(_TANH_SCALE * x * (1.0 + _TANH_CUBIC * (x * x))))
    if approximate != "none":
        raise OptionError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return 0.5 * x * (1.0 + xp.erf(x * math.sqrt(0.5)))


@gelu.vjp("x")
def _(xp: Any, g: Array, x: Array, approximate: str) -> Array:
    square = x * x
    if approximate == "tanh":
        t = xp.tanh(_TANH_SCALE * x * (1.0 + _TANH_CUBIC * square))
        inner = _TANH_SCALE * (1.0 + 3.0 * _TANH_CUBIC * square)
        return g * (0.5 * (1.0 + t) + 0.5 * x * ((1.0 - t * t) * inner))
    density = xp.exp(-0.5 * square) * (1.0 / math.sqrt(2.0 * math.pi))
    return g * (0.5 * (1.0 + xp.erf(x * math.sqrt(0.5))) + x * density)


@primitive(
    math="y = x / (1 + e^(-x))",
    source="Elfwing et al., Neural Networks, 2018",
    samples=_SAMPLES,
    **_OPTIONS,
)
def silu(xp: Any, x: Array, /) -> Array:
    """Sigmoid linear unit, also called swish."""
    return x * xp.sigmoid(x)


@silu.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    s = xp.sigmoid(x)
    return g * (s * (1.0 + x * (1.0 - s)))


@primitive(
    math="y = log(1 + e^(beta x)) / beta",
    source="Dugas et al., NIPS 2000",
    samples=[
        *_SAMPLES,
        Sample(((3, 4),), {"beta": 2.0}),
        Sample((np.array([-3.0, 3.0, 9.0]),), {"threshold": 5}),
    ],
    **_OPTIONS,
)
def softplus(xp: Any, x: Array, /, *, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """Smooth approximation of ``max(x, 0)``.

    Args:
        x: any shape.
        beta: how closely it approximates.
        threshold: where ``beta x`` is larger, the result is ``x``.
    """
    z = beta * x
    smooth = (xp.maximum(z, 0.0) + xp.log1p(xp.exp(-xp.abs(z)))) / beta
    return xp.where(z > threshold, x, smooth)


@softplus.vjp("x")
def _(xp: Any, g: Array, x: Array, beta: float, threshold: float) -> Array:
    z = beta * x
    return g * xp.where(z > threshold, 1.0, xp.sigmoid(z))


@primitive(math="y = -log(1 + e^(-x))", samples=_SAMPLES, **_OPTIONS)
def logsigmoid(xp: Any, x: Array, /) -> Array:
    """Logarithm of the logistic function."""
    return xp.minimum(x, 0.0) - xp.log1p(xp.exp(-xp.abs(x)))


@logsigmoid.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * xp.sigmoid(-x)


@primitive(math="y = x tanh(log(1 + e^x))", source="Misra, BMVC 2020", samples=_SAMPLES, **_OPTIONS)
def mish(xp: Any, x: Array, /) -> Array:
    """Self-regularised smooth activation."""
    return x * xp.tanh(xp.softplus(x))


@mish.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    t = xp.tanh(xp.softplus(x))
    return g * (t + x * ((1.0 - t * t) * xp.sigmoid(x)))


@primitive(math="y = x / (1 + |x|)", samples=_SAMPLES, **_OPTIONS)
def softsign(xp: Any, x: Array, /) -> Array:
    """A sigmoid that tends to ±1 slowly."""
    return x / (1.0 + xp.abs(x))


@softsign.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g / xp.square(1.0 + xp.abs(x))


@primitive(math="y = x - tanh x", samples=_SAMPLES, **_OPTIONS)
def tanhshrink(xp: Any, x: Array, /) -> Array:
    """What the hyperbolic tangent leaves."""
    return x - xp.tanh(x)


@tanhshrink.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * xp.square(xp.tanh(x))


# -- exponential below 0, linear above


def _exponential_unit(xp: Any, x: Array, above: float, below: float, rate: float) -> Array:
    """``above x`` for x > 0, ``below (e^(rate x) - 1)`` elsewhere."""
    return xp.where(x > 0, above * x, below * xp.expm1(rate * xp.minimum(x, 0.0)))


def _exponential_slope(xp: Any, x: Array, above: float, below: float, rate: float) -> Array:
    return xp.where(x > 0, above, below * rate * xp.exp(rate * xp.minimum(x, 0.0)))


_SELU_SCALE = 1.0507009873554804934193349852946
_SELU = (_SELU_SCALE, _SELU_SCALE * 1.6732632423543772848170429916717, 1.0)


@primitive(
    math="y = x if x > 0 else alpha (e^x - 1)",
    source="Clevert et al., ICLR 2016",
    samples=[*_KINKED, Sample(((3, 4),), {"alpha": 0.5})],
    **_OPTIONS,
)
def elu(xp: Any, x: Array, /, *, alpha: float = 1.0) -> Array:
    """Exponential linear unit."""
    return _exponential_unit(xp, x, 1.0, alpha, 1.0)


@elu.vjp("x")
def _(xp: Any, g: Array, x: Array, alpha: float) -> Array:
    return g * _exponential_slope(xp, x, 1.0, alpha, 1.0)


@primitive(
    math="y = max(x, 0) + min(0, alpha (e^(x/alpha) - 1))",
    source="Barron, arXiv:1704.07483, 2017",
    samples=[*_KINKED, Sample(((3, 4),), {"alpha": 0.5})],
    **_OPTIONS,
)
def celu(xp: Any, x: Array, /, *, alpha: float = 1.0) -> Array:
    """Exponential linear unit whose slope is continuous for every ``alpha``."""
    return _exponential_unit(xp, x, 1.0, alpha, 1.0 / alpha)


@celu.vjp("x")
def _(xp: Any, g: Array, x: Array, alpha: float) -> Array:
    return g * _exponential_slope(xp, x, 1.0, alpha, 1.0 / alpha)


@primitive(
    math="y = 1.0507 (x if x > 0 else 1.6733 (e^x - 1))",
    source="Klambauer et al., NIPS 2017",
    samples=_KINKED,
    **_OPTIONS,
)
def selu(xp: Any, x: Array, /) -> Array:
    """Exponential linear unit that keeps mean 0 and variance 1."""
    return _exponential_unit(xp, x, *_SELU)


@selu.vjp("x")
def _(xp: Any, g: Array, x: Array) -> Array:
    return g * _exponential_slope(xp, x, *_SELU)


# -- piecewise linear


@primitive(
    math="y = x if x > 0 else negative_slope x",
    source="Maas et al., ICML 2013",
    samples=[*_KINKED, Sample(((3, 4),), {"negative_slope": 0.2})],
    **_OPTIONS,
)
def leaky_relu(xp: Any, x: Array, /, *, negative_slope: float = 0.01) -> Array:
    """Rectifier with a small slope below 0."""
    return xp.where(x > 0, x, negative_slope * x)


@leaky_relu.vjp("x")
def _(xp: Any, g: Array, x: Array, negative_slope: float) -> Array:
    return g * xp.where(x > 0, 1.0, negative_slope)


@primitive(
    math="y = min(max(x, min_val), max_val)",
    samples=[*_KINKED, Sample(((3, 4),), {"min_val": -0.5, "max_val": 2.0})],
    **_OPTIONS,
)
def hardtanh(xp: Any, x: Array, /, *, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    """Linear between two values; the gradient at the ends is 0."""
    if min_val > max_val:
        raise OptionError(f"hardtanh: min_val must be at most max_val, got {min_val} and {max_val}")
    return xp.minimum(xp.maximum(x, min_val), max_val)


@hardtanh.vjp("x")
def _(xp: Any, g: Array, x: Array, min_val: float, max_val: float) -> Array:
    return g * ((x > min_val) * (x < max_val))


@composite(math="y = min(max(x, 0), 6)", samples=_KINKED, **_OPTIONS)
def relu6(xp: Any, x: Array, /) -> Array:
    """Rectifier that stops at 6."""
    return xp.hardtanh(x, min_val=0.0, max_val=6.0)


@composite(math="y = min(max(x/6 + 1/2, 0), 1)", samples=_KINKED, **_OPTIONS)
def hardsigmoid(xp: Any, x: Array, /) -> Array:
    """The logistic function in three straight pieces."""
    return xp.hardtanh(x, min_val=-3.0, max_val=3.0) / 6.0 + 0.5


@composite(
    math="y = x min(max(x/6 + 1/2, 0), 1)", source="Howard et al., ICCV 2019", samples=_KINKED, **_OPTIONS
)
def hardswish(xp: Any, x: Array, /) -> Array:
    """Swish with the logistic function in straight pieces."""
    return x * xp.hardsigmoid(x)


@primitive(
    math="y = x - sign(x) lambd if |x| > lambd else 0",
    samples=[*_KINKED, Sample(((3, 4),), {"lambd": 0.1})],
    **_OPTIONS,
)
def softshrink(xp: Any, x: Array, /, *, lambd: float = 0.5) -> Array:
    """Moves elements towards 0 by ``lambd``."""
    return xp.sign(x) * xp.maximum(xp.abs(x) - lambd, 0.0)


@softshrink.vjp("x")
def _(xp: Any, g: Array, x: Array, lambd: float) -> Array:
    return g * (xp.abs(x) > lambd)


@primitive(
    math="y = x if |x| > lambd else 0", samples=[*_KINKED, Sample(((3, 4),), {"lambd": 0.1})], **_OPTIONS
)
def hardshrink(xp: Any, x: Array, /, *, lambd: float = 0.5) -> Array:
    """Sets small elements to 0."""
    return x * (xp.abs(x) > lambd)


@hardshrink.vjp("x")
def _(xp: Any, g: Array, x: Array, lambd: float) -> Array:
    return g * (xp.abs(x) > lambd)


@primitive(
    math="y = x if x > threshold else value",
    samples=[Sample(each.args, {"threshold": 0.1, "value": 20.0}, each.note, each.grad) for each in _KINKED],
    **_OPTIONS,
)
def threshold(xp: Any, x: Array, /, threshold: float, value: float) -> Array:
    """Replaces elements up to ``threshold`` by ``value``."""
    return xp.where(x <= threshold, value, x)


@threshold.vjp("x")
def _(xp: Any, g: Array, x: Array, threshold: float) -> Array:
    return g * xp.logical_not(x <= threshold)


# -- with parameters or random numbers


def _per_channel(weight: Array, ndim: int, where: str, channels: Shape) -> Shape:
    """The shape that lines a weight up with the channels on axis 1."""
    if weight.size != 1 and (len(weight.shape) != 1 or weight.shape != channels):
        raise ShapeError(f"{where}: weight is {list(weight.shape)}, expected [1] or {list(channels)}")
    return (-1, *(1,) * (ndim - 2)) if ndim > 1 else (-1,) * ndim


@composite(
    math="y = x if x > 0 else weight x",
    source="He et al., ICCV 2015",
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4), (4,))),
        Sample(((2, 3, 2, 2), (3,)), note="images"),
        Sample(((2, 3, 4), (1,)), note="one weight"),
        Sample(((5,), (1,)), note="one axis"),
        Sample(((), (1,)), note="a number"),
    ],
    rejects=[
        Reject(((2, 3, 4), (4,)), ShapeError, "weight is [4], expected [1] or [3]"),
        Reject(((2, 3), np.ones(3, np.float32)), DTypeError, "x is float64 but weight float32"),
    ],
)
def prelu(xp: Any, x: Array, weight: Array, /) -> Array:
    """Rectifier whose slope below 0 is learned.

    Args:
        x: ``[N, C, *]`` or any shape.
        weight: ``[C]`` or ``[1]``.
    """
    if x.dtype != weight.dtype:
        raise mixed_dtypes("prelu", x, weight)
    weight = xp.reshape(weight, _per_channel(weight, len(x.shape), "prelu", x.shape[1:2]))
    return xp.where(x > 0, x, weight * x)


@composite(math="y = x if x > 0 else a x, a uniform", samples=_KINKED[:3], **_OPTIONS)
def rrelu(
    xp: Any,
    x: Array,
    /,
    *,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    generator: Generator | None = None,
) -> Array:
    """Rectifier with a random slope below 0, or its mean when not training.

    Args:
        x: any shape.
        lower, upper: ends of the interval that slopes come from.
        training: draw a slope for each element.
        generator: of the random numbers; None means the default one.
    """
    if lower > upper:
        raise OptionError(f"rrelu: lower must be at most upper, got {lower} and {upper}")
    if not training:
        return xp.leaky_relu(x, negative_slope=(lower + upper) / 2.0)
    draws = (generator or default_generator).uniform(x.shape, x.dtype, device_of(plain(x)))
    return xp.where(x > 0, x, x * (lower + (upper - lower) * draws))


@composite(
    math="y = a / (1 + e^(-b)), x = [a, b]",
    source="Dauphin et al., ICML 2017",
    dtypes="real floating-point",
    samples=[Sample(((3, 4),)), Sample(((2, 6, 3),), {"axis": 1})],
    rejects=[
        Reject(((3, 5),), ShapeError, "must have an even length"),
        Reject(((3, 4),), AxisError, "axis 2", {"axis": 2}),
    ],
)
def glu(xp: Any, x: Array, /, axis: int = -1) -> Array:
    """One half of an axis gated by the other.

    Raises:
        ShapeError: an axis of odd length.
    """
    place = normalize_axes(axis, len(x.shape), "glu")[0]
    length = x.shape[place]
    if length % 2:
        raise ShapeError(f"glu: axis {axis} of {list(x.shape)} must have an even length")
    before = (slice(None),) * place
    return x[(*before, slice(None, length // 2))] * xp.sigmoid(x[(*before, slice(length // 2, None))])
