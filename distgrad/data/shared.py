"""Memory that two processes share: objects go through it with their arrays outside the pickle.

The memory has no name, so nothing of it can be left behind, however a process ends.

Source: PEP 574, Pickle protocol 5 with out-of-band data, 2018.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np

__all__ = ["Segment"]

_ALIGNMENT_BYTES = 64  # a cache line


class Segment:
    """A stretch of shared memory that grows as it is written.

    Args:
        descriptor: of a segment that another process has made; None makes one.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("distgrad-loader") if descriptor is None else descriptor
        self._map: mmap.mmap | None = None

    def dump(self, value: Any, dumps: Callable[..., bytes] = pickle.dumps) -> tuple[bytes, list[int]]:
        """Write an object: the bytes of its arrays here, the rest into a pickle.

        Args:
            value: the object.
            dumps: what pickles it.

        Returns:
            The pickle and the arrays' sizes in bytes, which :meth:`load` takes.
        """
        buffers: list[pickle.PickleBuffer] = []
        head = dumps(value, protocol=5, buffer_callback=buffers.append)
        arrays = [np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers]
        sizes = [array.size for array in arrays]
        *starts, total = _starts(sizes)
        if total:
            memory = self._memory(total, grow=True)
            for start, array in zip(starts, arrays, strict=True):
                memory[start : start + array.size] = array
        return head, sizes

    def load(self, head: bytes, sizes: list[int]) -> Any:
        """Read an object; its arrays are copies, in memory of their own."""
        total = _starts(sizes)[-1]
        return _unpickle(head, sizes, self._memory(total).copy() if total else np.empty(0, np.uint8))

    def map(self, head: bytes, sizes: list[int]) -> Any:
        """Read an object whose arrays stay here; whoever writes into them gets pages of their own."""
        total = _starts(sizes)[-1]
        if not total:
            return self.load(head, sizes)
        private = mmap.mmap(self.descriptor, total, access=mmap.ACCESS_COPY)
        return _unpickle(head, sizes, np.frombuffer(private, dtype=np.uint8))

    def close(self) -> None:
        """Let go of the memory."""
        self._map = None
        os.close(self.descriptor)

    def _memory(self, num_bytes: int, grow: bool = False) -> np.ndarray:
        if self._map is None or len(self._map) < num_bytes:
            if grow and os.fstat(self.descriptor).st_size < num_bytes:
                os.ftruncate(self.descriptor, -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE)
            self._map = mmap.mmap(self.descriptor, 0)
        return np.frombuffer(self._map, dtype=np.uint8, count=num_bytes)


def _starts(sizes: list[int]) -> list[int]:
    """Where each array begins, and where the last one ends."""
    padded = (-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for size in sizes)
    return list(accumulate(padded, initial=0))


def _unpickle(head: bytes, sizes: list[int], memory: np.ndarray) -> Any:
    parts = (memory[start : start + size] for start, size in zip(_starts(sizes), sizes, strict=False))
    return pickle.loads(head, buffers=parts)
