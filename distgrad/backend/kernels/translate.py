"""Source text of an elementwise function's three forms: on arrays, as a loop for Numba, in CUDA C."""

from __future__ import annotations

import functools
import linecache
from collections.abc import Callable, Container, Iterable
from typing import Any

from distgrad.backend.kernels.elementwise import Assign, Elementwise, Node

__all__ = ["array_form", "cuda_source", "loop_form", "loop_source"]

_INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "less": "<", "less_equal": "<=",
    "greater": ">", "greater_equal": ">=", "equal": "==", "not_equal": "!=",
}  # fmt: skip
_COMMUTATIVE = ("add", "multiply")
#: In the forms that LLVM turns into vectors.
_LOOP = {
    "where": "({1} if {0} else {2})",
    "negative": "(-{0})",
    "sqrt": "math.sqrt({0})",
    "exp": "exp({0})",
    "abs": "abs({0})",
    "sign": "({one} if {0} > {zero} else -{one} if {0} < {zero} else {0})",
    "maximum": "({0} if ({0} >= {1}) | ({0} != {0}) else {1})",
    "minimum": "({0} if ({0} <= {1}) | ({0} != {0}) else {1})",
}
_CUDA = {
    "where": "({0} ? {1} : {2})",
    "negative": "(-{0})",
    "sqrt": "(A)sqrt({0})",
    "exp": "(A)exp({0})",
    "abs": "(A)fabs({0})",
    "sign": "sign_of({0})",
    "maximum": "larger({0}, {1})",
    "minimum": "smaller({0}, {1})",
}


# -- a loop over elements


class _Loop:
    """Writes expressions over single elements, in Python."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.constants: dict[float, str] = {}

    def constant(self, value: float) -> str:
        return self.constants.setdefault(value, f"constant{len(self.constants)}")

    def write(self, node: Node) -> str:
        if node.op == "name":
            return str(node.value)
        if node.op == "constant":
            return self.constant(node.value)
        args = [self.write(arg) for arg in node.args]
        if node.op in _INFIX:
            return f"({args[0]} {_INFIX[node.op]} {args[1]})"
        numbers = {}
        if node.op in ("sign", "maximum", "minimum"):  # read their arguments more than once
            args = [self.named(arg) for arg in args]
            numbers = {"one": self.constant(1.0), "zero": self.constant(0.0)} if node.op == "sign" else {}
        return _LOOP[node.op].format(*args, **numbers)

    def named(self, text: str) -> str:
        if text.isidentifier():
            return text
        name = f"value{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name


def _loaded(arrays: Iterable[str], body: Iterable[Assign], writes: Iterable[str]) -> list[str]:
    """The arrays whose elements are read, or written back, where they may not have been assigned to."""
    assigned: set[str] = set()
    read: set[str] = set()
    for each in body:
        read |= set(each.value.names()) - assigned
        if each.given is None:
            assigned.add(each.target)
    read |= set(writes) - assigned
    return [name for name in arrays if name in read]


def loop_source(rule: Elementwise, missing: Container[str] = ()) -> str:
    """Python for Numba: a function of flat arrays, ``name_``, and numbers of their dtype."""
    arrays, body = rule.variant(missing)
    loop = _Loop()
    for each in body:
        loop.lines.append(f"{each.target} = {loop.write(each.value)}")
    before = [f"{name} = {name}_[i]" for name in _loaded(arrays, body, rule.writes)]
    after = [f"{name}_[i] = {name}" for name in rule.writes if name in arrays]
    name = "_".join([rule.name, *(each for each in rule.optional if each in arrays)])
    parameters = [*(f"{each}_" for each in arrays), *rule.numbers]
    constants = [f"{name} = {arrays[0]}_.dtype.type({value!r})" for value, name in loop.constants.items()]
    lines = [f"def {name}({', '.join(parameters)}):", *(f"    {line}" for line in constants)]
    lines.append(f"    for i in range({arrays[0]}_.size):")
    lines += [f"        {line}" for line in (*before, *loop.lines, *after)]
    return "\n".join(lines) + "\n"


def loop_form(rule: Elementwise, missing: Container[str], names: dict[str, Any]) -> Callable[..., None]:
    """The function of :func:`loop_source`, in the module that ``names`` are the globals of."""
    source = loop_source(rule, missing)
    file = f"<loop {source[4 : source.index('(')]}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space: dict[str, Any] = {}
    exec(compile(source, file, "exec"), names, space)
    (function,) = space.values()
    return function


# -- CUDA


class _Cuda:
    """Writes expressions over single elements, in C."""

    def write(self, node: Node) -> str:
        if node.op == "name":
            return str(node.value)
        if node.op == "constant":
            return f"(A){node.value!r}"
        args = [self.write(arg) for arg in node.args]
        if node.op in _INFIX:
            return f"({args[0]} {_INFIX[node.op]} {args[1]})"
        return _CUDA[node.op].format(*args)


def _mapped_source(rule: Elementwise) -> str:
    *body, last = rule.body
    writer, inputs = _Cuda(), rule.arrays[:-1]
    parameters = [*(f"const T* {name}_" for name in inputs), "T* out_"]
    arrays = ", ".join(f"{name}_" for name in rule.arrays)
    lines = [
        f"KERNEL {rule.name}(i64 n, {', '.join(parameters)}) {{",
        f"  map(n, {arrays}, []({', '.join(f'A {name}' for name in inputs)}) {{",
        *(f"    A {each.target} = {writer.write(each.value)};" for each in body),
        f"    return {writer.write(last.value)};",
    ]
    return "\n".join([*lines, "  });", "}"]) + "\n"


def cuda_source(rule: Elementwise) -> str:
    """A kernel over flat arrays, of which those that may be missing are null.

    Behind the numbers comes where they lie in memory, for steps that are played again, or null. A rule of an
    expression's value has no numbers; its kernel moves many elements at a time.
    """
    if rule.writes == ("out",):
        return _mapped_source(rule)
    parameters = [f"{'' if name in rule.writes else 'const '}T* {name}_" for name in rule.arrays]
    for name in rule.numbers:
        parameters.append(f"double {name}_")
        parameters += [f"const double* {name}_found"] if name in rule.measured else []
    parameters.append("const double* live")
    lines = [f"KERNEL {rule.name}(i64 n, {', '.join(parameters)}) {{"]
    for place, name in enumerate(rule.numbers):
        value = f"live ? live[{place}] : {name}_"
        if name in rule.measured:
            value = f"{name}_found ? *{name}_found : {value}"
        lines.append(f"  const A {name} = (A)({value});")
    lines.append("  FOR_EACH(i, n) {")
    known = set(_loaded(rule.arrays, rule.body, rule.writes))
    for name in rule.arrays:
        if name in known:
            value = f"get({name}_, i, (A)0)" if name in rule.optional else f"widen({name}_[i])"
            lines.append(f"    A {name} = {value};")
    writer = _Cuda()
    for each in rule.body:
        kind = "" if each.target in known else "A "
        known.add(each.target)
        condition = f"if ({each.given}_) " if each.given else ""
        lines.append(f"    {condition}{kind}{each.target} = {writer.write(each.value)};")
    for name in rule.writes:
        condition = f"if ({name}_) " if name in rule.optional else ""
        lines.append(f"    {condition}store({name}_ + i, {name});")
    return "\n".join([*lines, "  }", "}"]) + "\n"


# -- whole arrays


class _Arrays:
    """Writes operations on whole arrays, into arrays that nobody needs any more where there are any."""

    def __init__(self, rule: Elementwise, body: list[Assign]) -> None:
        self.body, self.writes, self.factors = body, rule.writes, rule.factors
        self.lines: list[str] = []
        self.indent = "    "
        self.count = 0
        self.spare: set[str] = set()  # names of temporary arrays that are read once more at most

    def line(self, text: str) -> None:
        self.lines.append(self.indent + text)

    def temporary(self, text: str) -> str:
        self.count += 1
        name = f"value{self.count}"
        self.line(f"{name} = {text}")
        return name

    def statements(self) -> list[str]:
        for number, each in enumerate(self.body):
            if each.target in self.writes:
                self.write(each.value, each.target)
                continue
            text, owned = self.write(each.value)
            self.line(f"{each.target} = {text}")
            self.spare.discard(each.target)
            if owned and self.reads_after(number, each.target) == 1:
                self.spare.add(each.target)
        return self.lines

    def reads_after(self, number: int, name: str) -> int:
        """How often a name is read until it is bound anew."""
        count = 0
        for each in self.body[number + 1 :]:
            count += list(each.value.names()).count(name)
            if each.target == name:
                break
        return count

    def write(self, node: Node, into: str | None = None) -> tuple[str, bool]:
        """An expression's text, and whether it is a temporary array; ``into`` is where its elements go."""
        if node.op in ("name", "constant"):
            text = str(node.value)
            if into is not None:
                self.line(f"{into}[...] = {text}")
            return text, text in self.spare
        if node.op == "where":
            return self.choose(node, into)
        if node.op == "multiply" and node.args[0].value in self.factors:
            return self.scale(str(node.args[0].value), node.args[1], into)
        args = [self.write(arg, self.home_of(number, node, into)) for number, arg in enumerate(node.args)]
        if node.uniform and node.op == "negative":
            return f"(-{args[0][0]})", False
        texts = [text for text, _ in args]
        if node.op in _INFIX and node.op not in ("add", "subtract", "multiply", "divide"):
            return f"({texts[0]} {_INFIX[node.op]} {texts[1]})", False
        return self.operation(node.op, texts, [text for text, owned in args if owned], into)

    @staticmethod
    def home_of(number: int, node: Node, into: str | None) -> str | None:
        """``into``, where an operand may be computed there since no other one reads what lies there."""
        arg, others = node.args[number], node.args[:number] + node.args[number + 1 :]
        if into is None or arg.op in ("name", "constant") or into not in arg.names():
            return None
        return None if any(into in other.names() for other in others) else into

    def operation(self, op: str, texts: list[str], owned: list[str], into: str | None) -> tuple[str, bool]:
        home = into or (
            owned[0] if owned and op != "sign" else None
        )  # in place its loop takes ten times as long
        if op in _INFIX and home == texts[0]:
            self.line(f"{home} {_INFIX[op]}= {texts[1]}")
        elif op in _COMMUTATIVE and home == texts[1]:
            self.line(f"{home} {_INFIX[op]}= {texts[0]}")
        elif home is not None:
            self.line(f"xp.{op}({', '.join(texts)}, out={home})")
        elif op in _INFIX:
            return self.temporary(f"{texts[0]} {_INFIX[op]} {texts[1]}"), True
        else:
            return self.temporary(f"xp.{op}({', '.join(texts)})"), True
        return home, into is None

    def scale(self, factor: str, node: Node, into: str | None) -> tuple[str, bool]:
        """A product with a number that often is 1."""
        if node.op == "name" and into not in (None, node.value):
            self.line(f"xp.multiply({factor}, {node.value}, out={into})")
            return str(into), False
        text, owned = self.write(node, into if node.op != "name" else None)
        if not owned and text != into:
            return self.temporary(f"{text} if {factor} == 1.0 else {factor} * {text}"), False
        self.line(f"if {factor} != 1.0:")
        self.line(f"    {text} *= {factor}")
        return text, owned

    def choose(self, node: Node, into: str | None) -> tuple[str, bool]:
        test, *branches = node.args
        if not test.uniform:
            condition, _ = self.write(test)
            a, b = (f"kind({self.write(x)[0]})" if x.uniform else self.write(x)[0] for x in branches)
            text = f"xp.where({condition}, {a}, {b})"
            if into is None:
                return self.temporary(text), True
            self.line(f"{into}[...] = {text}")
            return into, False
        condition, _ = self.write(test)
        self.count += 1
        name, owned = f"value{self.count}", []
        for word, branch in zip((f"if {condition}:", "else:"), branches, strict=True):
            self.line(word)
            self.indent += "    "
            text, is_temporary = self.write(branch, into)
            if into is None:
                self.line(f"{name} = {text}")
            owned.append(is_temporary)
            self.indent = self.indent[4:]
        return into or name, into is None and all(owned)


def array_source(rule: Elementwise, missing: Container[str]) -> str:
    """Python: a function of ``xp``, arrays and numbers that changes the arrays in place."""
    _, body = rule.variant(missing)
    lines = _Arrays(rule, body).statements()
    head = f"def {rule.name}(xp, {', '.join([*rule.arrays, *rule.numbers])}):"
    return "\n".join([head, f"    kind = {rule.arrays[0]}.dtype.type", *lines]) + "\n"


def array_form(rule: Elementwise) -> Callable[..., Any]:
    """The formula on whole arrays: ``(xp, array, …, numbers)``, in place; returns the first array."""

    @functools.cache
    def made(missing: tuple[str, ...]) -> Any:
        space: dict[str, Any] = {}
        exec(compile(array_source(rule, missing), f"<formula of {rule.name}>", "exec"), space)
        return space[rule.name]

    def formula(xp: Any, *given: Any) -> Any:
        *arrays, numbers = given
        if arrays[0].ndim:
            made(rule.missing(arrays))(xp, *arrays, *numbers)
        else:  # an operation on it would be a number
            there = [array if array is None else array[None] for array in arrays]
            made(rule.missing(arrays))(xp, *there, *numbers)
        return arrays[0]

    formula.__name__ = rule.name
    formula.__doc__ = rule.function.__doc__
    return formula
