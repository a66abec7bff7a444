"""Bars, where tqdm is installed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

__all__ = ["bar"]


def bar(items: Iterable[Any], title: str, *, shown: bool) -> Iterable[Any]:
    """The items, with a bar that grows as they are taken; without where tqdm is not installed."""
    if not shown:
        return items
    try:
        tqdm = importlib.import_module("tqdm")
    except ImportError:
        return items
    found: Iterable[Any] = tqdm.tqdm(items, title, leave=False)
    return found
