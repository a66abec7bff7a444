"""What all kernels are made of: compilation, exponentials that vectorise, matrix products by address."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from numba.extending import intrinsic

from distgrad.backend.array_module import HOST_ARRAYS
from distgrad.backend.kernels import cache
from distgrad.backend.memory import host_memory

__all__ = [
    "Entry",
    "Store",
    "exp",
    "is_plain",
    "jit",
    "kernel",
    "lower_normal",
    "maximum",
    "pointer",
    "sigmoid",
    "tanh",
    "writable",
]

F = np.float32

#: Not assumed: that no number is NaN or infinite, since both have a meaning in training.
_FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}


#: What an entry's signature is written with, beside ``x``, the elements' type.
_TYPES = {
    "i": types.int64, "d": types.float64, "b": types.boolean, "q": types.uint64, "n": types.none,
    "p": types.UniTuple(types.int64, 2),  # type: ignore[attr-defined]
}  # fmt: skip
_ELEMENTS = {
    "f": types.float32, "d": types.float64, "l": types.int64, "i": types.int32, "B": types.uint8,
}  # fmt: skip
_WORDS = {"f": types.uint32, "d": types.uint64}  # of the elements' size


@dataclasses.dataclass(frozen=True)
class Entry:
    """A function that Python calls, and what it is compiled for as a rule.

    Attributes:
        function: as Numba has it.
        signature: a word for each argument: ``x`` stands for a number of the elements' type, ``i``, ``d``,
            ``b``, ``q`` and ``w`` for int64, float64, bool, uint64 and unsigned of the elements' size, ``p``
            for two whole numbers, ``n`` for None; a digit behind it makes it a contiguous array with so many
            axes; ``a4`` is an array of elements with any strides.
        dtypes: type characters of the elements.
        rare: whether models seldom need it.
        writes: the arguments whose arrays it changes.
    """

    function: Any
    signature: str
    dtypes: str
    rare: bool
    writes: tuple[str, ...]

    def types(self, char: str) -> tuple[Any, ...]:
        """The arguments' types for elements of one dtype."""
        known = _TYPES | {"x": _ELEMENTS[char], "a": _ELEMENTS[char], "w": _WORDS.get(char)}
        found = []
        for word in self.signature.split():
            kind, axes = known[word[0]], word[1:]
            found.append(types.Array(kind, int(axes), "A" if word[0] == "a" else "C") if axes else kind)
        return tuple(found)


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """For functions that kernels call: compiled without the interpreter's lock, and into each of them.

    What a kernel calls becomes part of it. Otherwise a process that has compiled both would run the
    function's own code, and one that has loaded the kernel the copy in there, which may round otherwise.
    """
    inner = {"no_cfunc_wrapper": True, "no_cpython_wrapper": True}
    return numba.njit(**(_SETTINGS | inner | options))(function)


_SETTINGS = {"fastmath": _FAST, "error_model": "numpy", "nogil": True, "forceinline": True}


def kernel(
    signature: str,
    dtypes: str = "fd",
    *,
    writes: str,
    rare: bool = False,
    elementwise: bool = False,
    locked: bool = False,
) -> Callable[[Callable[..., Any]], Any]:
    """For functions that Python calls: compiled before or when first called, and kept on disk.

    Args:
        signature, dtypes, writes, rare: of :class:`Entry`; the names of ``writes`` in one text.
        elementwise: round each operation on its own, as NumPy rounds it. An element then gets the same bits
            in the middle of a vector loop and at its end, whatever the array's start and length: a part of a
            flat buffer is updated as the whole is.
        locked: keep the interpreter's lock, for what asks the interpreter.
    """
    settings = _SETTINGS | {"no_cfunc_wrapper": True, "nogil": not locked}
    settings |= {"fastmath": False} if elementwise else {}

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = numba.njit(**settings)(function)
        compiled._cache = Store(f"{function.__module__.rpartition('.')[2]}.{function.__name__}")
        compiled.compile = functools.partial(_compile, compiled, compiled.compile)
        compiled.entry = Entry(compiled, signature, dtypes, rare, tuple(writes.split()))
        return compiled

    return decorate


def _compile(compiled: Any, compile_or_load: Callable[..., Any], signature: Any) -> Any:
    """Numba's own ``compile``; where the disk has nothing, one process of the host does it, aloud."""
    if signature in compiled.overloads or compiled._cache.has(signature, compiled.targetctx):
        return compile_or_load(signature)
    with cache.compiling(compiled._cache.name):
        return compile_or_load(signature)


class Store:
    """The compiled forms of one function on disk, a file for each signature and processor.

    A file is written beside and renamed into place, so that any number of processes may share a folder; what
    cannot be read costs no more than compiling.

    Args:
        name: of the function, with its module.
    """

    cache_path = ""  # Numba shows it

    def __init__(self, name: str) -> None:
        self.name = name

    def _files(self, signature: Any, context: Any) -> list[str]:
        """The names that it may have: of code for the levels of x86-64, and of code for this processor."""
        own = context.codegen().magic_tuple()
        kinds = [*((own[0], level, "") for level in cache.levels()), own]
        keys = [(signature, kind, numba.__version__, sys.version_info[:2]) for kind in kinds]
        return [f"{self.name}.{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}" for key in keys]

    def has(self, signature: Any, context: Any) -> bool:
        """Whether some folder holds it."""
        return any(cache.find(file) is not None for file in self._files(signature, context))

    def load_overload(self, signature: Any, context: Any) -> Any:
        """As Numba asks for it: what was compiled for these arguments, or None."""
        for file in self._files(signature, context):
            data = cache.read(file)
            if data is not None:
                rtsys.initialize(context)  # refresh() would import what only compiling needs, 0.2 s of it
                with contextlib.suppress(Exception):  # whatever a pickle of other days raises
                    return CompileResult._rebuild(context, *pickle.loads(data))
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """As Numba asks for it: keep what was compiled."""
        cache.write(self._files(signature, result.target_context)[-1], dumps(result._reduce()))


def is_plain(*arrays: Any) -> bool:
    """Whether all are NumPy arrays of the first one's dtype and contiguous; None may stand for one."""
    dtype = arrays[0].dtype
    return all(
        x is None or (x.__class__ in HOST_ARRAYS and x.dtype == dtype and x.flags.c_contiguous)
        for x in arrays
    )


def writable(home: Any, shape: Any, dtype: Any, *read: Any) -> Any:
    """Where a gradient is written: ``home``, if there is one of that dtype, else a new array.

    Args:
        home: the array, or None.
        shape, dtype: of the gradient.
        read: what is still read while it is written, and must lie elsewhere: an old gradient may come in.
    """
    fits = home is not None and home.dtype == dtype and home.flags.c_contiguous
    if fits and not any(np.may_share_memory(home, x) for x in read):
        return home
    return host_memory.empty(shape, dtype)


@intrinsic
def _as_float(typing_context: Any, bits: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), code


@intrinsic
def pointer(typing_context: Any, address: Any, like: Any) -> Any:
    """The address as a pointer to elements of the array ``like``."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), code  # type: ignore[attr-defined]


def _exp(x: Any) -> Any:
    z = F(88.0) if x > F(88.0) else x  # comparisons with NaN are false: it stays
    z = F(-88.0) if z < F(-88.0) else z  # n is −127 there, for which the bits below are those of 0
    n = np.floor(z * F(1.44269504) + F(0.5))
    r = (z - n * F(0.693359375)) + n * F(2.12194440e-4)  # ln 2 in two parts: n times the first is exact
    p = F(1.3901276e-3) * r + F(8.3631449e-3)
    p = p * r + F(4.16668535e-2)
    p = p * r + F(1.66665773e-1)
    p = p * r + F(0.5)
    return (p * r * r + r + F(1.0)) * _as_float((np.int32(n) + np.int32(127)) << np.int32(23))


#: e^x in float32, from −87.6 (0 below) to 88 (no larger above), relative error 2e-7; fitted by least squares.
exp = jit(_exp, inline="always")


def _sigmoid(x: Any) -> Any:
    return F(1.0) / (F(1.0) + exp(-x))


#: 1 / (1 + e^(−x)) in float32.
sigmoid = jit(_sigmoid, inline="always")


def _tanh(x: Any) -> Any:
    a = abs(x)
    e = exp(F(-2.0) * a)
    far = (F(1.0) - e) / (F(1.0) + e)
    s = x * x
    p = F(62 / 2835) * s - F(17 / 315)
    p = p * s + F(2 / 15)
    p = p * s - F(1 / 3)
    near = a + a * (p * s)  # the quotient would cancel
    y = near if a < F(0.3) else far
    return y if x >= F(0.0) else -y


#: Hyperbolic tangent in float32, relative error 3e-7.
tanh = jit(_tanh, inline="always")


def _lower_normal(a: Any, e: Any) -> Any:
    t = F(1.0) / (F(1.0) + F(0.3) * a)
    p = F(0.038378403302) * t - F(0.16916663491)
    p = p * t + F(0.22866109579)
    p = p * t - F(0.076507556212)
    p = p * t + F(0.14253620896)
    p = p * t + F(0.094683258619)
    p = p * t + F(0.1219204026)
    p = p * t + F(0.11948768151)
    return (p * t + F(7.1692535999e-6)) * e


#: Φ(−a) for a ≥ 0 and e = e^(−a²/2), in float32; fitted like exp, relative error 2e-7 up to a = 14.
lower_normal = jit(_lower_normal, inline="always")


@intrinsic
def _larger(typing_context: Any, a: Any, b: Any) -> Any:
    """The larger of two numbers, in the one form whose running result LLVM turns into vectors."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        function = builder.module.declare_intrinsic("llvm.maxnum", [kind], ir.FunctionType(kind, [kind] * 2))
        return builder.call(function, arguments, fastmath=("nnan", "nsz"))

    return a(a, b), code


def _maximum(x: Any) -> Any:
    top = x[0]
    for j in range(1, x.size):
        top = _larger(top, x[j])
    return top


#: Largest element of a row; where NaN is among them, any of them.
maximum = jit(_maximum, fastmath=True)
