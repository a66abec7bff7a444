"""Tensors in memory that processes share: what one changes the others see.

The memory is a memfd, which no folder lists and which ends with the last process that maps it. A process that
is started with such a tensor, or receives one through a queue of ``multiprocessing``, maps the same memory;
all other tensors go by value. Gradients are each process's own. Who sends through a queue must not end before
the tensor was received.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any

import numpy as np

from distgrad.autograd.flat import FlatBuffer
from distgrad.autograd.tensor import FLOATING, Tensor, class_at, home_of
from distgrad.backend.device import CPU
from distgrad.errors import DeviceError

__all__ = ["is_shared", "share"]

_ALIGNMENT_BYTES = 64  # of a flat buffer's places
#: By mapping: what hands its memory over.
_lines: weakref.WeakKeyDictionary[mmap.mmap, _Line] = weakref.WeakKeyDictionary()
#: By the memory's device and number on it: this process's mapping.
_mappings: weakref.WeakValueDictionary[tuple[int, int], mmap.mmap] = weakref.WeakValueDictionary()


class _Line:
    """Hands a memory over, once for all its tensors that go together; keeps the descriptor open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def __reduce__(self) -> Any:
        return _receive, (DupFd(self._descriptor),)


def _receive(line: Any) -> mmap.mmap:
    descriptor = line.detach()
    try:
        return _map(descriptor)
    finally:
        os.close(descriptor)


def share(tensors: Sequence[Tensor]) -> None:
    """Move tensors into memory that is shared with processes which get them from here on.

    Collective: no; blocks: no.

    Args:
        tensors: on the host; views of them stay where they were.

    Raises:
        DeviceError: a tensor on a GPU.
    """
    loose = list({id(each): each for each in tensors if not is_shared(each)}.values())
    for each in loose:
        if each.device != CPU:
            raise DeviceError(f"share_memory_: the tensor lies on {each.device}; move it with .cpu() first")
    if not loose:
        return
    places = [0]
    for each in loose:
        places.append(places[-1] + _room(each.nbytes))
    descriptor = os.memfd_create("distgrad tensors")
    try:
        os.ftruncate(descriptor, max(places[-1], _ALIGNMENT_BYTES))
        mapping = _map(descriptor)
    finally:
        os.close(descriptor)
    for each, place in zip(loose, places, strict=False):
        _move(each, mapping, place)


def is_shared(tensor: Tensor) -> bool:
    """Whether a tensor lies in such memory."""
    return _mapping_of(tensor) is not None


def _room(num_bytes: int) -> int:
    return max(1, -(-num_bytes // _ALIGNMENT_BYTES)) * _ALIGNMENT_BYTES


def _map(descriptor: int) -> mmap.mmap:
    """This process's mapping of a memory."""
    status = os.fstat(descriptor)
    key = (status.st_dev, status.st_ino)
    mapping = _mappings.get(key)
    if mapping is None:
        mapping = _mappings[key] = mmap.mmap(descriptor, status.st_size)
        _lines[mapping] = _Line(os.dup(descriptor))
    return mapping


def _mapping_of(tensor: Tensor) -> mmap.mmap | None:
    base: Any = tensor._data
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) and base in _lines else None


def _memory(mapping: mmap.mmap, place: int, num_bytes: int) -> np.ndarray:
    return np.frombuffer(mapping, np.uint8, num_bytes, place)


def _move(tensor: Tensor, mapping: mmap.mmap, place: int) -> None:
    """Put a tensor's elements at a place; a parameter's as a flat buffer, where its optimizer finds them."""
    if tensor.requires_grad and tensor.is_leaf and tensor.dtype.char in FLOATING:
        FlatBuffer([tensor], allocate=_once(_memory(mapping, place, _room(tensor.nbytes))))
        return
    home = _memory(mapping, place, tensor.nbytes).view(tensor.dtype).reshape(tensor.shape)
    home[...] = tensor._data
    tensor._data = home


def _once(memory: np.ndarray) -> Callable[[int], np.ndarray]:
    """What gives a flat buffer that memory for its data, and memory of this process for its gradients."""
    given = [memory]
    return lambda num_bytes: given.pop() if given else np.zeros(num_bytes, np.uint8)


def _reduce(tensor: Tensor) -> Any:
    mapping = _mapping_of(tensor)
    if mapping is None or not tensor._data.flags.c_contiguous:
        return tensor.__reduce_ex__(2)
    start = _memory(mapping, 0, 1).__array_interface__["data"][0]
    place = tensor._data.__array_interface__["data"][0] - start
    what = (home_of(type(tensor)), tensor.dtype.str, tensor.shape, tensor.requires_grad)
    return _attach, (_lines[mapping], place, *what)


def _attach(
    mapping: mmap.mmap,
    place: int,
    home: Any,
    dtype: str,
    shape: tuple[int, ...],
    requires_grad: bool,
) -> Tensor:
    """The tensor in the process that gets it."""
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    tensor = class_at(home)(_memory(mapping, place, num_bytes).view(dtype).reshape(shape))
    tensor.requires_grad = requires_grad
    _move(tensor, mapping, place)
    return tensor


def register(kind: type[Tensor]) -> None:
    """Have ``multiprocessing`` hand tensors of a class over so."""
    ForkingPickler.register(kind, _reduce)


register(Tensor)
