"""Distributions made of other distributions."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.torch.probability import constraints
from distgrad.torch.probability.continuous import Cauchy, Exponential, Normal
from distgrad.torch.probability.discrete import Categorical
from distgrad.torch.probability.distribution import (
    Distribution,
    broadcast_all,
)
from distgrad.torch.probability.transform import ComposeTransform, Transform, last_summed
from distgrad.torch.probability.transforms import (
    AbsTransform,
    AffineTransform,
    ExpTransform,
    PowerTransform,
)

__all__ = [
    "HalfCauchy", "HalfNormal", "Independent", "LogNormal",
    "MixtureSameFamily", "Pareto", "TransformedDistribution",
    "Weibull",
]  # fmt: skip


class Independent(Distribution):
    """A distribution whose last batch axes are part of the sample.

    Args:
        base_distribution: the distribution.
        reinterpreted_batch_ndims: how many axes.
    """

    def __init__(
        self,
        base_distribution: Distribution,
        reinterpreted_batch_ndims: int,
        validate_args: bool | None = None,
    ) -> None:
        count, batch = reinterpreted_batch_ndims, tuple(base_distribution.batch_shape)
        if count > len(batch):
            raise ShapeError(f"Independent: expected at most {len(batch)} batch axes, got {count}")
        self.base_dist, self.reinterpreted_batch_ndims = base_distribution, count
        self.has_rsample = base_distribution.has_rsample
        cut = len(batch) - count
        super().__init__(batch[:cut], (*batch[cut:], *base_distribution.event_shape), validate_args)

    @property
    def support(self) -> Any:
        """The base's, with more axes."""
        count = self.reinterpreted_batch_ndims
        return constraints.independent(self.base_dist.support, count) if count else self.base_dist.support

    mean = property(lambda self: self.base_dist.mean)
    mode = property(lambda self: self.base_dist.mode)
    variance = property(lambda self: self.base_dist.variance)

    def sample(self, sample_shape: Any = ()) -> Any:
        """The base's."""
        return self.base_dist.sample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Any:
        """The base's."""
        return self.base_dist.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Any:
        """Summed over those axes."""
        return last_summed(self.base_dist.log_prob(value), self.reinterpreted_batch_ndims)

    def entropy(self) -> Any:
        """Summed over those axes."""
        return last_summed(self.base_dist.entropy(), self.reinterpreted_batch_ndims)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same with other batch axes."""
        inner = tuple(self.event_shape)[: self.reinterpreted_batch_ndims]
        return Independent(self.base_dist.expand((*batch_shape, *inner)), self.reinterpreted_batch_ndims)

    def __repr__(self) -> str:
        return f"Independent({self.base_dist}, {self.reinterpreted_batch_ndims})"


class TransformedDistribution(Distribution):
    """The distribution of what a map makes of another's samples.

    Args:
        base_distribution: what is mapped.
        transforms: the maps, the first first.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        base_distribution: Distribution,
        transforms: Any,
        validate_args: bool | None = None,
    ) -> None:
        self.transforms = [transforms] if isinstance(transforms, Transform) else list(transforms)
        if not all(isinstance(each, Transform) for each in self.transforms):
            raise OptionError(f"TransformedDistribution: expected transforms, got {transforms!r}")
        whole = ComposeTransform(self.transforms)
        given = (*base_distribution.batch_shape, *base_distribution.event_shape)
        base_event, wanted = len(base_distribution.event_shape), whole.domain.event_dim
        if len(given) < wanted:
            raise ShapeError(
                f"TransformedDistribution: expected a base_distribution of at least {wanted} axes for the "
                f"transforms, got batch and event axes {list(given)}"
            )
        shape = tuple(whole.forward_shape(given))
        spread = tuple(whole.inverse_shape(shape))
        if spread != given:
            base_distribution = base_distribution.expand(spread[: len(spread) - base_event])
        if wanted > base_event:
            base_distribution = Independent(base_distribution, wanted - base_event)
        count = max(whole.codomain.event_dim, base_event + whole.codomain.event_dim - wanted)
        self.base_dist, self.has_rsample = base_distribution, base_distribution.has_rsample
        super().__init__(shape[: len(shape) - count], shape[len(shape) - count :], validate_args)

    @property
    def support(self) -> Any:
        """What the last map gives."""
        if not self.transforms:
            return self.base_dist.support
        found = self.transforms[-1].codomain
        more = len(self.event_shape) - found.event_dim
        return constraints.independent(found, more) if more > 0 else found

    def sample(self, sample_shape: Any = ()) -> Any:
        """Mapped, without a gradient."""
        x = self.base_dist.sample(sample_shape)
        for transform in self.transforms:
            x = transform(x)
        return x.detach()

    def rsample(self, sample_shape: Any = ()) -> Any:
        """Mapped."""
        x = self.base_dist.rsample(sample_shape)
        for transform in self.transforms:
            x = transform(x)
        return x

    def log_prob(self, value: Tensor) -> Any:
        """The base's at what the value came from, less the maps' derivatives."""
        count = len(self.event_shape)
        y, total = self._checked(value), 0.0
        for transform in reversed(self.transforms):
            x = transform._inv_call(y)
            count += transform.domain.event_dim - transform.codomain.event_dim
            more = count - transform.domain.event_dim
            total = total - last_summed(transform.log_abs_det_jacobian(x, y), more)
            y = x
        more = count - len(self.base_dist.event_shape)
        return total + last_summed(self.base_dist.log_prob(y), more)

    def _turned(self, value: Any) -> Any:
        sign = ComposeTransform(self.transforms).sign
        return value if isinstance(sign, int | float) and sign == 1 else sign * (value - 0.5) + 0.5

    def cdf(self, value: Tensor) -> Any:
        """The base's at what the value came from."""
        y = self._checked(value)
        for transform in reversed(self.transforms):
            y = transform._inv_call(y)
        return self._turned(self.base_dist.cdf(y))

    def icdf(self, value: Tensor) -> Any:
        """The base's, mapped."""
        x = self.base_dist.icdf(self._turned(value))
        for transform in self.transforms:
            x = transform(x)
        return x

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same with other batch axes."""
        inverse = ComposeTransform(self.transforms).inverse_shape((*batch_shape, *self.event_shape))
        batch = tuple(inverse)[: len(inverse) - len(self.base_dist.event_shape)]
        out = super().expand(batch_shape)
        out.base_dist = self.base_dist.expand(batch)
        return out


class LogNormal(TransformedDistribution):
    """exp of a normal number.

    Args:
        loc, scale: mean and standard deviation of the logarithm.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.positive

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        super().__init__(Normal(loc, scale, validate_args=validate_args), ExpTransform(), validate_args)

    loc = property(lambda self: self.base_dist.loc)
    scale = property(lambda self: self.base_dist.scale)
    mean = property(lambda self: (self.loc + self.scale**2 / 2).exp())
    mode = property(lambda self: (self.loc - self.scale**2).exp())
    variance = property(lambda self: (self.scale**2).expm1() * (2 * self.loc + self.scale**2).exp())

    def entropy(self) -> Any:
        """The normal one's + loc."""
        return self.base_dist.entropy() + self.loc


class _Half(TransformedDistribution):
    """The absolute value of a distribution around 0."""

    arg_constraints: ClassVar[dict[str, Any]] = {"scale": constraints.positive}
    support = constraints.nonnegative
    _base: Any = Normal

    def __init__(self, scale: Any, validate_args: bool | None = None) -> None:
        base = self._base(0.0, scale, validate_args=False)
        super().__init__(base, [AbsTransform()], validate_args)

    scale = property(lambda self: self.base_dist.scale)
    mode = property(lambda self: ops.zeros_like(self.scale))

    def sample(self, sample_shape: Any = ()) -> Any:
        """Without a gradient."""
        return self.base_dist.sample(sample_shape).abs()

    def rsample(self, sample_shape: Any = ()) -> Any:
        """The absolute value."""
        return self.base_dist.rsample(sample_shape).abs()

    def log_prob(self, value: Tensor) -> Any:
        """The base's + log 2, -∞ below 0."""
        value = self._checked(value)
        return ops.where(value >= 0, self.base_dist.log_prob(value) + math.log(2), -math.inf)

    def cdf(self, value: Tensor) -> Any:
        """2 F(x) - 1."""
        return 2 * self.base_dist.cdf(self._checked(value)) - 1

    def icdf(self, value: Tensor) -> Any:
        """The base's at (p + 1) / 2."""
        return self.base_dist.icdf((value + 1) / 2)

    def entropy(self) -> Any:
        """The base's - log 2."""
        return self.base_dist.entropy() - math.log(2)


class HalfNormal(_Half):
    """The absolute value of a normal number of mean 0.

    Args:
        scale: its standard deviation.
    """

    mean = property(lambda self: self.scale * math.sqrt(2 / math.pi))
    variance = property(lambda self: self.scale**2 * (1 - 2 / math.pi))


class HalfCauchy(_Half):
    """The absolute value of a Cauchy number of median 0.

    Args:
        scale: half its width at half the height.
    """

    _base = Cauchy
    mean = property(lambda self: ops.full_like(self.scale, math.inf))
    variance = property(lambda self: self.base_dist.variance)


class Pareto(TransformedDistribution):
    """A power law above a number.

    Args:
        scale: the smallest value.
        alpha: the power.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"scale": constraints.positive, "alpha": constraints.positive}

    def __init__(self, scale: Any, alpha: Any, validate_args: bool | None = None) -> None:
        self.scale, self.alpha = broadcast_all(scale, alpha)
        base = Exponential(self.alpha, validate_args=validate_args)
        super().__init__(base, [ExpTransform(), AffineTransform(0, self.scale)], validate_args)

    @property
    def mean(self) -> Any:
        """a scale / (a - 1), ∞ up to a = 1."""
        a = self.alpha.clamp(min=1)
        return a * self.scale / (a - 1)

    mode = property(lambda self: self.scale)

    @property
    def variance(self) -> Any:
        """scale² a / ((a - 1)² (a - 2)), ∞ up to a = 2."""
        a = self.alpha.clamp(min=2)
        return self.scale**2 * a / ((a - 1) ** 2 * (a - 2))

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        """From scale on."""
        return constraints.greater_than_eq(self.scale.detach())

    def entropy(self) -> Any:
        """log(scale / a) + 1 + 1 / a."""
        return (self.scale / self.alpha).log() + (1 + self.alpha.reciprocal())


class Weibull(TransformedDistribution):
    """A power of an exponential number.

    Args:
        scale: what it is multiplied with.
        concentration: one over the power.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "scale": constraints.positive,
        "concentration": constraints.positive,
    }
    support = constraints.positive

    def __init__(self, scale: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self.scale, self.concentration = broadcast_all(scale, concentration)
        self.concentration_reciprocal = self.concentration.reciprocal()
        base = Exponential(ops.ones_like(self.scale.detach()), validate_args=validate_args)
        power = PowerTransform(exponent=self.concentration_reciprocal)
        super().__init__(base, [power, AffineTransform(0, self.scale)], validate_args)

    @property
    def mean(self) -> Any:
        """scale Γ(1 + 1 / k)."""
        return self.scale * (1 + self.concentration_reciprocal).lgamma().exp()

    @property
    def mode(self) -> Any:
        """scale ((k - 1) / k)^(1 / k)."""
        k = self.concentration
        return self.scale * ((k - 1) / k) ** k.reciprocal()

    @property
    def variance(self) -> Any:
        """scale² (Γ(1 + 2 / k) - Γ(1 + 1 / k)²)."""
        back = self.concentration_reciprocal
        return self.scale**2 * ((1 + 2 * back).lgamma().exp() - (2 * (1 + back).lgamma()).exp())

    def entropy(self) -> Any:
        """γ (1 - 1 / k) + log(scale / k) + 1."""
        back = self.concentration_reciprocal
        return 0.57721566490153286061 * (1 - back) + (self.scale * back).log() + 1


class MixtureSameFamily(Distribution):
    """One of several distributions of a kind, chosen by chance.

    Args:
        mixture_distribution: a Categorical over the components.
        component_distribution: its last batch axis counts the components.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        mixture_distribution: Categorical,
        component_distribution: Distribution,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(mixture_distribution, Categorical):
            raise OptionError(
                "MixtureSameFamily: expected a Categorical as mixture_distribution, "
                f"got {mixture_distribution!r}"
            )
        self._mixture, self._component = mixture_distribution, component_distribution
        batch = Shape(tuple(component_distribution.batch_shape)[:-1])
        self._axes = len(component_distribution.event_shape)
        super().__init__(batch, component_distribution.event_shape, validate_args)

    mixture_distribution = property(lambda self: self._mixture)
    component_distribution = property(lambda self: self._component)

    @property
    def support(self) -> Any:
        """The components'."""
        return self._component.support

    def _chances(self) -> Any:
        """The components' probabilities, spread over an event's axes."""
        probs = self._mixture.probs
        return ops.reshape(probs, (*probs.shape, *(1,) * self._axes))

    @property
    def mean(self) -> Any:
        """Σ p mean."""
        return ops.sum(self._chances() * self._component.mean, axis=-1 - self._axes)

    @property
    def variance(self) -> Any:
        """The mean variance + the variance of the means."""
        inside = ops.sum(self._chances() * self._component.variance, axis=-1 - self._axes)
        off = self._component.mean - ops.expand_dims(self.mean, axis=-1 - self._axes)
        return inside + ops.sum(self._chances() * off**2, axis=-1 - self._axes)

    def log_prob(self, value: Tensor) -> Any:
        """log Σ p density."""
        value = ops.expand_dims(self._checked(value), axis=value.ndim - self._axes)
        scores = self._component.log_prob(value) + ops.log_softmax(self._mixture.logits, axis=-1)
        return ops.logsumexp(scores, axis=-1)

    def cdf(self, value: Tensor) -> Any:
        """Σ p F."""
        value = ops.expand_dims(self._checked(value), axis=value.ndim - self._axes)
        return ops.sum(self._component.cdf(value) * self._mixture.probs, axis=-1)

    def sample(self, sample_shape: Any = ()) -> Any:
        """Of the component that was drawn."""
        chosen, drawn = self._mixture.sample(sample_shape), self._component.sample(sample_shape)
        place = len(sample_shape) + len(self.batch_shape)
        index = ops.reshape(chosen, (*chosen.shape, *(1,) * (self._axes + 1)))
        index = ops.broadcast_to(index, (*drawn.shape[:place], 1, *drawn.shape[place + 1 :]))
        return ops.squeeze(ops.take_along_axis(drawn, index, axis=place), axis=place)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same with other batch axes."""
        out = super().expand(batch_shape)
        out._mixture = self._mixture.expand(batch_shape)
        out._component = self._component.expand((*batch_shape, self._component.batch_shape[-1]))
        return out
