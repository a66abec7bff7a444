"""Initial values of parameters: PyTorch's distributions, written into the tensor's own memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.backend.meta import META
from distgrad.backend.rng import Generator, default_generator
from distgrad.errors import OptionError, ShapeError
from distgrad.nn.parameter import write

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "fan_in_and_out",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

P = ParamSpec("P")


def _draw_dtype(tensor: Tensor) -> Any:
    return np.float64 if tensor.dtype == np.float64 else np.float32


def _drawn(initialize: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Nothing is drawn for a tensor on 'meta', so that filling it later draws the numbers due to it.

    That it was written is noted, by which filling sees numbers that ``reset_parameters()`` will not give.
    """

    @functools.wraps(initialize)
    def function(tensor: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if tensor.device != META:
            return initialize(tensor, *args, **kwargs)
        tensor.changed(f"init.{initialize.__name__}")
        return tensor

    return function


def fan_in_and_out(tensor: Tensor) -> tuple[int, int]:
    """How many inputs feed an output of a weight ``[O, C, *kernel]``, and how many outputs an input feeds.

    Raises:
        ShapeError: a tensor with less than two axes.
    """
    if tensor.ndim < 2:
        raise ShapeError(f"init: fan in and fan out need at least two axes, got {list(tensor.shape)}")
    receptive = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor on the standard deviation that keeps a signal's size through an activation.

    Args:
        nonlinearity: the activation's name in ``nn.functional``.
        param: the negative slope of "leaky_relu"; None means 0.01.

    Raises:
        OptionError: a name that has no known gain.
    """
    linear = ["linear", "sigmoid"]
    linear += [f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)]
    slope = 0.01 if param is None else param
    gains = dict.fromkeys(linear, 1.0) | {
        "tanh": 5.0 / 3.0,
        "relu": math.sqrt(2.0),
        "leaky_relu": math.sqrt(2.0 / (1.0 + slope**2)),
        "selu": 3.0 / 4.0,
    }
    if nonlinearity not in gains:
        raise OptionError(f"calculate_gain: expected one of {sorted(gains)}, got {nonlinearity!r}")
    return gains[nonlinearity]


@_drawn
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Numbers uniform on [a, b)."""
    draws = (generator or default_generator).uniform(tensor.shape, _draw_dtype(tensor))
    return write(tensor, draws * (b - a) + a, "init.uniform_")


@_drawn
def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Numbers of the normal distribution."""
    draws = (generator or default_generator).normal(tensor.shape, _draw_dtype(tensor))
    return write(tensor, draws * std + mean, "init.normal_")


@_drawn
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Numbers of the normal distribution, drawn again where they fall outside [a, b].

    Args:
        tensor: what is filled.
        mean, std: of the distribution before it is cut.
        a, b: the bounds.
        generator: where the random numbers come from; None means the default generator.

    Raises:
        OptionError: an interval that is empty, or that hardly any draw falls into.
    """
    inside = 0.5 * (math.erf((b - mean) / (std * math.sqrt(2))) - math.erf((a - mean) / (std * math.sqrt(2))))
    if inside < 1e-4:
        raise OptionError(f"trunc_normal_: [{a}, {b}] holds almost nothing of mean {mean} and std {std}")
    source = generator or default_generator
    values = source.normal((tensor.size,), _draw_dtype(tensor)) * std + mean
    outside = np.flatnonzero((values < a) | (values > b))
    while outside.size:
        draws = source.normal((outside.size,), values.dtype) * std + mean
        values[outside] = draws
        outside = outside[(draws < a) | (draws > b)]
    return write(tensor, values.reshape(tensor.shape), "init.trunc_normal_")


def constant_(tensor: Tensor, val: float) -> Tensor:
    """One number everywhere."""
    return write(tensor, val, "init.constant_")


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return write(tensor, 1, "init.ones_")


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return write(tensor, 0, "init.zeros_")


@_drawn
def eye_(tensor: Tensor) -> Tensor:
    """Ones on the diagonal of a matrix, zeros elsewhere."""
    if tensor.ndim != 2:
        raise ShapeError(f"eye_: expected two axes, got {list(tensor.shape)}")
    return write(tensor, np.eye(tensor.shape[0], tensor.shape[1]), "init.eye_")


@_drawn
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution's weight ``[O, C, *kernel]`` that passes as many channels as it can on, in each group."""
    if tensor.ndim not in (3, 4, 5):
        raise ShapeError(f"dirac_: expected a weight of 3 to 5 axes, got {list(tensor.shape)}")
    if tensor.shape[0] % groups:
        raise ShapeError(f"dirac_: {tensor.shape[0]} output channels do not divide into {groups} groups")
    out_channels = tensor.shape[0] // groups
    channel = np.arange(min(out_channels, tensor.shape[1]))
    values = np.zeros(tensor.shape, dtype=tensor.dtype)
    middle = tuple(length // 2 for length in tensor.shape[2:])
    for group in range(groups):
        key: Any = (group * out_channels + channel, channel, *middle)
        values[key] = 1
    return write(tensor, values, "init.dirac_")


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform on ±gain √(6 / (fan_in + fan_out)).

    Source: Glorot and Bengio, AISTATS 2010.
    """
    bound = gain * math.sqrt(6.0 / sum(fan_in_and_out(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with standard deviation gain √(2 / (fan_in + fan_out)).

    Source: Glorot and Bengio, AISTATS 2010.
    """
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fan_in_and_out(tensor))), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise OptionError(f"init: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = fan_in_and_out(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan) if fan else 0.0


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform on ±gain √(3 / fan).

    Args:
        tensor: what is filled.
        a: negative slope of the leaky rectifier that follows.
        mode: "fan_in" keeps the size of the signal, "fan_out" that of the gradient.
        nonlinearity: the activation that follows, as in :func:`calculate_gain`.
        generator: where the random numbers come from; None means the default generator.

    Source: He et al., ICCV 2015.
    """
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with standard deviation gain / √fan; the arguments are those of :func:`kaiming_uniform_`."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


@_drawn
def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """A matrix with orthonormal rows or columns, times ``gain``; axes after the first count as one.

    Source: Saxe et al., ICLR 2014; uniform over all such matrices: Mezzadri, Notices of the AMS 2007.
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_: expected at least two axes, got {list(tensor.shape)}")
    if tensor.size == 0:
        return tensor
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    draws = (generator or default_generator).normal((rows, columns), np.float64)
    q, r = np.linalg.qr(draws.T if rows < columns else draws)
    q *= np.copysign(1.0, np.diag(r))  # qr alone prefers some matrices
    values = q.T if rows < columns else q
    return write(tensor, gain * values.reshape(tensor.shape), "init.orthogonal_")


@_drawn
def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> Tensor:
    """Normal numbers, with a share ``sparsity`` of each column set to zero.

    Source: Martens, ICML 2010.
    """
    if tensor.ndim != 2:
        raise ShapeError(f"sparse_: expected two axes, got {list(tensor.shape)}")
    source = generator or default_generator
    values = source.normal(tensor.shape, _draw_dtype(tensor)) * std
    num_zeros = math.ceil(sparsity * tensor.shape[0])
    for column in range(tensor.shape[1]):
        values[source.permutation(tensor.shape[0])[:num_zeros], column] = 0
    return write(tensor, values, "init.sparse_")
