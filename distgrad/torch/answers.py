"""Where the names of ``distgrad.torch`` and its submodules are found, from the tables of ``distgrad.names``.

What has been found is kept in the module, so that only the first look costs anything.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from contextlib import suppress
from types import ModuleType
from typing import Any

from distgrad.autograd.casting import set_weak_scalars
from distgrad.autograd.naming import LINES, find, find_method
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.names.absent import way_around
from distgrad.names.deferred import DEFERRED, DTYPES
from distgrad.names.functions import FUNCTIONS, METHODS
from distgrad.names.rooms import ALIASES, FILES, PLACES, TOP, WHOLE
from distgrad.torch.dtypes import AbsentDtype, tell_kinds

__all__ = ["find_in_torch", "missing", "names_of_torch", "open_rooms", "open_subrooms"]

_PACKAGE = "distgrad.torch"
_KNOWN = {*LINES, *FUNCTIONS.split(), *METHODS.split()}


def open_rooms(package: str) -> None:
    """Let the submodules of the table be imported, dtypes tell their kinds, and scalars be weak."""
    set_weak_scalars(True)
    tell_kinds()
    for name in PLACES:
        sys.modules[f"{package}.{name}"] = _room(name)
    for parent in {*PLACES} | {name.rpartition(".")[0] for name in PLACES} - {*FILES.split(), ""}:
        open_subrooms(f"{package}.{parent}")


def open_subrooms(package: str) -> None:
    """Let the table's submodules of one module be its attributes."""
    for last in _rooms_in(package.removeprefix(_PACKAGE).removeprefix(".")):
        setattr(sys.modules[package], last, sys.modules[f"{package}.{last}"])


def _rooms_in(parent: str) -> list[str]:
    places = (name.rpartition(".") for name in PLACES)
    return [last for above, _, last in places if above == parent]


class _Room(ModuleType):
    """A submodule, which is called as the function of its own name within: ``nn.utils.weight_norm``, say."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function."""
        function = getattr(self, self.__name__.rpartition(".")[2], None)
        if not callable(function):
            raise TypeError(f"{self.__name__.removeprefix('distgrad.')} is a module, which cannot be called")
        return function(*args, **options)


def _room(name: str) -> ModuleType:
    """A submodule whose names are looked for when they are asked for."""
    module = _Room(f"{_PACKAGE}.{name}", f"PyTorch's ``torch.{name}``.")
    module.__path__ = []  # it may have submodules
    places = PLACES[name]

    def find_name(attribute: str) -> Any:
        if attribute == "__all__":
            rooms = _rooms_in(name) if name in WHOLE.split() else []
            return _there(module, {*_names_in(places), *_named(name), *rooms})
        if attribute.startswith("__") and attribute != "__version__":  # whoever looks through modules asks
            raise missing(f"torch.{name}", attribute)
        found = _in_tables(name, attribute)
        if found is None:
            found = _ask(places, attribute, otherwise=_NOWHERE)
        if found is _NOWHERE:
            found = _deferred(name, attribute)
        setattr(module, attribute, found)
        return found

    module.__dict__["__getattr__"] = find_name
    module.__dict__["__dir__"] = lambda: sorted({*module.__dict__, *_names_in(places), *_named(name)})
    return module


def _in_tables(room: str, attribute: str) -> Any:
    """A function of the tables: ``linalg.norm``, say, or what ``special`` calls otherwise than ``torch``."""
    found = find(f"{room}.{attribute}")
    if found is None and attribute in ALIASES.get(room, {}):
        found = find(ALIASES[room][attribute])
    if found is None and room in ("linalg", "special"):
        found = find(attribute) if attribute in FUNCTIONS.split() else None
    return found


def _sources(places: tuple[str, ...]) -> list[tuple[Any, set[str] | None]]:
    """The objects that are asked, each with the names that it is asked for; None for all."""
    found: list[tuple[Any, set[str] | None]] = []
    for place in places:
        module, _, names = place.partition(":")
        source: Any = importlib.import_module(module)
        if names.startswith("*"):
            found.append((getattr(source, names[1:]), None))
        else:
            found.append((source, set(names.split()) if names else None))
    return found


_NOWHERE = object()


def _ask(places: tuple[str, ...], attribute: str, otherwise: Any = None) -> Any:
    """What the first of the places with such a name has there; ``version.cuda``, say, is None."""
    for source, names in _sources(places):
        if names is None or attribute in names:
            try:
                return getattr(source, attribute)
            except AttributeError:
                continue
    return otherwise


def _names_in(places: tuple[str, ...]) -> set[str]:
    names: set[str] = set()
    for source, wanted in _sources(places):
        names |= wanted or _public(source)
    return names


def _public(source: Any) -> set[str]:
    """What an object lists, and what else was made in it."""
    listed = getattr(source, "__all__", None)
    if listed is None:
        return {each for each in dir(source) if not each.startswith("_")}
    own = {key for key, each in vars(source).items() if getattr(each, "__module__", "") == source.__name__}
    return {each for each in {*listed, *own} if not each.startswith("_")}


def _named(room: str) -> set[str]:
    """The functions that the tables have for a submodule."""
    return {name.rpartition(".")[2] for name in LINES if name.rpartition(".")[0] == room} | {
        *ALIASES.get(room, ())
    }


def _there(module: ModuleType, names: Iterable[str]) -> list[str]:
    """What ``from torch.… import *`` brings: of these names those that are there and public."""
    return [name for name in sorted(names) if not name.startswith("_") and hasattr(module, name)]


def missing(where: str, attribute: str) -> AttributeError:
    """The error for a name that is not there."""
    full = f"{where}.{attribute}".removeprefix("torch.")
    hint = way_around(full)
    return AttributeError(
        f"distgrad has no {where}.{attribute}" + (f"; {hint}" if hint else ""), name=attribute
    )


def _deferred(room: str, attribute: str) -> Any:
    """A type without instances for a name of ``DEFERRED``; an error for any other."""
    where = f"torch.{room}".rstrip(".")
    absent = missing(where, attribute)
    if not room and attribute in DTYPES.split():
        return AbsentDtype(str(absent))
    if attribute not in DEFERRED.get(room, "").split():
        raise absent

    def refuse(cls: Any, *args: Any, **options: Any) -> Any:
        raise OptionError(str(absent))

    return type(attribute, (), {"__module__": where, "__new__": refuse, "__doc__": str(absent)})


def find_in_torch(name: str) -> Any:
    """A name of ``torch`` itself.

    Raises:
        AttributeError: it is not there; with the way, where there is one.
    """
    package = sys.modules[_PACKAGE]
    if name == "__all__":
        return _there(package, _functions_of_torch())
    room = sys.modules.get(f"{_PACKAGE}.{name}")
    found: Any = package if name == "torch" else room
    if found is None and not name.startswith("__"):
        found = _ask(TOP[:5], name)
    if found is None and name in _KNOWN:
        found = find(name)
    if found is None and name.endswith("_") and not name.startswith("_"):
        found = find_method(name) or getattr(Tensor, name, None)
    if found is None and (not name.startswith("__") or name == "__version__"):
        found = _ask(TOP[5:], name, otherwise=_NOWHERE)  # newaxis is None
    if found is _NOWHERE or (found is None and name.startswith("__")):
        found = _NOWHERE
        with suppress(ModuleNotFoundError):
            found = importlib.import_module(f"{_PACKAGE}.{name}") if name in FILES.split() else _NOWHERE
    if found is _NOWHERE:
        found = _deferred("", name)
    setattr(package, name, found)
    return found


def names_of_torch() -> list[str]:
    """What ``dir`` lists."""
    return sorted(_functions_of_torch() | {name for name in PLACES if "." not in name})


def _functions_of_torch() -> set[str]:
    """Functions, dtypes and kinds; PyTorch's own list leaves its submodules out too."""
    functions = [name for name, line in LINES.items() if "." not in name and line.first != "self"]
    known = {*functions, *FUNCTIONS.split(), *METHODS.split(), *_names_in(TOP)}
    return known - {"slice"}  # Python's own, which a star must not hide
