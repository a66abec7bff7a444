"""Questions about dtypes and about the namespace, as the array API standard asks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.autograd.casting import DEFAULTS, limits, result_dtype
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import Device, available_devices, resolve
from distgrad.errors import DTypeError

__all__ = [
    "FloatInfo",
    "IntInfo",
    "NamespaceInfo",
    "__array_namespace_info__",
    "can_cast",
    "finfo",
    "iinfo",
    "isdtype",
    "result_type",
]

_KINDS = {
    "bool": ("bool",),
    "signed integer": ("int8", "int16", "int32", "int64"),
    "unsigned integer": ("uint8", "uint16", "uint32", "uint64"),
    "real floating": ("float32", "float64"),
    "complex floating": ("complex64", "complex128"),
}
_UNIONS = {
    "integral": ("signed integer", "unsigned integer"),
    "numeric": ("signed integer", "unsigned integer", "real floating", "complex floating"),
}


@dataclass(frozen=True)
class FloatInfo:
    """Limits of a floating-point dtype; of a complex one, those of its parts.

    Args:
        bits: bits of one number.
        eps: distance from 1 to the next number.
        max: the largest number.
        min: the smallest, −max.
        smallest_normal: the smallest positive number at full precision.
        dtype: the dtype.
    """

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class IntInfo:
    """Limits of an integer dtype.

    Args:
        bits: bits of one number.
        max: the largest number.
        min: the smallest.
        dtype: the dtype.
    """

    bits: int
    max: int
    min: int
    dtype: np.dtype[Any]


def _dtype_of(value: Any) -> np.dtype[Any]:
    return value.dtype if isinstance(value, Tensor | np.ndarray | np.generic) else np.dtype(value)


def finfo(type: Any, /) -> FloatInfo:
    """Limits of a floating-point dtype.

    Args:
        type: a dtype or an array.

    Raises:
        DTypeError: a dtype of another kind.
    """
    dtype = _dtype_of(type)
    if dtype.char not in "efdEFD":
        raise DTypeError(f"finfo: expected a floating-point dtype, got {dtype}")
    found = limits(dtype)
    return FloatInfo(
        bits=int(found.bits),
        eps=float(found.eps),
        max=float(found.max),
        min=float(found.min),
        smallest_normal=float(found.smallest_normal),
        dtype=np.dtype(found.dtype),
    )


def iinfo(type: Any, /) -> IntInfo:
    """Limits of an integer dtype.

    Args:
        type: a dtype or an array.

    Raises:
        DTypeError: a dtype of another kind.
    """
    dtype = _dtype_of(type)
    if dtype.kind not in "iu":
        raise DTypeError(f"iinfo: expected an integer dtype, got {dtype}")
    found = np.iinfo(dtype)
    return IntInfo(int(found.bits), int(found.max), int(found.min), dtype)


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether a dtype (or an array's) can become another with no value lost.

    Args:
        from_: a dtype or an array.
        to: a dtype.
    """
    return bool(np.can_cast(_dtype_of(from_), np.dtype(to), "safe"))


def result_type(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    """The dtype that operations on all of these give.

    Args:
        *arrays_and_dtypes: arrays, dtypes and Python's numbers, which take the dtype of the others.

    Raises:
        ValueError: nothing that has a dtype.
    """
    numbers = (bool, int, float, complex)
    parts = [each if isinstance(each, numbers) else _dtype_of(each) for each in arrays_and_dtypes]
    if not any(isinstance(each, np.dtype) for each in parts):
        raise ValueError(f"result_type: expected at least one array or dtype, got {arrays_and_dtypes}")
    try:
        return result_dtype(*parts)
    except TypeError as error:
        raise DTypeError(f"result_type: {error}") from None


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind.

    Args:
        dtype: a dtype.
        kind: a dtype, ``"bool"``, ``"signed integer"``, ``"unsigned integer"``, ``"integral"``,
            ``"real floating"``, ``"complex floating"``, ``"numeric"``, or a tuple of those.

    Raises:
        ValueError: another kind.
    """
    if isinstance(kind, tuple):
        return any(isdtype(dtype, each) for each in kind)
    if not isinstance(kind, str):
        return bool(np.dtype(dtype) == kind)
    if kind not in _KINDS and kind not in _UNIONS:
        raise ValueError(f"isdtype: kind must be a dtype or one of {[*_KINDS, *_UNIONS]}, got {kind!r}")
    letters = {"b": "bool", "i": "signed integer", "u": "unsigned integer", "f": "real floating"}
    found = letters.get(np.dtype(dtype).kind, "complex floating")
    return found == kind or found in _UNIONS.get(kind, ())


class NamespaceInfo:
    """What the namespace offers."""

    def capabilities(self) -> dict[str, Any]:
        """What depends on the library: boolean indexing, data-dependent shapes, number of axes."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> Device:
        """Where tensors lie unless said otherwise."""
        return resolve(None)

    def devices(self) -> list[Device]:
        """Where tensors can lie."""
        return available_devices()

    def default_dtypes(self, *, device: Any = None) -> dict[str, np.dtype[Any]]:
        """The dtypes that Python's numbers and indices become."""
        resolve(device)
        return {
            "real floating": DEFAULTS[float],
            "complex floating": DEFAULTS[complex],
            "integral": DEFAULTS[int],
            "indexing": np.dtype(np.int64),
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, np.dtype[Any]]:
        """The standard's dtypes by name, those of a kind (as in ``isdtype``) or all."""
        resolve(device)
        every = {name: np.dtype(name) for names in _KINDS.values() for name in names}
        return {name: dtype for name, dtype in every.items() if kind is None or isdtype(dtype, kind)}


def __array_namespace_info__() -> NamespaceInfo:
    """What the namespace offers: default dtypes, devices and so on."""
    return NamespaceInfo()
