"""Maps from all real numbers to a set: PyTorch's ``torch.distributions.constraint_registry``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from distgrad.torch.probability import constraints
from distgrad.torch.probability.distribution import lacking
from distgrad.torch.probability.transform import (
    ComposeTransform,
    IndependentTransform,
    Transform,
    identity_transform,
)
from distgrad.torch.probability.transforms import (
    AffineTransform,
    ExpTransform,
    LowerCholeskyTransform,
    SigmoidTransform,
    SoftmaxTransform,
    StickBreakingTransform,
)

__all__ = ["ConstraintRegistry", "biject_to", "transform_to"]

_Make = Callable[[Any], Transform]


class ConstraintRegistry:
    """For kinds of sets the makers of maps onto them."""

    def __init__(self) -> None:
        self._makers: dict[Any, _Make] = {}

    def register(self, constraint: Any, factory: _Make | None = None) -> Any:
        """Let a kind of sets have a maker.

        Args:
            constraint: a set, which stands for its class, or a class of sets.
            factory: makes of a set of this class the map; None makes a decorator.
        """
        if factory is None:
            return lambda each: self.register(constraint, each)
        if not isinstance(_kind(constraint), type | constraints.Constraint):
            raise TypeError(f"register: expected a constraint or a class of them, got {constraint!r}")
        self._makers[_kind(constraint)] = factory
        return factory

    def __call__(self, constraint: Any) -> Transform:
        """The map onto a set.

        Raises:
            NotImplementedError: no maker is registered for its kind.
        """
        make = self._makers.get(_kind(constraint))
        if make is None:
            raise lacking("transform_to", f"no map onto {constraint!r}; register one for its class")
        return make(constraint)


def _kind(constraint: Any) -> Any:
    """The class; of a set that has none of its own the set."""
    return constraint if type(constraint) in (type, constraints.Constraint) else type(constraint)


#: Maps that are one to one, and those that need not be.
biject_to, transform_to = ConstraintRegistry(), ConstraintRegistry()


def _above(constraint: Any) -> Transform:
    return ComposeTransform([ExpTransform(), AffineTransform(constraint.lower_bound, 1)])


def _below(constraint: Any) -> Transform:
    return ComposeTransform([ExpTransform(), AffineTransform(constraint.upper_bound, -1)])


def _between(constraint: Any) -> Transform:
    lower, upper = constraint.lower_bound, constraint.upper_bound
    if isinstance(lower, int | float) and isinstance(upper, int | float) and (lower, upper) == (0, 1):
        return SigmoidTransform()
    return ComposeTransform([SigmoidTransform(), AffineTransform(lower, upper - lower)])


def _rows(registry: ConstraintRegistry, constraint: Any) -> Transform:
    return IndependentTransform(registry(constraint.base_constraint), constraint.reinterpreted_batch_ndims)


for _registry in (biject_to, transform_to):
    _registry.register(constraints.real, lambda _: identity_transform)
    _registry.register(constraints.greater_than, _above)
    _registry.register(constraints.greater_than_eq, _above)
    _registry.register(constraints.less_than, _below)
    _registry.register(constraints.interval, _between)
    _registry.register(constraints.half_open_interval, _between)
    _registry.register(constraints.lower_cholesky, lambda _: LowerCholeskyTransform())
    _registry.register(constraints.independent, partial(_rows, _registry))
biject_to.register(constraints.simplex, lambda _: StickBreakingTransform())
transform_to.register(constraints.simplex, lambda _: SoftmaxTransform())
