"""Functions under PyTorch's names, made from :mod:`distgrad.names.functions` when first asked for.

A function is its line as Python would write it, with one test more: keywords that PyTorch does not have but
whoever comes from NumPy writes (``axis``, ``keepdims``), and ``out``, arrive in ``words`` and are sorted out
apart, so that a call costs one call more than the operation's own.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import linecache
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from distgrad.autograd import (
    creation,
    drawing,
    layouts,
    matrices,
    matrix_checks,
    meanings,
    ordering,
    sparse,
    storages,
    views,
)
from distgrad.autograd.casting import DEFAULTS
from distgrad.autograd.dispatch import operations
from distgrad.autograd.info import result_type
from distgrad.autograd.inplace import look_through, overwrite
from distgrad.autograd.later import FILES
from distgrad.autograd.porting import explain_method, wrong_arguments
from distgrad.autograd.primitive import REGISTRY
from distgrad.autograd.tensor import OPERANDS, Tensor, constant
from distgrad.errors import DTypeError, OptionError
from distgrad.names import functions as names
from distgrad.names.hints import WORDS
from distgrad.names.rooms import ROOM_TABLE

__all__ = ["LINES", "MISSING", "Named", "find", "find_method", "method_names", "reworded"]


class Line:
    """One line of the table.

    Args:
        name: PyTorch's.
        parameters: as text.
        expression: as text.
        lifts: whether a tensor without axes counts as one with one axis of length 1.
    """

    def __init__(self, name: str, parameters: str, expression: str, lifts: bool = False) -> None:
        self.name, self.parameters, self.expression, self.lifts = name, parameters, expression, lifts

    @property
    def first(self) -> str:
        """The name of the first argument, which says whether it is a method."""
        return self.parameters.split(",")[0].split("=")[0].strip("* ")


def _read(table: str) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for text in table.replace("\n    ", " ").split("\n"):
        if text:
            head, _, expression = text.partition(") = ")
            name, _, parameters = head.partition("(")
            lines[name.removeprefix("*")] = Line(
                name.removeprefix("*"), parameters, expression, name.startswith("*")
            )
    return lines


LINES = _read(names.TABLE) | _read(ROOM_TABLE)
LINES |= {name: Line(name, "input", f"{name}(input)") for name in names.SAME.split()}
LINES |= {name: Line(name, "input, other", f"{name}(input, other)") for name in names.SAME_PAIRS.split()}


def _line_of(name: str) -> Line | None:
    """The line of a name; for an operation without one, that with its own arguments."""
    line = LINES.get(name)
    if line is not None:
        return line
    operation = getattr(operations, name, None)
    record = getattr(operation, "record", None) or REGISTRY.get(name)
    if record is None or operation is None:
        return None
    given, passed = [], []
    for place, parameter in enumerate(inspect.signature(operation).parameters.values()):
        theirs = _THEIRS.get(parameter.name, "input" if place == 0 else parameter.name)
        default = parameter.default
        text = theirs if default is parameter.empty else f"{theirs}={default!r}"
        if parameter.kind is parameter.VAR_POSITIONAL:
            text, theirs = f"*{theirs}", f"*{theirs}"
        given.append(text)
        keyword = parameter.kind is parameter.KEYWORD_ONLY
        passed.append(f"{parameter.name}={theirs}" if keyword else theirs)
    return Line(name, ", ".join(given), f"{name}({', '.join(passed)})")


_THEIRS = {"axis": "dim", "axes": "dim", "keepdims": "keepdim", "x1": "input", "x2": "other"}

_SOURCE = """\
def call({parameters}):
    if {condition}:
        return reworded(call, words, {values}, {star})
    try:{lifting}
        return {expression}
    except {errors} as error:
        return retried(call, {values}, {star}, error)
"""


_FLOATING, _BYTES = frozenset(names.FLOATING.split()), frozenset(names.BYTES.split())
_JOINING = frozenset({"cat", "concat", "concatenate", "stack", "where"})
_CONVERTED = {*_FLOATING, *_BYTES, *_JOINING, *names.WHOLE.split()}


class _Missing:
    """Stands for an argument that must be given, under one of its names."""

    def __repr__(self) -> str:
        return "<required>"


MISSING = _Missing()
_TARGETS = {target for each in WORDS.values() for target in each} - {"input"}


@functools.cache
def find(name: str) -> Callable[..., Any] | None:
    """The function of one of PyTorch's names; None where there is none, or an operation that it needs.

    Args:
        name: as in ``torch.name`` or ``tensor.name``.
    """
    line = _line_of(name)
    if line is None:
        return None
    scope = {"MISSING": MISSING, "reworded": reworded, "pi": math.pi, "Tensor": Tensor}
    scope |= {"retried": retried, "DTypeError": DTypeError, "lifted": lifted}
    scope |= {"NUMBERS": _NUMBERS, "refuse_numbers": refuse_numbers}
    parameters = _parameters(line)
    for each in _names_in(line.expression) - scope.keys() - {one.name for one in parameters}:
        found = _look_up(each)
        if found is None:
            return None
        scope[each] = found
    filename = f"<distgrad.torch.{name}>"
    source = _source(line, parameters)
    exec(compile(source, filename, "exec"), scope)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    function: Any = scope["call"]
    function.__name__ = function.__qualname__ = name
    function.__module__ = "distgrad.torch"
    function.__doc__ = f"PyTorch's ``{name}``: ``{line.expression}``."
    function.__signature__ = inspect.Signature(parameters)
    return cast("Callable[..., Any]", function)


def _look_up(name: str) -> Any:
    """What a line calls by a name: a meaning, an operation, or Python's own function."""
    for place in (meanings, ordering, layouts, storages, views, sparse, matrices, matrix_checks, drawing):
        if name in vars(place):
            return vars(place)[name]
    if name in operations.__dict__:
        return operations.__dict__[name]
    return getattr(operations, name, None) or getattr(builtins, name, None)


def _names_in(expression: str) -> set[str]:
    tree = ast.walk(ast.parse(expression, mode="eval"))
    loaded = [node for node in tree if isinstance(node, ast.Name)]
    bound = {node.id for node in loaded if isinstance(node.ctx, ast.Store)}
    return {node.id for node in loaded} - bound


def _parameters(line: Line) -> list[inspect.Parameter]:
    """The arguments; those that may have another name, and what stands behind them, are not required."""
    signature = inspect.signature(eval(f"lambda {line.parameters}: None"))
    out: list[inspect.Parameter] = []
    optional = False
    for place, each in enumerate(signature.parameters.values()):
        required = each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
        optional = optional or (place > 0 and each.name in _TARGETS)
        out.append(each.replace(default=MISSING) if required and optional else each)
    return out


def _source(line: Line, parameters: list[inspect.Parameter]) -> str:
    star = next((each.name for each in parameters if each.kind is each.VAR_POSITIONAL), None)
    condition = ["words", *(f"{each.name} is MISSING" for each in parameters if each.default is MISSING)]
    others = [each.name for each in parameters[1:2] if each.name in ("other", "exponent")]
    if line.first == "input" and others:
        condition.append(f"input.__class__ in NUMBERS and refuse_numbers({line.name!r}, input, {others[0]})")
    written = [
        each.replace(default=_Plain("MISSING")) if each.default is MISSING else each for each in parameters
    ]
    header = inspect.Signature([*written, inspect.Parameter("words", inspect.Parameter.VAR_KEYWORD)])
    values = ", ".join(f"{each.name!r}: {each.name}" for each in parameters if each.name != star)
    given = f"{{{values}}}"
    lifting = f"\n        if not {line.first}._data.ndim: return lifted(call, {given})" if line.lifts else ""
    return _SOURCE.format(
        parameters=str(header)[1:-1],
        condition=" or ".join(condition),
        values=given,
        star=star or "()",
        expression=_inlined(line),
        errors="(AttributeError, DTypeError)" if line.name in _CONVERTED else "AttributeError",
        lifting=lifting,
    )


def _inlined(line: Line) -> str:
    """The expression, functions that mostly return what they are given called only where they do not.

    Only of lines to which no tensor without axes comes: of those ``axes_of`` takes more than there are.
    """
    expression = line.expression
    for call, usual in _USUAL.items() if line.lifts else ():
        expression = expression.replace(call, f"({usual} else {call})")
    return expression


_USUAL = {
    "axes_of(input, dim)": "dim if dim is None or dim.__class__ is int",
    "total_kind(input, dtype)": "None if dtype is None and input._data.dtype.kind not in 'bu'",
    "typed(input, dtype)": "input if dtype is None",
}


_NUMBERS = frozenset({int, float, bool, complex})
_NUMBER_FIRST, _APART, _EXACT = (
    frozenset(each.split()) for each in (names.NUMBER_FIRST, names.APART, names.EXACT)
)


def refuse_numbers(name: str, first: Any, second: Any) -> bool:
    """False for a number in the place of a tensor where the function takes one.

    Raises:
        TypeError: it does not, or the other is no tensor either.
    """
    if name in _NUMBER_FIRST and hasattr(second, "dtype"):
        return False
    raise TypeError(f"{name}: expected a tensor, got the number {first!r}; write torch.tensor({first!r})")


class _Plain(str):
    """A text that stands in a signature as it is."""

    __repr__ = str.__str__


# -- calls in other words


def reworded(
    function: Callable[..., Any], words: dict[str, Any], values: dict[str, Any], star: tuple[Any, ...]
) -> Any:
    """The call that was meant by keywords that the function does not have.

    Args:
        function: one of :func:`find`.
        words: the keywords.
        values: the arguments that it does have.
        star: those by position at its end.

    Raises:
        TypeError: a keyword that nothing here knows, or an argument that is missing.
    """
    out = words.pop("out", None)
    name = function.__name__
    parameters = inspect.signature(function).parameters
    for word in list(words):
        value = words.pop(word)
        target = next((each for each in WORDS.get(word, ()) if each in parameters), None)
        if target is None and word in ("size", "shape", "dims", "dim", "axis", "axes", "sizes"):
            target = next((key for key, each in parameters.items() if each.kind is each.VAR_POSITIONAL), None)
        if target is None:
            raise wrong_arguments(name, list(parameters)[1:], (), {word: value})
        if parameters[target].kind is inspect.Parameter.VAR_POSITIONAL:
            star = (value,)
        else:
            values[target] = value
    missing = next((key for key, value in values.items() if value is MISSING), None)
    if missing is not None:
        raise TypeError(f"{name}: missing argument {missing!r}")
    result = _called(function, values, star)
    return result if out is None else _written(name, out, result, [*values.values(), *star])


def _called(function: Callable[..., Any], values: dict[str, Any], star: tuple[Any, ...]) -> Any:
    kinds = {key: each.kind.value for key, each in inspect.signature(function).parameters.items()}
    before = [key for key in values if star and kinds[key] < 2]
    rest = {key: value for key, value in values.items() if key not in before}
    return function(*[values[key] for key in before], *star, **rest)


def retried(
    function: Callable[..., Any], values: dict[str, Any], star: tuple[Any, ...], error: Exception
) -> Any:
    """The call once more, with what PyTorch makes of arguments that the operation refused.

    Args:
        function: one of :func:`find`.
        values: its arguments.
        star: those by position at its end.
        error: the operation's.

    Raises:
        Exception: the error, where PyTorch has no more to offer.
    """
    if isinstance(error, DTypeError):
        return _converted(function, values, error)
    first = next(iter(values), "")
    if first == "input" and not isinstance(values[first], Tensor):
        constant(values[first], function.__name__, first)  # raises unless it is an array or a number
        return _called(function, values | {first: creation.asarray(values[first])}, star)
    raise strange(function, values | {"": star}, error)


def lifted(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    """The call of a tensor without axes as one with one axis of length 1."""
    return _without_axis(function(**{key: _with_axis(value) for key, value in values.items()}))


def _converted(function: Callable[..., Any], values: dict[str, Any], error: DTypeError) -> Any:
    """Whole numbers as the default float, or booleans as numbers.

    Raises:
        DTypeError: there are none.
    """
    name = function.__name__
    if name in _JOINING:
        return _alike(function, values, error)
    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    kinds = "biu" if name in _FLOATING else "b"
    found = [key for key, value in tensors.items() if value.dtype.kind in kinds]
    if not found:
        raise error
    target = DEFAULTS[float] if name in _FLOATING else np.dtype(np.uint8 if name in _BYTES else np.int64)
    result = function(**values | {key: meanings.typed(values[key], target) for key in found})
    return _as_booleans(result) if name in _BYTES and len(found) == len(tensors) else result


def _alike(function: Callable[..., Any], values: dict[str, Any], error: DTypeError) -> Any:
    """The call with tensors of one dtype, where NumPy knows none that bfloat16 has in common with another.

    Raises:
        DTypeError: they have one already, or have none in common.
    """
    keys = [key for key in values if key not in ("condition", "dim")]
    groups = [values[key] if isinstance(values[key], list | tuple) else [values[key]] for key in keys]
    given = [each for group in groups for each in group]
    if len({each.dtype for each in given if isinstance(each, Tensor)}) < 2:
        raise error
    dtype = result_type(*given)
    for key, group in zip(keys, groups, strict=True):
        made = [meanings.typed(each, dtype) if isinstance(each, Tensor) else each for each in group]
        values = values | {key: made if group is values[key] else made[0]}
    return function(**values)


def _as_booleans(result: Any) -> Any:
    """Bytes as booleans, also among several results."""
    if isinstance(result, tuple):
        return getattr(result, "_make", tuple)([_as_booleans(each) for each in result])
    return meanings.typed(result, "bool") if result.dtype == np.uint8 else result


def strange(function: Callable[..., Any], values: dict[str, Any], error: Exception) -> Exception:
    """The error for a call that asked another library's tensor for what ours have; else the error itself."""
    for name, value in values.items():
        for each in value if isinstance(value, tuple | list) else (value,):
            if hasattr(each, "__dlpack__") and not isinstance(each, OPERANDS):
                try:
                    constant(each, function.__name__, name)
                except DTypeError as clearer:
                    return clearer
    return error


def _with_axis(value: Any) -> Any:
    if isinstance(value, Tensor) and not value.ndim:
        return operations.reshape(value, (1,))
    return value


def _without_axis(value: Any) -> Any:
    if isinstance(value, tuple):
        return getattr(value, "_make", tuple)([_without_axis(each) for each in value])
    if isinstance(value, Tensor) and value.shape == (1,):
        return operations.reshape(value, ())
    return value


def _written(name: str, out: Any, result: Any, given: list[Any]) -> Any:
    """``out`` with the elements of ``result``, as long as it has its shape or none at all."""
    if isinstance(out, tuple | list):
        return type(result)(*[_written(name, *each, given) for each in zip(out, result, strict=True)])
    if name in _EXACT and out.dtype != result.dtype:
        raise DTypeError(f"{name}: out is {out.dtype} and the result {result.dtype}; make them alike")
    if name in _APART and any(_share(out, each) for each in given):
        raise OptionError(f"{name}: out lies in the memory of what it is made of; pass another tensor")
    if out.shape != result.shape:
        out = layouts.resized(out, result.shape)
    return overwrite(out, result, name)


def _share(out: Any, given: Any) -> bool:
    if isinstance(given, tuple | list):
        return any(_share(out, each) for each in given)
    both = [getattr(each, "_data", None) for each in (out, given)]
    return all(isinstance(each, np.ndarray) for each in both) and np.may_share_memory(*both)  # type: ignore[arg-type]


# -- methods


class Named:
    """Stands in Tensor for the method of a name, and puts the function in its place when it is asked for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        function = find_method(self.name)
        if function is None:
            return explain_method(self.name)
        setattr(Tensor, self.name, function)
        return function.__get__(instance, owner)


@functools.cache
def find_method(name: str) -> Any:
    """The method of one of PyTorch's names; None where there is none."""
    found = find(f"Tensor.{name}") or find(name)
    if found is not None or not name.endswith("_") or name.startswith("_"):
        return found
    base = find(name[:-1])
    if base is None:
        return None
    return _view_in_place(base, name) if name[:-1] in _VIEWS else _in_place(base, name)


def _in_place(base: Callable[..., Any], name: str) -> Any:
    def method(self: Tensor, *args: Any, **options: Any) -> Tensor:
        return overwrite(self, base(self, *args, **options), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"``{name[:-1]}``, written into the tensor itself; returns the tensor."
    return method


_VIEWS = frozenset(names.IN_PLACE_VIEWS.split())


def _view_in_place(base: Callable[..., Any], name: str) -> Any:
    def method(self: Tensor, *args: Any, **options: Any) -> Tensor:
        return look_through(self, base(self, *args, **options), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"``{name[:-1]}`` of the tensor itself, over the same memory; returns the tensor."
    return method


def method_names() -> list[str]:
    """All names that :class:`Named` can stand for."""
    own = [each.name for each in LINES.values() if each.first in ("input", "self") and "." not in each.name]
    known = {*operations.__dict__, *" ".join(FILES.values()).split()}
    own += [name.removeprefix("Tensor.") for name in LINES if name.startswith("Tensor.")]
    own += [name for name in names.METHODS.split() if name in known]
    written = f"{names.IN_PLACE} {names.IN_PLACE_VIEWS}".split()
    return [*own, *(f"{name}_" for name in written if name in own)]
