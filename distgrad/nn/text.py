"""How modules show themselves, and what is said of those that are not here."""

from __future__ import annotations

from html import escape
from typing import Any

from distgrad.names.lacking import lacking

__all__ = ["bracketed", "explain_name", "indented", "module_html", "wrong_kind"]

explain_name = lacking("module 'distgrad.nn'")


def bracketed(name: str, extra: str, lines: list[str]) -> str:
    """``name(extra)`` on one line, or with a line for each part."""
    if not lines:
        return f"{name}({indented(extra)})" if "\n" not in extra else f"{name}(\n  {indented(extra)}\n)"
    inner = [*extra.splitlines(), *lines]
    return f"{name}(\n  " + "\n  ".join(inner) + "\n)"


def indented(text: str) -> str:
    """The text with all lines but the first two places further in."""
    return text.replace("\n", "\n  ")


def module_html(module: Any, name: str = "") -> str:
    """A module as notebooks show it: its settings and number of parameters; its parts fold out below."""
    numbers = sum(parameter.size for parameter in module.parameters())
    head = f"{escape(type(module).__name__)}({escape(module.extra_repr())})"
    label = f"{f'{escape(name)}: ' if name else ''}<b>{head}</b> <small>{numbers:,} parameters</small>"
    parts = [module_html(part, key) for key, part in module._modules.items() if part is not None]
    if not parts:
        return f"<div style='margin-left: 1em'>{label}</div>"
    shown = "" if name else " open='open'"
    return f"<details style='margin-left: 1em'{shown}><summary>{label}</summary>{''.join(parts)}</details>"


def wrong_kind(module: object, name: str, value: Any, what: str, expected: str) -> str:
    """What is said of an attribute that must be of another kind."""
    return (
        f"{type(module).__name__}: {name!r} is a {what} and takes {expected} or None, "
        f"got {type(value).__name__}"
    )
