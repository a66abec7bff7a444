"""Putting back what a step has changed: bytes of memory, and what objects remember."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

__all__ = ["Saved", "remembered"]


class Saved:
    """A copy of some memory, taken anew by each :meth:`take`.

    Args:
        views: the bytes.
    """

    def __init__(self, views: Iterable[np.ndarray]) -> None:
        self.views = list(views)
        self.copies = [np.empty_like(view) for view in self.views]

    def take(self) -> None:
        """Copy what is there now."""
        for copy, view in zip(self.copies, self.views, strict=True):
            np.copyto(copy, view)

    def put_back(self) -> None:
        """Make all what it was."""
        for copy, view in zip(self.copies, self.views, strict=True):
            np.copyto(view, copy)


def _containers(value: Any) -> Iterable[Any]:
    """The dicts, lists and deques inside a value, itself among them."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _containers(each) if isinstance(each, dict | list | deque) else ()
    elif isinstance(value, list | deque):
        yield value
        for each in value:
            yield from _containers(each) if isinstance(each, dict | list | deque) else ()


def remembered(objects: Iterable[Any]) -> Callable[[], None]:
    """What puts back the attributes that objects have now, and the dicts and lists among them.

    A schedule's optimizer is one of its attributes, and is put back along with it.
    """
    saved: dict[int, tuple[Any, Any]] = {}

    def save(thing: Any) -> None:
        own = getattr(thing, "__dict__", None)
        if own is None or id(own) in saved:
            return
        for container in (*_containers(own), *_containers(thing)):
            is_queue = isinstance(container, deque)
            saved[id(container)] = (container, list(container) if is_queue else container.copy())
        if hasattr(thing, "param_groups") or "optimizer" not in own:
            return
        save(own["optimizer"])

    for each in objects:
        save(each)

    def put_back() -> None:
        for container, before in saved.values():
            container.clear()
            container.update(before) if isinstance(container, dict) else container.extend(before)

    return put_back
