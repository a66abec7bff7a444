"""What Python holds, compared by the compiled machine: entries of dicts and lists, slots, variables.

The functions of Python's that it asks are public and hand out what they find without a reference. Where a
slot lies in an object is read from its class's own description. Each comparison is tried when it is made, and
what does not come out is left to Python.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from distgrad.backend.kernels.compiler import load_numba
from distgrad.replay.inner import is_known_layout

__all__ = ["Words"]

_CELL_PLACE = object.__basicsize__  # of what a variable holds, in its object
Row = tuple[int, int, int, int]


class _Member(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("type", ctypes.c_int), ("offset", ctypes.c_ssize_t))


class _Descriptor(ctypes.Structure):
    _fields_ = (
        ("references", ctypes.c_ssize_t), ("type", ctypes.c_void_p), ("owner", ctypes.c_void_p),
        ("name", ctypes.c_void_p), ("qualified", ctypes.c_void_p), ("member", ctypes.POINTER(_Member)),
    )  # fmt: skip


@functools.cache
def _function(name: str) -> int:
    """The address of one of Python's own."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


def _slot(thing: Any, name: str) -> int | None:
    """The address of an object's slot; None if that is none."""
    found = next((vars(each)[name] for each in type(thing).__mro__ if name in vars(each)), None)
    if found.__class__ is not types.MemberDescriptorType:
        return None
    head = _Descriptor.from_address(id(found))
    if head.owner != id(found.__objclass__) or not head.member or head.member[0].name != name.encode():
        return None
    return id(thing) + int(head.member[0].offset)


def _word(address: int | None, value: Any) -> Row | None:
    return None if address is None else (0, address, 0, id(value))


def _entry(holder: Any, key: Any, value: Any) -> Row | None:
    if holder.__class__ is not dict or key.__class__ not in (str, int):  # others may compare in Python
        return None
    return _function("PyDict_GetItem"), id(holder), id(key), id(value) if key in holder else 0


def _rows(get: Any, thing: Any, values: Sequence[Any]) -> list[Row | None]:
    """Rows for ``get(thing)``, which gives these values; a None among them where one has no row."""
    if get.__class__ is operator.itemgetter and thing.__class__ is dict:
        return [_entry(thing, key, value) for key, value in zip(get.__reduce__()[1], values, strict=True)]
    if get.__class__ is operator.attrgetter and thing.__class__ is types.CellType:
        return [_word(id(thing) + _CELL_PLACE, values[0])]
    if get.__class__ is operator.attrgetter:
        return [_word(_slot(thing, name), x) for name, x in zip(get.__reduce__()[1], values, strict=True)]
    if get.__class__ is functools.partial and get.func is map:
        holder = getattr(get.args[0], "__self__", None)
        return [_entry(holder, key, value) for key, value in zip(thing, values, strict=True)]
    if get is dict.values:
        return [_entry(thing, key, value) for key, value in zip(thing, values, strict=True)]
    if get is iter and thing.__class__ is dict:
        return [(_function("PyDict_Size"), id(thing), 0, len(values))]
    if get is iter and thing.__class__ is list:
        entries = [(_function("PyList_GetItem"), id(thing), i, id(x)) for i, x in enumerate(values)]
        return [(_function("PyList_Size"), id(thing), 0, len(values)), *entries]
    return [None]


class Words:
    """Comparisons that the compiled machine makes, one after the other, up to the first that fails."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._kept: list[Any] = []  # which rows name by their ids
        self._table: np.ndarray | None = None
        self._find: Callable[[Any], int] | None = None
        if is_known_layout() and load_numba():
            from distgrad.backend.kernels.machine import find_changed

            self._find = find_changed

    def take(self, get: Callable[[Any], Iterable[Any]], thing: Any, values: Iterable[Any]) -> bool:
        """Compare what ``get(thing)`` gives with these values from now on; False if that has no rows."""
        if self._find is None:
            return False
        values = list(values)  # held from now on, so that no id becomes another's
        found = _rows(get, thing, values)
        rows = [row for row in found if row is not None]
        if not rows or len(rows) < len(found) or self._find(_table(rows)) >= 0:
            return False
        self._rows += rows
        self._kept += [get, thing, values, list(thing) if thing.__class__ is dict else None]
        return True

    def end(self) -> None:
        """No more come."""
        self._table = _table(self._rows) if self._rows else None

    def hold(self) -> bool:
        """Whether all comes out."""
        return self._table is None or self._find is None or self._find(self._table) < 0


def _table(rows: list[Row]) -> np.ndarray:
    return np.array(rows, np.int64)
