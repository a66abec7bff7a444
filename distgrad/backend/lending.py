"""Memory that streams beside its own read: it is kept until they are done, though its arrays are gone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Lending"]


class Lending:
    """What is lent to streams.

    A pool hands an array's memory out again as soon as the array is gone, to work of the stream for which it
    was made, which runs after all that this stream has been given. Another stream may still be reading then.

    Args:
        record: makes an event that comes when all work given so far to a stream is done.

    Source: ``Tensor.record_stream`` of PyTorch's caching allocator.
    """

    def __init__(self, record: Callable[[Any], Any]) -> None:
        self._record = record
        self._lent: dict[int, tuple[Any, list[Any]]] = {}  # by identity: memory, its readers
        self._ending: list[tuple[list[Any], Any]] = []  # memory without arrays, and the events it waits for
        self._lock = threading.Lock()

    def lend(self, memory: Any, stream: Any) -> None:
        """Keep memory for a stream as long as there are arrays in it, and then until the stream is done."""
        with self._lock:
            streams = self._lent.setdefault(id(memory), (memory, []))[1]
            if stream not in streams:
                streams.append(stream)

    def collect(self) -> None:
        """Look which memory has no arrays any more, and let go of what its streams have finished."""
        if not self._lent and not self._ending:
            return
        with self._lock:
            for key in list(self._lent):
                if _num_holders(self._lent, key) <= _NOBODY_ELSE:
                    memory, streams = self._lent.pop(key)
                    self._ending.append(([self._record(stream) for stream in streams], memory))
            self._ending = [each for each in self._ending if not all(event.done for event in each[0])]


def _num_holders(lent: dict[int, tuple[Any, list[Any]]], key: int) -> int:
    return sys.getrefcount(lent[key][0])


_NOBODY_ELSE = _num_holders({0: (object(), [])}, 0)  # it differs between Python's versions
