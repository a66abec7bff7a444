"""How a call of a compiled kernel is written down, for another thread or later, and made from there."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core.types import Array, Float, NoneType, UniTuple  # type: ignore[attr-defined]

from distgrad.backend.kernels.native import MOST_WORDS, REALS, get, invoke, put
from distgrad.backend.kernels.support import jit

__all__ = ["ARRAY", "CALL_WORDS", "REAL", "WHOLE", "Form", "flatten", "make_form", "perform"]

WHOLE, REAL, ARRAY = 0, 1, 2  #: An argument's kind; of an array 2 and the number of its axes
CALL_WORDS = MOST_WORDS + REALS + 2  #: Of memory that making a call takes
_HEADER = object.__basicsize__  # bytes before the members of an array object: data, axes, shape, strides


class Form(NamedTuple):
    """How a kernel's call with arguments of certain types is written down.

    Args:
        pack: writes address, layout and arguments.
        size: bytes that it takes.
        head: the address of the compiled function, and that of ``layout``.
        arrays: whether each argument is one, of which the object's address is written.
        flat: whether no argument is a tuple, written as its members, or None, which is not written.
        layout: for the member: how many arguments, and of each its kind and the bytes of an element.
    """

    pack: Any
    size: int
    head: tuple[int, int]
    arrays: tuple[bool, ...]
    flat: bool
    layout: Any


#: How numbers of a type are written; others are signed and have 64 bits.
_CODES = {"float32": "f4x", "float64": "d", "uint64": "Q", "uint32": "Q"}


def make_form(function: Any, arguments: Sequence[Any]) -> Form:
    """Compile or load a kernel for these arguments, and lay its calls out."""
    kinds = tuple(numba.typeof(each) for each in arguments)
    function.compile(kinds)
    compiled = function.overloads[kinds]
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    codes, layout, words, reals = ["qq"], [], 2, 0
    for kind in kinds:
        for each in kind if isinstance(kind, UniTuple) else [kind]:
            if isinstance(each, Array):
                codes.append("q")
                layout += [ARRAY + each.ndim, each.dtype.bitwidth // 8]
                words += 5 + 2 * each.ndim
            elif isinstance(each, Float):
                codes.append(_CODES[str(each)])
                layout += [REAL, 0]
                reals += 1
                words += reals > REALS
            elif not isinstance(each, NoneType):
                codes.append(_CODES.get(str(each), "q"))
                layout += [WHOLE, 0]
                words += 1
    if words > MOST_WORDS:
        raise TypeError(f"{function.__name__}: {words} words of arguments; at most {MOST_WORDS}")
    form = struct.Struct("=" + "".join(codes))
    table = np.array([len(layout) // 2, *layout], np.int64)
    flat = not any(isinstance(kind, UniTuple | NoneType) for kind in kinds)
    arrays = tuple(isinstance(kind, Array) for kind in kinds)
    return Form(form.pack_into, form.size, (address, table.ctypes.data), arrays, flat, table)


def flatten(values: list[Any]) -> list[Any]:
    """The arguments as they are written: tuples as their members, None not at all."""
    out: list[Any] = []
    for value in values:
        if value.__class__ is tuple:
            out += value
        elif value is not None:
            out.append(value)
    return out


@jit
def _array_words(array: int, axes: int, item_bytes: int, to: int) -> int:
    """Write an array's members as kernels take them, from its object; returns how many."""
    data, shape, strides = get(array), get(array + 16), get(array + 24)
    elements = 1
    for axis in range(axes):
        elements *= get(shape + 8 * axis)
        put(to + 8 * (5 + axis), get(shape + 8 * axis))
        put(to + 8 * (5 + axes + axis), get(strides + 8 * axis))
    put(to, 0)  # nobody's memory: who asked keeps the array
    put(to + 8, 0)
    put(to + 16, elements)
    put(to + 24, item_bytes)
    put(to + 32, data)
    return 5 + 2 * axes


@jit
def perform(at: int, words: int) -> int:
    """Make the call that is written at an address; returns Numba's status.

    Args:
        at: as :class:`Form` packs it.
        words: the address of ``CALL_WORDS`` words that nobody else uses meanwhile.
    """
    function, layout = get(at), get(at + 8)
    at += 16
    reals = words + 8 * MOST_WORDS
    count, used = 2, 0  # two places: for the result, and for an error
    put(words, reals + 8 * REALS)
    put(words + 8, reals + 8 * REALS + 8)
    for i in range(get(layout)):
        kind, item_bytes, value = get(layout + 8 + 16 * i), get(layout + 16 + 16 * i), get(at)
        at += 8
        if kind >= ARRAY:
            count += _array_words(value + _HEADER, kind - ARRAY, item_bytes, words + 8 * count)
        elif kind == REAL and used < REALS:
            put(reals + 8 * used, value)
            used += 1
        else:
            put(words + 8 * count, value)
            count += 1
    return invoke(function, words, reals)
