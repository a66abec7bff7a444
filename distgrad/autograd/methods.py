"""Operators and methods of the tensor, attached once the operations that they call exist."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import namespace
from distgrad.autograd.graph import Leaf
from distgrad.autograd.modes import modes
from distgrad.autograd.ops import (
    activation,
    attention,
    conv,
    dropout,
    einsum,
    elementwise,
    embedding,
    index,
    linalg,
    loss,
    norm,
    padding,
    pool,
    products,
    reduce,
    scatter,
    shape,
    special,
    windows,
)
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DTypeError, GraphError, ShapeError

__all__: list[str] = []

_FAMILIES = (
    activation,
    attention,
    conv,
    dropout,
    einsum,
    elementwise,
    embedding,
    index,
    linalg,
    loss,
    norm,
    padding,
    pool,
    products,
    reduce,
    scatter,
    shape,
    special,
    windows,
)
_OPERANDS = (Tensor, np.ndarray, np.generic, int, float, complex, bool)


# -- operators


def _binary(operation: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, Any], Any]:
    def operator(self: Tensor, other: Any) -> Any:
        if isinstance(other, _OPERANDS):
            return operation(self, other)
        return NotImplemented

    return operator


def _reflected(operation: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, Any], Any]:
    def operator(self: Tensor, other: Any) -> Any:
        if isinstance(other, _OPERANDS):
            return operation(other, self)
        return NotImplemented

    return operator


def _in_place(operation: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, Any], Any]:
    def operator(self: Tensor, other: Any) -> Any:
        if isinstance(other, _OPERANDS):
            return overwrite(self, operation(self, other), operation.__name__)
        return NotImplemented

    return operator


def overwrite(target: Tensor, result: Tensor, where: str) -> Tensor:
    """Give ``target`` the elements of ``result`` and its place in the graph; returns ``target``.

    Raises:
        GraphError: a leaf that requires a gradient, while operations are recorded.
        ShapeError, DTypeError: a result that does not fit.
    """
    if modes.grad and isinstance(target._node, Leaf):
        raise GraphError(
            f"{where}: a leaf that requires a gradient cannot be changed in place; use dg.no_grad() or a new tensor"
        )
    if result.shape != target.shape:
        raise ShapeError(
            f"{where}: the result is {list(result.shape)} and does not fit into {list(target.shape)}"
        )
    if not np.can_cast(result.dtype, target.dtype, "same_kind"):
        raise DTypeError(f"{where}: the result is {result.dtype} and does not fit into {target.dtype}")
    np.copyto(target._data, result._data, casting="same_kind")
    if modes.grad and isinstance(result._node, object):
        target._node = result._node if not isinstance(target._node, Leaf) else target._node
    frame = sys._getframe(2)
    target.changed(f"{frame.f_code.co_filename}:{frame.f_lineno}")
    return target


def _plain_key(key: Any) -> Any:
    """An index as arrays understand it: tensors in it become arrays."""
    if isinstance(key, Tensor):
        return key._data
    if isinstance(key, tuple):
        return tuple(_plain_key(part) for part in key)
    if isinstance(key, list):
        return np.asarray([_plain_key(part) for part in key], dtype=None if key else np.int64)
    return key


def _getitem(self: Tensor, key: Any) -> Tensor:
    """A part of the tensor."""
    return namespace.getitem(self, _plain_key(key))


def _setitem(self: Tensor, key: Any, value: Any) -> None:
    """Replace a part of the tensor in place."""
    overwrite(self, namespace.setitem(self, value, _plain_key(key)), "setitem")


# -- conversion


def _item(self: Tensor) -> Any:
    """The only element, as a Python number.

    Raises:
        ShapeError: a tensor with more elements, or none.
    """
    if self.size != 1:
        raise ShapeError(f"item: expected one element, got a tensor of shape {list(self.shape)}")
    return self._data.item()


def _tolist(self: Tensor) -> Any:
    """The elements as nested lists of Python numbers."""
    return self._data.tolist()


def _numpy(self: Tensor) -> np.ndarray:
    """The elements as a NumPy array, in the same memory.

    Raises:
        GraphError: a tensor that requires a gradient.
    """
    if self.requires_grad:
        raise GraphError("numpy: the tensor requires a gradient; call detach().numpy()")
    return self._data


def _array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.array(_numpy(self), dtype=dtype, copy=copy)


def _bool(self: Tensor) -> bool:
    if self.size != 1:
        raise ShapeError(
            f"bool: a tensor of shape {list(self.shape)} is neither true nor false; use dg.all or dg.any"
        )
    return bool(self._data)


def _len(self: Tensor) -> int:
    if self.ndim == 0:
        raise TypeError("len: a tensor without axes has no length")
    return self.shape[0]


def _iter(self: Tensor) -> Iterator[Tensor]:
    return (self[i] for i in range(_len(self)))


def _repr(self: Tensor) -> str:
    text = np.array2string(self._data, separator=", ", prefix="tensor(")
    if self.dtype not in (np.float32, np.int64, np.bool_):
        text += f", dtype={self.dtype}"
    if self.grad_fn is not None:
        text += f", grad_fn=<{self.grad_fn.op.name}>"
    elif self.requires_grad:
        text += ", requires_grad=True"
    return f"tensor({text})"


# -- methods with names of their own


def _reshape(self: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape, given as a tuple or as separate numbers."""
    return namespace.reshape(self, _spread(shape))


def _permute(self: Tensor, *axes: Any) -> Tensor:
    """The axes in another order, given as a tuple or as separate numbers."""
    return namespace.permute_dims(self, _spread(axes))


def _spread(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    if len(numbers) == 1 and not isinstance(numbers[0], int):
        return tuple(numbers[0])
    return numbers


def _transpose(self: Tensor) -> Tensor:
    """The matrix turned over; a tensor with two axes."""
    if self.ndim != 2:
        raise ShapeError(f"T: expected two axes, got {list(self.shape)}; use mT or permute_dims")
    return namespace.matrix_transpose(self)


def _clone(self: Tensor) -> Tensor:
    """A copy that gradients flow through."""
    return namespace.astype(self, self.dtype)


def _copy(self: Tensor, *memo: Any) -> Tensor:
    if not self.is_leaf:
        raise GraphError("copy: only leaves can be copied with the copy module; use clone() or detach()")
    out = Tensor(self._data.copy())
    return out.requires_grad_() if self.requires_grad else out


def _to_dtype(dtype: Any) -> Callable[[Tensor], Tensor]:
    def convert(self: Tensor) -> Tensor:
        return namespace.astype(self, np.dtype(dtype), copy=False)

    return convert


#: Methods that are functions of the namespace with the tensor as the first argument.
_AS_FUNCTIONS = (
    "abs all any argmax astype exp expand_dims log max mean min relu sigmoid sqrt square squeeze sum tanh var"
).split()


def _attach() -> None:
    arithmetic = {
        "add": "add",
        "sub": "subtract",
        "mul": "multiply",
        "truediv": "divide",
        "matmul": "matmul",
        "pow": "pow",
    }
    methods: dict[str, Any] = {}
    for name, function in arithmetic.items():
        operation = getattr(namespace, function)
        methods[f"__{name}__"] = _binary(operation)
        methods[f"__r{name}__"] = _reflected(operation)
        methods[f"__i{name}__"] = _in_place(operation)
    comparisons = {
        "eq": "equal",
        "ne": "not_equal",
        "lt": "less",
        "le": "less_equal",
        "gt": "greater",
        "ge": "greater_equal",
    }
    methods |= {
        f"__{name}__": _binary(getattr(namespace, function)) for name, function in comparisons.items()
    }
    methods |= {name: getattr(namespace, name) for name in _AS_FUNCTIONS}
    methods |= {
        "__neg__": namespace.negative,
        "__abs__": namespace.abs,
        "__getitem__": _getitem,
        "__setitem__": _setitem,
        "__array__": _array,
        "__array_ufunc__": None,
        "__bool__": _bool,
        "__float__": lambda self: float(_item(self)),
        "__int__": lambda self: int(_item(self)),
        "__len__": _len,
        "__iter__": _iter,
        "__repr__": _repr,
        "__copy__": _copy,
        "__deepcopy__": _copy,
        "__hash__": object.__hash__,
        "T": property(_transpose),
        "mT": property(namespace.matrix_transpose),
        "item": _item,
        "tolist": _tolist,
        "numpy": _numpy,
        "reshape": _reshape,
        "view": _reshape,
        "permute": _permute,
        "clone": _clone,
        "float": _to_dtype(np.float32),
        "double": _to_dtype(np.float64),
        "long": _to_dtype(np.int64),
    }
    for name, method in methods.items():
        setattr(Tensor, name, method)


_attach()
