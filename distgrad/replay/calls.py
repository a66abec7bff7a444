"""What a tape is made of: one call of a step, and the values that Python hands from call to call."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.lines import describe_line
from distgrad.replay.places import Place, Storage

__all__ = ["Call", "Live", "LiveFloat", "LiveTruth", "describe_user_line", "has_live", "mapped"]


class Call:
    """One call.

    Attributes:
        kind: ``ufunc``, ``function`` (its result is new), ``fill``, ``change`` (it changes an argument),
            ``kernel``, ``rule`` (an optimizer's), ``whole``, ``guard`` (Python is told its value),
            ``effect`` (Python remembers), ``live`` (objects that a replay has too do it again) or ``truth``
            (answers yes or no, anew in a replay).
        function: what is called.
        args, kwargs: its arguments, with places for arrays.
        method: of a universal function.
        outs: where its results lie.
        reads, writes: all places that it reads, and that it writes.
        value: what a guard, kernel or effect returned.
        is_several: whether the function returns several arrays.
        is_overwriting: whether what was in the places that it writes does not matter.
        is_collective: whether several ranks do it together.
        line: the user's line that led to it.
        group: (number of a call that threads share, the part's start), or None.
        condition: it is done only where this holds; None: always.
    """

    __slots__ = (
        "args", "condition", "function", "group", "is_collective", "is_overwriting", "is_several", "kind",
        "kwargs", "line", "method", "outs", "reads", "value", "writes",
    )  # fmt: skip

    def __init__(self, kind: str, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.kind, self.function, self.args, self.kwargs = kind, function, args, kwargs
        self.method = ""
        self.outs: list[Place] = []
        self.reads: list[Place] = []
        self.writes: list[Place] = []
        self.value: Any = None
        self.is_several = self.is_collective = False
        self.is_overwriting = True
        self.line: Any = None
        self.group: tuple[int, int] | None = None
        self.condition: LiveTruth | None = None

    @property
    def name(self) -> str:
        """The function's."""
        function = self.function
        name = getattr(function, "__name__", None) or type(function).__name__
        owner = getattr(function, "__self__", None)
        return f"{owner.__name__}.{name}" if isinstance(owner, np.ufunc) else str(name)

    def touches(self, storage: Storage) -> bool:
        """Whether it reads or writes a storage."""
        return any(not p.is_empty and p.storage is storage for p in (*self.reads, *self.writes))

    def where(self) -> str:
        """The user's line."""
        return describe_user_line(self.line)

    def describe(self) -> str:
        """What must be alike in two records of one step."""
        shown = mapped((self.args, self.kwargs, self.outs), _shown)
        value = None if self.kind in ("effect", "truth") else self.value
        is_conditional = self.condition is not None
        return repr((self.kind, self.name, self.method, shown, value, self.group, is_conditional))

    def __repr__(self) -> str:
        shown = ", ".join(repr(each) for each in self.args)
        return f"{self.name}({shown}) at {self.where()}"


class Live:
    """Marks what an effect returned: numbers that a replay gets anew.

    Attributes:
        cell: a list that holds the newest value.
    """

    cell: list[Any]

    @staticmethod
    def of(value: Any) -> Any:
        """The value, marked, if it is one that can be handed on; else itself."""
        if isinstance(value, tuple):
            marked: Any = _LiveTuple(value)
        elif isinstance(value, dict):
            marked = _LiveDict(value)
        else:
            return value
        marked.cell = [value]
        return marked


class _LiveTuple(tuple[Any, ...], Live):
    cell: list[Any]


class _LiveDict(dict[Any, Any], Live):
    cell: list[Any]


class LiveFloat(float, Live):
    """A number that each replay finds out; equal to none, so that no branch of Python's hangs on it."""

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = float.__hash__

    @staticmethod
    def of(value: Any) -> Any:
        """A number, marked."""
        marked = LiveFloat(value)
        marked.cell = [value]
        return marked


class LiveTruth(int, Live):
    """Yes or no, as each replay finds out; branches on it are recorded."""

    @staticmethod
    def of(value: Any) -> Any:
        """A truth, marked."""
        marked = LiveTruth(bool(value))
        marked.cell = [bool(value)]
        return marked


def has_live(tree: Any) -> bool:
    """Whether there are values in a structure that a replay gets anew."""
    found: list[Any] = []
    mapped(tree, lambda x: found.append(x) if isinstance(x, Live) else x)
    return bool(found)


def _shown(x: Any) -> Any:
    if isinstance(x, Place):
        return x.describe()
    if isinstance(x, Live):
        return "live"
    if isinstance(x, bool | int | float | complex | str | bytes | np.generic | np.dtype | type(None) | type):
        return x
    if isinstance(x, np.ndarray):
        return ("array", x.dtype.str, x.shape, x.tobytes())
    if isinstance(x, tuple):
        return (type(x).__name__, *map(_shown, x))
    return (type(x).__name__, id(x)) if not callable(x) else getattr(x, "__name__", type(x).__name__)


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A nested structure with each of its ends changed; tuples of a class of their own stay of that class."""
    kind = tree.__class__
    if kind is tuple:
        return tuple([mapped(each, change) for each in tree])
    if kind is list:
        return [mapped(each, change) for each in tree]
    if kind is dict:
        return {key: mapped(each, change) for key, each in tree.items()}
    if kind is slice:
        return slice(*[mapped(each, change) for each in (tree.start, tree.stop, tree.step)])
    if isinstance(tree, tuple) and not isinstance(tree, Live):
        parts = [mapped(each, change) for each in tree]
        if all(map(operator.is_, parts, tree)):
            return tree
        return kind._make(parts) if hasattr(kind, "_make") else kind(parts)
    return change(tree)


def describe_user_line(line: Any) -> str:
    """``file:line`` of the user's program."""
    return "an unknown line" if line is None else describe_line(line)
