"""Operations made of other operations.

A composite's formula is written like a primitive's, against ``xp``, but it calls only operators and functions
that have gradients of their own, so that it needs none. On tensors ``xp`` is the Tensor namespace, and the
graph holds the operations inside; on arrays (in other formulas and gradients) it is the backend::

    @composite(math="y = x1 x2ᵀ", samples=[Sample(((3, 4), (2, 4)))])
    def outer_rows(xp, x1, x2, /):
        return xp.matmul(x1, xp.matrix_transpose(x2))

It stands in the registry beside the primitives, with the same record: samples, rejections, reference.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, cast

import numpy as np

from distgrad.autograd.casting import ACTIVE, POLICY, cast_inputs, result_dtype
from distgrad.autograd.dispatch import Operation, namespace, namespaces, tensor_namespace, wrong_dtype
from distgrad.autograd.porting import wrong_arguments
from distgrad.autograd.primitive import DTYPE_CHARS, REGISTRY, Primitive, Reject, Sample
from distgrad.autograd.tensor import Tensor, constant
from distgrad.backend.namespace import add_formula

__all__ = ["Composite", "composite"]

P = ParamSpec("P")


@dataclass
class Composite(Primitive):
    """The record of a composite; its samples' ``args`` are all positional arguments, arrays or not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variadic:  # its arguments are plain ones, not one sequence
            self.inputs, self.variadic = (), False

    @property
    def differentiable(self) -> bool:
        """Yes: through the operations that it is made of."""
        return True


def composite(
    *,
    math: str,
    source: str = "",
    shape: Callable[..., Any] | None = None,
    dtypes: str = "all",
    result: str = "promote",
    domain: tuple[float, float] | None = None,
    samples: Sequence[Sample] = (),
    rejects: Sequence[Reject] = (),
) -> Callable[[Callable[Concatenate[Any, P], Any]], Operation[P]]:
    """Make a public operation from a formula of other operations; arguments as in :class:`Primitive`.

    Returns:
        A decorator. Its result is the public function, with ``record`` attached.
    """

    def decorate(formula: Callable[Concatenate[Any, P], Any]) -> Operation[P]:
        record = Composite(
            name=formula.__name__,
            formula=formula,
            math=math,
            source=source,
            shape=shape,
            dtypes=dtypes,
            result=result,
            domain=domain,
            samples=samples,
            rejects=rejects,
        )
        if record.name in REGISTRY:
            raise TypeError(f"composite {record.name}: registered twice")
        REGISTRY[record.name] = record
        add_formula(record.name, formula, replace=True)  # a backend's own may have another signature
        operation = _public(record)
        namespace.__dict__[record.name] = operation
        return operation

    return decorate


def _public(record: Composite) -> Operation[Any]:
    """The function that users call."""
    formula, name = record.formula, record.name
    chars = DTYPE_CHARS[record.dtypes]
    signature = inspect.signature(formula)
    places = {place - 1: x for place, x in enumerate(signature.parameters) if x in record.inputs}
    keywords = [x for x, each in list(signature.parameters.items())[1:] if each.kind.value % 2]  # 1 and 3
    known = frozenset(keywords)

    def operation(*args: Any, **kwargs: Any) -> Any:
        given = {place: x for place, x in places.items() if place < len(args)}
        for place, x in given.items():
            value = args[place]
            if not isinstance(value, Tensor) and value is not None:
                value = constant(value, name, x)
            if hasattr(value, "dtype") and value.dtype.char not in chars:
                raise wrong_dtype(record, x, value)
        values = [_tensor(value) for value in args]
        for place, value in zip(given, _numbers_as_tensors([values[place] for place in given]), strict=True):
            values[place] = value
        if not kwargs.keys() <= known:
            raise wrong_arguments(name, keywords, (), {key: None for key in kwargs if key not in known})
        options = {key: _tensor(value) for key, value in kwargs.items()}
        if ACTIVE and name in POLICY:
            values = cast_inputs(namespace.astype, name, values)
            options = dict(
                zip(options, cast_inputs(namespace.astype, name, list(options.values())), strict=True)
            )
        tensors = [value for value in values if isinstance(value, Tensor)]
        xp = tensor_namespace(tensors[0]._data) if tensors else namespace
        try:
            return formula(xp, *values, **options)
        except Exception as error:
            error.add_note(f"in {name}")
            raise

    functools.update_wrapper(operation, formula)
    del operation.__dict__["__wrapped__"]
    operation.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(signature.parameters.values())[1:]
    )
    operation.record = record  # type: ignore[attr-defined]
    return cast("Operation[Any]", operation)


def _tensor(value: Any) -> Any:
    """Arrays as tensors; anything else as it is."""
    if isinstance(value, np.generic):
        value = np.asarray(value)
    return Tensor(value) if isinstance(value, tuple(namespaces)) else value


def _numbers_as_tensors(values: list[Any]) -> list[Any]:
    """Python numbers as tensors, in the dtype of those beside them.

    A formula that combines two numbers first would give them a dtype of their own, and float64 to the result.
    """
    dtypes = [value.dtype for value in values if isinstance(value, Tensor)]
    dtypes = [dtype for dtype in dtypes if dtype.kind in "fc"] or dtypes
    make = tensor_namespace(next((v._data for v in values if isinstance(v, Tensor)), np.zeros(()))).full
    return [
        make((), value, dtype=result_dtype(*dtypes, value))
        if isinstance(value, int | float | complex)
        else value
        for value in values
    ]
