"""Writes ``distgrad/autograd/declared_*.py`` from the names: ``python tests/write_declarations.py``."""

import inspect
import textwrap
from pathlib import Path

from distgrad.autograd.methods import METHODS
from distgrad.autograd.naming import LINES, Named, find_method

FOLDER = Path(__file__).parents[1] / "distgrad" / "autograd"
FILES = {"declared_names.py": "DeclaredNames", "declared_in_place.py": "DeclaredInPlace"}
HEAD = '''"""Methods under PyTorch's names for type checkers; written by tests/write_declarations.py."""

# fmt: off
from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any, Generic, TypeVar

__all__ = ["{name}"]

Array = TypeVar("Array")


if TYPE_CHECKING:

    class {name}(Generic[Array]):
        """The declarations; ``Array`` is the tensor."""

'''
#: What methods return that return no tensor.
NUMBERS = {"numel", "data_ptr", "element_size", "nelement", "ndimension", "get_device"}
ANSWERS = {
    *("equal", "allclose", "is_floating_point", "is_complex", "is_nonzero", "is_same_size"),
    *("is_conj", "is_neg", "is_contiguous"),
}
ANY = {
    *("max", "min", "median", "nanmedian", "sort", "topk", "aminmax", "cummax", "cummin", "kthvalue", "mode"),
    *("unique", "unique_consecutive", "std_mean", "var_mean", "split", "split_with_sizes", "unsafe_split"),
    *(
        "chunk",
        "unsafe_chunk",
        "tensor_split",
        "hsplit",
        "vsplit",
        "dsplit",
        "unbind",
        "nonzero",
        "type",
        "stride",
    ),
    *("slogdet", "qr", "svd", "lu", "geqrf", "frexp", "where", "triangular_solve", "lstsq", "eig"),
}


def returned(name):
    """The type of what a method returns."""
    if name in ANY:
        return "Any"
    return "builtins.int" if name in NUMBERS else "builtins.bool" if name in ANSWERS else "Array"


def declaration(name):
    """One method as a stub."""
    function = find_method(name)
    returns = returned(name)
    if function is None or (name.endswith("_") and name not in LINES):
        return f"    def {name}(self, *args: Any, **options: Any) -> {returns}: ..."
    parameters = list(inspect.signature(function).parameters.values())[1:]
    shown = []
    for each in parameters:
        default = "" if each.default is each.empty else " = ..."
        star = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        if each.kind is each.KEYWORD_ONLY and not any(one.startswith("*") for one in shown):
            shown.append("*")
        shown.append(f"{star}{each.name}: Any{default}")
    return f"    def {name}({', '.join(['self', *shown, '**words: Any'])}) -> {returns}: ..."


def text(file):
    """A whole file."""
    named = sorted(name for name, method in METHODS.items() if isinstance(method, Named))
    named = [name for name in named if name.endswith("_") == ("in_place" in file)]
    lines = []
    for name in named:
        line = f"    {declaration(name)}"
        if len(line) > 110:
            start, _, rest = line.partition("(")
            inside, _, returns = rest.rpartition(") -> ")
            inner = textwrap.wrap(inside, 98)
            lines += [f"{start}(", *(f"            {each}" for each in inner), f"        ) -> {returns}"]
        else:
            lines.append(line)
    head = HEAD.replace("{name}", FILES[file])
    if "builtins." not in "".join(lines):
        head = head.replace("import builtins\n", "")
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    for file in FILES:
        (FOLDER / file).write_text(text(file))
