"""Errors of backends, and arrays on different devices: the operation, and what it was given, in our words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.primitive import Primitive
from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.backend.device import device_of
from distgrad.errors import (
    AxisError,
    DeviceError,
    DistgradError,
    DTypeError,
    OutOfBoundsError,
    ShapeError,
)

__all__ = ["LinAlgError", "check_devices", "explain"]


class LinAlgError(DistgradError, np.linalg.LinAlgError, RuntimeError):
    """A matrix that an operation does not take: one that is singular, not positive definite, not square."""


def explain(record: Primitive, error: Exception, values: tuple[Any, ...]) -> Exception:
    """A backend's error as one of ours, with the operation and what it was given."""
    try:
        check_devices(record, values)
    except DeviceError as apart:
        return apart
    kinds: list[tuple[type[Exception], type[Exception]]] = [
        (np.linalg.LinAlgError, LinAlgError),
        (np.exceptions.AxisError, AxisError),
        (IndexError, OutOfBoundsError),
        (TypeError, DTypeError),
        (ValueError, ShapeError),
    ]
    for theirs, ours in kinds:
        if isinstance(error, theirs):
            shown = ", ".join(describe_value(value) for value in values)
            said = str(error).removeprefix(f"{record.name}: ")  # a formula's own check names it already
            return ours(f"{record.name}: {said}; got {shown}")
    error.add_note(f"in {record.name}")
    return error


def check_devices(record: Primitive, values: Sequence[Any]) -> None:
    """Let nothing cross between devices unless the user says so.

    Raises:
        DeviceError: arrays on different devices.
    """
    arrays = [value for value in values if value.__class__ in ARRAY_MODULES]
    first = device_of(arrays[0]) if arrays else None
    for array in arrays[1:]:
        other = device_of(array)
        if other != first:
            shown = ", ".join(f"{describe_value(each)} on {device_of(each)}" for each in arrays)
            raise DeviceError(
                f"{record.name}: expected all arrays on one device, got {shown}; move one with "
                f".to('{first}') or .to('{other}')"
            )


def describe_value(value: Any) -> str:
    """dtype and shape of an array, as messages show them."""
    if hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value)
