"""Which numbers parameters and samples may be: PyTorch's ``torch.distributions.constraints``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor

__all__ = [
    "Constraint", "boolean", "cat", "corr_cholesky", "dependent", "dependent_property", "greater_than",
    "greater_than_eq", "half_open_interval", "independent", "integer_interval", "interval", "is_dependent",
    "less_than", "lower_cholesky", "lower_triangular", "multinomial", "nonnegative", "nonnegative_integer",
    "one_hot", "positive", "positive_definite", "positive_integer", "positive_semidefinite", "real",
    "real_vector", "simplex", "square", "symmetric", "unit_interval",
]  # fmt: skip


class Constraint:
    """A set of numbers.

    Args:
        name: how it is shown.
        test: from a tensor to bools, one for each element or, with ``event_dim``, for each of its rows;
            subclasses write ``check`` instead.
        is_discrete: whether it has whole numbers alone.
        event_dim: how many of the last axes make one element.
    """

    def __init__(
        self,
        name: str = "",
        test: Callable[[Tensor], Any] = bool,
        *,
        is_discrete: bool = False,
        event_dim: int = 0,
    ) -> None:
        self._name, self._test = name or type(self).__name__, test
        self.is_discrete, self.event_dim = is_discrete, event_dim

    def check(self, value: Tensor) -> Any:
        """Whether each element of ``value`` is in the set, as bools."""
        return self._test(value)

    def __repr__(self) -> str:
        return self._name


class _Dependent(Constraint):
    """What depends on the parameters, and is looked up on an instance."""

    def __call__(self, *, is_discrete: bool = False, event_dim: int = 0) -> _Dependent:
        return _Dependent("Dependent()", is_discrete=is_discrete, event_dim=event_dim)

    def check(self, value: Tensor) -> Any:
        """Not known without an instance."""
        raise ValueError("constraints.dependent: the set is known on an instance of the distribution only")


class dependent_property(property, Constraint):
    """A property that gives a constraint; looked up on the class it is one that depends."""

    def __init__(self, fn: Any = None, *, is_discrete: bool = False, event_dim: int = 0) -> None:
        property.__init__(self, fn)
        Constraint.__init__(self, "Dependent()", is_discrete=is_discrete, event_dim=event_dim)

    def __call__(self, fn: Any) -> dependent_property:
        return dependent_property(fn, is_discrete=self.is_discrete, event_dim=self.event_dim)


def is_dependent(constraint: Any) -> bool:
    """Whether the set is known on an instance only."""
    return isinstance(constraint, _Dependent | dependent_property)


class _Limits(Constraint):
    """Numbers between limits; either can be a tensor."""

    def __init__(self, lower_bound: Any = None, upper_bound: Any = None, **options: Any) -> None:
        self.lower_bound, self.upper_bound = lower_bound, upper_bound
        super().__init__(type(self).__name__, **options)

    def __repr__(self) -> str:
        bounds = {"lower_bound": self.lower_bound, "upper_bound": self.upper_bound}
        given = ", ".join(f"{name}={bound}" for name, bound in bounds.items() if bound is not None)
        return f"{self._name}({given})"


class interval(_Limits):
    """From one number to another, both in it."""

    def check(self, value: Tensor) -> Any:
        """Whether each element lies there."""
        return (value >= self.lower_bound) & (value <= self.upper_bound)


class half_open_interval(interval):
    """From one number, in it, to another, not in it."""

    def check(self, value: Tensor) -> Any:
        """Whether each element lies there."""
        return (value >= self.lower_bound) & (value < self.upper_bound)


class greater_than(_Limits):
    """Above a number."""

    def check(self, value: Tensor) -> Any:
        """Whether each element lies there."""
        return value > self.lower_bound


class greater_than_eq(_Limits):
    """From a number on."""

    def check(self, value: Tensor) -> Any:
        """Whether each element lies there."""
        return value >= self.lower_bound


class less_than(_Limits):
    """Below a number."""

    def __init__(self, upper_bound: Any) -> None:
        super().__init__(None, upper_bound)

    def check(self, value: Tensor) -> Any:
        """Whether each element lies there."""
        return value < self.upper_bound


class integer_interval(interval):
    """Whole numbers from one to another, both in it."""

    def __init__(self, lower_bound: Any, upper_bound: Any) -> None:
        super().__init__(lower_bound, upper_bound, is_discrete=True)

    def check(self, value: Tensor) -> Any:
        """Whether each element lies there."""
        return (value % 1 == 0) & super().check(value)


class _IntegersFrom(greater_than_eq):
    def __init__(self, lower_bound: Any) -> None:
        super().__init__(lower_bound, is_discrete=True)

    def check(self, value: Tensor) -> Any:
        """Whether each element lies there."""
        return (value % 1 == 0) & super().check(value)


class multinomial(Constraint):
    """Counts that sum to at most a number."""

    def __init__(self, upper_bound: Any) -> None:
        super().__init__("Multinomial()", is_discrete=True, event_dim=1)
        self.upper_bound = upper_bound

    def check(self, value: Tensor) -> Any:
        """Whether each row is such counts."""
        return ops.all(value >= 0, axis=-1) & (ops.sum(value, axis=-1) <= self.upper_bound)


class independent(Constraint):
    """Elements of another set, with more axes to an element."""

    def __init__(self, base_constraint: Constraint, reinterpreted_batch_ndims: int) -> None:
        self.base_constraint = base_constraint
        self.reinterpreted_batch_ndims = reinterpreted_batch_ndims
        super().__init__(
            f"IndependentConstraint({base_constraint}, {reinterpreted_batch_ndims})",
            is_discrete=base_constraint.is_discrete,
            event_dim=base_constraint.event_dim + reinterpreted_batch_ndims,
        )

    def check(self, value: Tensor) -> Any:
        """Whether all elements that make one are in the set."""
        inside = self.base_constraint.check(value)
        last = tuple(range(inside.ndim - self.reinterpreted_batch_ndims, inside.ndim))
        return ops.all(inside, axis=last) if last else inside


class cat(Constraint):
    """Several sets side by side along an axis."""

    def __init__(self, cseq: Any, dim: int = 0, lengths: Any = None) -> None:
        self.cseq, self.dim = list(cseq), dim
        self.lengths = list(lengths) if lengths is not None else [1] * len(self.cseq)
        super().__init__("Cat()", event_dim=max(each.event_dim for each in self.cseq))

    def check(self, value: Tensor) -> Any:
        """Whether each part is in its set."""
        parts = ops.split(value, self.lengths, axis=self.dim)
        found = [each.check(part) for each, part in zip(self.cseq, parts, strict=True)]
        return ops.concat(found, axis=self.dim)


def _is_simplex(x: Tensor) -> Any:
    return ops.all(x >= 0, axis=-1) & (ops.abs(ops.sum(x, axis=-1) - 1) < 1e-6)


def _is_one_hot(x: Tensor) -> Any:
    return ops.all((x == 0) | (x == 1), axis=-1) & (ops.sum(x, axis=-1) == 1)


def _is_lower(x: Tensor) -> Any:
    return ops.all(ops.tril(x) == x, axis=(-2, -1))


def _is_cholesky(x: Tensor) -> Any:
    return _is_lower(x) & ops.all(_diagonal(x) > 0, axis=-1)


def _diagonal(x: Tensor) -> Any:
    return x.diagonal(dim1=-2, dim2=-1)


def _is_symmetric(x: Tensor) -> Any:
    turned = ops.matrix_transpose(x)
    return ops.all(ops.abs(x - turned) <= 1e-6 + 1e-5 * ops.abs(turned), axis=(-2, -1))


def _is_definite(x: Tensor) -> Any:
    return _is_symmetric(x) & ops.all(ops.eigvalsh(x.detach()) > 0, axis=-1)


def _is_semidefinite(x: Tensor) -> Any:
    return _is_symmetric(x) & ops.all(ops.eigvalsh(x.detach()) >= 0, axis=-1)


def _has_unit_rows(x: Tensor) -> Any:
    return _is_cholesky(x) & ops.all(ops.abs(ops.sum(x * x, axis=-1) - 1) < 1e-4, axis=-1)


dependent = _Dependent("Dependent()")
boolean = Constraint("Boolean()", lambda x: (x == 0) | (x == 1), is_discrete=True)
real = Constraint("Real()", lambda x: x == x)
positive = greater_than(0.0)
nonnegative = greater_than_eq(0.0)
unit_interval = interval(0.0, 1.0)
nonnegative_integer, positive_integer = _IntegersFrom(0), _IntegersFrom(1)
real_vector = independent(real, 1)
simplex = Constraint("Simplex()", _is_simplex, event_dim=1)
one_hot = Constraint("OneHot()", _is_one_hot, is_discrete=True, event_dim=1)
square = Constraint("Square()", lambda x: x.shape[-1] == x.shape[-2], event_dim=2)
lower_triangular = Constraint("LowerTriangular()", _is_lower, event_dim=2)
lower_cholesky = Constraint("LowerCholesky()", _is_cholesky, event_dim=2)
corr_cholesky = Constraint("CorrCholesky()", _has_unit_rows, event_dim=2)
symmetric = Constraint("Symmetric()", _is_symmetric, event_dim=2)
positive_definite = Constraint("PositiveDefinite()", _is_definite, event_dim=2)
positive_semidefinite = Constraint("PositiveSemidefinite()", _is_semidefinite, event_dim=2)
