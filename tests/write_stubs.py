"""Writes the stubs of modules that hold operations of the registry: ``python tests/write_stubs.py``.

A type checker sees the operations as functions of tensors, with the arguments of their formulas; all other
names as the module itself imports them.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import numpy as np

from distgrad.autograd.later import PUBLIC, find_operation
from distgrad.autograd.primitive import Composite

ROOT = Path(__file__).parents[1]
MODULES = ["distgrad", "distgrad.fft", "distgrad.linalg", "distgrad.special", "distgrad.nn.functional"]
HEAD = '''"""Signatures for type checkers and editors; written by tests/write_stubs.py."""

# fmt: off
# ruff: noqa
from builtins import bool as _bool
from collections.abc import Sequence as _Sequence
from typing import Any as _Any

import numpy as _np

from distgrad.autograd.tensor import Tensor as _Tensor
from distgrad.backend.rng import Generator as _Generator

_Array = _Tensor | _np.ndarray[_Any, _Any] | _np.generic | complex
_Lengths = int | _Sequence[int]
'''

#: Names of annotations in formulas, as the stubs write them.
ANNOTATIONS = {
    "Any": "_Any",
    "Array": "_Array",
    "Axis": "_Lengths | None",
    "Generator": "_Generator",
    "Key": "_Any",
    "Lengths": "_Lengths | None",
    "Sequence": "_Sequence",
    "Shape": "_Sequence[int]",
    "Sizes": "_Lengths",
    "Widths": "_Any",
    "bool": "_bool",
}
BUILTIN = {"None", "complex", "float", "int", "list", "str", "tuple"}


def stub_path(module):
    """Where the stub of a module stands."""
    base = ROOT.joinpath(*module.split("."))
    return base / "__init__.pyi" if base.is_dir() else base.with_suffix(".pyi")


def annotation(text, returned=False):
    """An annotation of a formula as the stub has it; a result that is an array is a tensor."""

    def word(match):
        name = match[0]
        if name == "Array" and returned:
            return "_Tensor"
        return name if name in BUILTIN else ANNOTATIONS[name]

    text = re.sub(r"tuple\[int, \.\.\.\]", "Sequence[int]", text)
    return re.sub(r"[A-Za-z]+", word, text).replace("_Lengths | None | None", "_Lengths | None")


def operation(name, function):
    """An operation of the registry as a function."""
    record = function.record
    parameters = []
    for each in inspect.signature(function).parameters.values():
        kind = annotation(each.annotation)
        if record.variadic and each.name == record.inputs[0] and not isinstance(record, Composite):
            kind = "_Sequence[_Array]"
        default = each.empty if each.default is each.empty else ...
        parameters.append(each.replace(annotation=Text(kind), default=default))
    returned = Text(annotation(record.signature.return_annotation, returned=True))
    text = str(inspect.Signature(parameters, return_annotation=returned)).replace("Ellipsis", "...")
    line = f"def {name}{text}:"
    doc = (inspect.getdoc(function) or "").partition("\n")[0]
    return f'{line}\n    """{doc}"""\n'


class Text(str):
    """A text that stands in a signature as it is."""

    __repr__ = str.__str__


def imported(module):
    """Where each name that a module imports comes from: module and name there; its own name for a module."""
    path = stub_path(module).with_suffix(".py")
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return found


def other(module, name, value, sources):
    """A name that is no operation."""
    if inspect.ismodule(value):
        package, _, own = value.__name__.rpartition(".")
        return f"from {package} import {own} as {name}\n"
    if name in sources:
        source, own = sources[name]
        return f"from {source} import {own} as {name}\n"
    if isinstance(value, np.dtype):
        return f"{name}: _np.dtype[_np.{value.type.__name__}]\n"
    if inspect.isfunction(value) and value.__module__ != module:
        return f"from {value.__module__} import {value.__name__} as {name}\n"
    if inspect.isfunction(value):
        return f"def {name}{inspect.signature(value)}: ...\n"
    return f"{name}: {type(value).__name__ if value is not None else None}\n"


def text(module):
    """A whole stub."""
    there = importlib.import_module(module)
    sources = imported(module)
    room = module.removeprefix("distgrad").removeprefix(".")
    names = dict.fromkeys([*there.__all__, *PUBLIC.get(room, "").split()])
    lines, functions = [], []
    if module == "distgrad":  # NumPy has none, and its package is loaded when it is asked for
        lines.append("bfloat16: _np.dtype[_Any]\n")
    for name in names:
        value = find_operation(name) if name in PUBLIC.get(room, "").split() else getattr(there, name)
        if hasattr(value, "record") and not inspect.ismodule(value):
            functions.append(operation(name, value))
        else:
            lines.append(other(module, name, value, sources))
    shown = "\n".join(f'    "{name}",' for name in names)
    parts = [f"{HEAD}\n{''.join(sorted(lines))}", f"__all__ = [\n{shown}\n]\n", "".join(sorted(functions))]
    return "\n".join(part for part in parts if part)


if __name__ == "__main__":
    for module in MODULES:
        stub_path(module).write_text(text(module))
