"""Distributions of whole numbers and of categories."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from distgrad.autograd.creation import arange, eye
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.porting import Shape
from distgrad.autograd.random import bernoulli, multinomial, rand
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, to_device
from distgrad.backend.rng import default_generator
from distgrad.errors import OptionError, ShapeError
from distgrad.torch.probability import constraints
from distgrad.torch.probability.distribution import (
    Distribution,
    Elementwise,
    ProbsOrLogits,
    logits_to_probs,
    probs_to_logits,
)

__all__ = [
    "Bernoulli", "Binomial", "Categorical", "Geometric", "Multinomial", "NegativeBinomial",
    "OneHotCategorical", "OneHotCategoricalStraightThrough", "Poisson", "drawn_by_host",
]  # fmt: skip


def drawn_by_host(kind: str, *parameters: Tensor) -> Tensor:
    """Numbers of a distribution that NumPy draws, by the default generator's words."""
    first = parameters[0]
    values = [to_device(each._data, CPU).astype(np.float64) for each in parameters]
    values[0] = values[0].astype(np.int64) if kind == "binomial" else values[0]
    drawn = getattr(default_generator.host(), kind)(*values)
    return Tensor(to_device(np.asarray(drawn).astype(first.dtype), first.device))


def _log_choose(n: Tensor, k: Tensor) -> Any:
    return (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()


class Bernoulli(ProbsOrLogits):
    """1 with a probability, else 0.

    Attributes:
        probs: of a one.
        logits: its log odds, instead.
    """

    support = constraints.boolean
    has_enumerate_support = True

    mean = property(lambda self: self.probs)
    variance = property(lambda self: self.probs * (1 - self.probs))

    @property
    def mode(self) -> Any:
        """The likelier of both, nan where they are equal."""
        likelier = ops.astype(self.probs >= 0.5, self.probs.dtype)
        return ops.where(self.probs == 0.5, math.nan, likelier)

    def sample(self, sample_shape: Any = ()) -> Any:
        """Ones and zeros in the parameter's dtype."""
        shape = tuple(self._extended_shape(sample_shape))
        return bernoulli(ops.broadcast_to(self.probs.detach(), shape))

    def log_prob(self, value: Tensor) -> Any:
        """x log p + (1 - x) log(1 - p), from the log odds."""
        value, logits = ops.broadcast_arrays(self._checked(value), self.logits)
        return -value * ops.logaddexp(-logits, 0.0) - (1 - value) * ops.logaddexp(logits, 0.0)

    def entropy(self) -> Any:
        """-p log p - (1 - p) log(1 - p)."""
        return ops.logaddexp(self.logits, 0.0) - self.probs * self.logits

    def enumerate_support(self, expand: bool = True) -> Any:
        """0 and 1."""
        return _enumerated(self, 2, self.probs, expand)


def _enumerated(distribution: Distribution, count: int, like: Tensor, expand: bool) -> Any:
    """The whole numbers below ``count`` along a new first axis."""
    shape = tuple(distribution.batch_shape)
    values = ops.reshape(arange(count, dtype=like.dtype, device=like.device), (-1,) + (1,) * len(shape))
    return ops.broadcast_to(values, (count, *shape)) if expand else values


class Geometric(ProbsOrLogits):
    """How many trials fail before one succeeds.

    Attributes:
        probs: that one succeeds.
        logits: its log odds, instead.
    """

    support = constraints.nonnegative_integer

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if "probs" in self.__dict__ and not bool(ops.all(self.probs > 0)):
            raise OptionError(f"Geometric: expected probs above 0, got {self.probs.detach()!r}")

    mean = property(lambda self: 1 / self.probs - 1)
    mode = property(lambda self: ops.zeros_like(self.probs))
    variance = property(lambda self: (1 / self.probs - 1) / self.probs)

    def sample(self, sample_shape: Any = ()) -> Any:
        """⌊log u / log(1 - p)⌋."""
        probs = self.probs.detach()
        u = rand(tuple(self._extended_shape(sample_shape)), dtype=probs.dtype, device=probs.device)
        return ((-u).log1p() / (-probs).log1p()).floor()

    def log_prob(self, value: Tensor) -> Any:
        """x log(1 - p) + log p."""
        value, probs = ops.broadcast_arrays(self._checked(value), self.probs)
        failed = ops.where((probs == 1) & (value == 0), 0.0, probs)
        return value * (-failed).log1p() + self.probs.log()

    def entropy(self) -> Any:
        """The binary entropy over p."""
        return (ops.logaddexp(self.logits, 0.0) - self.probs * self.logits) / self.probs


class Poisson(Elementwise):
    """How many events come in a time in which ``rate`` are expected.

    Attributes:
        rate: the mean.
    """

    parameters = ("rate",)
    arg_constraints: ClassVar[dict[str, Any]] = {"rate": constraints.nonnegative}
    support = constraints.nonnegative_integer
    rate: Tensor

    mean = variance = property(lambda self: self.rate)
    mode = property(lambda self: self.rate.floor())

    def sample(self, sample_shape: Any = ()) -> Any:
        """Counts, in the rate's dtype."""
        shape = tuple(self._extended_shape(sample_shape))
        return drawn_by_host("poisson", ops.broadcast_to(self.rate.detach(), shape))

    def log_prob(self, value: Tensor) -> Any:
        """x log rate - rate - log x!."""
        value = self._checked(value)
        return value.xlogy(self.rate) - self.rate - (value + 1).lgamma()


class Binomial(ProbsOrLogits):
    """How many of ``total_count`` trials succeed.

    Attributes:
        total_count: trials.
        probs: that one succeeds.
        logits: its log odds, instead.
    """

    beside = ("total_count",)
    parameters = ("total_count", "probs", "logits")
    defaults: ClassVar[dict[str, Any]] = {"total_count": 1}
    arg_constraints: ClassVar[dict[str, Any]] = {
        "total_count": constraints.nonnegative_integer,
        **ProbsOrLogits.arg_constraints,
    }
    has_enumerate_support = True
    total_count: Tensor

    mean = property(lambda self: self.total_count * self.probs)
    variance = property(lambda self: self.mean * (1 - self.probs))

    @property
    def mode(self) -> Any:
        """⌊(n + 1) p⌋."""
        return ((self.total_count + 1) * self.probs).floor().clamp(max=self.total_count)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> Any:
        """From 0 to the number of trials."""
        return constraints.integer_interval(0, self.total_count)

    def sample(self, sample_shape: Any = ()) -> Any:
        """Counts, in the probability's dtype."""
        shape = tuple(self._extended_shape(sample_shape))
        probs = ops.broadcast_to(self.probs.detach(), shape)
        return drawn_by_host("binomial", ops.broadcast_to(self.total_count, shape), probs).to(probs.dtype)

    def log_prob(self, value: Tensor) -> Any:
        """log(n over x) + x log p + (n - x) log(1 - p), from the log odds."""
        value, n = self._checked(value), self.total_count
        return _log_choose(n, value) + value * self.logits - n * ops.logaddexp(self.logits, 0.0)

    def entropy(self) -> Any:
        """Summed over all values."""
        log_prob = self.log_prob(self.enumerate_support(False))
        return -ops.sum(log_prob.exp() * log_prob, axis=0)

    def enumerate_support(self, expand: bool = True) -> Any:
        """0 … total_count, which must be the same everywhere."""
        most = int(self.total_count.max().item())
        if int(self.total_count.min().item()) != most:
            raise OptionError("Binomial.enumerate_support: expected one total_count, got several")
        return _enumerated(self, most + 1, self.probs, expand)


class NegativeBinomial(ProbsOrLogits):
    """How many trials succeed before ``total_count`` fail.

    Attributes:
        total_count: failures.
        probs: that one succeeds.
        logits: its log odds, instead.
    """

    beside = ("total_count",)
    parameters = ("total_count", "probs", "logits")
    arg_constraints: ClassVar[dict[str, Any]] = {
        "total_count": constraints.greater_than_eq(0),
        "probs": constraints.half_open_interval(0.0, 1.0),
        "logits": constraints.real,
    }
    support = constraints.nonnegative_integer
    total_count: Tensor

    mean = property(lambda self: self.total_count * self.logits.exp())
    variance = property(lambda self: self.mean / ops.sigmoid(-self.logits))

    @property
    def mode(self) -> Any:
        """⌊(n - 1) p / (1 - p)⌋."""
        return ((self.total_count - 1) * self.logits.exp()).floor().clamp(min=0.0)

    def sample(self, sample_shape: Any = ()) -> Any:
        """Counts: of a Poisson distribution whose rate is a gamma number."""
        shape = tuple(self._extended_shape(sample_shape))
        rate = drawn_by_host("standard_gamma", ops.broadcast_to(self.total_count.detach(), shape))
        return drawn_by_host("poisson", rate * self.logits.detach().exp())

    def log_prob(self, value: Tensor) -> Any:
        """The logarithm of the probability."""
        value, n = self._checked(value), self.total_count
        likelihood = -n * ops.logaddexp(self.logits, 0.0) - value * ops.logaddexp(-self.logits, 0.0)
        none = n + value == 0  # sure, where Γ(0) is infinite
        kept = ops.where(none, 1.0, n)
        return likelihood + ops.where(
            none, 0.0, (kept + value).lgamma() - (1 + value).lgamma() - kept.lgamma()
        )


class CategoryWeights(Distribution):
    """What distributions over k categories share; not a kind of its own, so none is a kind of another."""

    arg_constraints: ClassVar[dict[str, Any]] = {
        "probs": constraints.simplex,
        "logits": constraints.real_vector,
    }
    _event_axes = 1

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None) -> None:
        if (probs is None) == (logits is None):
            raise OptionError(f"{type(self).__name__}: expected probs or logits, and not both")
        given = logits if probs is None else probs
        if given.ndim < 1:
            raise ShapeError(f"{type(self).__name__}: expected [..., k], got a single number")
        if probs is not None:
            self.probs = probs / ops.sum(probs, axis=-1, keepdims=True)
        else:
            self.logits = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
        shape = tuple(given.shape)
        super().__init__(shape[:-1], shape[-1:] * self._event_axes, validate_args)

    @cached_property
    def logits(self) -> Any:
        """Logarithms of the probabilities."""
        return probs_to_logits(self.probs)

    @cached_property
    def probs(self) -> Any:
        """Probabilities."""
        return logits_to_probs(self.logits)

    @property
    def _num_events(self) -> int:
        return int(self.param_shape[-1])

    @property
    def param_shape(self) -> Shape:
        """The shape of the parameter."""
        return Shape(self.__dict__["probs" if "probs" in self.__dict__ else "logits"].shape)

    def _drawn(self, sample_shape: Any) -> Any:
        rows = ops.reshape(self.probs.detach(), (-1, self._num_events))
        found = multinomial(rows, math.prod(sample_shape), replacement=True)
        return ops.reshape(found.T, (*sample_shape, *self.batch_shape))

    def _entropy_of_one(self) -> Any:
        logits = self.logits.clamp(min=float(np.finfo(self.logits.dtype).min))
        return -ops.sum(logits * self.probs, axis=-1)


class Categorical(CategoryWeights):
    """One of k categories, by its number.

    Args:
        probs: weights of the categories along the last axis; they are made to sum to 1.
        logits: their logarithms, up to a constant, instead.
    """

    has_enumerate_support = True
    _event_axes = 0

    mean = variance = property(lambda self: ops.full_like(ops.sum(self.probs, axis=-1).detach(), math.nan))
    mode = property(lambda self: ops.argmax(self.probs, axis=-1))

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> Any:
        """The categories' numbers."""
        return constraints.integer_interval(0, self._num_events - 1)

    def sample(self, sample_shape: Any = ()) -> Any:
        """Numbers of categories, int64."""
        return self._drawn(tuple(sample_shape))

    def log_prob(self, value: Tensor) -> Any:
        """The logarithm of the category's probability."""
        index = ops.expand_dims(ops.astype(self._checked(value), np.int64), axis=-1)
        shape = np.broadcast_shapes(index.shape[:-1], self.logits.shape[:-1])
        logits = ops.broadcast_to(self.logits, (*shape, self._num_events))
        index = ops.broadcast_to(index, (*shape, 1))
        return ops.squeeze(ops.take_along_axis(logits, index, axis=-1), axis=-1)

    def entropy(self) -> Any:
        """-Σ p log p."""
        return self._entropy_of_one()

    def enumerate_support(self, expand: bool = True) -> Any:
        """All categories."""
        return ops.astype(_enumerated(self, self._num_events, self.probs, expand), np.int64)


class OneHotCategorical(CategoryWeights):
    """One of k categories, as a row of one 1 and zeros; arguments as in :class:`Categorical`."""

    has_enumerate_support = True
    support = constraints.one_hot

    mean = property(lambda self: self.probs)
    variance = property(lambda self: self.probs * (1 - self.probs))

    def _rows(self, index: Any) -> Any:
        like = self.probs
        return eye(self._num_events, dtype=like.dtype, device=like.device)[index]

    mode = property(lambda self: self._rows(ops.argmax(self.probs, axis=-1)))

    def sample(self, sample_shape: Any = ()) -> Any:
        """Rows in the probabilities' dtype."""
        return self._rows(self._drawn(tuple(sample_shape)))

    def log_prob(self, value: Tensor) -> Any:
        """The logarithm of the category's probability."""
        value = self._checked(value)
        value, logits = ops.broadcast_arrays(value, self.logits)
        return ops.squeeze(
            ops.take_along_axis(logits, ops.argmax(value, axis=-1, keepdims=True), axis=-1), axis=-1
        )

    def entropy(self) -> Any:
        """-Σ p log p."""
        return self._entropy_of_one()

    def enumerate_support(self, expand: bool = True) -> Any:
        """All rows."""
        n, batch = self._num_events, tuple(self.batch_shape)
        rows = ops.reshape(self._rows(arange(n)), (n, *(1,) * len(batch), n))
        return ops.broadcast_to(rows, (n, *batch, n)) if expand else rows


class OneHotCategoricalStraightThrough(OneHotCategorical):
    """The same, whose samples hand their gradients to the probabilities as they are.

    Source: Bengio, Léonard, Courville, 2013.
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Any:
        """Rows, plus the probabilities minus themselves."""
        return self.sample(sample_shape) + (self.probs - self.probs.detach())


class Multinomial(CategoryWeights):
    """How often each of k categories comes up in ``total_count`` draws.

    Args:
        total_count: draws.
        probs, logits: as in :class:`Categorical`.
    """

    def __init__(
        self, total_count: int = 1, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        if not isinstance(total_count, int):
            raise OptionError(f"Multinomial: expected one total_count, got {total_count!r}")
        self.total_count = total_count
        super().__init__(probs, logits, validate_args)

    mean = property(lambda self: self.probs * self.total_count)
    variance = property(lambda self: self.mean * (1 - self.probs))

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """Counts that sum to the number of draws."""
        return constraints.multinomial(self.total_count)

    def sample(self, sample_shape: Any = ()) -> Any:
        """Counts in the probabilities' dtype."""
        shape = tuple(self._extended_shape(sample_shape))
        index = self._drawn((self.total_count, *sample_shape))
        counts = ops.zeros(shape, dtype=self.probs.dtype)
        index = ops.moveaxis(index, 0, -1)
        return ops.scatter_add(counts, -1, index, ops.ones(index.shape, dtype=counts.dtype))

    def log_prob(self, value: Tensor) -> Any:
        """log n! - Σ log x! + Σ x log p."""
        value, logits = ops.broadcast_arrays(self._checked(value), self.logits)
        logits = ops.where((value == 0) & (logits == -math.inf), 0.0, logits)
        n = ops.sum(value, axis=-1)
        return (n + 1).lgamma() - ops.sum((value + 1).lgamma(), axis=-1) + ops.sum(logits * value, axis=-1)

    def entropy(self) -> Any:
        """Summed over the counts of each category, which are binomial."""
        n = self.total_count
        counts = ops.reshape(
            arange(1, n + 1, dtype=self.probs.dtype), (-1,) + (1,) * (len(self.batch_shape) + 1)
        )
        chances = Binomial(n, probs=self.probs).log_prob(counts).exp()
        weighted = ops.sum(chances * (counts + 1).lgamma(), axis=(0, -1))
        return n * self._entropy_of_one() - math.lgamma(n + 1) + weighted
