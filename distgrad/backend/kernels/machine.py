"""One compiled loop that runs a list of instructions: NumPy's own inner loops, by their addresses."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from distgrad.backend.kernels.calls import perform
from distgrad.backend.kernels.support import kernel

__all__ = ["CALL", "GATHER", "GUARD", "LOOP", "SCATTER", "WIDTH", "find_changed", "run"]

#: An instruction's first number says what it is; it has eight numbers, and those behind are
#: LOOP: function, its data, how many calls, addresses of the operands' addresses, bytes from one call's to
#: the next's, address of the lengths, address of the strides.
#: GUARD: address of a bool, what it must be.
#: GATHER: x, rows, columns, how many, to, stride of rows, stride of columns:
#: ``to[i] = x[rows[i], columns[i]]``, all of four bytes.
#: SCATTER: x, rows, columns, how many, values, stride of rows, stride of columns and of values, the former in
#: the upper half: ``x[rows[i], columns[i]] += values[i]``, in float32.
#: CALL: address of a kernel's call as it is written for threads, address of words that it takes.
LOOP, GUARD, GATHER, SCATTER, CALL = range(5)
WIDTH = 8


@intrinsic
def _call(
    typing_context: Any, address: Any, operands: Any, lengths: Any, strides: Any, data: Any
) -> Any:  # fmt: skip
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4)
        builder.call(builder.inttoptr(values[0], function.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), code


def _loader(bits: int) -> Any:
    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            value = builder.load(builder.inttoptr(values[0], ir.IntType(bits).as_pointer()))
            return builder.sext(value, ir.IntType(64)) if bits < 64 else value

        return types.int64(types.int64), code

    return load


_load8, _load32, _load64 = _loader(8), _loader(32), _loader(64)


@intrinsic
def _store32(typing_context: Any, address: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(32)
        builder.store(builder.trunc(values[1], word), builder.inttoptr(values[0], word.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def _add_float(typing_context: Any, to: Any, what: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place, other = (builder.inttoptr(each, ir.FloatType().as_pointer()) for each in values)
        builder.store(builder.fadd(builder.load(place), builder.load(other)), place)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def _ask(typing_context: Any, address: Any, a: Any, b: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        function = ir.FunctionType(word, [word] * 2)
        return builder.call(builder.inttoptr(values[0], function.as_pointer()), values[1:])

    return types.int64(*[types.int64] * 3), code


@kernel("i2", dtypes="f", writes="", locked=True)
def find_changed(table: Any) -> int:
    """Compare what the interpreter holds with what it held; the first row that differs, or −1.

    Args:
        table: ``[n, 4]``, of each row a function of the interpreter's that changes nothing, its two arguments
            and what it must give; without a function the address of a word, and the word.
    """
    for k in range(len(table)):
        function, a, b, value = table[k]
        if (_ask(function, a, b) if function else _load64(a)) != value:
            return k
    return -1


@kernel("i2", dtypes="f", writes="")
def run(code: Any) -> int:
    """Run instructions, ``[n, 8]``; the number of one that fails, or −1."""
    for k in range(len(code)):
        op, a, b, c, d, e, f, g = code[k]
        if op == LOOP:
            for i in range(c):
                _call(a, d + i * e, f, g, b)
        elif op == GUARD:
            if (_load8(a) != 0) != (b != 0):
                return k
        elif op == GATHER:
            for i in range(d):
                _store32(e + 4 * i, _load32(a + f * _load64(b + 8 * i) + g * _load64(c + 8 * i)))
        elif op == SCATTER:
            for i in range(d):
                place = a + f * _load64(b + 8 * i) + (g >> 32) * _load64(c + 8 * i)
                _add_float(place, e + (g & 0xFFFFFFFF) * i)
        elif op == CALL:
            status = perform(a, b)
            if status == -1 or status > 0:
                return k
    return -1
