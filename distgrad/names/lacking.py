"""Names and arguments that PyTorch has where distgrad has none: the error says what to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.names.absent import way_around
from distgrad.names.hints import ARGUMENTS, HINTS

__all__ = ["lacking", "unexpected"]


def lacking(where: str) -> Callable[[str], Any]:
    """What answers for the names that a module or a class lacks; as a module's ``__getattr__``, say.

    Args:
        where: as Python's own message has it, such as ``"module 'distgrad.nn'"``; a key of
            :data:`~distgrad.names.hints.HINTS`.

    Returns:
        A function of a name that raises AttributeError.
    """
    hints = HINTS[where]

    def explain(name: str) -> Any:
        hint = hints.get(name) or (way_around(f"Tensor.{name}") if where == "'Tensor' object" else None)
        raise AttributeError(f"{where} has no attribute {name!r}" + (f"; {hint}" if hint else ""))

    return explain


def unexpected(where: str, name: str) -> TypeError:
    """The error for an argument that a function lacks.

    Args:
        where: the function, a key of :data:`~distgrad.names.hints.ARGUMENTS`.
        name: the argument.
    """
    return TypeError(f"{where}: unexpected argument {name!r}; {ARGUMENTS[where].get(name, 'leave it out')}")
