"""How modules show themselves, and what is said of those that are not here."""

from __future__ import annotations

from distgrad.names.lacking import lacking

__all__ = ["bracketed", "explain_name", "indented"]

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
