"""Nested state as a tree that JSON holds, and the arrays that hang in it."""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distgrad.autograd.parts import Part
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.backend.device import CPU, to_device
from distgrad.errors import DTypeError

__all__ = ["array_names", "decode", "encode"]

_ARRAY = "$array"
_SCALAR = "$scalar"
_NDARRAY = "$ndarray"
_PLAIN = (str, int, float, bool, type(None))
#: Kinds of dict, by their names in the tree.
_DICTS: dict[str, Callable[..., Any]] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}
_NOT_A_NAME = "__metadata__"  # of an array, as the format uses it
_DTYPES = "?bhilqBHILQefdE"


def encode(
    value: Any, place: str, arrays: dict[str, Any], keep_arrays: bool = False, parts: bool = False
) -> Any:
    """The tree of a state as JSON has it; arrays go to ``arrays`` under their place.

    NumPy's arrays come back as tensors, unless ``keep_arrays``. With ``parts`` the state may hold parts of
    arrays, which go to ``arrays`` as such.

    Raises:
        DTypeError: something that neither the tree nor the format holds, with its place in the state.
    """
    if isinstance(value, np.generic):
        return {_SCALAR: _keep(np.asarray(value), place, arrays)}
    if keep_arrays and type(value) in (np.ndarray, np.memmap):
        return {_NDARRAY: _keep(value, place, arrays)}
    if parts and isinstance(value, Part):
        name = _keep(value.data, place, arrays)
        arrays[name] = dataclasses.replace(value, data=arrays[name])
        return {_ARRAY: name}
    if isinstance(value, Tensor) or value.__class__ in ARRAY_MODULES or type(value) is np.memmap:
        return {_ARRAY: _keep(value._data if isinstance(value, Tensor) else value, place, arrays)}
    if type(value) in _PLAIN:
        return value
    join = f"{place}." if place else ""
    if type(value) in _DICTS.values():
        items = [
            [_plain_key(k, place), encode(v, f"{join}{k}", arrays, keep_arrays, parts)]
            for k, v in value.items()
        ]
        return {type(value).__name__: items}
    if type(value) is Shape:
        value = tuple(value)
    if type(value) in (list, tuple):
        return {
            type(value).__name__: [
                encode(v, f"{join}{i}", arrays, keep_arrays, parts) for i, v in enumerate(value)
            ]
        }
    raise DTypeError(
        f"save: {place or 'the state'} is a {type(value).__name__}; expected tensors, arrays, numbers and "
        f"texts in dicts, lists and tuples{_remedy(value)}"
    )


def _remedy(value: Any) -> str:
    """What to do about a subclass of something that can be saved."""
    for base in (*_PLAIN[:3], list, tuple, dict, np.ndarray):
        if isinstance(value, base):
            convert = "numpy.asarray" if base is np.ndarray else base.__name__
            return f"; it would come back as a plain {base.__name__}: pass {convert}(...) if that will do"
    return ""


def _keep(value: Any, place: str, arrays: dict[str, Any]) -> str:
    """Put an array where it is written from; returns its name."""
    array = np.asarray(to_device(value, CPU))
    if array.dtype.char not in _DTYPES:
        raise DTypeError(f"save: {place or 'the state'} is {array.dtype}, which the format does not hold")
    name = place or "state"
    while name in arrays or name == _NOT_A_NAME:  # keys with dots in them can lead to one place
        name += "'"
    # The format is in native order, and rows.
    arrays[name] = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
    return name


def _plain_key(key: Any, place: str) -> Any:
    if type(key) not in (str, int, bool):
        raise DTypeError(
            f"save: a key of {place or 'the state'} is {key!r}; expected a text or a whole number"
        )
    return key


def array_names(tree: Any) -> Iterator[str]:
    """The names of all arrays in a tree."""
    if isinstance(tree, dict):
        ((kind, content),) = tree.items()
        if kind in (_ARRAY, _SCALAR, _NDARRAY):
            yield content
        else:
            for each in content:
                yield from array_names(each[1] if kind in _DICTS else each)


def decode(tree: Any, array: Callable[[str], Any]) -> Any:
    """The reverse of :func:`encode`; ``array`` gives the arrays by name, or what stands for them."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == _ARRAY:
        found = array(content)
        return Tensor(found) if isinstance(found, np.ndarray) else found
    if kind == _NDARRAY:
        return array(content)
    if kind == _SCALAR:
        found = array(content)
        return found[()] if isinstance(found, np.ndarray) else found
    if kind in _DICTS:
        return _DICTS[kind]({key: decode(value, array) for key, value in content})
    values = [decode(value, array) for value in content]
    return {"list": list, "tuple": tuple}[kind](values)
