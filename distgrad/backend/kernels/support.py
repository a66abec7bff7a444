"""What all kernels are made of: compilation, exponentials that vectorise, matrix products by address."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from distgrad import env
from distgrad.backend.kernels.cache import cache_folder

__all__ = [
    "exp",
    "is_plain",
    "jit",
    "jit_elementwise",
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


def _folder() -> str | None:
    """Numba's folder for code of these sources: it does not notice a change in a file that another calls."""
    chosen = env.read().numba_cache
    if chosen is not None:
        return chosen
    home = cache_folder()
    if home is None:
        return None
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return str(home / hashlib.sha256(sources).hexdigest()[:16])


_FOLDER = _folder()


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """Compile when first called; the code is cached on disk and runs without the interpreter's lock.

    What a kernel calls becomes part of it. Otherwise a process that has compiled both would run the
    function's own code, and one that has loaded the kernel the copy in there, which may round otherwise.
    """
    usual = numba.config.CACHE_DIR
    if _FOLDER is not None:
        numba.config.CACHE_DIR = _FOLDER
    settings = {"fastmath": _FAST, "error_model": "numpy", "nogil": True, "forceinline": True} | options
    try:
        if _FOLDER is None:
            return numba.njit(**settings)(function)
        return _forgive(numba.njit(**settings, cache=True)(function))
    except RuntimeError:  # Numba's word for a folder that cannot be made
        return numba.njit(**settings)(function)
    finally:
        numba.config.CACHE_DIR = usual


def jit_elementwise(function: Callable[..., Any]) -> Any:
    """As :func:`jit`, each operation rounded on its own, as NumPy rounds it.

    An element then gets the same bits in the middle of a vector loop and at its end, whatever the array's
    start and length: a part of a flat buffer is updated as the whole is.
    """
    return jit(function, fastmath=False)


def _forgive(compiled: Any) -> Any:
    """Let a cache that is full or damaged cost no more than compiling: what it holds can be made anew."""
    load, save = compiled._cache.load_overload, compiled._cache.save_overload

    def load_if_sound(*where: Any) -> Any:
        try:
            return load(*where)
        except Exception:  # whatever reading a damaged pickle raises
            with contextlib.suppress(OSError):
                compiled._cache.flush()  # or the index would be read again before it is written
            return None

    def save_if_possible(*what: Any) -> None:
        with contextlib.suppress(OSError):
            save(*what)

    compiled._cache.load_overload, compiled._cache.save_overload = load_if_sound, save_if_possible
    return compiled


def is_plain(*arrays: Any) -> bool:
    """Whether all are NumPy arrays of the first one's dtype and contiguous; None may stand for one."""
    dtype = arrays[0].dtype
    return all(
        x is None or (x.__class__ is np.ndarray and x.dtype == dtype and x.flags.c_contiguous) for x in arrays
    )


def writable(home: Any, shape: Any, dtype: Any, *read: Any) -> Any:
    """Where a gradient is written: ``home``, if there is one of that dtype, else a new array.

    Args:
        home: the array, or None.
        shape, dtype: of the gradient.
        read: what is still read while it is written, and must lie elsewhere: an old gradient may come in.
    """
    fits = home is not None and home.dtype == dtype and home.flags.c_contiguous
    return home if fits and not any(np.may_share_memory(home, x) for x in read) else np.empty(shape, dtype)


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
