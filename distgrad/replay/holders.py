"""While a step is recorded, what holds arrays hands them out as traced ones, and optimizers say what they do.

The attributes are changed for the process, but only a thread that records sees a difference.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distgrad.autograd.flat import FlatBuffer
from distgrad.autograd.graph import Leaf
from distgrad.autograd.tensor import Tensor
from distgrad.backend import products, threads
from distgrad.backend.kernels.compiler import has_numba
from distgrad.backend.memory import host_memory
from distgrad.backend.numpy import numpy_module
from distgrad.backend.recording import here
from distgrad.comm.progress import tell_step
from distgrad.nn.module import Module
from distgrad.optim.lbfgs import LBFGS
from distgrad.optim.optimizer import Optimizer
from distgrad.replay import ranks
from distgrad.replay.places import Place
from distgrad.replay.recorder import Recorder
from distgrad.replay.traced import Traced, plain

__all__ = ["hearing", "recording", "turn"]

#: Held by the thread that records: it asks Python's collector what a step has made, and there is one.
turn = threading.Lock()
_undo: list[tuple[Any, str, Any]] = []
_MISSING = object()


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    """A recorder that listens to this thread inside, which has the :data:`turn`."""
    recorder = Recorder()
    _install()
    recorder.replaced = {name: before for owner, name, before in _undo if owner is np}
    try:
        with hearing(recorder.hear):
            here.listener = recorder
            yield recorder
    finally:
        here.listener = None
        _remove()


@contextlib.contextmanager
def hearing(hear: Callable[[Any], None]) -> Iterator[None]:
    """Call ``hear`` with each communicator that this thread issues a call of inside."""
    here.hears = hear
    try:
        yield
    finally:
        here.hears = None


def _install() -> None:
    for change in _CHANGES:
        change()
    for change_ranks in ranks.CHANGES:
        change_ranks(_swap)


def _remove() -> None:
    while _undo:
        owner, name, before = _undo.pop()
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _swap(owner: Any, name: str, new: Any) -> None:
    _undo.append((owner, name, vars(owner).get(name, _MISSING)))
    setattr(owner, name, new)


def _recorder() -> Any:
    return here.listener


# -- attributes


def _array_attribute(get: Any, put: Any, note: Callable[[Any, Any, Any], None] | None = None) -> property:
    def read(self: Any) -> Any:
        x, recorder = get(self), _recorder()
        if recorder is None or x.__class__ is not np.ndarray:
            return x
        if note is not None:
            note(recorder, self, x)
        return recorder.wrap(x)

    return property(read, lambda self, x: put(self, plain(x)))


def _change_arrays() -> None:
    owners: Any = ((Tensor, "_data", Recorder.note_tensor), (Leaf, "buffer", None), (Leaf, "home", None))
    for owner, name, note in owners:
        slot = vars(owner)[name]
        _swap(owner, name, _array_attribute(slot.__get__, slot.__set__, note))
    for name in ("data", "grad"):
        get = functools.partial(lambda name, self: self.__dict__[name], name)
        put = functools.partial(lambda name, self, x: self.__dict__.__setitem__(name, x), name)
        _swap(FlatBuffer, name, _array_attribute(get, put))
    _change_gradients()
    change = Tensor.changed

    def changed(self: Any, where: str) -> None:
        recorder = _recorder()
        if recorder is not None:
            recorder.note_change(self, where)
        change(self, where)

    _swap(Tensor, "changed", changed)
    call = Module.__call__

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = _recorder()
        if recorder is not None:
            recorder.surroundings.module(self)
        return call(self, *args, **kwargs)

    _swap(Module, "__call__", called)


def _change_gradients() -> None:
    slot: Any = vars(Leaf)["grad"]

    def read(leaf: Any) -> Any:
        recorder = _recorder()
        g = slot.__get__(leaf)
        if recorder is not None:
            recorder.note_leaf(leaf, g, True)
        return g

    def write(leaf: Any, g: Any) -> None:
        recorder = _recorder()
        if recorder is not None:
            with contextlib.suppress(AttributeError):  # a new leaf has none yet
                recorder.note_leaf(leaf, slot.__get__(leaf), False)
        slot.__set__(leaf, g)

    _swap(Leaf, "grad", property(read, write))


# -- functions that make arrays of none


def _change_creation() -> None:
    makers: dict[str, Callable[..., Any]] = {"empty": _fresh(np.empty), "empty_like": _fresh(np.empty_like)}
    for name in ("zeros", "ones", "full", "zeros_like", "ones_like", "full_like"):
        makers[name] = _filled(getattr(np, name))
    for name in ("asarray", "ascontiguousarray", "array"):
        makers[name] = _converted(getattr(np, name))
    _swap(host_memory, "empty", makers["empty"])
    for name, maker in makers.items():
        if name in vars(numpy_module):
            _swap(numpy_module, name, maker)
        _swap(np, name, maker)
    for name in ("as_strided", "broadcast_to", "writable_diagonal"):
        _swap(numpy_module, name, _viewing(vars(numpy_module)[name]))


def _fresh(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        recorder = _recorder()
        if recorder is None:
            return make(*args, **kwargs)
        y = make(*[plain(each) for each in args], **kwargs)
        return y if y.dtype.hasobject or y.__class__ is not np.ndarray else recorder.fresh(y)

    return made


def _filled(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        recorder = _recorder()
        if recorder is None:
            return make(*args, **kwargs)
        value = args[1] if len(args) > 1 else kwargs.get("fill_value", 0)
        if isinstance(value, np.ndarray) and make.__name__.startswith("full"):
            y = recorder.fresh(np.ndarray.copy(plain(make(plain(args[0]), 0, *args[2:], **kwargs))))
            y[...] = value
            return y
        y = make(*[plain(each) for each in args], **kwargs)
        return y if y.dtype.hasobject or y.__class__ is not np.ndarray else recorder.filled(y)

    return made


def _converted(make: Callable[..., Any]) -> Callable[..., Any]:
    """Of a traced array itself, a view or a copy; what is made of numbers is a constant."""

    @functools.wraps(make)
    def made(x: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = _recorder()
        if recorder is None or x.__class__ is not Traced:
            return make(x, *args, **kwargs)
        kwargs.pop("subok", None)
        y = make(plain(x), *args, **kwargs)
        return x if y is plain(x) else recorder.call(make, (x, *args), kwargs)

    return made


def _viewing(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(x: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = _recorder()
        y = make(plain(x), *args, **kwargs)
        return recorder.view(y) if recorder is not None and isinstance(x, np.ndarray) else y

    return made


# -- kernels and threads


_RULES = "distgrad.backend.kernels.optimizer"
_MOST_TRIED = 1 << 16  # elements on which a rule's kernel is tried where NumPy has computed: it does on few
#: Whose compiled functions are given addresses, also by threads that start while a step is recorded.
_NO_ARRAYS = ("distgrad.backend.kernels.machine", "distgrad.backend.kernels.workers")


def _argument_names(compiled: Any) -> tuple[str, ...]:
    code = compiled.py_func.__code__
    return tuple(code.co_varnames[: code.co_argcount])


def _kernel(compiled: Any) -> Callable[..., Any]:
    names = _argument_names(compiled)

    def call(*args: Any) -> Any:
        recorder = _recorder()
        return compiled(*args) if recorder is None else recorder.kernel(compiled.entry, args, names)

    call.entry = compiled.entry  # type: ignore[attr-defined]
    return call


def _change_kernels() -> None:
    if has_numba():
        importlib.import_module(_RULES)  # so that what it calls is changed too
    for name, module in list(sys.modules.items()):
        if not name.startswith("distgrad.") or module is None:
            continue
        if name.startswith("distgrad.backend.kernels.") and ".cuda" not in name and name not in _NO_ARRAYS:
            for key, value in list(vars(module).items()):
                if hasattr(value, "entry") and hasattr(value, "py_func"):
                    _swap(module, key, _kernel(value))
        if vars(module).get("run_parts") is _run_parts and module is not threads:
            _swap(module, "run_parts", _run_parts_recorded)
    by_address = products._by_address
    _swap(products, "_by_address", lambda *given: _recorder() is None and by_address(*given))


_run_parts = threads.run_parts


def _run_parts_recorded(part: Any, length: int, row_ns: float, smallest: int = 1) -> int:
    """The parts' calls, one after the other; those of several parts are a group that threads share."""
    recorder = _recorder()
    if recorder is None:
        return _run_parts(part, length, row_ns, smallest)
    edges = threads.edges_of(length, row_ns, smallest)
    recorder.num_groups += 1
    calls = [(start, list(part(start, stop))) for start, stop in itertools.pairwise(edges)]
    for start, some in calls:  # when the arrays that a part makes are recorded, in no group
        recorder.group = (recorder.num_groups, start) if len(edges) > 2 else None
        for kernel, *args in some:
            compiled = kernel.entry.function
            recorder.kernel(kernel.entry, tuple(args), _argument_names(compiled))
    recorder.group = None
    return 0


# -- optimizers


def count_step(optimizer: Any, parameters: list[Any]) -> None:
    """What an optimizer remembers of a step, for parameters that it is about to change."""
    name = f"{type(optimizer).__name__}.step"
    for parameter in parameters:
        parameter.changed(name)
        optimizer._steps[parameter] += 1
    tell_step(optimizer._num_updates())


_update = Optimizer._update


def update(optimizer: Any, number: int, parameter: Any, p: Any, g: Any, state: Any) -> None:
    """An optimizer's rule, with the options and the step that a group and a parameter of it have now."""
    _update(optimizer, optimizer.param_groups[number], p, g, state, optimizer._steps[parameter])


def _record_rule(
    recorder: Any, optimizer: Any, number: int, parameter: Any, p: Any, g: Any, state: Any
) -> bool:
    """Record an optimizer's rule as the one kernel that does what it does, if there is one."""
    rule, group, kind = optimizer.rule, optimizer.param_groups[number], plain(p).dtype.type
    own = [vars(each) for each in type(optimizer).__mro__ if each not in Optimizer.__mro__]
    if rule is None or any(name in each for each in own for name in ("update", "_apply_rule")):
        return False
    step = optimizer._steps[parameter]
    numbers = rule.take(optimizer.numbers(group, step))
    arrays = [plain(x) for x in (p, *state.values())]
    before = [x.copy() for x in arrays] if arrays[0].size <= _MOST_TRIED else None

    def heard(run: Callable[[Any, Any], Any]) -> Any:
        """The kernel that a function runs, called with the rule's numbers, if that is all that it does."""
        inner = here.listener = Recorder()
        inner.replaced = recorder.replaced
        try:
            run(inner.wrap(plain(p)), inner.wrap(plain(g)))
        finally:
            here.listener = recorder
        call = inner.calls[0] if len(inner.calls) == 1 else None
        if call is None or call.kind != "kernel" or call.group is not None:
            return None
        places = [x for x in call.args if isinstance(x, Place)]
        return (call, places) if list(call.args[len(places) :]) == [kind(x) for x in numbers] else None

    found = heard(lambda p, g: _update(optimizer, group, p, g, dict(state), step))
    if found is None and before is not None and optimizer._kernels and has_numba():  # NumPy has computed
        after = [x.copy() for x in arrays]
        _overwrite(arrays, before)
        compiled = getattr(sys.modules[_RULES], rule.name)
        found = heard(lambda p, g: compiled(p, g, *map(state.get, rule.state), numbers))
        if any(x.tobytes() != y.tobytes() for x, y in zip(arrays, after, strict=True)):
            found = None
        if found is None:
            _overwrite(arrays, after)
    if found is None:
        recorder.add_whole(update, (optimizer, number, parameter, p, g, state), (p, *state.values()))
        return True
    recorder.rule(found[0], (optimizer, number, parameter, found[1]), (p, g, *state.values()))
    return True


def _overwrite(arrays: list[np.ndarray], values: list[np.ndarray]) -> None:
    for x, value in zip(arrays, values, strict=True):
        x[...] = value


def _change_optimizers() -> None:
    with_gradients = Optimizer._with_gradients

    def counted(self: Any, group: Any) -> Iterator[Any]:
        recorder = _recorder()
        for parameter in with_gradients(self, group):
            if recorder is not None:
                recorder.count(count_step, self, parameter)
                recorder.groups.append((self, group, self.names(group), parameter))
            yield parameter

    def updated(self: Any, group: Any, p: Any, g: Any, state: Any, step: int) -> None:
        recorder = _recorder()
        if recorder is None:
            _update(self, group, p, g, state, step)
            return
        parameter = next(each for each in group["params"] if self._steps[each] == step)
        number = next(i for i, each in enumerate(self.param_groups) if each is group)
        if not _record_rule(recorder, self, number, parameter, p, g, state):
            recorder.whole(update, (self, number, parameter, p, g, state), {}, (3, 5))

    search = LBFGS.step

    def searched(self: Any, closure: Any = None) -> Any:
        recorder = _recorder()
        if recorder is not None:
            recorder.refuse(
                f"the step calls LBFGS.step at {recorder.where()}, which computes what it does by "
                "the numbers it meets; capture the closure, and call optimizer.step(closure) outside"
            )
        return search(self, closure)

    _swap(LBFGS, "step", searched)
    _swap(Optimizer, "_with_gradients", counted)
    _swap(Optimizer, "_update", updated)


#: Kernels come before creation: Numba, if it is loaded then, keeps NumPy's functions as it finds them.
_CHANGES = (_change_arrays, _change_kernels, _change_creation, _change_optimizers)
