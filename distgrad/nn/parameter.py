"""Tensors that a module owns: parameters, which are trained, and buffers, which are only kept."""

from __future__ import annotations

import copy
from typing import Any

from distgrad.autograd.tensor import Tensor

__all__ = ["Buffer", "Parameter", "write"]


class Parameter(Tensor):
    """A tensor that is trained: assigned to a module's attribute, it joins the module's parameters.

    Unlike other tensors it can carry attributes of the user's own.

    Args:
        data: a tensor or an array; its memory is shared.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data._data if isinstance(data, Tensor) else data, requires_grad)
        if isinstance(data, Tensor):
            self._version = data._version

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        out = type(self)(self._data.copy(), self.requires_grad)
        memo[id(self)] = out
        out.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return out

    def __copy__(self) -> Parameter:
        out = type(self)(self._data.copy(), self.requires_grad)
        out.__dict__.update(self.__dict__)
        return out

    def __repr__(self) -> str:
        return f"Parameter containing:\n{Tensor.__repr__(self)}"


class Buffer(Tensor):
    """A tensor that is kept with a module but not trained, such as running statistics.

    Args:
        data: a tensor or an array; its memory is shared.
        persistent: whether it is part of the module's ``state_dict``.
    """

    def __init__(self, data: Any, *, persistent: bool = True) -> None:
        super().__init__(data._data if isinstance(data, Tensor) else data)
        if isinstance(data, Tensor):
            self._version = data._version
        self.persistent = persistent

    def __deepcopy__(self, memo: dict[int, Any]) -> Buffer:
        return self.__copy__()

    def __copy__(self) -> Buffer:
        return type(self)(self._data.copy(), persistent=self.persistent)


def write(tensor: Tensor, values: Any, where: str) -> Tensor:
    """Copy ``values`` into the tensor's own memory, outside the graph; returns the tensor.

    A parameter's array may be a slice of a flat buffer, so it is never replaced by another one.

    Args:
        tensor: what is written.
        values: an array or a number that broadcasts to its shape.
        where: the caller, for messages about values changed in place.
    """
    tensor._data[...] = values
    tensor.changed(where)
    return tensor
