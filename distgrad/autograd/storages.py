"""Where a tensor lies: its address, and the memory that it shares with its views."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from distgrad.backend.device import Device, device_of, owner_of

__all__ = ["UntypedStorage", "address", "keep_apart", "memory_of", "steps_into_memory", "storage_of"]


def address(x: Any) -> int:
    """Where the first element lies."""
    return owner_of(x._data).address(x._data)


#: Arrays whose parts are memory of their own: flat buffers, in which parameters lie side by side.
_APART: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()


def keep_apart(array: Any) -> None:
    """Let what lies in an array of the host count as memory of its own."""
    root = memory_of(array)
    if isinstance(root, np.ndarray):
        _APART[id(root)] = root


def memory_of(array: Any) -> Any:
    """The array that all views of an array's memory are taken from."""
    while hasattr(base := getattr(array, "base", None), "dtype") and _APART.get(id(base)) is not base:
        array = base
    return array


class UntypedStorage:
    """The memory behind a tensor and all its views, as ``untyped_storage()`` gives it: its place and bytes.

    Args:
        memory: a contiguous array.
    """

    def __init__(self, memory: Any) -> None:
        self._memory = memory

    @classmethod
    def from_file(cls, filename: Any, shared: bool = False, nbytes: int = 0) -> UntypedStorage:
        """The bytes of a file, which are read when they are looked at; writes go to memory, or to the file.

        Args:
            filename: which.
            shared: let writes go to the file.
            nbytes: how many there are.
        """
        return cls(np.memmap(filename, np.uint8, "r+" if shared else "c", shape=(nbytes,)).view(np.ndarray))

    def untyped(self) -> UntypedStorage:
        """The same."""
        return self

    def __getitem__(self, part: slice) -> UntypedStorage:
        return UntypedStorage(self._memory.reshape(-1).view(np.uint8)[part])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._memory.reshape(-1).view(np.uint8), dtype, copy=copy)

    @property
    def device(self) -> Device:
        """Where it lies."""
        return device_of(self._memory)

    def data_ptr(self) -> int:
        """Its address."""
        return owner_of(self._memory).address(self._memory)

    def nbytes(self) -> int:
        """How many bytes it has."""
        return int(self._memory.nbytes)

    size = __len__ = nbytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UntypedStorage) and (self.data_ptr(), len(self)) == (
            other.data_ptr(),
            len(other),
        )

    def __hash__(self) -> int:
        return hash(self._place())

    def _place(self) -> tuple[int, int]:
        return self.data_ptr(), self.nbytes()


def storage_of(x: Any) -> UntypedStorage:
    """The memory behind a tensor."""
    return UntypedStorage(memory_of(x._data))


def steps_into_memory(x: Any) -> int:
    """How many elements lie in the memory before the first one of a view."""
    base = memory_of(x._data)
    return int((owner_of(x._data).address(x._data) - owner_of(base).address(base)) // x._data.itemsize)
