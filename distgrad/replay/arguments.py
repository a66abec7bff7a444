"""The arguments of a captured step: what makes a tape of its own, and the arrays that replays copy."""

from __future__ import annotations

import bisect
import copy
import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.graph import reachable_nodes
from distgrad.autograd.modes import modes
from distgrad.autograd.tensor import Tensor, make_tensor
from distgrad.backend.threads import get_num_threads
from distgrad.errors import CaptureError
from distgrad.replay.places import Place, bytes_of, owner
from distgrad.replay.traced import plain

__all__ = [
    "AliveGraphError", "Arguments", "Results", "check_contents", "contents", "copier", "graphs_alive",
    "without_traces",
]  # fmt: skip

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.dtype, np.generic)


class AliveGraphError(CaptureError):
    """A step returns tensors with their graph."""


class Arguments:
    """What a step is called with.

    Attributes:
        args, kwargs: as given.
        arrays: of the tensors and arrays among them, in order.
        objects: those among them that the key names by their ids, which must not become another object's.
        key: what calls have in common that one tape can stand for.
        problem: what no step can be captured with.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs
        self.arrays: list[np.ndarray] = []
        self.objects: list[Any] = []
        self.problem: CaptureError | None = None
        shown = self._describe((args, kwargs) if kwargs else args)
        self.key = (
            shown,
            self._twins(),
            get_num_threads(),
            modes.grad is False,
            modes.recording is False,
            modes.casts,
        )

    def _describe(self, tree: Any) -> Any:
        kind = tree.__class__
        if kind is tuple or kind is list:
            return (kind, *map(self._describe, tree))
        if kind is dict:
            return (kind, *[(key, self._describe(each)) for key, each in tree.items()])
        x = tree._data if isinstance(tree, Tensor) else tree
        if isinstance(x, np.ndarray):
            self.arrays.append(x)
            order = None if x.flags.c_contiguous else x.strides  # sums go along the memory
            return (kind, x.shape, order, x.dtype.char, x is not tree and tree._node is not None)
        if isinstance(tree, Tensor):
            self.problem = CaptureError(
                f"capture: a tensor lies on {tree.device}; only those on the CPU are captured yet"
            )
            return (kind, None)
        if isinstance(tree, _PLAIN):
            return (kind, tree if tree else repr(tree))  # -0.0 equals 0.0
        parts = parts_of(tree)
        if parts is not None:
            return (kind, *[(key, self._describe(each)) for key, each in zip(*parts[:2], strict=True)])
        self.objects.append(tree)
        return (kind, id(tree))

    def _twins(self) -> Any:
        """For each array the number of the first that is the same; None where no two share memory."""
        owners = [id(x if x.base is None else owner(x)) for x in self.arrays]
        if len(set(owners)) == len(owners):
            return None
        found = []
        for number, x in enumerate(self.arrays):
            place = Place(x)
            alike = (place.address, place.shape, place.strides, place.dtype)
            for before, y in enumerate(self.arrays[:number]):
                other = Place(y)
                if owners[before] == owners[number] and np.may_share_memory(x, y):
                    same = alike == (other.address, other.shape, other.strides, other.dtype)
                    found.append((number, before, same))
        return tuple(found) or None

    def describe(self) -> str:
        """The arguments and modes, for messages."""

        def show(x: Any) -> Any:
            if isinstance(x, Tensor | np.ndarray):
                return f"{x.dtype}{list(x.shape)}"
            return repr(x) if isinstance(x, _PLAIN) else type(x).__name__

        shown = [str(_walk(each, show)) for each in self.args]
        shown += [f"{name}={_walk(each, show)}" for name, each in self.kwargs.items()]
        return f"({', '.join(shown)}) on {get_num_threads()} threads"

    def copies(self) -> list[np.ndarray]:
        """Memory for the arrays, laid out as they are; one for those that are the same."""
        found: list[np.ndarray] = []
        same = {number: before for number, before, _ in self.key[1] or ()}
        for number, x in enumerate(self.arrays):
            found.append(found[same[number]] if number in same else _alike(x))
        return found

    def check(self) -> None:
        """Refuse arguments that want a gradient, whose place is with the caller's own tensor.

        Raises:
            CaptureError: there is one, or two that overlap without being the same.
        """
        for number, before, is_same in self.key[1] or ():
            if not is_same:
                raise CaptureError(
                    f"capture: arguments {before} and {number} (counting tensors) overlap in memory; "
                    "pass one of them, and take the other's view of it inside the step"
                )

        def visit(x: Any) -> Any:
            if isinstance(x, Tensor) and x.requires_grad:
                raise CaptureError(
                    f"capture: an argument of shape {list(x.shape)} requires a gradient; ask for it inside "
                    "the step (x = x.detach().requires_grad_()) and return it"
                )
            return x

        _walk((self.args, self.kwargs), visit)

    def replaced(self, arrays: list[Any]) -> tuple[Any, Any]:
        """The arguments with other arrays in them."""
        rest = iter(arrays)

        def visit(x: Any) -> Any:
            if isinstance(x, Tensor):
                return Tensor(next(rest))
            return next(rest) if isinstance(x, np.ndarray) else x

        args, kwargs = _walk((self.args, self.kwargs), visit)
        return args, kwargs


def _alike(x: np.ndarray) -> np.ndarray:
    """New memory with an array's shape and strides."""
    place = Place(x)
    if place.is_empty or x.flags.c_contiguous:
        return np.empty(x.shape, x.dtype)
    start, stop = place.bounds()
    return np.ndarray(x.shape, x.dtype, np.zeros(stop - start, np.uint8), place.address - start, x.strides)


def copier(arrays: Sequence[np.ndarray]) -> Callable[[], list[np.ndarray]]:
    """What copies arrays each time it is called: laid out as they are, and those that overlap still do."""
    places = [Place(x) for x in arrays]
    spans: list[list[int]] = []
    for start, stop in sorted(place.bounds() for place in places if not place.is_empty):
        if spans and start < spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], stop)
        else:
            spans.append([start, stop])
    if len(spans) == len(arrays) and all(x.flags.c_contiguous for x in arrays):
        return lambda: [x.copy() for x in arrays]
    windows = [bytes_of(start, stop - start, arrays) for start, stop in spans]
    found = [bisect.bisect_right(spans, [place.bounds()[0], sys.maxsize]) - 1 for place in places]

    def copies() -> list[np.ndarray]:
        new = [window.copy() for window in windows]
        return [
            np.ndarray(place.shape, place.dtype, new[at], place.address - spans[at][0], place.strides)
            if not place.is_empty
            else np.empty(place.shape, place.dtype)
            for place, at in zip(places, found, strict=True)
        ]

    return copies


class Result:
    """Stands for an array in a step's results.

    Args:
        place: which of them.
        is_tensor: whether it is handed out as a tensor.
    """

    def __init__(self, place: int, is_tensor: bool) -> None:
        self.place, self.is_tensor = place, is_tensor


class Results:
    """What a step returns, with the arrays taken out.

    Args:
        value: tensors, arrays and other things, nested in tuples, lists and dicts.

    Attributes:
        arrays: the plain arrays of those that the step has made, or was given.
    """

    def __init__(self, value: Any, is_born: Any) -> None:
        self.arrays: list[np.ndarray] = []
        self._is_born = is_born
        self._tree = _walk(value, self._take)

    def _take(self, x: Any) -> Any:
        array = plain(x._data if isinstance(x, Tensor) else x)
        if not isinstance(array, np.ndarray):
            return x
        if isinstance(x, Tensor) and not self._is_born(array):
            return x  # a tensor that was there before
        self.arrays.append(array)
        return Result(len(self.arrays) - 1, isinstance(x, Tensor))

    def take_arrays(self) -> list[np.ndarray]:
        """The arrays, which are not kept any longer."""
        arrays, self.arrays = self.arrays, []
        return arrays

    def build(self, arrays: list[np.ndarray]) -> Any:
        """The results with arrays of another call."""

        def put(x: Any) -> Any:
            if x.__class__ is not Result:
                return x
            return make_tensor(arrays[x.place]) if x.is_tensor else arrays[x.place]

        return put(self._tree) if self._tree.__class__ is Result else _walk(self._tree, put)


def parts_of(tree: Any) -> tuple[Sequence[Any], Sequence[Any], Callable[[list[Any]], Any]] | None:
    """The keys and entries of a container among arguments or results, and what makes one of other entries.

    Tuples, lists and dicts, also of classes of their own, and instances of data classes; None for all else.
    """
    if isinstance(tree, tuple | list):
        return range(len(tree)), tree, getattr(tree, "_make", type(tree))
    if isinstance(tree, dict):
        return list(tree), list(tree.values()), functools.partial(_with_entries, tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        if set(getattr(tree, "__dict__", ())) <= set(names) and all(hasattr(tree, name) for name in names):
            values = [getattr(tree, name) for name in names]
            return names, values, functools.partial(_with_fields, tree, names)
    return None


def _with_entries(tree: Any, entries: list[Any]) -> Any:
    new = copy.copy(tree)
    for key, each in zip(tree, entries, strict=True):
        new[key] = each
    return new


def _with_fields(tree: Any, names: list[str], values: list[Any]) -> Any:
    new = copy.copy(tree)
    for name, each in zip(names, values, strict=True):
        object.__setattr__(new, name, each)
    return new


def _walk(tree: Any, change: Any) -> Any:
    parts = parts_of(tree)
    return change(tree) if parts is None else parts[2]([_walk(each, change) for each in parts[1]])


def contents(tree: Any) -> list[Any]:
    """The keys and ends of a structure, one after the other, to see whether it has been changed."""
    parts = parts_of(tree)
    if parts is None:
        return [tree]
    return [*parts[0], *itertools.chain.from_iterable(map(contents, parts[1]))]


def check_contents(before: list[Any], tree: Any) -> None:
    """Refuse a step that changes a list or dict among its arguments, of which replays have a copy.

    Raises:
        CaptureError: it did.
    """
    after = contents(tree)
    alike = (x is y or (isinstance(x, _PLAIN) and x == y) for x, y in zip(before, after, strict=False))
    if len(before) != len(after) or not all(alike):
        raise CaptureError(
            "capture: the step changes a list, dict or data class among its arguments (as batch.pop(...) "
            "does), which a replay does not do again; change a copy of it (dict(batch), list(batch))"
        )


def without_traces(value: Any) -> Any:
    """What a recorded step returns, with plain arrays for traced ones."""
    return _walk(value, lambda x: plain(x) if isinstance(x, np.ndarray) else x)


def graphs_alive(value: Any) -> list[Tensor]:
    """The tensors among results whose graph has not been walked."""
    found: list[Tensor] = []

    def visit(x: Any) -> Any:
        if isinstance(x, Tensor) and x.grad_fn is not None:
            nodes = [node for node in reachable_nodes([x.grad_fn], 0) if node.versions]
            if nodes and all(node.saved is not None for node in nodes):
                found.append(x)
        return x

    _walk(value, visit)
    return found
