"""Ways to make a tensor."""

from __future__ import annotations

from numbers import Number
from typing import Any

import numpy as np

from distgrad.autograd.casting import DEFAULTS
from distgrad.autograd.dispatch import CREATORS, operations
from distgrad.autograd.ops.move import moved
from distgrad.autograd.porting import one_shape
from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.backend.array_module import ARRAY_MODULES, HOST_ARRAYS
from distgrad.backend.device import (
    CPU,
    Device,
    activated,
    device_of,
    find_backend,
    native,
    resolve,
    to_device,
)
from distgrad.errors import DeviceError, DTypeError, OptionError, ShapeError

__all__ = [
    "arange",
    "asarray",
    "empty",
    "empty_like",
    "eye",
    "fftfreq",
    "from_dlpack",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "rfftfreq",
    "tensor",
    "zeros",
    "zeros_like",
]

Shape = int | tuple[int, ...]

_PYTHON = {np.dtype(np.float64): float, np.dtype(np.complex128): complex}  # what NumPy makes of those


#: DLPack's numbers of the kinds of memory: the CPU's, also pinned, and CUDA's, also managed.
_DLPACK_KINDS = {1: "cpu", 3: "cpu", 2: "cuda", 13: "cuda"}


# -- from data


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of ``data``.

    Args:
        data: a number, nested lists of numbers, an array or a tensor.
        dtype: of the result; None keeps that of an array, and makes Python floats float32.
        device: where it shall lie; None means the default device, the CPU.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """
    array = _to_array(data, dtype)
    target = _place(array, device)
    if target == CPU and array.__class__ in HOST_ARRAYS:
        return Tensor(np.array(array, copy=True), requires_grad)
    sent: Any = to_device(array, target)
    return Tensor(sent.copy() if sent is array else sent, requires_grad)


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of ``obj``, in the same memory where that is possible.

    Args:
        obj: a tensor, an array, anything with ``__dlpack__`` or the buffer protocol, a number, or nested
            lists of those.
        dtype: of the result; None keeps that of an array, and makes Python floats float32.
        device: where it shall lie; None means the default device, the CPU.
        copy: True always copies, False never does (an error where a copy is needed), None as needed.

    Raises:
        ValueError: ``copy=False`` where a copy is needed.
    """
    source = obj if isinstance(obj, Tensor) else Tensor(_to_array(obj, dtype, copy))
    target = _place(source._data, device)
    if target != source.device:
        if copy is False:
            raise ValueError(f"asarray: copy=False, but {source.device} must be copied to reach {target}")
        source = moved(source, target)
    if dtype is None or source.dtype == dtype:
        return operations.astype(source, source.dtype) if copy and source is obj else source
    if copy is False:
        raise ValueError(
            f"asarray: copy=False, but {source.dtype} must be copied to become {np.dtype(dtype)}"
        )
    return operations.astype(source, np.dtype(dtype))


def _to_array(data: Any, dtype: Any, copy: bool | None = None) -> np.ndarray:
    """The array of whatever people pass.

    Raises:
        DTypeError: something that holds no numbers.
    """
    if isinstance(data, Tensor):
        data = data._data
    if isinstance(data, np.ndarray):
        entered = native(data)
        if copy is False and entered is not data and not np.may_share_memory(entered, data):
            raise ValueError(
                f"asarray: copy=False, but {data.dtype} must be copied to lie as kernels want it"
            )
        data = entered
    if data.__class__ not in HOST_ARRAYS and hasattr(data, "__dlpack__"):
        data = _shared(data, None)
        if data.__class__ not in HOST_ARRAYS:  # on a device
            return data if dtype is None or data.dtype == dtype else data.astype(dtype)
    kinds = _kinds(data)
    numbers = kinds <= DEFAULTS.keys()
    if copy is False and numbers:
        raise ValueError(
            f"asarray: copy=False, but a {type(data).__name__} must be copied to become an array"
        )
    if numbers and dtype is None:
        array = np.asarray(data)
        python = _PYTHON.get(array.dtype)
        array = array if python is None else array.astype(DEFAULTS[python], copy=False)
    else:
        if dtype is None and isinstance(data, list | tuple):
            dtype = np.result_type(*[kind(0) if kind in DEFAULTS else kind for kind in kinds])
        array = np.array(data, dtype=dtype, copy=copy)
    if array.dtype.kind not in "biufc" and array.dtype.char not in FLOATING:
        raise DTypeError(f"tensor: expected numbers, got {type(data).__name__} of {array.dtype}")
    return array


def _shared(x: Any, copy: bool | None) -> Any:
    """The array of another library's, or of a backend's own, where it lies.

    Raises:
        DeviceError: it lies on a device of a kind that is not known here.
    """
    kind: type = x.__class__
    if kind in ARRAY_MODULES:
        return x.copy() if copy else x
    number = int(x.__dlpack_device__()[0])
    if number not in _DLPACK_KINDS:
        raise DeviceError(
            f"from_dlpack: expected the CPU's or a GPU's memory, got DLPack device type {number}"
        )
    return find_backend(_DLPACK_KINDS[number]).from_dlpack(x, copy)


def _place(array: Any, device: Any) -> Device:
    """The device that is meant: None means where an array of a GPU lies, else the default one."""
    if device is None and array.__class__ not in HOST_ARRAYS:
        return device_of(array)
    return resolve(device)


#: What the arguments of the functions by their names in the module are.
_WANTED = {
    "arange": "numbers as start, stop and step",
    "eye": "whole numbers as n_rows, n_cols and k, the first two of at least 0",
    "linspace": "numbers as start and stop, and a whole one of at least 0 as num",
}


def _made(name: str, device: Any, *args: Any, **options: Any) -> Any:
    """What the operation of that name returns on a device.

    Raises:
        ShapeError: lengths below 0, or too many elements.
        DTypeError: arguments that are no numbers, or not whole where they must be.
    """
    place = resolve(device)
    try:
        if place == CPU:
            return getattr(np, name)(*args, **options)
        with activated(place) as xp:
            return getattr(xp, name)(*args, **options)
    except (TypeError, ValueError, OverflowError) as error:
        wanted = _WANTED.get(name)
        given = args if wanted else args[0]
        wanted = wanted or "a whole number of at least 0, or a tuple of them, as shape"
        kind = DTypeError if isinstance(error, TypeError) else ShapeError
        raise kind(f"{name}: expected {wanted}, got {given!r} ({error})") from error


def _kinds(data: Any) -> set[Any]:
    """What stands in ``data``: Python's types of numbers, which decide no dtype, and dtypes of arrays."""
    if isinstance(data, list | tuple):
        return set().union(*map(_kinds, data))
    if hasattr(data, "dtype"):
        if data.__class__ in ARRAY_MODULES and data.__class__ not in HOST_ARRAYS:
            raise DeviceError(
                f"tensor: a list holds an array on {device_of(data)}; join them with dg.stack, or use .cpu()"
            )
        return {data.dtype}
    return {next((kind for kind in DEFAULTS if isinstance(data, kind)), np.dtype(object))}


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of another library's array, in the same memory where that is possible.

    Args:
        x: anything with ``__dlpack__`` and ``__dlpack_device__``.
        device: where it shall lie; None means where it does.
        copy: True always copies, False never does, None as needed.
    """
    array = _shared(x._data if isinstance(x, Tensor) else x, copy)
    target = device_of(array) if device is None else resolve(device)
    if copy is False and target != device_of(array):
        raise ValueError(f"from_dlpack: copy=False, but {device_of(array)} must be copied to reach {target}")
    return Tensor(to_device(array, target))


# -- constants


@one_shape
def empty(shape: Shape, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor whose elements are whatever the memory held."""
    return Tensor(_made("empty", device, shape, dtype or DEFAULTS[float]), requires_grad)


@one_shape
def zeros(shape: Shape, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros, float32 unless said otherwise."""
    return Tensor(_made("zeros", device, shape, dtype or DEFAULTS[float]), requires_grad)


@one_shape
def ones(shape: Shape, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones, float32 unless said otherwise."""
    return Tensor(_made("ones", device, shape, dtype or DEFAULTS[float]), requires_grad)


def full(
    shape: Shape, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of one number.

    Args:
        shape: lengths of the axes.
        fill_value: the number.
        dtype: None means the default of the number's kind: bool, int64, float32 or complex64.
        device: where it shall lie; None means the default device, the CPU.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """
    value = _number("full", fill_value, dtype)
    return Tensor(_made("full", device, shape, value.item(), value.dtype), requires_grad)


def _number(where: str, value: Any, dtype: Any) -> np.ndarray:
    """A number as an array without axes.

    Raises:
        DTypeError: no number.
        OptionError: one that the dtype cannot hold.
        ShapeError: several.
    """
    if not isinstance(value, Number | list | tuple) and not hasattr(value, "dtype"):
        raise DTypeError(f"{where}: expected a number, got {value!r}")
    try:
        array = _to_array(value, dtype or (DEFAULTS[int] if type(value) is int else None))
    except (OverflowError, TypeError, ValueError) as error:
        wanted = np.dtype(dtype or DEFAULTS[int])
        raise OptionError(
            f"{where}: {value!r} does not fit {wanted}; pass another dtype ({error})"
        ) from error
    if array.ndim:
        raise ShapeError(f"{where}: expected one number, got an array of shape {list(array.shape)}")
    return array


def _beside(x: Any, device: Any) -> Any:
    """The device that is meant: None means where ``x`` lies."""
    return getattr(x, "device", None) if device is None else device


def empty_like(x: Any, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """As ``empty``, with the shape of ``x``, and its dtype unless said otherwise."""
    return empty(x.shape, dtype=dtype or x.dtype, device=_beside(x, device), requires_grad=requires_grad)


def zeros_like(x: Any, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros with the shape of ``x``, and its dtype unless said otherwise."""
    return zeros(x.shape, dtype=dtype or x.dtype, device=_beside(x, device), requires_grad=requires_grad)


def ones_like(x: Any, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones with the shape of ``x``, and its dtype unless said otherwise."""
    return ones(x.shape, dtype=dtype or x.dtype, device=_beside(x, device), requires_grad=requires_grad)


def full_like(
    x: Any, /, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """One number with the shape of ``x``, and its dtype unless said otherwise."""
    return full(
        x.shape,
        fill_value,
        dtype=dtype or x.dtype,
        device=_beside(x, device),
        requires_grad=requires_grad,
    )


def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None
) -> Tensor:
    """Ones on a diagonal, zeros elsewhere.

    Args:
        n_rows: number of rows.
        n_cols: number of columns; None means as many as rows.
        k: which diagonal: 0 the main one, k > 0 above it.
        dtype: of the result; None means float32.
        device: where it shall lie; None means the default device, the CPU.
    """
    return Tensor(_made("eye", device, n_rows, n_cols, k=k, dtype=dtype or DEFAULTS[float]))


# -- numbers at equal distances


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from ``start`` up to, and without, ``stop``.

    Args:
        start: the first number; the end, if ``stop`` is None, and then the first is 0.
        stop: the end.
        step: the distance.
        dtype: of the result; None means int64 for whole numbers and float32 otherwise.
        device: where it shall lie; None means the default device, the CPU.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """
    if start is None or step == 0:
        raise OptionError(f"arange: expected a number as start and a step other than 0, got {start}, {step}")
    if dtype is None:
        whole = all(isinstance(each, int | np.integer) for each in (start, stop, step) if each is not None)
        dtype = DEFAULTS[int if whole else float]
    first, end = (0, start) if stop is None else (start, stop)
    exact = dtype if np.dtype(dtype).kind in "iubc" else np.float64  # in float32 the steps' errors add up
    return Tensor(
        _made("arange", device, first, end, step, dtype=exact).astype(dtype, copy=False), requires_grad
    )


def linspace(
    start: complex,
    stop: complex,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: Any = None,
    endpoint: bool = True,
    requires_grad: bool = False,
) -> Tensor:
    """``num`` numbers at equal distances from ``start`` to ``stop``.

    Args:
        start: the first number.
        stop: the end.
        num: how many.
        dtype: of the result; None means float32, or complex64 for complex ends.
        device: where it shall lie; None means the default device, the CPU.
        endpoint: whether ``stop`` is the last number.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """
    if dtype is None:
        dtype = DEFAULTS[complex if isinstance(start, complex) or isinstance(stop, complex) else float]
    return Tensor(_made("linspace", device, start, stop, num, endpoint=endpoint, dtype=dtype), requires_grad)


def fftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies that ``fft`` returns, in cycles per unit of ``d``.

    Args:
        n: length of the transform.
        d: distance of the samples.
        dtype: of the result; None means float32.
        device: where it shall lie; None means the default device, the CPU.
    """
    return Tensor(to_device(np.fft.fftfreq(n, d).astype(dtype or DEFAULTS[float]), resolve(device)))


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies that ``rfft`` returns; arguments as in ``fftfreq``."""
    return Tensor(to_device(np.fft.rfftfreq(n, d).astype(dtype or DEFAULTS[float]), resolve(device)))


# gradients of gradients make constants too
for _function in (
    *(arange, asarray, empty, empty_like, eye, full, full_like, ones, ones_like, tensor, zeros, zeros_like),
):
    CREATORS[_function.__name__] = operations.__dict__[_function.__name__] = _function
