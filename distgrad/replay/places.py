"""Operands as places in memory: which storage, where in it, with what shape, strides and dtype."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

__all__ = ["Memory", "Place", "Storage", "bytes_of", "owner"]


class Storage:
    """A stretch of memory that no other one overlaps.

    Attributes:
        start, stop: its addresses.
        owners: the arrays that keep it alive; empty once a plan has put it elsewhere.
        is_born: whether the recorded step made it.
        number: in the order in which the step first met it.
        offset: its place in a plan's memory; None where it stays where it is.
    """

    __slots__ = ("is_born", "number", "offset", "owners", "start", "stop")

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.owners: list[np.ndarray] = []
        self.is_born = False
        self.number = -1
        self.offset: int | None = None

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.stop - self.start

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
        storage: what it lies in; known once a record is over.
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
    while isinstance(x.base, np.ndarray):
        x = x.base
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


class Memory:
    """All memory that a step meets, kept alive while it is recorded, so that no address means two things."""

    def __init__(self) -> None:
        self._owners: dict[int, np.ndarray] = {}
        self._born: set[int] = set()

    def keep(self, x: np.ndarray) -> None:
        """Keep the memory of an array."""
        root = owner(x)
        self._owners[id(root)] = root

    def born(self, x: np.ndarray) -> None:
        """Note that the step has made an array."""
        root = owner(x)
        self._owners[id(root)] = root
        self._born.add(id(root))

    def is_born(self, x: np.ndarray) -> bool:
        """Whether the step has made an array."""
        return id(owner(x)) in self._born

    def knows(self, x: np.ndarray) -> bool:
        """Whether the step has met an array's memory."""
        return id(owner(x)) in self._owners

    def storages(self) -> list[Storage]:
        """What all arrays lie in, by address: those that overlap are one."""
        found: list[Storage] = []
        spans = []
        for key, root in self._owners.items():
            place = Place(root)
            start, stop = place.bounds()
            if stop > start:
                spans.append((start, stop, key, root))
        for start, stop, key, root in sorted(spans, key=lambda span: span[:2]):
            if not found or start >= found[-1].stop:
                found.append(Storage(start, stop))
            last = found[-1]
            last.stop = max(last.stop, stop)
            last.owners.append(root)
            last.is_born = last.is_born or key in self._born
        return found

    def forget(self) -> None:
        """Let go of all of it."""
        self._owners.clear()
        self._born.clear()
