"""Parameters and buffers of a module in another place, or of another dtype."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.backend.device import Device, activated, to_device
from distgrad.errors import GraphError

__all__ = ["convert", "make_empty", "share_memory"]

M = TypeVar("M", bound=Any)  # a module


def convert(tensors: Iterable[Tensor], dtype: np.dtype[Any] | None, device: Device | None) -> None:
    """Give tensors, and their gradients, another dtype (the floating ones), or another place.

    Raises:
        GraphError: a parameter whose gradient lies in a flat buffer.
    """
    changes = []
    for tensor in tensors:
        kind = tensor.dtype if dtype is None or tensor.dtype.char not in FLOATING else dtype
        place = tensor.device if device is None else device
        if kind != tensor.dtype or place != tensor.device:
            changes.append((tensor, kind, place))
    _refuse_flat("to", [tensor for tensor, _, _ in changes])
    for tensor, kind, place in changes:
        tensor._data = to_device(tensor._data.astype(kind, copy=False), place)
        tensor.changed("to")
        if tensor.grad is not None:
            tensor.grad = Tensor(to_device(tensor.grad._data.astype(kind, copy=False), place))


def make_empty(tensors: Iterable[Tensor], device: Device) -> None:
    """Give tensors memory on a device that holds anything.

    Raises:
        GraphError: a parameter whose gradient lies in a flat buffer.
    """
    tensors = list(tensors)
    _refuse_flat("to_empty", tensors)
    for tensor in tensors:
        tensor.grad = None
        with activated(device) as xp:
            tensor._data = xp.empty(tensor.shape, dtype=tensor.dtype)
        tensor.changed("to_empty")


def _refuse_flat(where: str, tensors: list[Tensor]) -> None:
    if any(tensor._leaf is not None and tensor._leaf.buffer is not None for tensor in tensors):
        raise GraphError(
            f"{where}: the gradients lie in a flat buffer; convert or move the module before it is wrapped, "
            "or given to an optimizer"
        )


def share_memory(module: M) -> M:
    """Move parameters and buffers into memory that is shared with processes which get the module.

    They train the same parameters then, each with gradients of its own. Make optimizers behind it.

    Raises:
        DeviceError: a tensor on a GPU.
    """
    sharing = importlib.import_module("distgrad.autograd.sharing")  # loads multiprocessing
    tensors = [*module.parameters(), *module.buffers()]
    for kind in {type(each) for each in tensors}:
        sharing.register(kind)
    sharing.share(tensors)
    return module
