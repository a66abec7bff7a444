"""Ways to make a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device
from distgrad.backend.rng import Generator, default_generator
from distgrad.errors import DeviceError, DTypeError

__all__ = ["asarray", "ones", "rand", "randn", "tensor", "zeros"]


def _check_device(device: Device | str | None) -> None:
    if device is not None and Device.parse(device) != CPU:
        raise DeviceError(
            f"device {device!r}: this build computes on the CPU only; leave device out or pass 'cpu'"
        )


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of ``data``.

    Args:
        data: a number, nested lists of numbers, an array or a tensor.
        dtype: of the result; None keeps that of an array, and makes Python floats float32.
        device: where it shall lie; None means the CPU.
        requires_grad: whether ``backward`` shall leave a gradient.
    """
    _check_device(device)
    out = Tensor(np.array(_to_array(data, dtype), copy=True))
    return out.requires_grad_() if requires_grad else out


def asarray(data: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of ``data``, in the same memory where that is possible; a tensor comes back as it is."""
    _check_device(device)
    if isinstance(data, Tensor) and copy is not True and (dtype is None or data.dtype == dtype):
        return data
    array = _to_array(data, dtype)
    return Tensor(array.copy() if copy else array)


def _to_array(data: Any, dtype: Any) -> np.ndarray:
    if isinstance(data, Tensor):
        data = data._data
    if isinstance(data, np.ndarray | np.generic):
        return np.asarray(data, dtype=dtype)
    array = np.asarray(
        [each._data if isinstance(each, Tensor) else each for each in data]
        if isinstance(data, list | tuple)
        else data
    )
    if array.dtype.kind not in "biufc":
        raise DTypeError(f"tensor: expected numbers, got {type(data).__name__} of {array.dtype}")
    if dtype is None and array.dtype == np.float64:
        dtype = np.float32
    if dtype is None and array.dtype == np.complex128:
        dtype = np.complex64
    return array if dtype is None else array.astype(dtype, copy=False)


def zeros(shape: int | tuple[int, ...], *, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of zeros, float32 unless said otherwise."""
    _check_device(device)
    return Tensor(np.zeros(shape, dtype=dtype or np.float32))


def ones(shape: int | tuple[int, ...], *, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of ones, float32 unless said otherwise."""
    _check_device(device)
    return Tensor(np.ones(shape, dtype=dtype or np.float32))


def rand(*size: int, generator: Generator | None = None, dtype: Any = None) -> Tensor:
    """Numbers uniform on [0, 1)."""
    return Tensor((generator or default_generator).uniform(size, dtype or np.float32))


def randn(*size: int, generator: Generator | None = None, dtype: Any = None) -> Tensor:
    """Numbers of the standard normal distribution."""
    return Tensor((generator or default_generator).normal(size, dtype or np.float32))
