"""Ways to make a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import namespace
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import check_device
from distgrad.errors import DTypeError, ShapeError

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

#: What Python's numbers become.
DEFAULTS: dict[type, np.dtype[Any]] = {
    bool: np.dtype(np.bool_),
    int: np.dtype(np.int64),
    float: np.dtype(np.float32),
    complex: np.dtype(np.complex64),
}
_NARROWED = {np.dtype(np.float64): DEFAULTS[float], np.dtype(np.complex128): DEFAULTS[complex]}


# -- from data


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of ``data``.

    Args:
        data: a number, nested lists of numbers, an array or a tensor.
        dtype: of the result; None keeps that of an array, and makes Python floats float32.
        device: where it shall lie; None means the CPU.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """
    check_device(device)
    return Tensor(np.array(_to_array(data, dtype), copy=True), requires_grad)


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of ``obj``, in the same memory where that is possible.

    Args:
        obj: a tensor, an array, anything with ``__dlpack__`` or the buffer protocol, a number, or nested
            lists of those.
        dtype: of the result; None keeps that of an array, and makes Python floats float32.
        device: where it shall lie; None means the CPU.
        copy: True always copies, False never does (an error where a copy is needed), None as needed.

    Raises:
        ValueError: ``copy=False`` where a copy is needed.
    """
    check_device(device)
    source = obj if isinstance(obj, Tensor) else Tensor(_to_array(obj, dtype, copy))
    if dtype is None or source.dtype == dtype:
        return namespace.astype(source, source.dtype) if copy and source is obj else source
    if copy is False:
        raise ValueError(
            f"asarray: copy=False, but {source.dtype} must be copied to become {np.dtype(dtype)}"
        )
    return namespace.astype(source, np.dtype(dtype))


def _to_array(data: Any, dtype: Any, copy: bool | None = None) -> np.ndarray:
    """The array of whatever people pass.

    Raises:
        DTypeError: something that holds no numbers.
    """
    if isinstance(data, Tensor):
        data = data._data
    if hasattr(data, "__dlpack__") and not hasattr(data, "__array__"):
        data = np.from_dlpack(data)
    kinds = _kinds(data)
    numbers = kinds <= DEFAULTS.keys()
    if copy is False and numbers:
        raise ValueError(
            f"asarray: copy=False, but a {type(data).__name__} must be copied to become an array"
        )
    if numbers and dtype is None:
        array = np.asarray(data)
        dtype = _NARROWED.get(array.dtype)
        array = array if dtype is None else array.astype(dtype)
    else:
        if dtype is None and isinstance(data, list | tuple):
            dtype = np.result_type(*[kind(0) if kind in DEFAULTS else kind for kind in kinds])
        array = np.array(data, dtype=dtype, copy=copy)
    if array.dtype.kind not in "biufc":
        raise DTypeError(f"tensor: expected numbers, got {type(data).__name__} of {array.dtype}")
    return array


def _kinds(data: Any) -> set[Any]:
    """What stands in ``data``: Python's types of numbers, which decide no dtype, and dtypes of arrays."""
    if isinstance(data, list | tuple):
        return set().union(*map(_kinds, data))
    if hasattr(data, "dtype"):
        return {data.dtype}
    return {next((kind for kind in DEFAULTS if isinstance(data, kind)), np.dtype(object))}


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of another library's array, in the same memory where that is possible.

    Args:
        x: anything with ``__dlpack__`` and ``__dlpack_device__``.
        device: where it shall lie; None means where it does.
        copy: True always copies, False never does, None as needed.
    """
    check_device(device)
    return Tensor(np.from_dlpack(x, device=None if device is None else "cpu", copy=copy))


# -- constants


def empty(shape: Shape, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor whose elements are whatever the memory held."""
    check_device(device)
    return Tensor(np.empty(shape, dtype or DEFAULTS[float]), requires_grad)


def zeros(shape: Shape, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros, float32 unless said otherwise."""
    check_device(device)
    return Tensor(np.zeros(shape, dtype or DEFAULTS[float]), requires_grad)


def ones(shape: Shape, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones, float32 unless said otherwise."""
    check_device(device)
    return Tensor(np.ones(shape, dtype or DEFAULTS[float]), requires_grad)


def full(
    shape: Shape, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of one number.

    Args:
        shape: lengths of the axes.
        fill_value: the number.
        dtype: None means the default of the number's kind: bool, int64, float32 or complex64.
        device: where it shall lie; None means the CPU.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """
    check_device(device)
    return Tensor(np.full(shape, _to_array(fill_value, dtype)), requires_grad)


def empty_like(x: Any, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """As ``empty``, with the shape of ``x``, and its dtype unless said otherwise."""
    return empty(x.shape, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


def zeros_like(x: Any, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros with the shape of ``x``, and its dtype unless said otherwise."""
    return zeros(x.shape, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


def ones_like(x: Any, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones with the shape of ``x``, and its dtype unless said otherwise."""
    return ones(x.shape, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


def full_like(
    x: Any, /, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """One number with the shape of ``x``, and its dtype unless said otherwise."""
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None
) -> Tensor:
    """Ones on a diagonal, zeros elsewhere.

    Args:
        n_rows: number of rows.
        n_cols: number of columns; None means as many as rows.
        k: which diagonal: 0 the main one, k > 0 above it.
        dtype: of the result; None means float32.
        device: where it shall lie; None means the CPU.
    """
    check_device(device)
    return Tensor(np.eye(n_rows, n_cols, k=k, dtype=dtype or DEFAULTS[float]))


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
        device: where it shall lie; None means the CPU.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """
    check_device(device)
    if step == 0:
        raise ValueError("arange: step must not be 0")
    if dtype is None:
        whole = all(isinstance(each, int | np.integer) for each in (start, stop, step) if each is not None)
        dtype = DEFAULTS[int if whole else float]
    first, end = (0, start) if stop is None else (start, stop)
    return Tensor(np.arange(first, end, step, dtype=dtype), requires_grad)


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
        device: where it shall lie; None means the CPU.
        endpoint: whether ``stop`` is the last number.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """
    check_device(device)
    if num < 0:
        raise ShapeError(f"linspace: num must be 0 or more, got {num}")
    if dtype is None:
        dtype = DEFAULTS[complex if isinstance(start, complex) or isinstance(stop, complex) else float]
    return Tensor(np.linspace(start, stop, num, endpoint=endpoint, dtype=dtype), requires_grad)


def fftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies that ``fft`` returns, in cycles per unit of ``d``.

    Args:
        n: length of the transform.
        d: distance of the samples.
        dtype: of the result; None means float32.
        device: where it shall lie; None means the CPU.
    """
    check_device(device)
    return Tensor(np.fft.fftfreq(n, d).astype(dtype or DEFAULTS[float]))


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies that ``rfft`` returns; arguments as in ``fftfreq``."""
    check_device(device)
    return Tensor(np.fft.rfftfreq(n, d).astype(dtype or DEFAULTS[float]))


# gradients of gradients make constants too
for _function in (empty, empty_like, eye, full, full_like, ones, ones_like, zeros, zeros_like):
    namespace.__dict__[_function.__name__] = _function
