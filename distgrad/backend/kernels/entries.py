"""Which compiled functions a kernel calls, and which of them lie on disk."""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterable, Iterator
from typing import Any

from distgrad.backend.kernels.cache import SHARED, mark
from distgrad.backend.kernels.support import Entry

__all__ = ["compile_one", "find_entries", "missing"]


def _reached(value: Any, module: str, seen: set[int]) -> Iterator[Entry]:
    """The entries that a function calls, directly or through others of its module."""
    if isinstance(getattr(value, "entry", None), Entry):
        yield value.entry
    if not isinstance(value, types.FunctionType) or value.__module__ != module or id(value) in seen:
        return
    seen.add(id(value))
    codes = [value.__code__]
    for code in codes:
        codes += [part for part in code.co_consts if isinstance(part, types.CodeType)]
    called = [value.__globals__.get(name) for code in codes for name in code.co_names]
    for cell in value.__closure__ or ():
        inside = cell.cell_contents
        called += inside.values() if isinstance(inside, dict) else [inside]
    for each in called:
        yield from _reached(each, module, seen)


def find_entries(name: str, char: str, rare: bool = False) -> list[tuple[Entry, tuple[Any, ...]]]:
    """What a kernel calls, with the types of the arguments.

    Args:
        name: its file and the function in it.
        char: the elements' dtype.
        rare: also what models seldom need.
    """
    module, _, function = name.partition(".")
    full = f"distgrad.backend.kernels.{module}"
    found: dict[tuple[str, Any], tuple[Entry, tuple[Any, ...]]] = {}
    for entry in _reached(getattr(importlib.import_module(full), function), full, set()):
        chars = entry.dtypes if name == SHARED else char if char in entry.dtypes else ""
        for each in chars if rare or not entry.rare else "":
            found[entry.function._cache.name, entry.types(each)] = entry, entry.types(each)
    return list(found.values())


def _lies_on_disk(entry: Entry, arguments: tuple[Any, ...]) -> bool:
    return bool(entry.function._cache.has(arguments, entry.function.targetctx))


def missing(kernels: Iterable[tuple[str, str]], rare: bool = False) -> set[str]:
    """The compiled functions that kernels call and the disk does not have."""
    return {
        entry.function._cache.name
        for name, char in kernels
        for entry, arguments in find_entries(name, char, rare)
        if not _lies_on_disk(entry, arguments)
    }


def compile_one(name: str, char: str, rare: bool = False) -> None:
    """Compile what a kernel calls, as far as the disk does not have it, and note that."""
    for entry, arguments in find_entries(name, char, rare):
        if not _lies_on_disk(entry, arguments):
            entry.function.compile(arguments)
    mark(name, char)
