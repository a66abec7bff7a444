"""Tensors that a module owns: parameters, which are trained, and buffers, which are only kept."""

from __future__ import annotations

import copy
from typing import Any

from distgrad.autograd.creation import zeros
from distgrad.autograd.parts import Part, shares_of
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.backend.device import to_device
from distgrad.errors import ShapeError

__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter", "write"]


class Parameter(Tensor):
    """A tensor that is trained: assigned to a module's attribute, it joins the module's parameters.

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
        out = type(self)(self._data.copy())
        out.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return out

    def __copy__(self) -> Buffer:
        out = type(self)(self._data.copy())
        out.__dict__.update(self.__dict__)
        return out


class _Uninitialized(Tensor):
    """A lazy module's parameter or buffer before the first batch: a dtype and a place, but no shape."""

    _initialized: type[Tensor]

    @property
    def shape(self) -> Shape:
        """Not known yet."""
        raise ShapeError(
            f"{type(self).__name__}: the shape is not known yet; call the module once on a batch, before it "
            "is saved, wrapped, or given to an optimizer"
        )

    def leaf_state(self) -> Any:
        """Not there yet."""
        _ = self.shape

    def detach(self) -> Tensor:
        """Not possible yet."""
        _ = self.shape
        return self

    def materialize(self, shape: tuple[int, ...]) -> None:
        """Become an ordinary parameter or buffer of zeros.

        Args:
            shape: the shape, known at last.
        """
        self._data = zeros(shape, dtype=self._data.dtype, device=self.device)._data
        wanted = self.__dict__.pop("_requires_grad", False)
        self.__class__ = self._initialized  # type: ignore[assignment]
        if wanted:
            self.requires_grad_()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        out = memo[id(self)] = type(self)(device=self.device, dtype=self.dtype)  # type: ignore[call-arg]
        out.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return out

    def __copy__(self) -> Any:
        out = type(self)(device=self.device, dtype=self.dtype)  # type: ignore[call-arg]
        out.__dict__.update(self.__dict__)
        return out

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class UninitializedParameter(_Uninitialized, Parameter):
    """A parameter whose shape the first batch decides.

    Args:
        requires_grad: whether it is to be trained.
        device: where it will lie.
        dtype: of the elements; None means float32.
    """

    _initialized = Parameter

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(zeros(0, dtype=dtype, device=device), requires_grad=False)
        self._requires_grad = requires_grad

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Note whether a gradient will be wanted."""
        self._requires_grad = requires_grad
        return self


class UninitializedBuffer(_Uninitialized, Buffer):
    """A buffer whose shape the first batch decides.

    Args:
        device: where it will lie.
        dtype: of the elements; None means float32.
        persistent: whether it is part of the module's ``state_dict``.
    """

    _initialized = Buffer

    def __init__(self, device: Any = None, dtype: Any = None, *, persistent: bool = True) -> None:
        super().__init__(zeros(0, dtype=dtype, device=device), persistent=persistent)


def write(tensor: Tensor, values: Any, where: str) -> Tensor:
    """Copy ``values`` into the tensor's own memory, outside the graph; returns the tensor.

    A parameter's array may be a slice of a flat buffer, so it is never replaced by another one.

    Args:
        tensor: what is written.
        values: an array on any device, or a number, that broadcasts to its shape; or the part that this rank
            owns.
        where: the caller, for messages about values changed in place.
    """
    is_part, shares = isinstance(values, Part), shares_of(tensor)
    if not is_part and values.__class__ in ARRAY_MODULES:
        values = to_device(values, tensor.device)
    if is_part or (shares is not None and shares.masters is not None):
        shares.overwrite(tensor, values)
    else:
        tensor._overwrite(values)
    tensor.changed(where)
    return tensor
