"""Flat storage: parameters as slices of one array, their gradients as slices of its twin.

A bucket, an optimizer's update, a norm or an all-reduce is then one call on one array, and nothing is packed
or unpacked. ``param.data`` and ``param.grad`` are views of the slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import activated, device_of, find_backend
from distgrad.errors import DeviceError, DTypeError

__all__ = ["FlatBuffer", "flatten"]

_ALIGNMENT_BYTES = 64  # a cache line, and the widest vector register

Allocate = Callable[[int], Any]


class FlatBuffer:
    """Parameters of one dtype and device, moved into one array in the order given.

    Args:
        parameters: leaf tensors of one floating dtype on one device; their elements move, their values stay.
        extra: further elements at the end of the gradients' array (a bucket's weights).
        allocate: returns ``num_bytes`` bytes as a uint8 array on that device, as a communicator's
            ``allocate`` does; None takes them from the device's memory.

    Attributes:
        data: ``[size]``, the parameters' elements, each parameter at a multiple of 64 bytes, zeros between.
        grad: ``[size + extra]``, the gradients' elements in the same places.
        slices: for each parameter its place in both.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, extra: int = 0, allocate: Allocate | None = None
    ) -> None:
        self.parameters = list(parameters)
        dtypes = {parameter.dtype for parameter in self.parameters}
        if len(dtypes) != 1:
            raise DTypeError(f"FlatBuffer: expected parameters of one dtype, got {sorted(map(str, dtypes))}")
        devices = {parameter.device for parameter in self.parameters}
        if len(devices) != 1:
            raise DeviceError(
                f"FlatBuffer: expected parameters on one device, got {sorted(map(str, devices))}; move the "
                "module with .to"
            )
        self.dtype, self.device = dtypes.pop(), devices.pop()
        step = max(1, _ALIGNMENT_BYTES // self.dtype.itemsize)
        self.slices: list[slice] = []
        size = 0
        for parameter in self.parameters:
            self.slices.append(slice(size, size + parameter.size))
            size += -(-parameter.size // step) * step
        self.size = size
        self.data = self._array(size, allocate)
        self.grad = self._array(size + extra, allocate)
        for parameter, where in zip(self.parameters, self.slices, strict=True):
            self._move(parameter, where)

    def _array(self, size: int, allocate: Allocate | None) -> Any:
        num_bytes = size * self.dtype.itemsize
        if allocate is None:
            memory = find_backend(self.device.kind).allocate(num_bytes, self.device.index)
        else:
            memory = allocate(num_bytes)
        if device_of(memory) != self.device:
            raise DeviceError(
                f"FlatBuffer: the parameters lie on {self.device}, but the communicator's memory on "
                f"{device_of(memory)}; use the 'nccl' backend for GPUs"
            )
        array = memory[:num_bytes].view(self.dtype)
        with activated(self.device):
            array[...] = 0
        return array

    def _move(self, parameter: Tensor, where: slice) -> None:
        leaf = parameter.leaf_state()
        home = self.data[where].reshape(parameter.shape)
        with activated(self.device):
            home[...] = parameter._data
        parameter._data = home
        gradient = leaf.grad
        leaf.flat = (self, where.start, where.stop)
        leaf.buffer = self.grad[where].reshape(parameter.shape)
        if gradient is not None:
            parameter.grad = gradient


def flatten(parameters: Sequence[Tensor], *, allocate: Allocate | None = None) -> list[FlatBuffer]:
    """Move parameters that lie in no flat buffer yet into one a dtype and device, last parameter first.

    Gradients become ready from the last parameter to the first, so that order fills a buffer from its start.

    Returns:
        The buffers that hold ``parameters``, old and new, in the order of their first parameter.
    """
    loose: dict[Any, dict[int, Tensor]] = {}
    for parameter in reversed(parameters):
        if parameter.leaf_state().flat is None:
            loose.setdefault((parameter.dtype, parameter.device), {})[id(parameter)] = parameter
    for group in loose.values():
        FlatBuffer(group.values(), allocate=allocate)
    buffers = [parameter.leaf_state().flat[0] for parameter in reversed(parameters)]
    return list(dict.fromkeys(buffers))
