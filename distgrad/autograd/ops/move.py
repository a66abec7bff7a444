"""Moving between devices, through which gradients come back to where the input lies."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, operations, primitive
from distgrad.autograd.ops.shape_rules import same_shape
from distgrad.autograd.primitive import Sample
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device, find_accelerator, find_backend, resolve, to_device
from distgrad.backend.meta import META
from distgrad.backend.streams import Stream
from distgrad.errors import DeviceError

__all__ = ["destination", "is_pinned", "lent", "move", "moved", "pinned"]


@primitive(
    math="y = x on another device",
    shape=same_shape,
    view=True,
    samples=[Sample(((3, 4), CPU, CPU))],
)
def move(xp: Any, x: Array, target: Any, source: Any, /, *, non_blocking: bool = False) -> Array:
    """The array on a device: itself where it lies there already, a copy elsewhere.

    Args:
        x: any shape.
        target: the device.
        source: where ``x`` lies, and its gradient shall.
        non_blocking: towards the host, return before the elements have arrived: synchronise before reading;
            towards a device, send a pinned tensor from where it lies.
    """
    return to_device(x, target, non_blocking)


@move.vjp("x")
def _(xp: Any, g: Array, target: Any, source: Any) -> Array:
    return xp.move(g, source, target)


def moved(tensor: Tensor, device: Any, non_blocking: bool = False) -> Tensor:
    """The tensor on a device, itself if it lies there; of ``"meta"`` it is outside the graph.

    Raises:
        DeviceError: a tensor without elements, to a device that holds some.
    """
    target, source = resolve(device), tensor.device
    if target == source:
        return tensor
    if META in (source, target):
        return Tensor(to_device(tensor._data, target))
    return operations.move(tensor, target, source, non_blocking=non_blocking)


def pinned(tensor: Tensor) -> Tensor:
    """The values in memory that a GPU reads by itself, outside the graph; itself if they lie there.

    ``to(device, non_blocking=True)`` sends it without a copy in between, so that it must not be changed
    before it has arrived.

    Raises:
        DeviceError: no GPU, or a tensor that does not lie on the host.
    """
    backend = find_accelerator()
    if backend is None:
        raise DeviceError("pin_memory: there is no GPU that could read it; leave the tensor where it is")
    if tensor.device != CPU:
        raise DeviceError(f"pin_memory: expected a tensor on the host, got one on {str(tensor.device)!r}")
    return tensor if backend.is_pinned(tensor._data) else Tensor(backend.pin(tensor._data))


def lent(tensor: Tensor, stream: Stream) -> None:
    """Keep the tensor's memory until a stream has done all that it is given while there are tensors in it.

    Needed where a tensor made on one stream is read on another and dropped: its memory would be handed out to
    the first one's next work at once. Collectives of distgrad's keep what they read by themselves.

    Args:
        tensor: or a view; all of its memory is kept.
        stream: that reads or writes it. On the CPU nothing is under way.
    """
    if stream.native is not None and tensor.device != CPU:
        find_backend(tensor.device.kind).lend(tensor._data, stream.native)


def is_pinned(tensor: Tensor) -> bool:
    """Whether :func:`pinned` has made it, or a view of what that has made."""
    backend = find_accelerator()
    return backend is not None and tensor.device == CPU and backend.is_pinned(tensor._data)


def destination(args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    """Device and dtype of the arguments of ``to``, None for what is not given.

    Args:
        args: a device, a dtype, both, or a tensor, whose device and dtype are taken.
        options: ``device``, ``dtype``, ``non_blocking``, ``copy``.

    Raises:
        TypeError: another option.
    """
    unknown = set(options) - {"device", "dtype", "non_blocking", "copy", "memory_format"}
    if unknown:
        raise TypeError(f"to: unknown arguments {sorted(unknown)}; give dtype and device")
    device, dtype = options.get("device"), options.get("dtype")
    for value in args:
        if isinstance(value, Tensor):
            device, dtype = value.device, value.dtype
        elif isinstance(value, Device) or (isinstance(value, str) and value not in np.sctypeDict):
            device = value
        elif isinstance(value, int) and not isinstance(value, bool):
            device = f"cuda:{value}"
        elif value is not None and not isinstance(value, bool):
            dtype = value
    return device, dtype
