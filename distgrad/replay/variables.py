"""Values that Python holds and a step may read: attributes, variables, and the entries of dicts and lists."""

from __future__ import annotations

import functools
import operator
import types
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import numpy as np

from distgrad.errors import CaptureError
from distgrad.replay.words import Words

__all__ = [
    "SCALARS",
    "Identities",
    "Watched",
    "attributes_of",
    "check_unchanged",
    "entries_of",
    "is_same",
    "made_anew",
]

SCALARS = (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype)
_CONTAINERS = (list, tuple, dict, set, frozenset)
_ABSENT = object()
_MOST_ENTRIES = 1024  # of a container; of a longer one only the length is watched
_LENGTH = object()


def is_same(a: Any, b: Any) -> bool:
    """Whether two values are one object, or numbers, strings and containers of them that are alike."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, SCALARS):
        return repr(a) == repr(b)  # which tells −0.0 from 0.0, and takes a NaN for itself
    if not isinstance(a, _CONTAINERS) or len(a) != len(b):
        return False
    if isinstance(a, dict):
        return all(key in b and is_same(value, b[key]) for key, value in a.items())
    return bool(a == b) if isinstance(a, set | frozenset) else all(map(is_same, a, b))


class Watched:
    """Some of what one object, dict, list or variable holds, as it was when a step first came to it.

    Args:
        where: what a message calls it, with ``{}`` for a key.
        anchor: whose life decides whether it was there before the step.
        read: gives the value of a key.
        keys: that are watched.
    """

    __slots__ = ("anchor", "keys", "read", "values", "where")

    def __init__(self, where: str, anchor: Any, read: Callable[[Any], Any], keys: Iterable[Any]) -> None:
        self.where, self.anchor, self.read, self.keys = where, anchor, read, tuple(keys)
        self.values = tuple(map(read, self.keys))

    def pieces(self) -> Iterable[tuple[Callable[[Any], Iterable[Any]], Any, Iterable[Any]]]:
        """The same for :class:`Identities`: getters, what they are called with, and what they must give."""
        inside = getattr(self.read, "__self__", None)
        if not self.keys:
            return
        if (
            inside.__class__ is dict
            and self.keys[0] is not _LENGTH
            and not all(key in inside for key in self.keys)
        ):
            yield functools.partial(map, self.read), self.keys, self.values
        elif inside.__class__ is dict and self.keys[0] is not _LENGTH:
            keys, values = _several(self.keys), _several(self.values)
            yield operator.itemgetter(*keys), inside, values
        elif isinstance(self.read, _Attributes) and all(each is not _ABSENT for each in self.values):
            keys, values = _several(self.keys), _several(self.values)
            yield operator.attrgetter(*keys), self.anchor, values
        elif (
            self.keys[0] is _LENGTH
            and self.anchor.__class__ in (list, dict, deque)
            and self.values[0].__class__ is int
            and len(self.keys) > self.values[0]
        ):
            yield iter, self.anchor, self.keys[1:] if isinstance(self.anchor, dict) else self.values[1:]
            if isinstance(self.anchor, dict):
                yield dict.values, self.anchor, self.values[1:]
        elif isinstance(self.anchor, types.CellType):
            yield _cell_contents, self.anchor, self.values * 2
        else:
            yield (lambda keys: map(self.read, keys)), self.keys, self.values

    def changed(self) -> str | None:
        """The name of a value that is another one now; None if all are what they were."""
        if all(map(operator.is_, map(self.read, self.keys), self.values)):
            return None
        for key, value in zip(self.keys, self.values, strict=True):
            if not is_same(self.read(key), value):
                if key is _LENGTH:
                    return f"the length of {self.where.removesuffix('[{!r}]')}"
                return self.where.format(key)
        return None


class _Unchanged:
    """Reads what is made anew each time: the same object as long as it is equal."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._last = make, make()

    def __call__(self, key: Any) -> Any:
        now = self._make()
        if now != self._last:
            self._last = now
        return self._last


class _Attributes:
    """Reads attributes of an object."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __call__(self, key: Any) -> Any:
        return getattr(self._thing, key, _ABSENT)


def _several(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """The items, of which one comes twice: a getter of a single one gives no tuple."""
    return items if len(items) > 1 else items * 2


_cell_contents = operator.attrgetter("cell_contents", "cell_contents")


class Identities:
    """Objects, and what must be found in them: compared one after the other without a line of Python."""

    def __init__(self) -> None:
        self._getters: list[Callable[[Any], Iterable[Any]]] = []
        self._objects: list[Any] = []
        self._values: list[Any] = []
        self._words = Words()

    def add(self, get: Callable[[Any], Iterable[Any]], thing: Any, values: Iterable[Any]) -> None:
        """``get(thing)`` gives these very values."""
        if self._words.take(get, thing, values):
            return
        self._getters.append(get)
        self._objects.append(thing)
        self._values.extend(values)
        if get is iter:  # so that nothing passes from one container to the next
            self._getters.append(iter)
            self._objects.append((self,))
            self._values.append(self)

    def end(self) -> None:
        """No more come; a container that has grown or shrunk shows by what is found in this place."""
        self._words.end()
        if self._getters:
            self.add(list, (_ABSENT,), (_ABSENT,))

    def hold(self) -> bool:
        """Whether all is found; False also where looking raises an exception."""
        if not self._words.hold():
            return False
        if not self._getters:
            return True
        try:
            found = chain.from_iterable(map(operator.call, self._getters, self._objects))
            return all(map(operator.is_, found, self._values))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            return False


def attributes_of(where: str, thing: Any, keys: Iterable[str]) -> Watched:
    """Some attributes of an object."""
    own = getattr(thing, "__dict__", {})
    keys = tuple(keys)
    if own.__class__ is dict and all(key in own for key in keys):
        return Watched(f"{where}.{{}}", thing, own.get, keys)
    return Watched(f"{where}.{{}}", thing, _Attributes(thing), keys)


def entries_of(where: str, thing: Any) -> Watched:
    """The length of a dict, list, deque or set, and the entries of one that is not very long."""
    if isinstance(thing, set) and len(thing) <= _MOST_ENTRIES:
        return made_anew(where, thing, lambda: frozenset(thing))
    if isinstance(thing, dict):
        keys = tuple(thing) if len(thing) <= _MOST_ENTRIES else ()

        def read(key: Any) -> Any:
            return len(thing) if key is _LENGTH else thing.get(key, _ABSENT)

    else:
        is_indexed = isinstance(thing, list | deque) and len(thing) <= _MOST_ENTRIES
        keys = tuple(range(len(thing))) if is_indexed else ()

        def read(key: Any) -> Any:
            if key is _LENGTH:
                return len(thing)
            return thing[key] if key < len(thing) else _ABSENT

    return Watched(f"{where}[{{!r}}]", thing, read, (_LENGTH, *keys))


def made_anew(where: str, anchor: Any, make: Callable[[], Any]) -> Watched:
    """What a function gives, which must stay equal."""
    return Watched("{}", anchor, _Unchanged(make), (where,))


def check_unchanged(watched: Iterable[Watched]) -> None:
    """Refuse a step that changes them itself.

    Raises:
        CaptureError: with the value's name.
    """
    for each in watched:
        name = each.changed()
        if name is not None:
            raise CaptureError(
                f"capture: the step changes {name} in Python, which a replay does not do again; change it "
                "outside the captured step, or keep it in a tensor and change that in place"
            )
