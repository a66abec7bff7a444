"""Whether Numba, which compiles the host's kernels, is to be had."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings

__all__ = ["has_numba", "load_numba"]

_refusal: str | None = None


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("numba") is not None


def has_numba() -> bool:
    """Whether Numba is installed, and has not refused to load; this does not load it."""
    return _refusal is None and _is_installed()


def load_numba() -> bool:
    """Load Numba; whether that went well. An installed one that refuses is warned of once.

    Each release of Numba takes only the releases of NumPy that it knows.
    """
    global _refusal
    if not has_numba():
        return False
    try:
        importlib.import_module("numba")
    except Exception as error:
        _refusal = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"kernels: Numba is installed but does not load ({_refusal}); plain NumPy computes, which is "
            "slower; install versions of numba and numpy that fit each other",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
