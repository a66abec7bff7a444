"""Who holds memory: floors above register what they own, and how much that is."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["KINDS", "holders", "limits", "measure", "register"]

#: What memory is held for, in the order in which a block that several hold is counted.
KINDS = ("parameters", "gradients", "state", "buffers", "activations")

#: What measures a limit of the machine, by its name; called once, at a recording's end.
limits: dict[str, Callable[[], dict[str, float]]] = {}

#: By class, what says which arrays an object holds: kind, array and line of each.
holders: dict[type, Callable[[Any], Iterable[tuple[str, Any, str]]]] = {}

_owners: list[tuple[weakref.ref[Any], Callable[[Any], dict[str, int]]]] = []
_changing = threading.Lock()


def register(owner: Any, count: Callable[[Any], dict[str, int]]) -> None:
    """Have ``owner`` counted as long as it lives.

    Args:
        owner: what holds memory; it is not kept alive.
        count: gives, for it, bytes by kind; called from another thread, now and then.
    """
    with _changing:
        _owners[:] = [each for each in _owners if each[0]() is not None]
        _owners.append((weakref.ref(owner), count))


def measure() -> dict[str, int]:
    """Bytes by kind, of all that are registered and alive."""
    total: dict[str, int] = {}
    for reference, count in list(_owners):
        owner = reference()
        if owner is None:
            continue
        try:
            found = count(owner)
        except RuntimeError:  # it was changing just now
            continue
        for kind, num_bytes in found.items():
            total[kind] = total.get(kind, 0) + num_bytes
    return total
