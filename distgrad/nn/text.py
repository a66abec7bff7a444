"""How modules show themselves."""

from __future__ import annotations

__all__ = ["bracketed", "indented"]


def bracketed(name: str, extra: str, lines: list[str]) -> str:
    """``name(extra)`` on one line, or with a line for each part."""
    if not lines:
        return f"{name}({indented(extra)})" if "\n" not in extra else f"{name}(\n  {indented(extra)}\n)"
    inner = [*extra.splitlines(), *lines]
    return f"{name}(\n  " + "\n  ".join(inner) + "\n)"


def indented(text: str) -> str:
    """The text with all lines but the first two places further in."""
    return text.replace("\n", "\n  ")
