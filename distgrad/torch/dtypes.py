"""What PyTorch's dtypes tell of themselves, for NumPy's, which are the dtypes here.

``np.dtype`` is a type of C, whose attributes are added to the dictionary behind its read-only view. That
happens once, in processes that import ``distgrad.torch``.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.errors import OptionError

__all__ = ["AbsentDtype", "tell_kinds"]


class AbsentDtype:
    """A dtype that no tensor has.

    Args:
        why: what whoever asks for an array of it is told.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    @property
    def dtype(self) -> Any:
        """What NumPy reads: an error."""
        raise OptionError(self._why)


#: bfloat16, a dtype of the package ml_dtypes, has the letter E.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "is_complex": lambda dtype: dtype.kind == "c",
    "is_floating_point": lambda dtype: dtype.char in "efdE",
    "is_signed": lambda dtype: dtype.kind in "ifc" or dtype.char == "E",
}


def tell_kinds() -> None:
    """Let ``x.dtype.is_floating_point``, ``is_complex`` and ``is_signed`` be read."""
    for attributes in gc.get_referents(np.dtype.__dict__):
        for name, tell in _KINDS.items():
            attributes.setdefault(name, property(tell))
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(np.dtype))
