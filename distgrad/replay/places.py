"""Operands as places in memory: which storage, where in it, with what shape, strides and dtype."""

from __future__ import annotations

import bisect
import hashlib
import operator
import weakref
from collections import deque
from typing import Any

import numpy as np

__all__ = ["Memory", "Place", "Storage", "bytes_of", "owner"]


class Storage:
    """A stretch of memory that no other one overlaps as long as it lives.

    Attributes:
        start, stop: its addresses.
        owners: the arrays that keep it alive: none where the step made it, which lets it go when it wants.
        roots: all that own it.
        num_living: how many of them are there.
        is_born: whether the recorded step made it.
        is_written: whether it has written anything there.
        number: in the order in which the step first met it.
        offset: its place in a plan's memory; None where it stays where it is.
    """

    __slots__ = (
        "_joined", "is_born", "is_written", "num_living", "number", "offset", "owners", "roots",
        "start", "stop",
    )  # fmt: skip

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.owners: list[np.ndarray] = []
        self.roots: list[weakref.ref[np.ndarray]] = []
        self.num_living = 0
        self.is_born = self.is_written = False
        self.number = -1
        self.offset: int | None = None
        self._joined: Storage | None = None

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.stop - self.start

    def living(self) -> list[np.ndarray]:
        """The arrays that own it and are there."""
        return [root for reference in self.roots if (root := reference()) is not None]

    def pin(self) -> None:
        """Keep it alive, as memory that the step has not made."""
        self.is_born, self.owners = False, self.living()

    def join(self, other: Storage) -> None:
        """Another one, which overlaps it, is part of this one from now on."""
        self.start, self.stop = min(self.start, other.start), max(self.stop, other.stop)
        self.owners += other.owners
        self.roots += other.roots
        self.num_living += other.num_living
        self.is_born |= other.is_born
        self.is_written |= other.is_written
        other._joined = self

    def joined(self) -> Storage:
        """What it is part of, which may be itself."""
        found = self
        while found._joined is not None:
            found = found._joined
        return found

    def view(self) -> np.ndarray:
        """Its bytes, while its owners live."""
        return bytes_of(self.start, self.nbytes, self.owners)

    def digest(self) -> bytes:
        """What tells its contents from others."""
        return hashlib.blake2b(self.view().tobytes(), digest_size=16).digest()


class Place:
    """An array, as the memory that it covers.

    Attributes:
        address: of its first element while it was recorded.
        shape, strides, dtype: as NumPy has them.
        storage: what it lies in, if a :class:`Memory` made it.
    """

    __slots__ = ("address", "dtype", "shape", "storage", "strides")

    storage: Storage

    def __init__(self, x: np.ndarray) -> None:
        self.address = x.__array_interface__["data"][0]
        self.shape, self.strides, self.dtype = x.shape, x.strides, x.dtype

    @property
    def is_empty(self) -> bool:
        """Whether it has no elements."""
        return 0 in self.shape

    @property
    def offset(self) -> int:
        """Bytes from the storage's start."""
        return self.address - self.storage.start

    def describe(self) -> tuple[Any, ...]:
        """What two records of one step agree on."""
        if self.is_empty:
            return (self.shape, self.dtype.str)
        return (self.storage.number, self.offset, self.shape, self.strides, self.dtype.str)

    def bounds(self) -> tuple[int, int]:
        """The addresses of the first byte and behind the last."""
        return bounds(self.address, self.shape, self.strides, self.dtype.itemsize)

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def bounds(address: int, shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, int]:
    """The addresses that an array's elements cover: the first, and one past the last."""
    low, high = address, address + itemsize
    for n, stride in zip(shape, strides, strict=True):
        if n == 0:
            return address, address
        if stride < 0:
            low += (n - 1) * stride
        else:
            high += (n - 1) * stride
    return low, high


def owner(x: np.ndarray) -> np.ndarray:
    """The array that others are views of."""
    while x.base is not None:
        base = x.base if isinstance(x.base, np.ndarray) else getattr(x.base, "base", None)  # of as_strided's
        if not isinstance(base, np.ndarray):
            break
        x = base
    return x


class _Window:
    """Memory at an address, as NumPy takes it; keeps its owners alive."""

    def __init__(self, address: int, nbytes: int, owners: Any) -> None:
        self.owners = owners
        self.__array_interface__ = {
            "data": (address, False), "shape": (nbytes,), "typestr": "|u1", "version": 3,
        }  # fmt: skip


def bytes_of(address: int, nbytes: int, owners: Any) -> np.ndarray:
    """The bytes at an address, which must be alive as long as ``owners`` are."""
    return np.asarray(_Window(address, nbytes, owners)) if nbytes else np.zeros(0, np.uint8)


class _Root:
    """An array that owns memory, and the storage that this was part of when the array was met."""

    __slots__ = ("is_born", "reference", "storage")

    def __init__(self, array: np.ndarray, storage: Storage, is_born: bool) -> None:
        self.reference = weakref.ref(array)
        self.storage, self.is_born = storage, is_born


_start, _stop = operator.attrgetter("start"), operator.attrgetter("stop")


class Memory:
    """All memory that a step meets.

    What was there before the step is kept alive, so that its addresses mean one thing. What the step makes
    ends when the step lets go of it, as when nobody records; what has the same addresses later is another
    storage.
    """

    def __init__(self) -> None:
        self._roots: dict[int, _Root] = {}  # by their ids, which others may have later
        self._living: list[Storage] = []  # by their addresses
        self._ended: deque[Any] = deque()  # references, by any thread that lets go of an array
        self._referenced: dict[int, Storage] = {}  # by the ids of those references

    def keep(self, x: np.ndarray) -> Storage:
        """What an array lies in, which is kept alive if the step has not made it."""
        return self._root(x, False).storage.joined()

    def born(self, x: np.ndarray) -> None:
        """Note that the step has made an array; not if it is part of one that was met before."""
        self._root(x, True)

    def place(self, x: np.ndarray) -> Place:
        """Where an array lies."""
        place, storage = Place(x), self.keep(x)
        place.storage = storage
        return place

    def settle(self, place: Place) -> None:
        """Find what a place lies in that another memory made, of an array that is kept here and lives."""
        if not place.is_empty:
            self._end()
            at = bisect.bisect_right(self._living, place.bounds()[0], key=_start)
            place.storage = self._living[at - 1]

    def is_born(self, x: np.ndarray) -> bool:
        """Whether the step has made an array."""
        root = self._find(owner(x))
        return root is not None and root.is_born

    def knows(self, x: np.ndarray) -> bool:
        """Whether the step has met an array's memory."""
        return self._find(owner(x)) is not None

    def _find(self, array: np.ndarray) -> _Root | None:
        root = self._roots.get(id(array))
        return root if root is not None and root.reference() is array else None

    def _root(self, x: np.ndarray, is_born: bool) -> _Root:
        array = owner(x)
        root = self._find(array)
        if root is None:
            storage = self._meet(array, is_born)
            root = self._roots[id(array)] = _Root(array, storage, is_born)
        return root

    def _meet(self, array: np.ndarray, is_born: bool) -> Storage:
        """A storage around an array that owns memory, with all that lives there."""
        storage = Storage(*Place(array).bounds())
        storage.is_born, storage.num_living = is_born, 1
        reference = weakref.ref(array, self._ended.append)
        storage.roots.append(reference)
        self._referenced[id(reference)] = storage
        is_window = array.base is not None or not array.flags.owndata  # which does not end its memory
        if not is_born or is_window:
            storage.owners.append(array)
        if storage.stop > storage.start:
            self._end()
            low = bisect.bisect_right(self._living, storage.start, key=_stop)
            high = bisect.bisect_left(self._living, storage.stop, key=_start)
            for other in self._living[low:high]:
                storage.join(other)
            self._living[low:high] = [storage]
        return storage

    def _end(self) -> None:
        """Take out what has ended since: an array's end is told before its memory is given to another."""
        while self._ended:
            storage = self._referenced.pop(id(self._ended.popleft())).joined()
            storage.num_living -= 1
            if not storage.num_living and storage.stop > storage.start:
                del self._living[bisect.bisect_left(self._living, storage.start, key=_start)]

    def forget(self) -> None:
        """Let go of all of it."""
        self._roots.clear()
        self._living.clear()
        self._referenced.clear()
