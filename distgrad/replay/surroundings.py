"""What the Python code of a step can see: globals, the variables around functions, and objects' attributes.

While a step is recorded, each function outside the package that is entered says what it names. What was there
before the step and is named decides what the step computes, so it is watched; so is all of a module's own.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import contextvars
import dis
import functools
import gc
import io
import itertools
import operator
import os
import random
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.random  # which NumPy loads when first asked for, and then makes arrays

from distgrad.autograd.lines import inside
from distgrad.autograd.tensor import Tensor
from distgrad.backend.recording import here
from distgrad.errors import CaptureError
from distgrad.nn.module import Module
from distgrad.replay.variables import SCALARS, Watched, attributes_of, entries_of, made_anew

__all__ = ["Surroundings", "thawed"]

_DEPTH = 10  # objects within objects
_MOST = 1024  # entries of a container that are looked into
_MOST_BYTES = 1 << 16  # of all arrays whose elements are watched
_PATHS = sysconfig.get_paths()
_STANDARD, _NUMPY = (_PATHS["stdlib"], _PATHS["platstdlib"]), str(np.__path__[0])
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type)
_DATA = (*SCALARS, list, tuple, dict, set, frozenset)
_OF_MODULES = ("training", "_parameters", "_buffers", "_modules", "_hooks")
#: Where these are named, attributes may be named by strings.
_BY_NAME = {"getattr", "vars", "__dict__", "attrgetter", "__getattribute__"}
_HOOKS = ("forward_pre", "forward", "backward_pre", "backward")


@functools.cache
def _is_library(filename: str) -> bool:
    if inside[filename] or filename.startswith(("<frozen", "<__array_function__", _NUMPY)):
        return True
    return filename.startswith(_STANDARD) and "-packages" not in filename


def _is_generated(frame: types.FrameType) -> bool:
    """Whether a function was made of text for a class of ours, as those of data classes are."""
    module = str(frame.f_globals.get("__name__"))
    return frame.f_code.co_filename == "<string>" and module.startswith(("distgrad.", "namedtuple_"))


@functools.cache
def _names(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The globals and the attributes that a function names, with those of functions inside it."""
    names: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for each in dis.get_instructions(code):
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL"):
            names[0][each.argval] = None
        elif each.opname.endswith(("_ATTR", "_METHOD")):
            names[1][each.argval] = None
    by_name = not _BY_NAME.isdisjoint((*names[0], *names[1]))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            for to, more in zip(names, _names(constant), strict=True):
                to.update(dict.fromkeys(more))
        elif by_name and isinstance(constant, str) and constant.isidentifier():
            names[1][constant] = None
    return tuple(names[0]), tuple(names[1])


def _of_class(thing: Any, name: str) -> Any:
    """What a class holds under a name, as it stands there."""
    classes = thing.__mro__ if isinstance(thing, type) else type(thing).__mro__
    return next((vars(each)[name] for each in classes if name in vars(each)), _of_class)


def _is_ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("distgrad.")


def _state(get: Callable[[], Any]) -> Any:
    """A generator's state, to be compared, which nobody is told of."""
    listener, here.listener = here.listener, None
    try:
        return _frozen(get())
    finally:
        here.listener = listener


def _frozen(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _frozen(each) for name, each in state.items()}
    if isinstance(state, tuple):
        return tuple(map(_frozen, state))
    return state.tobytes() if isinstance(state, np.ndarray) else state


def _tracked_ids() -> set[int]:
    """The ids of what the collector knows and has not frozen.

    In one call that no other thread can interrupt, nor a collection, which calls finalizers: who holds what
    another thread is making breaks it, as a tuple that has two owners cannot be made shorter.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return set(map(id, itertools.chain.from_iterable(map(operator.call, (gc.get_objects,)))))
    finally:
        if collects:
            gc.enable()


@contextlib.contextmanager
def thawed() -> Iterator[None]:
    """Let Python's collector see inside what a program has frozen; behind it, all that is there is frozen."""
    was_frozen = bool(gc.get_freeze_count())
    gc.unfreeze()
    try:
        yield
    finally:
        if was_frozen:
            gc.freeze()


class Surroundings:
    """Gathers what a step's code names.

    Attributes:
        watched: what was there before the step, as it was then; complete once the step is over.
        arrays: those of NumPy's own that are named and small, which the step may read out of sight.
    """

    def __init__(self) -> None:
        self.watched: list[Watched] = []
        self.arrays: list[Watched] = []
        self._bytes_left = _MOST_BYTES
        self._seen: set[Any] = set()
        self._kept: list[Any] = []  # so that no id is another object's
        self._closures: dict[Any, tuple[types.CodeType, dict[str, Any]]] = {}
        self._iterators: list[tuple[str, Any]] = []
        self._draws: list[tuple[str, Any, Callable[[], Any], Any]] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to this thread inside, and settle at the end.

        Raises:
            CaptureError: something was drawn or taken that a replay does not draw or take.
        """
        self._draw("Python's random", random, random.getstate)
        self._draw("numpy.random", np.random, np.random.get_state)
        gc.freeze()  # so that all that is there is told from what the step makes
        collects, before = gc.isenabled(), sys.getprofile()
        gc.disable()
        sys.setprofile(self._event)
        try:
            yield
            sys.setprofile(None)
            young = _tracked_ids()
            gc.unfreeze()  # so that functions are found by their code
            self._settle(young)
        finally:
            sys.setprofile(None)
            gc.unfreeze()
            if collects:
                gc.enable()
            if before is not None:  # cProfile's is no function
                sys.setprofile(before) if callable(before) else before.enable()

    # -- what is named

    def _event(self, frame: types.FrameType, event: str, value: Any) -> None:
        code = frame.f_code
        if event == "call" and not _is_library(code.co_filename) and not _is_generated(frame):
            self._enter(frame, code)
        elif event == "return" and frame.f_back is not None:
            caller = frame.f_back.f_code
            if not _is_library(caller.co_filename) and gc.is_tracked(value):
                self._reach(f"{code.co_name}()", value, _names(caller)[1])

    def _enter(self, frame: types.FrameType, code: types.CodeType) -> None:
        variables, attributes = _names(code)
        if not {"environ", "getenv"}.isdisjoint((*variables, *attributes)):
            self.watched.append(made_anew("os.environ", os.environ, lambda: dict(os.environ)))
        if (code, id(frame.f_globals)) not in self._seen:
            self._seen.add((code, id(frame.f_globals)))
            names = [name for name in variables if name in frame.f_globals]
            data = [name for name in names if not isinstance(frame.f_globals[name], _FUNCTIONS)]
            self.watched.append(Watched("{}", frame.f_globals, frame.f_globals.get, data))
            for name in names:
                self._reach(name, frame.f_globals[name], attributes)
        local = frame.f_locals
        count = code.co_argcount + code.co_kwonlyargcount
        count += bool(code.co_flags & 4) + bool(code.co_flags & 8)
        free = {name: local[name] for name in code.co_freevars if name in local}
        for name in (*code.co_varnames[:count], *free):
            if name in local and (name in free or gc.is_tracked(local[name])):
                self._reach(name, local[name], attributes)
        if free:
            self._closures.setdefault((code, *map(id, free.values())), (code, free))

    def _reach(self, where: str, thing: Any, names: Iterable[str], depth: int = _DEPTH) -> None:
        """Watch what a name leads to: entries of containers, and attributes of these names."""
        if isinstance(thing, (*SCALARS, Tensor)) or (id(thing), names) in self._seen or not depth:
            return
        self._seen.add((id(thing), names))
        self._kept.append(thing)
        if isinstance(thing, np.ndarray):
            is_plain = thing.__class__ is np.ndarray and not thing.dtype.hasobject
            if is_plain and thing.nbytes <= self._bytes_left:
                self._bytes_left -= thing.nbytes
                self.arrays.append(made_anew(where, thing, thing.tobytes))
            return
        if isinstance(thing, dict | list | set | collections.deque):
            self.watched.append(entries_of(where, thing))
        if isinstance(thing, dict | list | tuple | collections.deque):
            items = thing.items() if isinstance(thing, dict) else enumerate(thing)
            for key, each in list(items)[:_MOST]:
                self._reach(f"{where}[{key!r}]", each, names, depth - 1)
        elif isinstance(thing, random.Random):
            self._draw(where, thing, thing.getstate)
        elif isinstance(thing, np.random.Generator):
            self._draw(where, thing, lambda: thing.bit_generator.state)
        elif isinstance(thing, np.random.RandomState):
            self._draw(where, thing, thing.get_state)
        elif isinstance(thing, collections.abc.Iterator) and not isinstance(thing, io.IOBase):
            if gc.is_tracked(thing):  # a range's is not, so that nobody knows when it was made
                self._iterators.append((where, thing))
        elif isinstance(thing, contextvars.ContextVar):
            self.watched.append(made_anew(where, thing, lambda: thing.get(None)))
        elif isinstance(thing, functools.partial):
            self._reach(where, (thing.func, thing.args, thing.keywords), names, depth)
        elif isinstance(thing, types.MethodType):
            self._reach(where, thing.__self__, names, depth)
        elif not isinstance(thing, types.FunctionType | types.BuiltinFunctionType):
            if isinstance(thing, Module):
                self.module(thing)
            self._attributes(where, thing, names, depth)

    def _attributes(self, where: str, thing: Any, names: Iterable[str], depth: int) -> None:
        if isinstance(thing, types.ModuleType) and _is_library(getattr(thing, "__file__", None) or "<frozen"):
            return
        own: Any = getattr(thing, "__dict__", {})
        own = own if isinstance(own, collections.abc.Mapping) else {}
        for name in [name for name in names if name.startswith("get_") and _is_ours(type(thing))]:
            code = getattr(_of_class(thing, name), "__code__", None)
            names = (*names, *(_names(code)[1] if code is not None else ()))
        found = []
        for name in dict.fromkeys(names):
            if name in own and not isinstance(thing, type):
                found.append(name)
            elif not isinstance(thing, types.ModuleType) and not _is_ours(type(thing)):
                of_class = _of_class(thing, name)
                is_slot = isinstance(of_class, types.MemberDescriptorType) and hasattr(thing, name)
                if isinstance(of_class, _DATA) or is_slot:
                    found.append(name)
        if found:
            self.watched.append(attributes_of(where, thing, found))
        for name in found:
            self._reach(f"{where}.{name}", getattr(thing, name), names, depth - 1)

    def module(self, module: Module) -> None:
        """Watch a module: its mode, parameters, children and hooks, and all of one whose forward is ours."""
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        self._kept.append(module)
        own, where = vars(module), type(module).__name__
        names = list(own) if _is_ours(type(module).forward) else _OF_MODULES
        names = [name for name in names if name not in module._counted]
        self.watched.append(Watched(f"{where}.{{}}", module, own.get, (*names, "forward")))  # also a new one
        for name in ("_parameters", "_buffers"):
            if own[name]:
                self.watched.append(Watched(f"{where}.{{}}", module, own[name].get, own[name]))
        for name in names:
            if own[name].__class__ is list or (name == "_modules" and own[name]):
                self.watched.append(entries_of(f"{where}.{name}", own[name]))
        if own["_hooks"] is not None:
            for name in _HOOKS:
                self.watched.append(entries_of(f"{where}'s {name} hooks", getattr(own["_hooks"], name)))

    def _draw(self, where: str, thing: Any, state: Callable[[], Any]) -> None:
        self._draws.append((where, thing, state, _state(state)))

    # -- the end

    def _settle(self, young: set[int]) -> None:
        """Keep what was there before the step.

        Args:
            young: the ids of what the step has made.
        """
        self.watched = [each for each in self.watched if id(each.anchor) not in young]
        self.watched += self._cells(young)
        iterators = [where for where, thing in self._iterators if id(thing) not in young]
        draws = [
            where
            for where, thing, state, before in self._draws
            if id(thing) not in young and _state(state) != before
        ]
        self._kept.clear()
        self._seen.clear()
        self._iterators.clear()
        self._draws.clear()
        if draws:
            raise CaptureError(
                f"capture: the step draws from {draws[0]}, which a replay does not do again; draw with "
                "distgrad's random functions, or draw outside and pass what was drawn as an argument"
            )
        if iterators:
            raise CaptureError(
                f"capture: the step sees the iterator {iterators[0]}, from which a replay takes nothing; "
                "take from it outside the captured step and pass what it gives as an argument"
            )

    def _cells(self, young: set[int]) -> list[Watched]:
        """The variables of functions around those that were entered."""
        functions: dict[types.CodeType, list[types.FunctionType]] = {}
        for each in gc.get_referrers(*{code for code, _ in self._closures.values()}):
            if isinstance(each, types.FunctionType) and id(each) not in young:
                functions.setdefault(each.__code__, []).append(each)
        found: dict[int, Watched] = {}
        for code, free in self._closures.values():
            for function in functions.get(code, ()):
                cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
                now = {name: _contents(cell) for name, cell in cells.items()}
                if all(now[name] is x or isinstance(x, SCALARS) for name, x in free.items()):
                    for name, value in free.items():
                        read = functools.partial(_contents_of, cells)
                        each = Watched("{}", cells[name], read, (name,))
                        each.values = (value,)
                        found.setdefault(id(cells[name]), each)
        self._closures.clear()
        return list(found.values())


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing yet
        return _contents


def _contents_of(cells: dict[str, types.CellType], name: str) -> Any:
    return _contents(cells[name])
