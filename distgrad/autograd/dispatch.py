"""The one path that every operation takes, compiled for each of them when it is first called.

:mod:`distgrad.autograd.codegen` writes two functions for a primitive: the public function, with the formula's
own signature, which unwraps tensors, runs the formula and records a node; and ``backward``, which calls the
vjps of those inputs that want a gradient. A call costs the formula and a few attribute loads.

A composite's formula calls operators and functions that have gradients of their own, so that it needs none.
On tensors ``xp`` is the module of operations, and the graph holds the operations inside; on arrays (in other
formulas and gradients) it is the backend::

    @composite(math="y = x1 x2ᵀ", samples=[Sample(((3, 4), (2, 4)))])
    def outer_rows(xp, x1, x2, /):
        return xp.matmul(x1, xp.matrix_transpose(x2))
"""

from __future__ import annotations

import dataclasses
import functools
import linecache
import sys
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import numpy as np

from distgrad.autograd.casting import ACTIVE, MIXED, WIDE, cast_inputs, result_dtype, settle
from distgrad.autograd.codegen import backward_source, call_source, public_signature
from distgrad.autograd.failures import check_devices, explain
from distgrad.autograd.graph import Node, OutputNode, home, next_number
from distgrad.autograd.later import find_operation
from distgrad.autograd.lines import inside, outside, user_line
from distgrad.autograd.modes import modes
from distgrad.autograd.porting import wrong_arguments
from distgrad.autograd.primitive import REGISTRY, Composite, Primitive, Reject, Sample, fast_form
from distgrad.autograd.shapes import by_shapes, run_by_shapes
from distgrad.autograd.tensor import OPERANDS, Tensor, constant, decline, share
from distgrad.backend.array_module import ARRAY_MODULES, HOST_ARRAYS, ArrayModule, add_formula
from distgrad.backend.device import Device, device_of, follow
from distgrad.backend.meta import meta_module
from distgrad.backend.numpy import numpy_module
from distgrad.errors import DistgradError, DTypeError

__all__ = [
    "CREATORS", "Array", "Operation", "composite", "operations", "operations_for", "operator_method",
    "primitive",
]  # fmt: skip

#: What formulas are annotated with: an array of any backend outside, a Tensor for callers.
Array = Any

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

#: Every operation by name: the tensors' array module. It is the ``xp`` of gradients of gradients.
operations = ArrayModule("distgrad", Tensor, {}, find_operation)

#: Those operations that make tensors from none, and have to be told where.
CREATORS: dict[str, Callable[..., Tensor]] = {}


def operations_for(array: Any) -> ArrayModule:
    """The operations whose creation functions make tensors where ``array`` lies."""
    if array.__class__ in HOST_ARRAYS or array.__class__ not in ARRAY_MODULES:  # NumPy's scalars
        return operations
    follow(array)
    return _operations_on(device_of(array))


@functools.cache
def _operations_on(device: Device) -> ArrayModule:
    made = {name: functools.partial(create, device=device) for name, create in CREATORS.items()}
    there = {**vars(operations), **made}
    return ArrayModule(f"distgrad on {device}", Tensor, there, functools.partial(getattr, operations))


class Operation(Protocol[P]):
    """A public function made from a primitive."""

    __name__: str
    record: Primitive
    vjp: Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the operation on tensors."""


def primitive(
    *,
    math: str,
    name: str = "",
    source: str = "",
    shape: Callable[..., Any] | None = None,
    dtypes: str = "all",
    result: str | Callable[..., Any] = "promote",
    view: bool = False,
    outputs: int = 1,
    sparse: bool = False,
    domain: tuple[float, float] | None = None,
    samples: Sequence[Sample] = (),
    rejects: Sequence[Reject] = (),
) -> Callable[[Callable[Concatenate[Any, P], Any]], Operation[P]]:
    """Make an operation from its formula; the arguments are those of :class:`Primitive`.

    Returns:
        A decorator. Its result is the public function, with ``record`` and ``vjp`` attached.
    """

    def decorate(formula: Callable[Concatenate[Any, P], Any]) -> Operation[P]:
        record = Primitive(
            name=name or formula.__name__,
            formula=formula,
            math=math,
            source=source,
            shape=shape,
            dtypes=dtypes,
            result=result,
            view=view,
            outputs=outputs,
            sparse=sparse,
            domain=domain,
            samples=samples,
            rejects=rejects,
        )
        operation = _register(record)
        operation.vjp = _vjp_decorator(record)
        return cast("Operation[P]", operation)

    return decorate


def composite(
    *,
    math: str,
    source: str = "",
    shape: Callable[..., Any] | None = None,
    dtypes: str = "all",
    result: str | Callable[..., Any] = "promote",
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
        return cast("Operation[P]", _register(record))

    return decorate


def _register(record: Primitive) -> Any:
    """Enter a record in the registry and the array modules; returns the public function."""
    name = record.name
    if name in REGISTRY:
        raise TypeError(f"{name}: registered twice")
    taken = {*list(record.signature.parameters)[1:]} & {*_GLOBALS, *_LOCALS}
    if taken:
        raise TypeError(f"{name}: {sorted(taken)} are names in the compiled functions")
    REGISTRY[name] = record
    if isinstance(record, Composite):  # a backend's own may have another signature
        add_formula(name, record.formula, replace=True)
    else:
        add_formula(name, fast_form(record, name, record.formula))
        meta_module.__dict__[name] = functools.partial(by_shapes, record)
    operation = _compiled_later(record, lambda: call_source(record))
    operation.__signature__ = public_signature(record)
    operation.record = record
    operations.__dict__[name] = operation
    return operation


def _vjp_decorator(record: Primitive) -> Callable[..., Any]:
    def vjp(*inputs: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated function as the gradient of ``inputs``."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            record.add_vjp(inputs, function)
            return function

        return decorate

    return vjp


_FIRST_CALL = compile("lambda *args, **kwargs: finish()(*args, **kwargs)", "<operation>", "eval")


def _compiled_later(record: Primitive, source: Callable[[], str]) -> Any:
    """A function whose first call gives it its own code, so that importing costs little.

    Two threads may both be first: each compiles the same text, and the code, which decides what a call does,
    is put in last.
    """

    def finish() -> Any:
        final = _execute(record, source(), f"<operation {record.name}>")
        if record.vjps and record.backward is None:
            record.backward = _execute(record, backward_source(record), f"<backward of {record.name}>")
        operation.__defaults__, operation.__kwdefaults__ = final.__defaults__, final.__kwdefaults__
        operation.__code__ = final.__code__
        return operation

    operation = eval(_FIRST_CALL, _scope(record, finish=finish))
    operation.__name__ = operation.__qualname__ = record.name
    operation.__doc__ = record.formula.__doc__
    operation.__module__ = record.formula.__module__
    return operation


def operator_method(name: str, side: str = "left") -> Any:
    """An operation of two arrays as the method behind an operator, without a call in between.

    Args:
        name: the operation.
        side: where the tensor stands whose method it is: ``"left"``, or ``"right"`` (``__radd__``).
    """
    record = operations.__dict__[name].record
    return _compiled_later(record, lambda: call_source(record, side))


# -- what the compiled functions call

#: The version cell of what is no Tensor: never changes as far as the engine knows.
UNCHANGED = [0]

_NUMBERS = (int, float, complex)


def optional(value: Any, where: str, name: str) -> Any:
    """As :func:`constant`, for an input that may be None."""
    return None if value is None else constant(value, where, name)


def lone(value: Any, where: str, name: str) -> Any:
    """As :func:`constant`, for an only input: a number becomes an array, for want of others to follow."""
    value = constant(value, where, name)
    return value if value.__class__ in ARRAY_MODULES else np.asarray(value)


#: Classes of arguments that are no arrays, or tensors already.
PLAIN = frozenset({Tensor, bool, dict, float, int, list, str, tuple, type(None)})


def as_operand(value: Any) -> Any:
    """An array, which may also be a scalar of NumPy's, as a tensor; anything else as it is."""
    if isinstance(value, np.generic):
        value = np.asarray(value)
    return Tensor(value) if value.__class__ in ARRAY_MODULES else value


def tensors(record: Composite, values: Sequence[Any]) -> list[Any]:
    """The inputs of a composite as tensors, where some are arrays or numbers.

    A number gets the dtype of those beside it: a formula that combines two numbers first would give them a
    dtype of their own, and float64 to the result.
    """
    found = []
    for name, value in zip(record.inputs, values, strict=True):
        if not isinstance(value, Tensor) and (value is not None or name not in record.optional):
            value = as_operand(constant(value, record.name, name))
        found.append(value)
    others = [value._data for value in found if isinstance(value, Tensor)]
    dtypes = {each.dtype for each in others if each.dtype.kind in "fc"} or {each.dtype for each in others}
    for place, value in enumerate(found):
        if isinstance(value, _NUMBERS):
            dtype = result_dtype(*dtypes, value)
            if not others or others[0].__class__ in HOST_ARRAYS:
                found[place] = Tensor(np.asarray(value, dtype))
            else:
                found[place] = operations_for(others[0]).full((), value, dtype=dtype)
    return found


def unwrap_sequence(values: Any, where: str, name: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Arrays, nodes and version cells of a sequence of inputs."""
    if isinstance(values, Tensor) or not isinstance(values, Sequence | np.ndarray):
        raise DTypeError(f"{where}: {name} must be a list or tuple of tensors, got {type(values).__name__}")
    arrays, nodes, cells = [], [], []
    for value in values:
        tensor = isinstance(value, Tensor)
        arrays.append(value._data if tensor else constant(value, where, name))
        nodes.append(value._node if tensor else None)
        cells.append(value._version if tensor else UNCHANGED)
    return arrays, nodes, cells


def run(record: Primitive, formula: Callable[..., Any], /, *args: Any, **attributes: Any) -> Any:
    """What the formula gives where its inputs lie.

    Raises:
        DeviceError: arrays on different devices.
    """
    xp = pick(record, *args)
    if xp is meta_module:
        return run_by_shapes(record, xp, *args, **attributes)
    return formula(xp, *args, **attributes)


def pick(record: Primitive, *values: Any) -> ArrayModule:
    """The namespace of the arrays among ``values``; Python numbers alone go to NumPy.

    Raises:
        DeviceError: arrays on different devices.
    """
    arrays = [value for value in values if value.__class__ in ARRAY_MODULES]
    if not arrays:
        return numpy_module
    first = arrays[0]
    if len(arrays) > 1:
        check_devices(record, arrays)
    if first.__class__ not in HOST_ARRAYS:
        follow(first)
    return ARRAY_MODULES[first.__class__]


def as_array(y: Any, record: Primitive | None = None, values: Sequence[Any] = ()) -> Any:
    """A formula's result as an array: NumPy returns a scalar where the result has no axes.

    Args:
        y: the result.
        record, values: the operation and its inputs, which must lie together where they can be several.
    """
    if y.__class__ not in ARRAY_MODULES:
        return np.asarray(y)
    if record is not None and len(values) > 1:
        check_devices(record, values)
    return y


def on_complex(record: Primitive) -> Primitive:
    """The record as it stands in the node of a complex result.

    A gradient is that of a real loss with respect to real and imaginary part, as one complex number. Through
    an analytic function it is multiplied by the derivative's conjugate; vjps multiply by the derivative, and
    so they are given the gradient's conjugate, and what they return is conjugated.

    Source: Kreutz-Delgado, "The complex gradient operator and the CR-calculus", arXiv:0906.4835, 2009.
    """
    if record.twin is None:
        record.twin = dataclasses.replace(record, backward=_conjugating(record), vjps=record.vjps)
    return record.twin


def _conjugating(record: Primitive) -> Callable[..., Any]:
    def backward(xp: Any, g: Any, saved: Any, edges: Any, walk: Any) -> Any:
        turned = tuple(map(xp.conj, g)) if isinstance(g, tuple) else xp.conj(g)
        found = cast("Callable[..., Any]", record.backward)(xp, turned, saved, edges, walk)
        return tuple([None if each is None else xp.conj(each) for each in found])

    return backward


def several(
    record: Primitive, values: Any, inputs: Any, wanted: Any, x: Any = None, v: Any = None
) -> tuple[tuple[Tensor, ...], Node | None]:
    """Tensors for the results of an operation with several, and their node if one is recorded.

    Args:
        record: the operation.
        values: what its formula returned.
        inputs: what it was given.
        wanted: whether an input requires a gradient.
        x, v: the input that the results may share memory with, and its array.
    """
    arrays = [as_array(value) for value in values]
    if record.result == "promote" or callable(record.result):
        arrays = [settle(each, inputs) if each.dtype.char in WIDE else each for each in arrays]
    outs = getattr(values, "_make", tuple)(Tensor(array) for array in arrays)  # NumPy's results have names
    if x is not None:
        for out in outs:
            share(out, x, v)
    mode = wanted and modes.grad
    if not (mode and any(array.dtype.char in "efdEFD" for array in arrays)):
        return outs, None
    node = Node(record, (), (), ())
    if any(array.dtype.char in "FD" for array in arrays):
        node.op = on_complex(record)
    node.line = user_line()
    node.outputs = tuple(None if record.sparse else (array.shape, array.dtype) for array in arrays)
    for index, (out, array) in enumerate(zip(outs, arrays, strict=True)):
        if array.dtype.char in "efdEFD":
            out._node = OutputNode(node, index)
    if mode is not True:
        mode.recorded(node, arrays)
    return outs, node


def wrong_dtype(record: Primitive, name: str, value: Any) -> DTypeError:
    """The error for an input outside the primitive's dtypes."""
    return DTypeError(
        f"{record.name}: {name} must be {record.dtypes}, got {value.dtype}; convert it with .astype first"
    )


def _execute(record: Primitive, source: str, filename: str) -> Any:
    """Compile and run the source of one function; tracebacks can show its lines."""
    scope = _scope(record)
    for name, parameter in record.signature.parameters.items():
        scope[f"default_{name}"] = parameter.default
    for vjp in record.vjps.values():
        x = vjp.inputs[0]
        scope[f"vjp_{x}"] = fast_form(record, f"{record.name}/{x}", vjp.function)
    exec(compile(source, filename, "exec"), scope)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return scope["backward" if filename.startswith("<backward") else record.name]


def _scope(record: Primitive, **more: Any) -> dict[str, Any]:
    """What the compiled functions see as their globals."""
    formula = fast_form(record, record.name, record.formula)
    record.scopes.append({**_GLOBALS, "record": record, "formula": formula, **more})
    return record.scopes[-1]


_LOCALS = ("each", "error", "misnamed", "misplaced", "node", "out", "outs", "xp")
_HELPERS = (
    *(DistgradError, Node, Tensor, as_array, as_operand, constant, explain, home, lone, on_complex),
    *(optional, outside, run, several, share, operations_for, tensors, unwrap_sequence),
    *(wrong_arguments, wrong_dtype),
)
_GLOBALS: dict[str, Any] = {each.__name__: each for each in _HELPERS}
_GLOBALS |= {"ACTIVE": ACTIVE, "cast_inputs": lambda *each: cast_inputs(operations.astype, *each)}
_GLOBALS |= {"MIXED": MIXED, "WIDE": WIDE, "settle": settle}
_GLOBALS |= {
    "decline": decline,
    "OPERANDS": OPERANDS,
    "PLAIN": PLAIN,
    "getframe": sys._getframe,
    "inside": inside,
}
_GLOBALS |= {
    "UNCHANGED": UNCHANGED,
    "modes": modes,
    "operations": operations,
    "ARRAY_MODULES": ARRAY_MODULES,
    "ndarray": np.ndarray,
}
_GLOBALS |= {"new": object.__new__, "next_number": next_number, "numpy_module": numpy_module}
