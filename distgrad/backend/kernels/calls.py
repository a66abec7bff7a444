"""How a call of a compiled kernel is written down for another thread to make."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core.types import Array, Float, NoneType, UniTuple  # type: ignore[attr-defined]

from distgrad.backend.kernels.native import MOST_WORDS, REALS

__all__ = ["ARRAY", "REAL", "WHOLE", "Form", "flatten", "make_form"]

WHOLE, REAL, ARRAY = 0, 1, 2  #: An argument's kind; of an array 2 and the number of its axes


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
