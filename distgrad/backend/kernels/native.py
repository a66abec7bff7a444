"""Words of memory and functions by their address, for compiled loops that threads run."""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = ["MOST_WORDS", "REALS", "call_c", "get", "invoke", "load", "pause", "put", "store"]

MOST_WORDS = 128  #: Of one call's arguments, as the processor takes them
REALS = 8  #: Registers for real numbers


@intrinsic
def load(typing_context: Any, address: Any) -> Any:
    """The word at an address, as other threads have left it."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(values[0], ir.IntType(64).as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), code


@intrinsic
def store(typing_context: Any, address: Any, word: Any) -> Any:
    """Leave a word for other threads, after all that was written before."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        at = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        builder.store_atomic(values[1], at, "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def get(typing_context: Any, address: Any) -> Any:
    """The word at an address."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.inttoptr(values[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), code


@intrinsic
def put(typing_context: Any, address: Any, word: Any) -> Any:
    """Write a word to an address."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[1], builder.inttoptr(values[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the processor that this is a loop that waits."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def call_c(typing_context: Any, function: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """A function of the C library; one that takes less than four whole numbers leaves the others alone."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word] * 7).as_pointer()
        nothing = [ir.Constant(word, 0)] * 3
        return builder.call(builder.inttoptr(values[0], kind), [*values[1:], *nothing])

    return types.int64(*[types.int64] * 5), code


@intrinsic
def invoke(typing_context: Any, function: Any, words: Any, reals: Any) -> Any:
    """Call a compiled function with arguments from memory; returns Numba's status.

    Calling conventions put whole numbers and real ones into registers of their own and what is left in order
    into memory, and a function leaves alone what it does not take: one call does for all.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word, real = ir.IntType(64), ir.DoubleType()
        given = []
        for base, kind, count in ((values[1], word, MOST_WORDS), (values[2], real, REALS)):
            first = builder.inttoptr(base, kind.as_pointer())
            given.append([builder.load(builder.gep(first, [ir.Constant(word, i)])) for i in range(count)])
        arguments = [*given[0][:8], *given[1], *given[0][8:]]
        form = ir.FunctionType(ir.IntType(32), [each.type for each in arguments])
        return builder.call(builder.inttoptr(values[0], form.as_pointer()), arguments)

    return types.int32(types.int64, types.int64, types.int64), code
