"""The one path that every operation takes, compiled for each primitive when it is registered.

:func:`primitive` writes the source of two functions and compiles them: the public function, with the
formula's own signature, which unwraps tensors, runs the formula and records a node; and ``backward``, which
calls the vjps of those inputs that want a gradient. All that depends on the signature is settled there, so a
call costs the formula and a few attribute loads.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import numpy as np

from distgrad.autograd.graph import Node, OutputNode, next_number
from distgrad.autograd.modes import modes
from distgrad.autograd.primitive import DTYPE_CHARS, REGISTRY, Primitive, Reject, Sample
from distgrad.autograd.tensor import Tensor, constant
from distgrad.backend.numpy import Namespace, numpy_namespace
from distgrad.errors import AxisError, DistgradError, DTypeError, GraphError, ShapeError

__all__ = ["Array", "Operation", "namespace", "namespaces", "primitive"]

#: What formulas are annotated with: an array of any backend outside, a Tensor for callers.
Array = Any

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

#: Backends by array type; Python numbers go with whatever they meet.
namespaces: dict[type, Namespace] = {np.ndarray: numpy_namespace}

#: The Tensor namespace: every operation by name. It is the ``xp`` of gradients of gradients.
namespace = Namespace("distgrad", Tensor, {})


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
    result: str = "promote",
    view: bool = False,
    outputs: int = 1,
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
            domain=domain,
            samples=samples,
            rejects=rejects,
        )
        if record.name in REGISTRY:
            raise TypeError(f"primitive {record.name}: registered twice")
        REGISTRY[record.name] = record
        for backend in namespaces.values():
            backend.add_formula(record.name, formula)
        operation = _uncompiled_call(record)
        operation.record = record
        operation.vjp = _vjp_decorator(record)
        namespace.__dict__[record.name] = operation
        return cast("Operation[P]", operation)

    return decorate


def _vjp_decorator(record: Primitive) -> Callable[..., Any]:
    def vjp(*inputs: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated function as the gradient of ``inputs``."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            record.add_vjp(inputs, function)
            return function

        return decorate

    return vjp


_FIRST_CALL = compile("lambda *args, **kwargs: finish(record)(*args, **kwargs)", "<first call>", "eval")


def _uncompiled_call(record: Primitive) -> Any:
    """The public function; its first call compiles it, so that importing costs little."""
    operation = eval(_FIRST_CALL, _scope(record) | {"finish": _finish})
    operation.__name__ = operation.__qualname__ = record.name
    operation.__doc__ = record.formula.__doc__
    operation.__module__ = record.formula.__module__
    operation.__signature__ = _public_signature(record)
    return operation


def _public_signature(record: Primitive) -> inspect.Signature:
    """The formula's signature without ``xp``, and with a sequence as one argument."""
    signature = inspect.signature(record.formula)
    parameters = list(signature.parameters.values())[1:]
    if record.variadic:
        parameters[0] = parameters[0].replace(kind=inspect.Parameter.POSITIONAL_ONLY)
    return signature.replace(parameters=parameters)


def _finish(record: Primitive) -> Any:
    """Give the public function its own code, and the record its backward; returns the function."""
    operation, final = namespace.__dict__[record.name], _compile_call(record)
    if record.vjps:
        record.backward = _compile_backward(record)
    operation.__defaults__, operation.__kwdefaults__ = final.__defaults__, final.__kwdefaults__
    operation.__code__ = final.__code__
    return operation


# -- what the compiled functions call

#: The version cell of what is no Tensor: never changes as far as the engine knows.
UNCHANGED = [0]


def optional(value: Any, where: str, name: str) -> Any:
    """As :func:`constant`, for an input that may be None."""
    return None if value is None else constant(value, where, name)


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


def pick(*values: Any) -> Namespace:
    """The backend of the first array among ``values``; Python numbers alone go to NumPy."""
    for value in values:
        backend = namespaces.get(value.__class__)
        if backend is not None:
            return backend
    return numpy_namespace


def as_array(y: Any) -> Any:
    """A formula's result as an array: NumPy returns a scalar where the result has no axes."""
    if y.__class__ in namespaces:
        return y
    return np.asarray(y)


def shared_version(y: Any, v: Any, cell: list[Any]) -> list[Any]:
    """The version cell of a view's result: the input's own if they share memory."""
    base = y.base
    if y is v or (base is not None and (base is v or base is v.base)):
        return cell
    return [0]


def complex_barrier(record: Primitive) -> Any:
    """Stands in a node for an operation with a complex result, through which no gradient goes."""
    return _ComplexBarrier(record.name)


class _ComplexBarrier:
    def __init__(self, name: str) -> None:
        self.name = name

    def backward(self, xp: Any, g: Any, saved: Any, edges: Any) -> Any:
        raise GraphError(
            f"{self.name}: the result is complex, and gradients through complex values are not defined here; "
            "compute with real and imaginary parts, or detach() the input"
        )


def several(record: Primitive, values: Any, wanted: Any) -> tuple[tuple[Tensor, ...], Node | None]:
    """Tensors for the results of an operation with several, and their node if one is recorded."""
    arrays = [as_array(value) for value in values]
    outs = tuple(Tensor(array) for array in arrays)
    if not (wanted and modes.grad and any(array.dtype.char in "efdE" for array in arrays)):
        return outs, None
    node = Node(record, (), (), ())
    node.outputs = tuple((array.shape, array.dtype) for array in arrays)
    for index, (out, array) in enumerate(zip(outs, arrays, strict=True)):
        if array.dtype.char in "efdE":
            out._node = OutputNode(node, index)
    return outs, node


def wrong_dtype(record: Primitive, name: str, value: Any) -> DTypeError:
    """The error for an input outside the primitive's dtypes."""
    return DTypeError(
        f"{record.name}: {name} must be {record.dtypes}, got {value.dtype}; convert it with .astype first"
    )


def explain(record: Primitive, error: Exception, values: tuple[Any, ...]) -> Exception:
    """A backend's error as one of ours, with the operation and what it was given."""
    kinds: list[tuple[type[Exception], type[Exception]]] = [
        (np.linalg.LinAlgError, np.linalg.LinAlgError),
        (np.exceptions.AxisError, AxisError),
        (IndexError, IndexError),
        (TypeError, DTypeError),
        (ValueError, ShapeError),
    ]
    for theirs, ours in kinds:
        if isinstance(error, theirs):
            shown = ", ".join(describe_value(value) for value in values)
            return ours(f"{record.name}: {error}; got {shown}")
    error.add_note(f"in {record.name}")
    return error


def describe_value(value: Any) -> str:
    """dtype and shape of an array, as messages show them."""
    if hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value)


# -- the source of the public function

_UNWRAP = """\
    try:
        v_{x} = {x}._data
        n_{x} = {x}._node
        c_{x} = {x}._version
    except AttributeError:
        v_{x} = {constant}({x}, {where!r}, {x!r})
        n_{x} = None
        c_{x} = UNCHANGED
"""

_UNWRAP_SEQUENCE = """\
    v_{x}, n_{x}, c_{x} = unwrap_sequence({x}, {where!r}, {x!r})
"""

_CHECK_DTYPE = """\
    if v_{x}.__class__ in namespaces and v_{x}.dtype.char not in {chars!r}:
        raise wrong_dtype(record, {x!r}, v_{x})
"""

_RUN = """\
    try:
        y = formula({xp}, {values}{attributes})
    except DistgradError:
        raise
    except Exception as error:
        raise explain(record, error, ({values},)) from error
"""

_WRAP = """\
    if y.__class__ is not ndarray:
        y = as_array(y)
    out = new(Tensor)
    out._data = y
    out._version = {version}
    out._leaf = None
"""

_RECORD = """\
    if ({wanted}) and modes.grad and y.dtype.char in "efdEFD":
        out._node = node = new(Node)
        node.op = record if y.dtype.char in "efdE" else complex_barrier(record)
        node.number = next_number()
        node.edges = {edges}
        node.metas = {metas}
        node.saved = {saved}
        node.versions = {versions}
        node.line = node.hooks = node.outputs = node.retained = None
    else:
        out._node = None
"""

_SEVERAL = """\
    outs, node = several(record, y, {wanted})
    if node is not None:
        node.edges = {edges}
        node.metas = {metas}
        node.saved = {saved}
        node.versions = {versions}
    return outs
"""


class _Name(str):
    """A text that stands in a signature as it is."""

    __repr__ = str.__str__


def _header(record: Primitive) -> str:
    """The public signature as text, with defaults taken from the formula's."""
    parameters = [
        each.replace(
            annotation=each.empty,
            default=each.empty if each.default is each.empty else _Name(f"default_{each.name}"),
        )
        for each in _public_signature(record).parameters.values()
    ]
    return str(inspect.Signature(parameters))


def _compile_call(record: Primitive) -> Any:
    """Compile the public function."""
    body = [f"def {record.name}{_header(record)}:\n"]
    for x in record.inputs:
        unwrap = _UNWRAP_SEQUENCE if record.variadic else _UNWRAP
        body.append(
            unwrap.format(x=x, where=record.name, constant="optional" if x in record.optional else "constant")
        )
        if record.dtypes != "all":
            check = _CHECK_DTYPE.format(x=x, chars=DTYPE_CHARS[record.dtypes])
            if record.variadic:
                check = check.replace(f"v_{x}", "each")
                check = f"    for each in v_{x}:\n" + "".join(f"    {line}\n" for line in check.splitlines())
            body.append(check)
    values = ", ".join(f"*v_{x}" if record.variadic else f"v_{x}" for x in record.inputs)
    body.append(
        _RUN.format(
            xp=_namespace_expression(record),
            values=values,
            attributes="".join(f", {name}={name}" for name in record.attributes),
        )
    )
    if record.outputs != 1:
        body.append(_record_source(record, _SEVERAL))
    else:
        x = record.inputs[0] if record.inputs else ""
        version = "[0]"
        if record.view:
            version = f"shared_version(y, v_{x}, c_{x})"
        body.append(_WRAP.format(version=version))
        if record.vjps:
            body.append(_record_source(record, _RECORD))
        else:
            body.append("    out._node = None\n")
        body.append("    return out\n")
    return _execute(record, "".join(body), f"<operation {record.name}>")


def _namespace_expression(record: Primitive) -> str:
    if not record.inputs:
        return "numpy_namespace"
    if record.variadic:
        return f"pick(*v_{record.inputs[0]})"
    values = [f"v_{x}" for x in record.inputs]
    return f"namespaces.get({values[0]}.__class__) or pick({', '.join(values)})"


def _record_source(record: Primitive, template: str) -> str:
    """Fill in what a node holds: edges, metas, and the saved values that its vjps name."""
    if record.variadic:
        x = record.inputs[0]
        wanted = f"any(n_{x})"
        edges = f"tuple(n_{x})"
        metas = f"tuple([(v.shape, v.dtype) for v in v_{x}])"
    else:
        wanted = " or ".join(f"n_{x} is not None" for x in record.vjps) or "False"
        edges = _tuple(f"n_{x}" if x in record.vjps else "None" for x in record.inputs)
        metas = _tuple(
            f"(v_{x}.shape, v_{x}.dtype) if n_{x} is not None else None" if x in record.vjps else "None"
            for x in record.inputs
        )
    saved, versions = [], []
    for name in retained_names(record):
        needed = _needed_condition(record, name)
        saved.append(f"({_saved_expression(record, name)}) if {needed} else None")
        if name in record.inputs:
            versions.append(f"(c_{name}, c_{name}[0]) if {needed} else None")
    remembered = _tuple(versions)
    if record.variadic and versions:
        remembered = f"tuple([(cell, cell[0]) for cell in c_{record.inputs[0]}])"
    return template.format(wanted=wanted, edges=edges, metas=metas, saved=_tuple(saved), versions=remembered)


def _tuple(texts: Any) -> str:
    return "(" + "".join(f"{text}, " for text in texts) + ")"


def retained_names(record: Primitive) -> list[str]:
    """What the vjps need, each name once, in a fixed order."""
    names: dict[str, None] = {}
    for vjp in record.vjps.values():
        names.update(dict.fromkeys(name for name in vjp.names if name != "needs"))
    return list(names)


def _needed_condition(record: Primitive, name: str) -> str:
    if record.variadic or name in record.attributes:
        return "True"
    users = [x for x, vjp in record.vjps.items() if name in vjp.names]
    return " or ".join(f"n_{x} is not None" for x in users)


def _saved_expression(record: Primitive, name: str) -> str:
    if name == "y" or name in record.attributes:
        return name
    if name in record.inputs:
        return f"tuple(v_{name})" if record.variadic else f"v_{name}"
    x, _, kind = name.rpartition("_")
    if record.variadic:
        return f"tuple([v.{kind} for v in v_{x}])"
    return f"getattr(v_{x}, {kind!r}, ())" if kind == "shape" else f"v_{x}.{kind}"


def _compile_backward(record: Primitive) -> Callable[..., Any]:
    """Compile ``backward(xp, g, saved, edges)``, which returns a gradient for each input."""
    names = retained_names(record)
    body = ["def backward(xp, g, saved, edges):\n"]
    if names:
        body.append(f"    {_tuple(f's_{name}' for name in names)} = saved\n")
    results = []
    joint: dict[int, str] = {}
    for i, x in enumerate(record.inputs):
        vjp = record.vjps.get(x)
        if vjp is None:
            results.append("None")
            continue
        function = f"vjp_{vjp.inputs[0]}"
        places = [record.inputs.index(name) for name in vjp.inputs]
        needs = _tuple(f"edges[{place}] is not None" for place in places)
        if record.variadic:
            needs = "tuple([e is not None for e in edges])"
        arguments = "".join(f", {needs if name == 'needs' else f's_{name}'}" for name in vjp.names)
        if record.variadic:
            body.append(f"    return {function}(xp, g{arguments})\n")
        elif len(vjp.inputs) == 1:
            results.append(f"{function}(xp, g{arguments}) if edges[{i}] is not None else None")
        else:
            if id(vjp) not in joint:
                joint[id(vjp)] = f"j_{x}"
                wanted = " or ".join(f"edges[{place}] is not None" for place in places)
                nothing = f"(None,) * {len(places)}"
                body.append(f"    j_{x} = {function}(xp, g{arguments}) if {wanted} else {nothing}\n")
            results.append(f"{joint[id(vjp)]}[{vjp.inputs.index(x)}]")
    if not record.variadic:
        body.append(f"    return {_tuple(results)}\n")
    function = _execute(record, "".join(body), f"<backward of {record.name}>")
    return cast("Callable[..., Any]", function)


def _execute(record: Primitive, source: str, filename: str) -> Any:
    """Compile and run the source of one function; tracebacks can show its lines."""
    scope = _scope(record)
    for name, parameter in inspect.signature(record.formula).parameters.items():
        scope[f"default_{name}"] = parameter.default
    scope |= {f"vjp_{vjp.inputs[0]}": vjp.function for vjp in record.vjps.values()}
    exec(compile(source, filename, "exec"), scope)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return scope["backward" if filename.startswith("<backward") else record.name]


def _scope(record: Primitive) -> dict[str, Any]:
    """What the compiled functions see as their globals."""
    return {**_GLOBALS, "record": record, "formula": record.formula}


_HELPERS = (
    *(DistgradError, Node, Tensor, as_array, complex_barrier, constant, explain, optional),
    *(pick, several, shared_version, unwrap_sequence, wrong_dtype),
)
_GLOBALS: dict[str, Any] = {each.__name__: each for each in _HELPERS}
_GLOBALS |= {"UNCHANGED": UNCHANGED, "modes": modes, "namespaces": namespaces, "ndarray": np.ndarray}
_GLOBALS |= {"new": object.__new__, "next_number": next_number, "numpy_namespace": numpy_namespace}
