"""A strict device made of NumPy: what a GPU refuses or punishes, it refuses or counts.

Its arrays are no NumPy arrays and never turn into one by themselves: an operation that mixes host and device,
or two devices, is a TypeError; ``np.asarray`` of one is too. Fresh memory holds garbage. What makes the host
of a GPU wait (a number read, a boolean mask, a result whose shape depends on values) is counted in ``SYNCS``
with the line that asked. It stands beside the CPU as the devices ``fake:0`` and ``fake:1``.
"""

import builtins
import functools
import itertools
import operator
import threading
import traceback
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from distgrad.backend.array_module import ArrayModule, register_array_module
from distgrad.backend.device import BACKENDS, Backend, memory_of, register_backend
from distgrad.backend.numpy import numpy_module

NUM_DEVICES = 2
GARBAGE = 0xA5


class _Active(threading.local):
    index = 0
    streams: tuple[Any, ...] = ()


_active = _Active()

#: What has made the host wait: (what was asked, the line of the package that asked).
SYNCS: list[tuple[str, str]] = []
#: Arrays sent from the host, by the line that sent them.
SENT: list[str] = []


def _line() -> str:
    """The innermost line outside this file."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
    return f"{frames[-1].filename}:{frames[-1].lineno}"


def count_sync(what: str) -> None:
    """The host of a GPU would wait here."""
    SYNCS.append((what, _line()))


@contextmanager
def counted_syncs():
    """The list of what makes the host wait inside."""
    before = len(SYNCS)
    found: list[tuple[str, str]] = []
    yield found
    found += SYNCS[before:]


# -- arrays


class FakeMemory:
    """What CuPy's ``array.data`` tells."""

    def __init__(self, device_id: int, ptr: int) -> None:
        self.device_id, self.ptr = device_id, ptr


class FakeArray:
    """An array on a fake device."""

    __hash__ = None
    __slots__ = ("__weakref__", "_base", "_host", "_index")

    def __init__(self, host: np.ndarray, index: int, base: "FakeArray | None" = None) -> None:
        self._host, self._index, self._base = host, index, base

    @property
    def base(self) -> "FakeArray | None":
        return self._base

    @property
    def data(self) -> FakeMemory:
        return FakeMemory(self._index, self._host.ctypes.data)

    def _refuse(self, *args: Any, **options: Any) -> Any:
        raise TypeError("fake device: implicit conversion to a NumPy array is not allowed")

    __array__ = __array_ufunc__ = __array_function__ = _refuse

    @property
    def flags(self) -> Any:
        flags = self._host.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"FakeArray({self._host!r}, fake:{self._index})"

    def __getitem__(self, key: Any) -> Any:
        return wrapped(self._host[plain_index(key, self._index)], self._index, (self,))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[plain_index(key, self._index)] = unwrapped(value, self._index)

    def item(self, *where: Any) -> Any:
        count_sync("item")
        return self._host.item(*where)

    def tolist(self) -> Any:
        count_sync("tolist")
        return self._host.tolist()

    def __reduce__(self) -> Any:
        count_sync("pickle")
        return _on_device, (self._host, self._index)

    def __dlpack_device__(self) -> Any:
        raise BufferError("fake device: DLPack has no number for it")


def _on_device(host: np.ndarray, index: int) -> FakeArray:
    return FakeArray(host, index)


def _reading(name: str, function: Any) -> Any:
    def read(self: FakeArray) -> Any:
        count_sync(name)
        return function(self._host)

    return read


def _method(name: str) -> Any:
    def method(self: FakeArray, *args: Any, **options: Any) -> Any:
        if name in DATA_DEPENDENT:
            count_sync(name)
        arguments = unwrapped(args, self._index)
        result = getattr(self._host, name)(*arguments, **unwrapped(options, self._index))
        return wrapped(result, self._index, (self, *args), options.get("out"))

    return method


def _binary(function: Any, swapped: bool = False) -> Any:
    def method(self: FakeArray, other: Any) -> Any:
        if not isinstance(other, (FakeArray, int, float, complex, np.generic)):
            if isinstance(other, np.ndarray):
                self._refuse()
            return NotImplemented
        other_host = unwrapped(other, self._index)
        pair = (other_host, self._host) if swapped else (self._host, other_host)
        return wrapped(function(*pair), self._index, ())

    return method


def _in_place(function: Any) -> Any:
    def method(self: FakeArray, other: Any) -> Any:
        function(self._host, unwrapped(other, self._index))
        return self

    return method


#: Methods and functions whose result's shape depends on values.
DATA_DEPENDENT = {
    *("nonzero", "flatnonzero", "argwhere", "unique", "unique_all", "unique_counts", "unique_inverse"),
    *("unique_values", "compress", "extract", "array_equal", "allclose"),
}

for _name in ("float", "int", "complex", "bool", "index"):
    _function = operator.index if _name == "index" else vars(builtins)[_name]
    setattr(FakeArray, f"__{_name}__", _reading(_name, _function))
for _name in ("shape", "dtype", "ndim", "size", "itemsize", "nbytes", "strides"):
    setattr(FakeArray, _name, property(lambda self, name=_name: getattr(self._host, name)))
for _name in ("T", "mT", "real", "imag"):
    setattr(
        FakeArray,
        _name,
        property(lambda self, name=_name: wrapped(getattr(self._host, name), self._index, (self,))),
    )
for _name in (
    *("all", "any", "argmax", "argmin", "argsort", "astype", "clip", "conj", "copy", "cumprod", "cumsum"),
    *("diagonal", "dot", "fill", "flatten", "max", "mean", "min", "nonzero", "prod", "ravel", "repeat"),
    *("reshape", "round", "squeeze", "std", "sum", "swapaxes", "take", "transpose", "trace", "var", "view"),
    *("searchsorted", "sort"),
):
    setattr(FakeArray, _name, _method(_name))
for _name in (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor"),
    *("lshift", "rshift"),
):
    _plain, _function = _name.rstrip("_"), getattr(operator, _name)
    setattr(FakeArray, f"__{_plain}__", _binary(_function))
    setattr(FakeArray, f"__r{_plain}__", _binary(_function, swapped=True))
    setattr(FakeArray, f"__i{_plain}__", _in_place(getattr(operator, f"i{_plain}")))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(FakeArray, f"__{_name}__", _binary(getattr(operator, _name)))
for _name in ("neg", "pos", "abs", "invert"):
    _function = getattr(operator, _name)
    setattr(FakeArray, f"__{_name}__", lambda self, f=_function: wrapped(f(self._host), self._index, ()))


def unwrapped(value: Any, index: int | None) -> Any:
    """The NumPy arrays inside ``value``, which all must be this device's (None: of one device)."""
    if isinstance(value, FakeArray):
        if index is not None and value._index != index:
            raise TypeError(f"fake device: an array on fake:{value._index} in an operation on fake:{index}")
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"fake device: a host array {value.dtype}{list(value.shape)} in a device's operation")
    if isinstance(value, list | tuple):
        parts = [unwrapped(each, index) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: unwrapped(each, index) for key, each in value.items()}
    return value


def plain_index(key: Any, index: int) -> Any:
    """The key for the array inside; a boolean mask makes the host wait."""
    parts = key if isinstance(key, tuple) else (key,)
    if any(isinstance(part, list) for part in parts):
        raise TypeError("fake device: a list as an index is a host array")
    if any(getattr(part, "dtype", None) == np.dtype(bool) for part in parts):
        count_sync("boolean mask")
    return unwrapped(key, index)


def wrapped(result: Any, index: int, sources: Any, out: Any = None) -> Any:
    """What NumPy returned, as the device returns it: arrays, also without axes, are the device's."""
    if out is not None:
        return out
    if isinstance(result, np.ndarray | np.generic):
        host = np.asarray(result)
        for source in sources:
            if isinstance(source, FakeArray) and np.may_share_memory(host, source._host):
                return FakeArray(host, index, source if source._base is None else source._base)
        return FakeArray(host, index)
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*[wrapped(each, index, sources) for each in result])
    if isinstance(result, list | tuple):
        return type(result)(wrapped(each, index, sources) for each in result)
    return result


# -- functions


def _arrays_in(value: Any) -> list[FakeArray]:
    if isinstance(value, FakeArray):
        return [value]
    if isinstance(value, list | tuple):
        return list(itertools.chain.from_iterable(map(_arrays_in, value)))
    return []


class Function:
    """A NumPy function, or a ufunc with its methods, for fake arrays."""

    def __init__(self, name: str, function: Any) -> None:
        self._name, self._function = name, function

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self._name in DATA_DEPENDENT:
            count_sync(self._name)
        arrays = _arrays_in([*args, *options.values()])
        index = arrays[0]._index if arrays else _active.index
        if arrays and index != _active.index:
            raise TypeError(f"fake device: arrays on fake:{index} while fake:{_active.index} is active")
        if self._name == "repeat" and isinstance(args[1], FakeArray):
            count_sync("repeat by an array")
        result = self._function(*unwrapped(args, index), **unwrapped(options, index))
        return wrapped(result, index, arrays, options.get("out"))

    def __getattr__(self, name: str) -> Any:
        return Function(f"{self._name}.{name}", getattr(self._function, name))


class Room:
    """A module inside NumPy, such as ``linalg``."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return _device_function(name, getattr(self._module, name))


class Grid:
    """``ogrid``, on the active device."""

    def __getitem__(self, key: Any) -> Any:
        return wrapped(np.ogrid[key], _active.index, ())


#: What CuPy has no function for; formulas must not call it.
LACKING = {"insert", "block", "lib.array_utils"}


def _device_function(name: str, value: Any) -> Any:
    if isinstance(value, ModuleType):
        return Room(value)
    if isinstance(value, type) or not callable(value):
        return value
    return Function(name, value)


def _find(name: str) -> Any:
    value = getattr(numpy_module, name)
    if name in LACKING or isinstance(value, functools.partial):  # an operation's formula, with NumPy as xp
        raise AttributeError(name)
    return _device_function(name, value)


def _asarray(x: Any, dtype: Any = None, copy: bool | None = None) -> FakeArray:
    if isinstance(x, FakeArray):
        return x if dtype in (None, x.dtype) and not copy else x.astype(dtype or x.dtype)
    SENT.append(_line())
    return FakeArray(np.array(x, dtype=dtype), _active.index)


def _empty(shape: Any, dtype: Any = float) -> FakeArray:
    host = np.empty(shape, dtype)
    if host.size:
        np.frombuffer(host, np.uint8)[...] = GARBAGE
    return FakeArray(host, _active.index)


def _empty_like(x: FakeArray, dtype: Any = None) -> FakeArray:
    return _empty(x.shape, dtype or x.dtype)


def _may_be_view(name: str) -> Any:
    return lambda x, *args, **options: getattr(x, name)(*args, **options)


def _broadcast_to(x: FakeArray, shape: Any) -> FakeArray:
    return wrapped(np.broadcast_to(unwrapped(x, None), shape), x._index, (x,))


_module = ArrayModule(
    "fake",
    FakeArray,
    {
        "asarray": _asarray,
        "array": _asarray,
        "empty": _empty,
        "empty_like": _empty_like,
        "ogrid": Grid(),
        "broadcast_to": _broadcast_to,
        # these answer from dtypes and shapes alone
        "result_type": np.result_type,
        "finfo": np.finfo,
        "iinfo": np.iinfo,
    },
    _find,
)


def _result_type(*values: Any) -> Any:
    return np.result_type(*[value.dtype if isinstance(value, FakeArray) else value for value in values])


_module.result_type = _result_type


# -- streams


class FakeStream:
    """A stream whose work is done at once; it keeps what was said to it."""

    numbers = itertools.count(1)

    def __init__(self, ptr: int | None = None) -> None:
        self.ptr = next(self.numbers) if ptr is None else ptr
        self.said: list[Any] = []

    @property
    def done(self) -> bool:
        return True

    def synchronize(self) -> None:
        count_sync("Stream.synchronize")

    def wait_event(self, event: Any) -> None:
        self.said.append(("wait", event))

    def begin_capture(self) -> None:
        self.said.append("begin_capture")

    def end_capture(self) -> Any:
        self.said.append("end_capture")
        return self


class FakeEvent:
    """An event that has come as soon as it is recorded."""

    done = True

    def record(self, stream: Any) -> None:
        stream.said.append(("record", self))

    def synchronize(self) -> None:
        count_sync("Event.synchronize")


class FakeBackend(Backend):
    """The devices ``fake:0`` and ``fake:1``."""

    kind = "fake"
    xp = _module

    def __init__(self) -> None:
        self.default = [FakeStream(0) for _ in range(NUM_DEVICES)]
        self.chosen = threading.local()

    def device_count(self) -> int:
        return NUM_DEVICES

    def current_index(self) -> int:
        return getattr(self.chosen, "index", 0)

    def set_index(self, index: int) -> None:
        self.chosen.index = index
        self.activate(index)

    def index_of(self, array: Any) -> int:
        return array._index

    def address(self, array: Any) -> int:
        return array.data.ptr

    def activate(self, index: int) -> None:
        _active.index = index

    def active_index(self) -> int:
        return _active.index

    def from_host(self, array: np.ndarray, index: int, non_blocking: bool = False) -> FakeArray:
        SENT.append("pinned" if non_blocking and self.is_pinned(array) else _line())
        return FakeArray(np.array(array, order="C"), index)

    def to_host(self, array: Any, non_blocking: bool = False) -> np.ndarray:
        if not non_blocking:
            count_sync("to the host")
        return np.array(array._host, order="C")

    def pin(self, array: np.ndarray) -> np.ndarray:
        return np.frombuffer(bytearray(array.tobytes()), array.dtype, array.size).reshape(array.shape)

    def is_pinned(self, array: np.ndarray) -> bool:
        return isinstance(memory_of(array), bytearray)

    def between(self, array: Any, index: int) -> FakeArray:
        return FakeArray(np.array(array._host, order="C"), index)

    def from_dlpack(self, x: Any, copy: bool | None) -> Any:
        raise BufferError("fake device: DLPack has no number for it")

    def allocate(self, num_bytes: int, index: int) -> FakeArray:
        return FakeArray(np.full(num_bytes, GARBAGE, np.uint8), index)

    def make_stream(self, index: int, priority: int) -> FakeStream:
        return FakeStream()

    def current_stream(self, index: int) -> FakeStream:
        return dict(_active.streams).get(index, self.default[index])

    def use_stream(self, native: Any, index: int) -> None:
        _active.streams = (*_active.streams, (index, native))[-2 * NUM_DEVICES :]

    def lend(self, array: Any, native: Any) -> None:
        """Nothing is handed out twice here."""

    def make_event(self, timing: bool, index: int) -> FakeEvent:
        return FakeEvent()

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return 0.0

    def synchronize(self, index: int) -> None:
        count_sync("synchronize")


def install() -> None:
    """Let tensors lie on ``fake:0`` and ``fake:1``; a second call does nothing."""
    if "fake" not in BACKENDS:
        register_array_module(_module)
        register_backend(FakeBackend())
