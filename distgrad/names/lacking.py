"""Names and arguments that PyTorch has where distgrad has none: the error says what to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lacking", "unexpected"]


def lacking(where: str, hints: Mapping[str, str]) -> Callable[[str], Any]:
    """What answers for the names that a module or a class lacks; as a module's ``__getattr__``, say.

    Args:
        where: as Python's own message has it, such as ``"module 'distgrad.nn'"``.
        hints: for PyTorch's names, what to write or why they are left out.

    Returns:
        A function of a name that raises AttributeError.
    """

    def explain(name: str) -> Any:
        hint = hints.get(name)
        raise AttributeError(f"{where} has no attribute {name!r}" + (f"; {hint}" if hint else ""))

    return explain


def unexpected(where: str, name: str, hints: Mapping[str, str]) -> TypeError:
    """The error for an argument that a function lacks.

    Args:
        where: the function, as messages name it.
        name: the argument.
        hints: for PyTorch's arguments, what stands for them or why they are not needed.
    """
    return TypeError(f"{where}: unexpected argument {name!r}; {hints.get(name, 'leave it out')}")
