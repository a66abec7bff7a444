"""Where a tensor lies: its address, and the memory that it shares with its views."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.layouts import numbers
from distgrad.autograd.meanings import kind
from distgrad.autograd.tensor import make_tensor, share
from distgrad.backend.device import Device, device_of, owner_of
from distgrad.errors import ShapeError

__all__ = ["UntypedStorage", "address", "keep_apart", "steps_into_memory", "storage_of", "strides", "viewed"]


def address(x: Any) -> int:
    """Where the first element lies."""
    return owner_of(x._data).address(x._data)


#: Arrays whose parts are memory of their own: flat buffers, in which parameters lie side by side.
_APART: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()


def keep_apart(array: Any) -> None:
    """Let what lies in an array of the host count as memory of its own."""
    root = _memory(array)
    if isinstance(root, np.ndarray):
        _APART[id(root)] = root


def _memory(array: Any) -> Any:
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
    return UntypedStorage(_memory(x._data))


def steps_into_memory(x: Any) -> int:
    """How many elements lie in the memory before the first one of a view."""
    base = _memory(x._data)
    return int((owner_of(x._data).address(x._data) - owner_of(base).address(base)) // x._data.itemsize)


def strides(x: Any, dim: int | None) -> Any:
    """How many elements lie between neighbours along each axis, of a new one those of what lies within."""
    steps = [each // x._data.itemsize for each in x._data.strides]
    for i in reversed(range(x.ndim)):
        if not steps[i] and x.shape[i] == 1:
            steps[i] = x.shape[i + 1] * steps[i + 1] if i + 1 < x.ndim else 1
    return tuple(steps) if dim is None else steps[dim]


def viewed(x: Any, shape: tuple[Any, ...]) -> Any:
    """Another shape, or the same bytes as another dtype.

    Raises:
        ShapeError: a view of a tensor in row order which has no such shape in its memory.
    """
    if (
        len(shape) == 1
        and not isinstance(shape[0], tuple | list | int)
        and not hasattr(shape[0], "__index__")
    ):
        out = make_tensor(x._data.view(kind(shape[0])))
        share(out, x, x._data)
        return out
    out = ops.reshape(x, numbers(shape))
    if x._aliases is not None and x._aliases.first_owns and out._aliases is None and x.size > 1:
        first = _memory(x._data)
        if first is not x._data and first.flags.c_contiguous:
            raise ShapeError(
                f"view: {list(x.shape)} with strides {list(strides(x, None))} does not lie in memory as "
                f"{list(out.shape)} does; use reshape(), or contiguous() first"
            )
    return out
