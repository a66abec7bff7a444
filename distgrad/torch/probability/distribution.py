"""What all distributions share: shapes, checks and parameters that broadcast."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from distgrad.autograd.creation import tensor as as_new
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.modes import no_grad
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.torch.probability import constraints

__all__ = [
    "Distribution", "Elementwise", "ExponentialFamily", "ProbsOrLogits", "broadcast_all", "clamp_probs",
    "lazy_property", "logits_to_probs", "probs_to_logits",
]  # fmt: skip

#: PyTorch's name for a property that is computed once.
lazy_property = cached_property


class Distribution:
    """A distribution over tensors.

    Args:
        batch_shape: of independent distributions side by side.
        event_shape: of one sample of each.
        validate_args: whether parameters and values are checked; None means as ``set_default_validate_args``
            says.

    Raises:
        OptionError: a parameter outside its set.
    """

    has_rsample = False
    has_enumerate_support = False
    arg_constraints: ClassVar[dict[str, Any]] = {}
    support: Any = None
    _validate_args: bool = __debug__
    #: Tensors that have no batch axes of their own.
    _shared: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, batch_shape: Any = (), event_shape: Any = (), validate_args: bool | None = None
    ) -> None:
        self._batch_shape, self._event_shape = Shape(batch_shape), Shape(event_shape)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            self._check_parameters()

    def _check_parameters(self) -> None:
        for name, constraint in self.arg_constraints.items():
            held = name in self.__dict__ or not isinstance(getattr(type(self), name, None), cached_property)
            if constraints.is_dependent(constraint) or not held:
                continue
            value = getattr(self, name)
            if not bool(ops.all(constraint.check(value.detach()))):
                raise OptionError(
                    f"{type(self).__name__}: expected parameter {name} (tensor of shape {list(value.shape)}) "
                    f"to satisfy the constraint {constraint!r}, got {value.detach()!r}"
                )

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Whether parameters and values are checked from now on."""
        if value not in (True, False):
            raise OptionError(f"set_default_validate_args: expected a bool, got {value!r}")
        Distribution._validate_args = value

    @property
    def batch_shape(self) -> Shape:
        """The shape of independent distributions side by side."""
        return self._batch_shape

    @property
    def event_shape(self) -> Shape:
        """The shape of one sample of each."""
        return self._event_shape

    @property
    def mean(self) -> Any:
        """The mean."""
        raise lacking(self, "has no mean")

    @property
    def mode(self) -> Any:
        """The most likely value."""
        raise lacking(self, "has no mode")

    @property
    def variance(self) -> Any:
        """The variance."""
        raise lacking(self, "has no variance")

    @property
    def stddev(self) -> Any:
        """The standard deviation."""
        return self.variance.sqrt()

    def sample(self, sample_shape: Any = ()) -> Any:
        """A sample without a gradient, ``[*sample_shape, *batch_shape, *event_shape]``."""
        with no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Any:
        """A sample through which the parameters get their gradients."""
        raise lacking(self, "has no rsample")

    def sample_n(self, n: int) -> Any:
        """``n`` samples."""
        return self.sample((n,))

    def log_prob(self, value: Tensor) -> Any:
        """The logarithm of the density, or probability, at ``value``."""
        raise lacking(self, "has no log_prob")

    def cdf(self, value: Tensor) -> Any:
        """The probability of at most ``value``."""
        raise lacking(self, "has no cdf")

    def icdf(self, value: Tensor) -> Any:
        """The number that is not passed with probability ``value``."""
        raise lacking(self, "has no icdf")

    def entropy(self) -> Any:
        """The entropy in nats."""
        raise lacking(self, "has no entropy")

    def enumerate_support(self, expand: bool = True) -> Any:
        """All values, along a new first axis."""
        raise lacking(self, "has no enumerate_support")

    def perplexity(self) -> Any:
        """exp of the entropy."""
        return self.entropy().exp()

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with its parameters spread over ``batch_shape``."""
        out = copy.copy(self)
        out._batch_shape = Shape(batch_shape)
        for name, value in self.__dict__.items():
            if isinstance(value, Tensor) and name not in self._shared:
                tail = tuple(value.shape)[len(self._batch_shape) :]
                out.__dict__[name] = ops.broadcast_to(value, (*batch_shape, *tail))
        return out

    def _extended_shape(self, sample_shape: Any = ()) -> Shape:
        return Shape((*sample_shape, *self._batch_shape, *self._event_shape))

    def _validate_sample(self, value: Tensor) -> None:
        """Check a value's shape, and that it is one that can come up."""
        if not isinstance(value, Tensor):
            raise TypeError(f"{type(self).__name__}: expected a tensor, got {type(value).__name__}")
        event = tuple(value.shape)[value.ndim - len(self._event_shape) :]
        if event != tuple(self._event_shape):
            raise ShapeError(
                f"{type(self).__name__}: a value is {list(value.shape)}, expected [..., "
                f"{', '.join(map(str, self._event_shape))}]"
            )
        given = tuple(value.shape)[: value.ndim - len(event)]
        for n, expected in zip(reversed(given), reversed(self._batch_shape), strict=False):
            if n != expected and 1 not in (n, expected):
                raise ShapeError(
                    f"{type(self).__name__}: a value is {list(value.shape)}, which does not broadcast with "
                    f"{list(self._batch_shape)}"
                )
        support = self.support
        if support is not None and not bool(ops.all(support.check(value.detach()))):
            raise OptionError(f"{type(self).__name__}: expected values within {support!r}, got {value!r}")

    def _checked(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return value

    def __repr__(self) -> str:
        names = [name for name in self.arg_constraints if name in self.__dict__]
        shown = ", ".join(
            f"{name}: {value}" if value.numel() == 1 else f"{name}: {tuple(value.shape)}"
            for name, value in ((name, self.__dict__[name]) for name in names)
        )
        return f"{type(self).__name__}({shown})"


class ExponentialFamily(Distribution):
    """A distribution whose density is exp(<natural parameters, statistics> - log normalizer)."""


def lacking(where: Any, what: str) -> NotImplementedError:
    """The error of PyTorch's class for what a distribution or map, or a subclass of one, does not have."""
    return NotImplementedError(f"{where if isinstance(where, str) else type(where).__name__}: {what}")


def broadcast_all(*values: Any) -> tuple[Tensor, ...]:
    """Numbers and tensors as tensors of one shape; numbers take the tensors' dtype and device."""
    like = next((each for each in values if isinstance(each, Tensor)), None)
    options: Any = {} if like is None else {"dtype": like.dtype, "device": like.device}
    if like is not None and like.dtype.kind not in "fcV":
        options.pop("dtype")
    made = [each if isinstance(each, Tensor) else as_new(float(each), **options) for each in values]
    return tuple(ops.broadcast_arrays(*made))


class Elementwise(ExponentialFamily):
    """A distribution of single numbers, whose ``parameters`` broadcast against one another."""

    #: Names of the parameters in the order of the arguments.
    parameters: ClassVar[Sequence[str]] = ()
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, *args: Any, **options: Any) -> None:
        given = self._bound(args, options)
        check = given.pop("validate_args", None)
        missing = [name for name in self.parameters if name not in given]
        if missing:
            raise TypeError(f"{type(self).__name__}: expected {missing[0]!r}, which is missing")
        values = broadcast_all(*(given[name] for name in self.parameters))
        self.__dict__.update(zip(self.parameters, values, strict=True))
        super().__init__(values[0].shape, validate_args=check)

    def _bound(self, args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
        """Arguments by their names."""
        names = (*self.parameters, "validate_args")
        if len(args) > len(names):
            raise TypeError(f"{type(self).__name__}: expected {len(names)} arguments, got {len(args)}")
        given = {**self.defaults, **dict(zip(names, args, strict=False))}
        for name, value in options.items():
            if name not in names or names.index(name) < len(args):
                raise TypeError(f"{type(self).__name__}: unexpected keyword {name!r}")
            given[name] = value
        return given


def clamp_probs(probs: Tensor) -> Any:
    """Probabilities kept from 0 and 1 by the dtype's resolution."""
    eps = math.ldexp(1.0, -52 if probs.dtype.itemsize == 8 else -23)
    return probs.clamp(eps, 1 - eps)


def probs_to_logits(probs: Tensor, is_binary: bool = False) -> Any:
    """Log odds of binary probabilities, logarithms of others."""
    kept = clamp_probs(probs)
    return kept.log() - (-kept).log1p() if is_binary else kept.log()


def logits_to_probs(logits: Tensor, is_binary: bool = False) -> Any:
    """The probabilities that have these log odds, or logarithms."""
    return ops.sigmoid(logits) if is_binary else ops.softmax(logits, axis=-1)


class ProbsOrLogits(Elementwise):
    """A binary distribution that is given its probability or its log odds, and whatever stands beside."""

    #: Further parameters.
    beside: ClassVar[Sequence[str]] = ()
    parameters: ClassVar[Sequence[str]] = ("probs", "logits")
    arg_constraints: ClassVar[dict[str, Any]] = {
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }

    def __init__(self, *args: Any, **options: Any) -> None:
        given = self._bound(args, options)
        check = given.pop("validate_args", None)
        held = [name for name in ("probs", "logits") if given.get(name) is not None]
        if len(held) != 1:
            raise OptionError(f"{type(self).__name__}: expected probs or logits, got {held or 'neither'}")
        names = [*self.beside, held[0]]
        values = broadcast_all(*(given[name] for name in names))
        self.__dict__.update(zip(names, values, strict=True))
        Distribution.__init__(self, values[0].shape, validate_args=check)

    @cached_property
    def logits(self) -> Any:
        """Log odds."""
        return probs_to_logits(self.probs, is_binary=True)

    @cached_property
    def probs(self) -> Any:
        """Probabilities."""
        return logits_to_probs(self.logits, is_binary=True)

    @property
    def param_shape(self) -> Shape:
        """The shape of the parameter."""
        return Shape(self._batch_shape)
