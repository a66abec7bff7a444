"""The numbers by which the C library tells which floating-point exceptions were met."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from typing import Any

__all__ = ["KEPT", "exception_flags"]

KEPT = 0xFF  #: The numbers that a pool of threads keeps, together


def _library() -> Any:
    for name in (None, "libm.so.6"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(name)
            for function in (library.exp, library.log):
                function.argtypes, function.restype = [ctypes.c_double], ctypes.c_double
            if library.feclearexcept and library.fetestexcept:
                return library
    return None


@functools.cache
def exception_flags() -> dict[str, int] | None:
    """The number of each exception, by NumPy's name for it; processors differ in them, so each is met once.

    None where the C library does not tell, or where a pool does not keep them.
    """
    library = _library()
    if library is None:
        return None

    def met(function: Any, x: float) -> int:
        library.feclearexcept(KEPT)
        function(x)
        return int(library.fetestexcept(KEPT))

    inexact = met(library.exp, 1.0)
    each = {
        "invalid": (library.log, -1.0), "divide": (library.log, 0.0),
        "over": (library.exp, 1e4), "under": (library.exp, -1e4),
    }  # fmt: skip
    found = {name: met(*call) & ~inexact for name, call in each.items()}
    library.feclearexcept(KEPT)
    return found if len({*found.values(), 0}) == 1 + len(found) else None
