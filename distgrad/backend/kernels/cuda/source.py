"""The CUDA sources once a type of element: the ``.cu`` files here, and what is made of elements' rules."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from distgrad.backend.kernels import activation_rules, rules
from distgrad.backend.kernels.translate import cuda_source

__all__ = ["TYPES", "families", "kernel_names", "source"]

_FOLDER = Path(__file__).parent

_RULES = {"activation": activation_rules.RULES, "optimizer": rules.RULES}

#: C types of the arrays' elements by NumPy's type character; E is ml_dtypes' bfloat16.
TYPES = {"f": "float", "d": "double", "e": "Half", "E": "Brain"}


def families() -> list[str]:
    """Names of the sources, without their ending."""
    return sorted({*_RULES, *(path.stem for path in _FOLDER.glob("*.cu"))})


@functools.cache
def _text(name: str) -> str:
    path = _FOLDER / name
    written = path.read_text(encoding="utf-8") if path.exists() else '#include "numbers.cuh"\n'
    made = _RULES.get(path.stem, {}) if path.suffix == ".cu" else {}
    return "\n".join([written, *map(cuda_source, made.values())])


def _with_headers(name: str, seen: set[str]) -> str:
    """A file with the headers of this folder in place of their ``#include`` lines, each once."""
    if name in seen:
        return ""
    seen.add(name)
    return re.sub(
        r'^#include "(\w+\.cuh)"\n', lambda line: _with_headers(line[1], seen), _text(name), flags=re.M
    )


@functools.cache
def source(family: str, char: str) -> str:
    """A family's CUDA C for arrays of one type, with nothing left to include.

    Args:
        family: one of :func:`families`.
        char: a key of :data:`TYPES`.
    """
    return f"#define STORAGE {TYPES[char]}\n" + _with_headers(f"{family}.cu", set())


def kernel_names(family: str) -> list[str]:
    """The kernels that a family defines."""
    return re.findall(r"^KERNEL (\w+)\(", _text(f"{family}.cu"), flags=re.M)
