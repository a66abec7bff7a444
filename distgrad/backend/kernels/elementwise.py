"""Functions of one element, written once: arrays' formulas, compiled loops and CUDA C are made of them.

A function is plain Python over numbers::

    @elementwise
    def decayed(p: float, average: float, *, rate: float, share: float) -> Any:
        p = p - rate * p
        average = average + share * (p - average)
        return p, average

Parameters before ``*`` are arrays, of which it sees one element; those behind it are numbers, the same for
all elements. What it returns are the arrays that change; a function without numbers that changes none
may return an expression, whose place is a further array, ``out``. An array that may be missing is annotated
``float | None`` and used below ``if x is not None:``. A number annotated ``Measured`` may lie on a device;
one annotated ``Factor`` is often 1, and costs the form for arrays nothing then. What several begin with is a
function of its own, marked ``@inlined``. All is rounded in the arrays' dtype, one operation at a time as
written, so that every form on the host gives an element the same bits (of ``exp`` as far as the libraries
agree on it); two numbers are therefore combined before, on the host, in double precision. A number that the
module calls by a name is one of its constants.
"""

from __future__ import annotations

import ast
import functools
import linecache
import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distgrad.errors import DefinitionError

__all__ = [
    "Assign",
    "Elementwise",
    "Factor",
    "Measured",
    "Node",
    "elementwise",
    "exp",
    "inlined",
    "maximum",
    "minimum",
    "sign_of",
    "sqrt",
]

Factor = float
Measured = Any

_OPERATORS = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide"}
_COMPARISONS = {
    ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal", ast.Eq: "equal",
    ast.NotEq: "not_equal",
}  # fmt: skip
#: What may be called: the array API's name, and how many arguments.
_FUNCTIONS = {"sqrt": ("sqrt", 1), "exp": ("exp", 1), "abs": ("abs", 1), "sign_of": ("sign", 1)}
_FUNCTIONS |= {"maximum": ("maximum", 2), "minimum": ("minimum", 2)}
_ALLOWED = (
    "allowed are assignments to names, `if x is not None:` for an array that may be missing, + - * /, "
    f"comparisons, `a if c else b`, {', '.join(_FUNCTIONS)}, functions marked @inlined, and one return"
)

_RESERVED = {"i", "n", "A", "T", "xp", "kind", "math", "out", *_FUNCTIONS}  # what translations call something

sqrt = math.sqrt


def exp(x: float) -> float:
    """e to the power of x; infinite where that is too large."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def maximum(a: float, b: float) -> float:
    """The larger number; NaN if there is one."""
    return a if a >= b or a != a else b


def minimum(a: float, b: float) -> float:
    """The smaller number; NaN if there is one."""
    return a if a <= b or a != a else b


def sign_of(x: float) -> float:
    """1, −1, 0 or NaN."""
    return 1.0 if x > 0 else -1.0 if x < 0 else x


@dataclass(frozen=True)
class Node:
    """An expression.

    Attributes:
        op: ``name``, ``constant``, ``where``, or the array API's name of an operation.
        args: of the operation.
        uniform: whether it is the same for all elements.
        value: the name, or the constant.
    """

    op: str
    args: tuple[Node, ...] = ()
    uniform: bool = False
    value: Any = None

    def names(self) -> Iterator[str]:
        """The names that it reads, as often as it does."""
        if self.op == "name":
            yield self.value
        for arg in self.args:
            yield from arg.names()


@dataclass(frozen=True)
class Assign:
    """A name bound to an expression.

    Attributes:
        target: the name.
        value: the expression.
        given: the array without which nothing happens; None for always.
        line: in the file.
    """

    target: str
    value: Node
    given: str | None
    line: int


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A function of one element, as its translations take it.

    Attributes:
        function: as written; takes and returns plain numbers.
        arrays: the parameters of which it sees an element, in order, and ``out`` where it returns an
            expression.
        optional: those that may be missing.
        numbers: the other parameters, in order.
        measured: those of them that may lie on a device.
        factors: those that often are 1.
        writes: the arrays that change.
        body: what it does.
    """

    function: Callable[..., Any]
    arrays: tuple[str, ...]
    optional: tuple[str, ...]
    numbers: tuple[str, ...]
    measured: tuple[str, ...]
    factors: tuple[str, ...]
    writes: tuple[str, ...]
    body: tuple[Assign, ...]

    @property
    def name(self) -> str:
        """The function's."""
        return self.function.__name__

    @functools.cached_property
    def state(self) -> tuple[str, ...]:
        """The arrays behind the gradients: what an optimizer keeps."""
        return self.arrays[self.arrays.index("g") + 1 :]

    def take(self, numbers: dict[str, Any]) -> tuple[Any, ...]:
        """The numbers in their order, from a dict that has them by name."""
        return tuple([numbers[name] for name in self.numbers])

    def missing(self, arrays: Sequence[Any]) -> tuple[str, ...]:
        """The names of those that are None."""
        if not self.optional:
            return ()
        return tuple(name for name, place in self._places if arrays[place] is None)

    @functools.cached_property
    def _places(self) -> list[tuple[str, int]]:
        return [(name, self.arrays.index(name)) for name in self.optional]

    def variant(self, missing: Container[str]) -> tuple[tuple[str, ...], list[Assign]]:
        """Its arrays and what it does where some of them are missing."""
        kept = tuple(name for name in self.arrays if name not in missing)
        return kept, [replace(each, given=None) for each in self.body if each.given not in missing]


class Inlined:
    """A function that others call, whose lines take the call's place."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: float) -> Any:
        return self.function(*args)


def inlined(function: Callable[..., Any]) -> Inlined:
    """Let a function of numbers be called by those marked :func:`elementwise`: assignments, then a return."""
    return Inlined(function)


def elementwise(function: Callable[..., Any]) -> Elementwise:
    """Read a function of one element.

    Raises:
        DefinitionError: something that cannot be translated, with its line and what is allowed.
    """
    return _Reader(function).read()


@functools.cache
def _definitions(file: str) -> dict[int, ast.FunctionDef]:
    """The functions in a file, by their first lines, those of decorators included."""
    functions = (
        node
        for node in ast.walk(ast.parse("".join(linecache.getlines(file))))
        if isinstance(node, ast.FunctionDef)
    )
    return {min([node.lineno, *(each.lineno for each in node.decorator_list)]): node for node in functions}


def _tree(function: Callable[..., Any]) -> ast.FunctionDef:
    file, line = function.__code__.co_filename, function.__code__.co_firstlineno
    tree = _definitions(file).get(line)
    if tree is None or tree.name != function.__name__:
        raise DefinitionError(
            f"{file}:{line}: {function.__name__}: expected a function written with def in a file, whose text "
            "can be read, found none there; write it in a module"
        )
    return tree


class _Reader:
    """Checks a function and turns it into assignments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.tree = _tree(function)
        arguments = self.tree.args
        notes = {each.arg: ast.unparse(each.annotation or ast.Constant(None)) for each in arguments.args}
        self.arrays = tuple(notes)
        self.optional = tuple(name for name, note in notes.items() if note.endswith("| None"))
        self.numbers = tuple(each.arg for each in arguments.kwonlyargs)
        kinds = {
            each.arg: ast.unparse(each.annotation or ast.Constant(None)) for each in arguments.kwonlyargs
        }
        self.measured = tuple(name for name, kind in kinds.items() if kind == "Measured")
        self.factors = tuple(name for name, kind in kinds.items() if kind == "Factor")
        self.known = set(self.arrays) - set(self.optional)  # names that have a value
        self.body: list[Assign] = []
        self.calls = 0

    def fail(self, node: ast.AST, why: str) -> DefinitionError:
        line = getattr(node, "lineno", self.tree.lineno)
        return DefinitionError(
            f"{self.function.__code__.co_filename}:{line}: {self.tree.name}: {why}; {_ALLOWED}"
        )

    def read(self) -> Elementwise:
        taken = _RESERVED & {*self.arrays, *self.numbers}
        if taken:
            raise self.fail(self.tree, f"{sorted(taken)} cannot be parameters' names")
        statements = self.tree.body
        if isinstance(statements[0], ast.Expr) and isinstance(statements[0].value, ast.Constant):
            statements = statements[1:]
        *statements, last = statements
        for statement in statements:
            self.statement(statement, None)
        writes = self.mapped(last) or self.returned(last)
        self.check_copies(writes)
        read = {name for each in self.body for name in each.value.names()}
        if not read >= set(self.numbers):
            raise self.fail(self.tree, f"{sorted(set(self.numbers) - read)} are never read")
        return Elementwise(
            self.function, self.arrays, self.optional, self.numbers, self.measured, self.factors, writes,
            tuple(self.body),
        )  # fmt: skip

    def mapped(self, node: ast.stmt) -> tuple[str, ...]:
        """The result's array, where no other one changes and there are no numbers."""
        changed = {each.target for each in self.body} & set(self.arrays)
        if changed or self.numbers or not isinstance(node, ast.Return) or node.value is None:
            return ()
        self.body.append(Assign("out", self.expression(node.value, None, {}), None, node.lineno))
        self.arrays += ("out",)
        return ("out",)

    def returned(self, node: ast.stmt) -> tuple[str, ...]:
        if not isinstance(node, ast.Return) or node.value is None:
            raise self.fail(node, "expected `return` with the arrays that change at the end")
        parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        names = tuple(part.id for part in parts if isinstance(part, ast.Name))
        changed = {each.target for each in self.body}
        if len(names) != len(parts) or not set(names) <= set(self.arrays) & changed:
            raise self.fail(node, "expected names of arrays that were assigned to")
        return names

    def check_copies(self, writes: tuple[str, ...]) -> None:
        """No name may stand for an array's old elements once they are overwritten."""
        for number, each in enumerate(self.body):
            later = {other.target for other in self.body[number + 1 :]} & set(writes)
            for name in _copied(each.value):
                if name in later and each.target != name:
                    node = ast.Pass(lineno=each.line)
                    raise self.fail(node, f"{each.target} would stand for {name}, which is assigned to later")

    def statement(self, node: ast.stmt, given: str | None) -> None:
        if isinstance(node, ast.If) and given is None and not node.orelse:
            name = self.presence(node.test)
            before = set(self.known)
            self.known.add(name)
            for each in node.body:
                self.statement(each, name)
            new = self.known - before - {name}
            if new:
                raise self.fail(node, f"{sorted(new)} have no value where {name} is missing")
            self.known = before
            return
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            raise self.fail(node, f"`{ast.unparse(node).splitlines()[0]}` cannot be translated")
        value = self.expression(node.value, given, {})
        self.assign(node, node.targets[0].id, value, given)

    def assign(self, node: ast.AST, target: str, value: Node, given: str | None) -> None:
        if value.uniform or value.op in _COMPARISONS.values():
            raise self.fail(
                node, f"{target} is the same for all elements, or a truth: write it where it is used"
            )
        if target in _RESERVED:
            raise self.fail(node, f"{target} cannot be a name")
        if target in self.optional and target != given:
            raise self.fail(node, f"{target} may be missing: assign below `if {target} is not None:`")
        if target in self.numbers:
            raise self.fail(node, f"{target} is a number, which cannot be assigned to")
        self.body.append(Assign(target, value, given, getattr(node, "lineno", 0)))
        self.known.add(target)

    def presence(self, test: ast.expr) -> str:
        if (
            isinstance(test, ast.Compare)
            and isinstance(test.left, ast.Name)
            and isinstance(test.ops[0], ast.IsNot)
            and test.left.id in self.optional
        ):
            return test.left.id
        raise self.fail(test, f"`if {ast.unparse(test)}:` does not ask whether an array is there")

    def expression(self, node: ast.expr, given: str | None, names: dict[str, Node]) -> Node:
        """A checked expression; ``names`` are an inlined function's own."""

        def inner(part: ast.expr) -> Node:
            return self.expression(part, given, names)

        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return Node("constant", (), True, float(node.value))
        if isinstance(node, ast.Name):
            return names[node.id] if node.id in names else self.named(node)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return self.operation(node, _OPERATORS[type(node.op)], inner(node.left), inner(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            x = inner(node.operand)
            return Node("negative", (x,), x.uniform)
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
            a, b = inner(node.left), inner(node.comparators[0])
            return Node(_COMPARISONS[type(node.ops[0])], (a, b), a.uniform and b.uniform)
        if isinstance(node, ast.IfExp):
            test, a, b = inner(node.test), inner(node.body), inner(node.orelse)
            if test.op not in _COMPARISONS.values():
                raise self.fail(node, f"`{ast.unparse(node.test)}` is no comparison")
            return Node("where", (test, a, b), test.uniform and a.uniform and b.uniform)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self.call(node, node.func.id, [inner(part) for part in node.args], given)
        raise self.fail(node, f"`{ast.unparse(node)}` cannot be translated")

    def named(self, node: ast.Name) -> Node:
        if node.id in self.numbers:
            return Node("name", (), True, node.id)
        if node.id in self.known:
            return Node("name", (), False, node.id)
        constant = self.function.__globals__.get(node.id)
        if isinstance(constant, int | float):
            return Node("constant", (), True, float(constant))
        raise self.fail(node, f"{node.id} has no value here")

    def operation(self, node: ast.expr, op: str, *args: Node) -> Node:
        if all(arg.uniform for arg in args):
            raise self.fail(node, f"`{ast.unparse(node)}` combines numbers: make one of them before the call")
        if any(arg.op in _COMPARISONS.values() for arg in args):
            raise self.fail(node, f"`{ast.unparse(node)}` computes with a truth")
        return Node(op, args)

    def call(self, node: ast.Call, name: str, args: list[Node], given: str | None) -> Node:
        if name in _FUNCTIONS and _FUNCTIONS[name][1] == len(args):
            return self.operation(node, _FUNCTIONS[name][0], *args)
        helper = self.function.__globals__.get(name)
        if not isinstance(helper, Inlined):
            raise self.fail(node, f"`{ast.unparse(node)}` calls what cannot be translated")
        tree = _tree(helper.function)
        parameters = [each.arg for each in tree.args.args]
        if len(parameters) != len(args) or any(arg.op != "name" for arg in args):
            raise self.fail(node, f"`{ast.unparse(node)}` must give a name for each of {parameters}")
        names = dict(zip(parameters, args, strict=True))
        self.calls += 1
        for statement in tree.body[1:] if ast.get_docstring(tree) else tree.body:
            if isinstance(statement, ast.Return) and statement.value is not None:
                return self.expression(statement.value, given, names)
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise self.fail(node, f"{name} holds more than assignments and a return")
            own = f"{name}{self.calls}_{statement.targets[0].id}"
            self.assign(node, own, self.expression(statement.value, given, names), given)
            names[statement.targets[0].id] = Node("name", (), False, own)
        raise self.fail(node, f"{name} returns nothing")


def _copied(value: Node) -> Iterator[str]:
    """Names whose elements an expression may hand on as they are."""
    if value.op == "name":
        yield value.value
    elif value.op == "where":
        for arg in value.args[1:]:
            yield from _copied(arg)
