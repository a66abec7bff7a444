"""Arrays of shapes: ``"meta"``, a device whose arrays have a shape and a dtype, and no elements.

Whole networks, their gradients and their optimizers' state can be made on it without memory or time, to see
what fits, or to fill them piece by piece later. What an operation gives there is known from its record alone
(:mod:`distgrad.autograd.shapes`); this file knows the arrays, and what makes them.

Source: the idea of PyTorch's meta device and JAX's ``eval_shape``.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from distgrad.backend.array_module import ArrayModule, register_array_module
from distgrad.backend.device import Device, InOrder, register_backend
from distgrad.errors import DeviceError

__all__ = ["META", "LiveBytes", "MetaArray", "indexed_shape", "meta_module"]

META = Device("meta")


def _lengths(shape: Any) -> tuple[int, ...]:
    return (int(shape),) if isinstance(shape, int | np.integer) else tuple(map(int, shape))


def no_elements(what: str) -> DeviceError:
    """The error of whoever asks for elements."""
    return DeviceError(
        f"{what}: a tensor on 'meta' has a shape and no elements; make real ones first, with "
        "module.to_empty(device='cpu') or dg.empty_like(x, device='cpu')"
    )


meta_module: ArrayModule


class LiveBytes:
    """Counts, inside a ``with`` block, what arrays of shapes that are made there would take while they live.

    Views are their base's memory. One block counts at a time.

    Attributes:
        live: bytes of those that live.
        peak: the most that there were at once.
    """

    _counting: LiveBytes | None = None

    def __init__(self) -> None:
        self.live = self.peak = 0
        self._sizes: dict[weakref.ref[MetaArray], int] = {}

    def __enter__(self) -> LiveBytes:
        LiveBytes._counting = self
        return self

    def __exit__(self, *exc: object) -> None:
        LiveBytes._counting = None

    def add(self, array: MetaArray) -> None:
        """Count an array from here on."""
        self._sizes[weakref.ref(array, self._gone)] = array.nbytes
        self.live += array.nbytes
        self.peak = max(self.peak, self.live)

    def _gone(self, reference: weakref.ref[MetaArray]) -> None:
        self.live -= self._sizes.pop(reference)

    @staticmethod
    @contextmanager
    def uncounted() -> Iterator[None]:
        """Make arrays inside a block of this one that are nobody's memory."""
        before, LiveBytes._counting = LiveBytes._counting, None
        try:
            yield
        finally:
            LiveBytes._counting = before


class MetaArray:
    """The shape and dtype of an array; computing with it gives those of the result.

    Args:
        shape: lengths of the axes.
        dtype: of the elements that are not there.
        base: the array that this one would be a view of.
    """

    __slots__ = ("__weakref__", "base", "dtype", "shape")

    __array_ufunc__ = None  # NumPy gives way, and what mixes the two is found by where they lie

    def __init__(self, shape: Any, dtype: Any, base: MetaArray | None = None) -> None:
        self.shape = _lengths(shape)
        self.dtype = np.dtype(dtype)
        self.base = base
        if base is None and LiveBytes._counting is not None:
            LiveBytes._counting.add(self)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes that all elements would take."""
        return self.size * self.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes between neighbours along each axis, if the elements lay in row order."""
        return tuple(self.itemsize * math.prod(self.shape[i + 1 :]) for i in range(self.ndim))

    def __repr__(self) -> str:
        return f"MetaArray({list(self.shape)}, {self.dtype})"

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise no_elements("array")

    def _ask(self, *args: Any) -> Any:
        raise no_elements("item")

    __bool__ = __int__ = __float__ = __complex__ = __index__ = __iter__ = item = tolist = tobytes = _ask

    def copy(self, order: str = "C") -> MetaArray:
        """Another array of the same kind."""
        return MetaArray(self.shape, self.dtype)

    def fill(self, value: Any) -> None:
        """Nothing: there are no elements."""

    def astype(self, dtype: Any, copy: bool = True, **options: Any) -> MetaArray:
        """The same shape of another dtype."""
        return self if not copy and self.dtype == dtype else MetaArray(self.shape, dtype)

    def view(self, dtype: Any) -> MetaArray:
        """The same bytes as numbers of another dtype."""
        kind = np.dtype(dtype)
        last = self.shape[-1] * self.itemsize // kind.itemsize
        return MetaArray((*self.shape[:-1], last), kind, self)

    def reshape(self, *shape: Any) -> MetaArray:
        """The same number of elements in another shape."""
        lengths = _lengths(shape[0] if len(shape) == 1 else shape)
        known = math.prod(n for n in lengths if n != -1)
        if -1 in lengths and known:
            lengths = tuple(self.size // known if n == -1 else n for n in lengths)
        if math.prod(lengths) != self.size:
            raise ValueError(f"cannot reshape an array of shape {list(self.shape)} into {list(lengths)}")
        return MetaArray(lengths, self.dtype, self)

    def ravel(self) -> MetaArray:
        """All elements along one axis."""
        return self.reshape(-1)

    def transpose(self, *axes: Any) -> MetaArray:
        """The axes in another order."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        places = tuple(order) if order else tuple(range(self.ndim))[::-1]
        return MetaArray([self.shape[i] for i in places], self.dtype, self)

    T = property(transpose)

    @property
    def flags(self) -> SimpleNamespace:
        """As of an array that lies in row order and may be written."""
        return SimpleNamespace(c_contiguous=True, contiguous=True, writeable=True)

    @property
    def real(self) -> MetaArray:
        """The real parts."""
        return MetaArray(self.shape, self.dtype.type(0).real.dtype, self)

    @property
    def imag(self) -> MetaArray:
        """The imaginary parts."""
        return self.real

    def __getitem__(self, key: Any) -> MetaArray:
        return MetaArray(indexed_shape(self.shape, key), self.dtype, self)

    def __setitem__(self, key: Any, value: Any) -> None:
        room, given = indexed_shape(self.shape, key), getattr(value, "shape", ())
        if np.broadcast_shapes(room, given) != room:
            raise ValueError(f"cannot put an array of shape {list(given)} into {list(room)}")


def indexed_shape(shape: tuple[int, ...], key: Any) -> tuple[int, ...]:
    """The shape of ``x[key]``, as NumPy has it.

    Args:
        shape: of x.
        key: what stands in brackets.

    Raises:
        DeviceError: a mask without elements, which does not say how many it lets through.
        IndexError: more axes than there are, or a place outside an axis.
    """
    parts = _all_axes(list(key) if isinstance(key, tuple) else [key], len(shape))
    arrays = any(getattr(part, "shape", ()) or _is_mask(part) for part in parts)
    lengths = iter(shape)
    out: list[int] = []
    chosen: list[tuple[int, ...]] = []  # the shapes of arrays, and of numbers beside them
    places: list[tuple[int, int]] = []  # of each: which part it is, and the axes before it
    for i, part in enumerate(parts):
        if part is Ellipsis:  # of any length it keeps what stands beside it apart
            continue
        if part is None:
            out.append(1)
        elif isinstance(part, slice):
            out.append(len(range(*part.indices(next(lengths)))))
        else:
            count = _chosen(part, [next(lengths) for _ in range(_num_axes(part))])
            if arrays:
                chosen.append(count)
                places.append((i, len(out)))
    if not chosen:
        return tuple(out)
    together = places[-1][0] - places[0][0] == len(places) - 1
    first = places[0][1] if together else 0
    return (*out[:first], *np.broadcast_shapes(*chosen), *out[first:])


def _is_mask(part: Any) -> bool:
    return isinstance(part, bool) or getattr(part, "dtype", None) == np.bool_


def _num_axes(part: Any) -> int:
    """How many axes of the array a part of a key stands for."""
    if part is None or part is Ellipsis:
        return 0
    return getattr(part, "ndim", 0) if _is_mask(part) else 1


def _all_axes(parts: list[Any], ndim: int) -> list[Any]:
    """The key with lists as arrays, and slices for the axes that an ellipsis, or nothing, stands for."""
    parts = [np.asarray(part, None if part else int) if isinstance(part, list) else part for part in parts]
    missing = ndim - sum(map(_num_axes, parts))
    if missing < 0:
        raise IndexError(f"too many indices: the array has {ndim} axes, but {ndim - missing} were indexed")
    dots = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    place = dots[0] if dots else len(parts)
    return [*parts[:place], *parts[place : place + 1], *[slice(None)] * missing, *parts[place + 1 :]]


def _chosen(part: Any, lengths: list[int]) -> tuple[int, ...]:
    """The shape that a number, an array of places or a mask over axes of these lengths chooses."""
    if _is_mask(part):
        if isinstance(part, MetaArray):
            raise no_elements("index: how many elements a mask chooses is not known")
        if lengths and np.shape(part) != tuple(lengths):
            raise IndexError(f"boolean index is {list(np.shape(part))} but the axes are {lengths}")
        return (int(np.count_nonzero(part)),)
    if isinstance(part, int | np.integer) and not -lengths[0] <= part < lengths[0]:
        raise IndexError(f"index {part} is out of bounds for an axis of length {lengths[0]}")
    if isinstance(part, np.ndarray) and part.size:
        low, high = int(part.min()), int(part.max())
        if low < -lengths[0] or high >= lengths[0]:
            raise IndexError(f"an index of {low} … {high} is out of bounds for length {lengths[0]}")
    return tuple(getattr(part, "shape", ()))


class MetaBackend(InOrder):
    """What holds no elements."""

    kind = "meta"

    def __init__(self, xp: ArrayModule) -> None:
        self.xp = xp

    def device_count(self) -> int:
        return 0  # of those that hold something

    def check(self, device: Device) -> Device:
        if device.index:
            raise DeviceError(f"device {device.kind}:{device.index}: there is one 'meta'")
        return device

    index_of = address = lambda self, array: 0

    def from_host(self, array: np.ndarray, index: int, non_blocking: bool = False) -> MetaArray:
        return MetaArray(array.shape, array.dtype)

    def pin(self, array: np.ndarray) -> np.ndarray:
        return array

    def to_host(self, array: MetaArray, non_blocking: bool = False) -> np.ndarray:
        raise no_elements("to('cpu')")

    def between(self, array: MetaArray, index: int) -> MetaArray:
        return array.copy()

    def from_dlpack(self, x: Any, copy: bool | None) -> Any:
        raise no_elements("from_dlpack")

    def allocate(self, num_bytes: int, index: int) -> MetaArray:
        return MetaArray(num_bytes, np.uint8)


# -- what makes arrays, and what changes them


def _made(shape: Any, dtype: Any = np.float64, **options: Any) -> MetaArray:
    return MetaArray(shape, dtype)


def _full(shape: Any, value: Any, dtype: Any = None) -> MetaArray:
    return MetaArray(shape, np.asarray(value).dtype if dtype is None else dtype)


def _eye(rows: int, columns: int | None = None, k: int = 0, dtype: Any = np.float64) -> MetaArray:
    return MetaArray((rows, rows if columns is None else columns), dtype)


def _arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> MetaArray:
    first, last = (0, start) if stop is None else (start, stop)
    kind = np.result_type(first, last, step) if dtype is None else dtype
    return MetaArray(max(0, math.ceil((last - first) / step)), kind)


def _linspace(start: Any, stop: Any, num: int, endpoint: bool = True, dtype: Any = np.float64) -> MetaArray:
    return MetaArray(num, dtype)


def _copyto(x: MetaArray, values: Any) -> MetaArray:
    x[...] = values
    return x


def _add_at(x: MetaArray, indices: Any, values: Any) -> MetaArray:
    x[indices] = values
    return x


def _operator(name: str, turned: bool = False) -> Callable[..., Any]:
    def apply(self: MetaArray, other: Any) -> Any:
        function = getattr(meta_module, name)
        return function(other, self) if turned else function(self, other)

    return apply


def _method(name: str) -> Callable[..., Any]:
    return lambda self, axis=None, **options: getattr(meta_module, name)(self, axis=axis, **options)


def _in_place(name: str) -> Callable[..., Any]:
    def apply(self: MetaArray, other: Any) -> MetaArray:
        self[...] = getattr(meta_module, name)(self, other)
        return self

    return apply


_OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "pow": "pow",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "matmul": "matmul",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift",
}
_COMPARISONS = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater"}
for _short, _name in _OPERATORS.items():
    setattr(MetaArray, f"__{_short}__", _operator(_name))
    setattr(MetaArray, f"__r{_short}__", _operator(_name, turned=True))
    setattr(MetaArray, f"__i{_short}__", _in_place(_name))
for _short, _name in {**_COMPARISONS, "ge": "greater_equal"}.items():
    setattr(MetaArray, f"__{_short}__", _operator(_name))
for _short, _name in {"neg": "negative", "pos": "positive", "abs": "abs", "invert": "bitwise_invert"}.items():
    setattr(MetaArray, f"__{_short}__", lambda self, name=_name: getattr(meta_module, name)(self))

for _name in ("sum", "prod", "mean", "max", "min", "any", "all"):
    setattr(MetaArray, _name, _method(_name))

_functions = {"empty": _made, "zeros": _made, "ones": _made, "full": _full, "eye": _eye, "arange": _arange}
_functions |= {"linspace": _linspace, "copyto": _copyto, "add_at": _add_at}
for _name in ("empty", "zeros", "ones"):
    _functions[f"{_name}_like"] = lambda x, dtype=None: MetaArray(x.shape, dtype or x.dtype)

meta_module = ArrayModule("meta", MetaArray, _functions)
register_array_module(meta_module)
register_backend(MetaBackend(meta_module))
