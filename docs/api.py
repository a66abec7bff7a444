"""Pages of the reference for what is no operation: classes, functions, the command line, the environment.

Everything is read from the package: ``__all__``, signatures, docstrings, ``--help``.
"""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import click
import pictures

from distgrad.autograd.primitive import Primitive
from distgrad.cli import main
from distgrad.nn.module import Module

#: Packages whose public names have pages, in the order in which they are listed.
ROOMS = (
    "distgrad",
    "distgrad.nn",
    "distgrad.nn.functional",
    "distgrad.nn.init",
    "distgrad.nn.utils",
    "distgrad.nn.utils.rnn",
    "distgrad.nn.utils.parametrize",
    "distgrad.nn.utils.parametrizations",
    "distgrad.optim",
    "distgrad.optim.lr_scheduler",
    "distgrad.optim.swa_utils",
    "distgrad.data",
    "distgrad.comm",
    "distgrad.parallel",
    "distgrad.parallel.functional",
    "distgrad.checkpoint",
    "distgrad.profiler",
    "distgrad.train",
    "distgrad.hub",
    "distgrad.amp",
    "distgrad.func",
    "distgrad.autograd",
    "distgrad.linalg",
    "distgrad.fft",
    "distgrad.special",
    "distgrad.cuda",
    "distgrad.errors",
    "distgrad.horovod",
    "distgrad.horovod.elastic",
)
_SECTIONS = ("Args", "Returns", "Yields", "Raises", "Attributes", "Source")
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`~?([^`]+)`")


def prose(docstring: str) -> str:
    """A docstring as Markdown: sections under a bold name, arguments as a list, roles as code."""
    lines, section = [], ""
    for line in inspect.cleandoc(docstring).splitlines():
        name = line.rstrip(":")
        if name in _SECTIONS and line.endswith(":"):
            section = name
            lines += ["", f"**{name}**", ""]
        elif section and line.startswith("    "):
            head = section in ("Args", "Raises", "Attributes") and not line.startswith("     ")
            lines.append(("- " if head else "  ") + line.strip())
        else:
            section = "" if line and not line.startswith(" ") else section
            lines.append(line)
    text = _ROLE.sub(r"``\1``", "\n".join(lines))
    text = re.sub(r"^::$", "", text, flags=re.MULTILINE).replace("::\n", ":\n")
    return "\n".join(map(_table, text.split("\n")))


def _table(line: str) -> str:
    """The rules of reStructuredText's tables, which Markdown has not, go."""
    return "" if re.fullmatch(r"[= ]{6,}", line) else line


def signature(name: str, value: Any) -> str:
    """How something is called, without annotations; its name alone where Python does not know."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    parameters = [
        each.replace(annotation=each.empty)
        for each in found.parameters.values()
        if each.name not in ("self", "xp")
    ]
    text = f"{name}{inspect.Signature(parameters)}"
    if len(text) <= 88:
        return text
    kinds = [each.kind for each in parameters]
    lines = [str(each) for each in parameters]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        lines.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    if positional := kinds.count(inspect.Parameter.POSITIONAL_ONLY):
        lines.insert(positional, "/")
    inner = ",\n    ".join(lines)
    return f"{name}(\n    {inner},\n)"


def methods(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class adds to those of modules, optimizers and exceptions."""
    bases = {
        "Module",
        "Optimizer",
        "LRScheduler",
        "Exception",
        "BaseException",
        "object",
        "Generic",
        "Protocol",
    }
    seen: set[str] = set()
    for each in kind.__mro__:
        if each is not kind and each.__name__ in bases:
            continue
        for name, value in vars(each).items():
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if (
                name.startswith("_")
                or name in seen
                or not inspect.isfunction(function)
                or not function.__doc__
            ):
                continue
            seen.add(name)
            yield name, value


def curve(kind: type) -> list[str]:
    """The picture of an activation; nothing of other modules, and of those that need arguments."""
    if not issubclass(kind, Module) or inspect.isabstract(kind):
        return []
    required = [each for each in inspect.signature(kind).parameters.values() if each.default is each.empty]
    if any(each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in required):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what layers say to a row of numbers
        found = pictures.picture(kind.__name__, kind().eval())
    return [found] if found else []


def page(room: str, name: str, value: Any) -> str:
    """The page of one public name."""
    public = f"{room.replace('distgrad', 'dg')}.{name}"
    parts = [f"# {name}"]
    if inspect.isclass(value):
        parts += [f"```python\n{signature(public, value)}\n```", prose(value.__doc__ or ""), *curve(value)]
        for key, method in methods(value):
            function = method.fget if isinstance(method, property) else getattr(method, "__func__", method)
            head = key if isinstance(method, property) else signature(key, function)
            parts += [f"## {key}", f"```python\n{head}\n```", prose(function.__doc__ or "")]
    elif callable(value):
        parts += [f"```python\n{signature(public, value)}\n```", prose(inspect.getdoc(value) or "")]
    else:
        parts += [f"```python\n{public} = {value!r}\n```"]
    shown = room.replace("distgrad", "dg")
    parts.append(f"[All of {shown}](index.md)")
    return "\n\n".join(parts) + "\n"


def summary(value: Any) -> str:
    """The first sentence of a docstring, as a cell of a table; the value of what has none."""
    if not (inspect.isclass(value) or callable(value) or inspect.ismodule(value)):
        return f"`{value!r}`"
    first = (inspect.getdoc(value) or "").strip().split("\n\n")[0].replace("\n", " ")
    return _ROLE.sub(r"`\1`", first).replace("|", "\\|").replace("``", "`")


def room_pages(room: str) -> dict[str, str]:
    """The pages of one package: ``index`` and one a name; operations link to theirs.

    A name is in the file ``NAME.md``, with ``_class`` behind it where another differs by capitals alone.
    """
    module = importlib.import_module(room)
    pages, rows = {}, ["| | |", "|---|---|"]
    taken: set[str] = {"index"}
    for name in sorted(module.__all__, key=str.lower):
        value = getattr(module, name)
        record = getattr(value, "record", None)
        if inspect.ismodule(value):
            target = f"../{value.__name__.replace('distgrad.', 'dg.')}/index.md"
            if value.__name__ not in ROOMS:
                continue
        elif isinstance(record, Primitive):
            target = f"../operations/{record.name}.md"
        else:
            file = name if name.lower() not in taken else f"{name}_class"
            taken.add(name.lower())
            target = f"{file}.md"
            pages[file] = page(room, name, value)
        rows.append(f"| [`{name}`]({target}) | {summary(value)} |")
    text = [f"# {room.replace('distgrad', 'dg')}", prose(module.__doc__ or ""), "\n".join(rows)]
    return {"index": "\n\n".join(text) + "\n"} | pages


def commands(group: click.Group, name: str = "") -> Iterator[str]:
    """What can be typed behind ``distgrad``: the group itself, its commands and theirs."""
    yield name
    for key, command in sorted(group.commands.items()):
        inner = f"{name} {key}".strip()
        yield from commands(command, inner) if isinstance(command, click.Group) else [inner]


def command_page() -> str:
    """The options of every command, as ``--help`` prints them."""
    parts = ["# The command line"]
    for command in commands(main):
        asked = [sys.executable, "-m", "distgrad", *command.split(), "--help"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
        parts += [f"## {f'distgrad {command}'.strip()}", f"```\n{done.stdout.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def environment_page() -> str:
    """The environment variables, from the one class that reads them."""
    from distgrad import env

    return f"# Environment variables\n\n{prose(env.Environment.__doc__ or '')}\n"
