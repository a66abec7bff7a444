"""The recorder: every call of a step that computes on arrays, its operands as places in memory."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distgrad.autograd.lines import user_line
from distgrad.backend.recording import here
from distgrad.errors import CaptureError
from distgrad.replay.calls import Call, Live, LiveFloat, LiveTruth, describe_user_line, mapped
from distgrad.replay.places import Memory, Place, owner
from distgrad.replay.surroundings import Surroundings
from distgrad.replay.traced import Traced, plain, plain_tree

__all__ = ["Recorder"]

#: Functions whose answer depends on shapes, dtypes and addresses alone.
_ABOUT = {
    *("broadcast_shapes", "can_cast", "common_type", "iscomplexobj", "isrealobj", "may_share_memory"),
    *("min_scalar_type", "ndim", "result_type", "shape", "shares_memory", "size"),
}
#: Functions that change their first argument.
_CHANGING = {"copyto", "fill_diagonal", "place", "put", "put_along_axis", "putmask"}


class Recorder:
    """Listens to one thread while it runs a step.

    Attributes:
        calls: in their order.
        memory: all memory that the step met.
        places: all that calls name.
        tensors: the tensors that the step read, each with its array.
        leaves: the leaves whose gradient it met, each with its array, None for none, and whether
            the step reads that before it sets another.
        changes: the tensors whose elements it changes in place, each with what does that.
        surroundings: what its Python code sees, and the modules that it called.
        groups: optimizers, groups of theirs, the state that these asked for, and a parameter each.
        group: (number of a call that threads share, the part's start) or None.
        reducers: what sums gradients over ranks in it.
        communicators: through which it tells other ranks something.
        condition: what the calls of now are done by; None: always.
        is_void: whether a branch was not taken, so that another call must be recorded in this one's place.
        problem: the first thing that cannot be captured; what comes after is computed, and the record void.
        replaced: NumPy's functions by their names, in whose places others stand while the step is recorded.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.memory = Memory()
        self.places: list[Place] = []
        self.tensors: dict[int, Any] = {}
        self.leaves: dict[Any, Any] = {}
        self.changes: dict[int, Any] = {}
        self.surroundings = Surroundings()
        self.groups: list[tuple[Any, Any, Any, Any]] = []
        self.group: tuple[int, int] | None = None
        self.num_groups = 0
        self.reducers: dict[int, Any] = {}
        self.communicators: dict[int, Any] = {}
        self.condition: LiveTruth | None = None
        self.is_void = False
        self.problem: CaptureError | None = None
        self.replaced: dict[str, Any] = {}
        self._is_collective = False  # what is done now
        self._wrapped: dict[int, weakref.ref[Any]] = {}  # by the ids of plain arrays, while they live
        self._scalars: dict[int, weakref.ref[np.ndarray]] = {}

    # -- arrays

    def wrap(self, x: np.ndarray) -> Any:
        """The traced array that stands for a plain one; the same one each time."""
        found = self._wrapped.get(id(x))
        traced: Any = None if found is None else found()  # which keeps the plain array alive
        if traced is None:
            traced = np.ndarray.view(x, Traced)
            traced.__dict__["plain"] = x
            self._wrapped[id(x)] = weakref.ref(traced)
            self.memory.keep(x)
        return traced

    def view(self, y: Any) -> Any:
        """A plain view of memory that is known, traced."""
        return self.wrap(y) if y.__class__ is np.ndarray else y

    def fresh(self, y: np.ndarray) -> Any:
        """An array that the step has allocated; what lies in it is nobody's."""
        self.memory.born(y)
        return self.wrap(y)

    def filled(self, y: np.ndarray) -> Any:
        """An array that the step has made full of one value."""
        self.memory.born(y)
        if y.size:
            self._add("fill", np.ndarray.fill, (y, y.flat[0]), {}, [], [y])
        return self.wrap(y)

    def _tree(self, tree: Any, found: list[Place]) -> Any:
        """The structure with places for arrays."""

        def visit(end: Any) -> Any:
            if end.__class__ is not Traced and end.__class__ is not np.ndarray:
                return end
            x = plain(end)
            if x.dtype.hasobject:
                self.refuse(f"arrays of Python objects can't be recorded ({self.where()})")
            place = self.memory.place(x)
            found.append(place)
            self.places.append(place)
            return place

        return mapped(tree, visit)

    def where(self) -> str:
        """The user's line that runs."""
        return describe_user_line(user_line())

    def refuse(self, text: str) -> None:
        """The step cannot be captured; it goes on, so that it leaves what an eager one leaves."""
        self.problem = self.problem or CaptureError(f"capture: {text}")

    # -- calls

    def _add(
        self, kind: str, function: Any, args: Any, kwargs: Any, outs: list[Any], changed: list[Any]
    ) -> Call:
        reads: list[Place] = []
        call = Call(kind, function, self._tree(tuple(args), reads), self._tree(dict(kwargs), reads))
        call.reads = reads
        ignored: list[Place] = []
        call.outs = [self._tree(y, ignored) for y in outs]
        call.writes = call.outs + [self._tree(x, ignored) for x in changed]
        for place in call.writes:
            place.storage.is_written = True
        for place in reads:
            if place.storage.is_born and not place.storage.is_written:
                place.storage.pin()  # allocated in sight, but filled out of sight, if at all
        call.line, call.group, call.condition = user_line(), self.group, self.condition
        call.is_collective, self._is_collective = self._is_collective, False
        self.calls.append(call)
        return call

    def _result(
        self, kind: str, function: Any, args: Any, kwargs: Any, y: Any, method: str = "", changed: Any = ()
    ) -> Any:
        """Record a call that made new arrays, or gave views of those that it was given."""
        several = y.__class__ in (tuple, list) or (isinstance(y, tuple) and hasattr(y, "_fields"))
        values = list(y) if several else [y]
        if not all(isinstance(each, np.ndarray | np.generic) for each in values):
            if several or isinstance(y, bool | int | float | complex | str | bytes):
                return self._looked(function, args, kwargs, y)
            self.refuse(
                f"{_name(function)} gives a {type(y).__name__}, which can't be recorded "
                f"({self.where()}); keep it out of the step"
            )
            return y
        given = self._owners((args, kwargs))
        made = [each for each in values if not self._is_view(each, given)]
        if made:
            arrays = [np.asarray(each) for each in values]
            if len(made) < len(values):
                self.refuse(f"{_name(function)} gives views and new arrays at once ({self.where()})")
                return y
            for each in arrays:
                self.memory.born(each)
            call = self._add(kind, function, args, kwargs, arrays, list(changed))
            call.method, call.is_several = method, several
            traced = [self.wrap(each) for each in arrays]
            for each, value in zip(traced, values, strict=True):
                if isinstance(value, np.generic):
                    self._scalars[id(plain(each))] = weakref.ref(plain(each))
        else:
            traced = [self.wrap(each) for each in values]
        if not several:
            return traced[0]
        return y._make(traced) if hasattr(y, "_make") else type(y)(traced)

    def _owners(self, tree: Any) -> set[int]:
        found: set[int] = set()

        def visit(each: Any) -> Any:
            if isinstance(each, np.ndarray):
                found.add(id(owner(plain(each))))
            return each

        mapped(tree, visit)
        return found

    @staticmethod
    def _is_view(y: Any, owners: set[int]) -> bool:
        return isinstance(y, np.ndarray) and id(owner(y)) in owners and y.size > 0

    def _looked(self, function: Any, args: Any, kwargs: Any, value: Any) -> Any:
        """Record that Python was told a value: a replay must be told the same."""
        call = self._add("guard", function, args, kwargs, [], [])
        call.value = value
        return value

    def look(self, x: Any, kind: Any) -> Any:
        """What Python is told of an array's elements."""
        return self._looked(kind, (x,), {}, kind(plain(x)))

    def call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """A function or method of NumPy's whose result is new, or a view."""
        return self._result(
            "function", function, args, kwargs, function(*plain_tree(args), **plain_tree(kwargs))
        )

    def power(self, function: Any, x: Any, other: Any) -> Any:
        """A power, by NumPy's scalars where an eager step has those."""
        arrays = [each for each in (x, other) if isinstance(each, np.ndarray)]
        scalars = all(self._is_scalar(plain(each)) for each in arrays)
        chosen: Callable[..., Any] = _OfScalars(function) if scalars else function
        return self._result("function", chosen, (x, other), {}, chosen(plain(x), plain(other)))

    def _is_scalar(self, x: np.ndarray) -> bool:
        found = self._scalars.get(id(x))
        return found is not None and found() is x

    def change(self, function: Any, args: Any, kwargs: Any, changed: Any) -> None:
        """A function that changes arrays and returns nothing."""
        function(*plain_tree(args), **plain_tree(kwargs))
        call = self._add("change", function, args, kwargs, [], list(changed))
        call.is_overwriting = _name(function) in ("_set", "fill", "copyto")
        if call.is_overwriting:
            call.reads = call.reads[1:]  # what was there before is not read

    def ufunc(self, ufunc: Any, method: str, inputs: Any, kwargs: Any) -> Any:
        """A universal function or one of its methods."""
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        counts = not any(each.__class__ is LiveFloat and each.cell[0] == 0.0 for each in inputs)
        run: Any = function if counts else _nothing  # the gradient of a batch that does not count may be NaN
        if method == "at":
            return self.change(function, inputs, kwargs, inputs[:1])
        out = kwargs.pop("out", None)
        if out is None or all(each is None for each in out):
            y = run(*plain_tree(inputs), **plain_tree(kwargs))
            return self._result("ufunc", function, inputs, kwargs, y, method)
        outs = [plain(each) for each in out]
        run(*plain_tree(inputs), out=tuple(outs), **plain_tree(kwargs))
        call = self._add("ufunc", function, inputs, kwargs, outs, [])
        call.method, call.is_several = method, len(outs) > 1
        call.is_overwriting = "where" not in kwargs
        traced = tuple(self.wrap(each) for each in outs)
        return traced if len(traced) > 1 else traced[0]

    def function(self, function: Any, args: Any, kwargs: Any) -> Any:
        """A function of NumPy's array functions."""
        name = function.__name__
        run = getattr(function, "_implementation", function)
        if name in _ABOUT:
            return run(*plain_tree(args), **plain_tree(kwargs))
        if name in ("empty_like", "zeros_like", "ones_like", "full_like"):
            y = run(*plain_tree(args), **{**plain_tree(kwargs), "subok": False})
            return self.fresh(y) if name == "empty_like" else self.filled(y)
        if name in _CHANGING:
            return self.change(function, args, kwargs, args[:1])
        out = kwargs.get("out")
        if out is not None:
            given = {key: value for key, value in kwargs.items() if key != "out"}
            run(*plain_tree(args), out=plain(out), **plain_tree(given))
            self._add("function", function, args, given, [plain(out)], [])
            return self.wrap(plain(out))
        return self._result("function", function, args, kwargs, run(*plain_tree(args), **plain_tree(kwargs)))

    def kernel(self, entry: Any, args: tuple[Any, ...], names: tuple[str, ...]) -> Any:
        """A compiled kernel, which says what it writes."""
        written = [x for x, name in zip(args, names, strict=True) if name in entry.writes]
        with self.paused():  # it may be compiled now
            value = entry.function(*plain_tree(args))
        call = self._add("kernel", entry.function, args, {}, [], written)
        call.value = value
        return value

    # -- what is told as a whole

    def whole(self, function: Any, args: Any, kwargs: Any, writes: tuple[int, ...]) -> Any:
        """As :class:`distgrad.backend.recording.Listener` has it."""
        with self.paused():
            y = function(*plain_tree(args), **plain_tree(kwargs))
        changed: list[Any] = []
        for place in writes:
            mapped(args[place], lambda x: changed.append(plain(x)) if isinstance(x, np.ndarray) else x)
        if y is None:
            self._add("whole", function, args, kwargs, [], changed)
            return None
        if isinstance(y, bool | np.bool_):
            call = self._add("guard", function, args, kwargs, [], changed)
            call.value = bool(y)
            return bool(y)
        return self._result("whole", function, args, kwargs, y, changed=changed)

    def add_whole(self, function: Any, args: Any, changed: tuple[Any, ...]) -> None:
        """Record what has been done already, as one call that returns nothing."""
        self._add("whole", function, args, {}, [], [plain(x) for x in changed])

    def truth(self, function: Any, args: Any, kwargs: Any, writes: tuple[int, ...]) -> Any:
        """As :class:`distgrad.backend.recording.Listener` has it."""
        with self.paused():
            y = LiveTruth.of(function(*plain_tree(args), **plain_tree(kwargs)))
        changed: list[Any] = []
        for place in writes:
            mapped(args[place], lambda x: changed.append(plain(x)) if isinstance(x, np.ndarray) else x)
        self._add("truth", function, args, kwargs, [], changed).value = y
        return y

    def branch(self, truth: Any, run: Callable[[], Any]) -> Any:
        """As :class:`distgrad.backend.recording.Listener` has it."""
        if not truth:
            self.is_void = True
            return None
        outer, self.condition = self.condition, truth if isinstance(truth, LiveTruth) else None
        try:
            return run()
        finally:
            self.condition = outer

    def effect(self, function: Any, args: Any, kwargs: Any) -> Any:
        """As :class:`distgrad.backend.recording.Listener` has it."""
        found: list[Any] = []
        mapped((args[1:], kwargs), lambda x: found.append(x) if _is_array(x) else x)
        if found:
            self.refuse(
                f"{_name(function)} is given a number that the step computes ({self.where()}); call "
                "it outside, on what the captured step returns"
            )
        with self.paused():
            value = function(*plain_tree(args), **plain_tree(kwargs))
        call = self._add("effect", function, args, kwargs, [], [])
        call.value = Live.of(value)
        return call.value

    def hear(self, comm: Any) -> None:
        """A call of a communicator is issued."""
        if comm.size > 1:
            self.communicators[id(comm)] = comm
            self._is_collective = True

    def live(self, function: Any, args: Any, kwargs: Any, changed: list[Any]) -> None:
        """Do what changes objects that a replay has too, and arrays of theirs."""
        with self.paused():
            function(*plain_tree(args), **plain_tree(kwargs))
        self.add_live(function, args, changed, kwargs)

    def add_live(self, function: Any, args: Any, changed: list[Any], kwargs: Any = None) -> None:
        """Record that it was done, and will be by a call of ``function``."""
        self._add("live", function, args, kwargs or {}, [], changed)

    def count(self, function: Any, optimizer: Any, parameter: Any) -> None:
        """An effect that gathers: the parameters that an optimizer steps, where they follow each other."""
        last = self.calls[-1] if self.calls else None
        if last is not None and last.function is function and last.args[0] is optimizer:
            last.args[1].append(parameter)
            return
        call = self._add("effect", function, (), {}, [], [])
        call.args = (optimizer, [parameter])

    def rule(self, kernel: Call, args: tuple[Any, ...], arrays: tuple[Any, ...]) -> None:
        """An optimizer's rule that is one kernel, which a replay gives the numbers of its own time.

        Args:
            kernel: heard by another recorder.
            args: the optimizer, the number of a group, a parameter, and the places of the kernel's arrays.
            arrays: what these lie in.
        """
        for x in arrays:
            self.memory.keep(plain(x))
        call = Call("rule", kernel.function, args, {})
        call.reads, call.writes, call.line = kernel.reads, kernel.writes, kernel.line
        call.condition = self.condition
        for place in (*kernel.reads, *kernel.writes):
            self.memory.settle(place)
            place.storage.is_written = True
            self.places.append(place)
        self.calls.append(call)

    def place(self, x: Any) -> Place:
        """Where an array lies."""
        return self._tree(plain(x), [])

    def note_tensor(self, tensor: Any, x: np.ndarray) -> None:
        """The step reads a tensor's array."""
        known = self.tensors.get(id(tensor))
        if known is None or known[0]() is not tensor:
            self.tensors[id(tensor)] = weakref.ref(tensor), weakref.ref(x)

    def note_change(self, tensor: Any, where: str) -> None:
        """The step changes a tensor's elements in place."""
        self.changes[id(tensor)] = weakref.ref(tensor), where

    def note_leaf(self, leaf: Any, gradient: Any, is_read: bool) -> None:
        """The step reads a leaf's gradient, or sets another in its place."""
        known = self.leaves.get(id(leaf))
        if known is None or known[0]() is not leaf:
            start = None if gradient is None else weakref.ref(plain(gradient._data))
            self.leaves[id(leaf)] = weakref.ref(leaf), start, is_read

    def living_leaves(self) -> list[Any]:
        """Those leaves that are there after the step."""
        return [leaf for reference, _, _ in self.leaves.values() if (leaf := reference()) is not None]

    def forget(self) -> None:
        """Let go of all arrays."""
        self.memory.forget()
        self._wrapped.clear()
        self._scalars.clear()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is recorded inside, where no code of the user's runs, nor is any looked at.

        NumPy's own functions have their names: a kernel that is compiled now is compiled with those.
        """
        before, here.listener = here.listener, None
        profile = sys.getprofile()
        sys.setprofile(None)
        others = {name: getattr(np, name) for name in self.replaced}
        vars(np).update(self.replaced)
        try:
            yield
        finally:
            vars(np).update(others)
            sys.setprofile(profile)
            here.listener = before


def _nothing(g: Any, *others: Any, out: Any = None, **options: Any) -> Any:
    y = g.copy() if out is None else out[0]
    y[...] = 0.0
    return y


class _OfScalars:
    """A function on NumPy's scalars, of arrays without axes."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.__name__ = f"{function.__name__} of scalars"

    def __call__(self, *args: Any) -> Any:
        return self.function(*[each[()] if isinstance(each, np.ndarray) else each for each in args])


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray) or hasattr(x, "_data")


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
