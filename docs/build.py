"""Writes the reference, a page an operation, from the registry: ``python docs/build.py docs/reference``.

Formulas, docstrings, shapes, gradients and rejections are read from the records, and every example is run.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import pictures

import distgrad as dg
from distgrad.autograd.dispatch import operations
from distgrad.autograd.later import PUBLIC
from distgrad.autograd.primitive import REGISTRY, Composite, Primitive, Reject
from distgrad.autograd.samples import Case, is_floating, reject_cases, sample_cases
from distgrad.backend.device import Device

ROOMS = (
    "distgrad",
    "distgrad.linalg",
    "distgrad.fft",
    "distgrad.special",
    "distgrad.nn.functional",
)  # where users find operations
LARGEST_PRINTED = 48  # elements; of a larger result the example shows the shape


# -- examples


def literal(value: Any) -> str:
    """An attribute as source text."""
    if isinstance(value, np.dtype):
        return f"dg.{value.name}"
    if isinstance(value, np.ndarray | dg.Tensor):
        return f"dg.tensor({literal(value.tolist())})"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, Device):
        return f"dg.{value!r}"
    if hasattr(value, "_fields"):
        return f"{type(value).__name__}({', '.join(map(literal, value))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and not np.isfinite(value):
        return f'float("{value}")'
    return "..." if value is Ellipsis else repr(value)


def argument(arg: Any, value: Any, domain: tuple[float, float] | None) -> str:
    """An argument as source text: random numbers where the sample asks for them.

    Args:
        arg: what the sample says: a shape, an array, a list of them, or anything else.
        value: what a case makes of it.
        domain: of the random numbers.
    """
    if isinstance(arg, list):
        return f"[{', '.join(argument(a, v, domain) for a, v in zip(arg, value, strict=True))}]"
    if isinstance(arg, tuple) and is_floating(value):
        lengths = ", ".join(map(str, arg))
        if domain is None:
            return f"dg.randn({lengths})"
        low, high = domain
        return f"{high - low:g} * dg.rand({lengths}) {'-' if low < 0 else '+'} {abs(low):g}"
    if isinstance(arg, tuple) and value.dtype.kind == "c":
        value = np.round(value, 2)
    return literal(value)


def public_name(record: Primitive) -> str:
    """What users call the operation; of one that only gradients call, its place in the engine."""
    for room in ROOMS:
        module = importlib.import_module(room)
        later = {
            name: getattr(module, name)
            for name in PUBLIC.get(room.removeprefix("distgrad").strip("."), "").split()
        }
        for name, value in (vars(module) | later).items():
            if getattr(value, "record", None) is record:
                return f"{room.replace('distgrad', 'dg')}.{name}"
    return f"operations.{record.name}"


def is_internal(record: Primitive) -> bool:
    """Whether only other operations' gradients call it."""
    return public_name(record).startswith("operations.")


def example(case: Case) -> str:
    """A program that calls the operation on a sample and prints the result."""
    sample, record = case.example, case.record
    domain = (None if isinstance(sample, Reject) else sample.domain) or record.domain
    values = case.arguments()
    names = record.inputs if len(record.inputs) == len(values) else [f"x{i + 1}" for i in range(len(values))]
    lines = ["import distgrad as dg"]
    if is_internal(record):
        lines.append("from distgrad.autograd.dispatch import operations")
    kinds = {type(value) for value in sample.attributes.values() if hasattr(value, "_fields")}
    lines += [f"from {kind.__module__} import {kind.__name__}" for kind in kinds]
    lines += ["", "dg.manual_seed(0)"]
    passed = []
    for name, arg, value in zip(names, sample.args, values, strict=True):
        text = argument(arg, value, domain)
        if text.find("dg.") >= 0:
            lines.append(f"{name} = {text}")
            text = name
        passed.append(text)
    passed += [f"{name}={literal(value)}" for name, value in sample.attributes.items()]
    lines.append(f"y = {public_name(record)}({', '.join(passed)})")
    results = case.call(*case.inputs())
    large = isinstance(results, dg.Tensor) and results.size > LARGEST_PRINTED
    return "\n".join([*lines, "print(y.shape)" if large else "print(y)"])


def run(program: str) -> str:
    """What a program prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "<example>", "exec"), {})
    return printed.getvalue()


# -- pages


def family(record: Primitive) -> str:
    """The name of the file in ``distgrad/autograd/ops`` that the operation stands in."""
    return record.formula.__module__.rpartition(".")[2]


def fenced(text: str, language: str = "") -> str:
    """A block of code."""
    return f"```{language}\n{text.strip()}\n```"


def signature(record: Primitive) -> str:
    """How the operation is called."""
    plain = inspect.signature(operations.__dict__[record.name])
    parameters = [each.replace(annotation=each.empty) for each in plain.parameters.values()]
    return f"{public_name(record)}{inspect.Signature(parameters)}"


def described(case: Case) -> str:
    """A case's arguments: shapes of arrays, and other values."""
    shown = [literal(shape_of(value)) for value in case.arguments()]
    shown += [f"{name}={literal(value)}" for name, value in case.example.attributes.items()]
    return "`" + ", ".join(shown).replace("|", "\\|") + "`"


def shape_of(value: Any) -> Any:
    """An array's shape as a list, also inside lists; anything else as it is."""
    if isinstance(value, list):
        return [shape_of(each) for each in value]
    return list(value.shape) if isinstance(value, np.ndarray) else value


def shapes(record: Primitive) -> list[str]:
    """A table of what the samples give."""
    rows = ["| arguments | result | |", "|---|---|---|"]
    for case in sample_cases([record]):
        with np.errstate(all="ignore"):
            results = case.call(*case.inputs())
        outs = [results] if isinstance(results, dg.Tensor) else results
        note = getattr(case.example, "note", "")
        rows.append(f"| {described(case)} | `{', '.join(str(list(out.shape)) for out in outs)}` | {note} |")
    return rows


def gradient(record: Primitive) -> list[str]:
    """The vjps' source; one formula serves the first derivative and all further ones."""
    if isinstance(record, Composite):
        return ["It is made of other operations, and its gradient of theirs."]
    if not record.vjps:
        return ["It has none: the result is not floating, or constant around almost every point."]
    functions = dict.fromkeys(vjp.function for vjp in record.vjps.values())
    sources = [textwrap.dedent(inspect.getsource(function)).strip() for function in functions]
    constant = [name for name in record.inputs if name not in record.vjps]
    rest = [f"None flows into {', '.join(constant)}."] if constant else []
    return [fenced("\n\n".join(sources), "python"), *rest]


def errors(record: Primitive) -> list[str]:
    """What the operation says to inputs that it refuses."""
    lines = []
    for case in reject_cases([record]):
        try:
            case.call(*case.inputs())
        except Exception as error:
            lines.append(f"- {described(case)}\n  raises `{type(error).__name__}: {error}`")
    return lines


def prose(docstring: str) -> str:
    """A docstring as Markdown: sections under a bold name, arguments as a list."""
    lines, section = [], ""
    for line in inspect.cleandoc(docstring).splitlines():
        if line in ("Args:", "Returns:", "Raises:"):
            section = line.rstrip(":")
            lines += [f"**{section}**", ""]
        elif section and line.startswith("    "):
            head = section != "Returns" and not line.startswith("     ")
            lines.append(("- " if head else "  ") + line.strip())
        else:
            lines.append(line)
    return "\n".join(lines)


def picture(record: Primitive) -> str:
    """The curve of an operation on one number; nothing for any other operation, or one that draws."""
    drawn = "generator" in inspect.signature(record.formula).parameters
    if len(record.inputs) != 1 or record.variadic or drawn:
        return ""
    attributes = next(sample_cases([record])).example.attributes
    function = getattr(operations, record.name)
    return pictures.picture(record.name, lambda x: function(x, **attributes), record.domain)


def page(record: Primitive) -> str:
    """The page of one operation."""
    program = example(next(sample_cases([record])))
    takes = "arrays of any dtype" if record.dtypes == "all" else f"{record.dtypes} arrays"
    gives = (
        "" if record.result in ("promote", "any") or callable(record.result) else f"; gives {record.result}"
    )
    parts = [
        f"# {record.name}",
        fenced(signature(record), "python"),
        fenced(record.math),
        prose(record.formula.__doc__ or ""),
        picture(record),
        f"Takes {takes}{gives}.",
        *(["Gradients of other operations call it; it has no public name."] if is_internal(record) else []),
        "## Example",
        fenced(program, "python"),
        fenced(run(program)),
        "## Shapes",
        "\n".join(shapes(record)),
        "## Gradient",
        *gradient(record),
    ]
    if record.rejects:
        parts += ["## Errors", "\n".join(errors(record))]
    if record.source:
        parts += ["## Source", record.source]
    parts.append(f"[All operations](index.md#{family(record)})")
    return "\n\n".join(filter(None, parts)) + "\n"


def index() -> str:
    """The list of all operations, by family."""
    parts = ["# Operations", f"{len(REGISTRY)} operations, generated from their records."]
    families: dict[str, list[Primitive]] = {}
    for record in REGISTRY.values():
        families.setdefault(family(record), []).append(record)
    for name, records in families.items():
        module = sys.modules[records[0].formula.__module__]
        rows = ["| operation | | gradient |", "|---|---|---|"]
        for record in sorted(records, key=lambda each: each.name):
            formula = record.math.replace("|", "\\|")
            mark = "yes" if record.differentiable else ""
            rows.append(f"| [{record.name}]({record.name}.md) | `{formula}` | {mark} |")
        parts += [f"## {name}", (module.__doc__ or "").partition("\n")[0], "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def main(folder: Path) -> None:
    """Write every page into ``folder``, once all of them are made."""
    pages = {"index": index()} | {record.name: page(record) for record in REGISTRY.values()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text)
    print(f"{len(pages)} pages in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
