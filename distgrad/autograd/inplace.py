"""Changes in place, and what they do to the graph.

An operation in place computes its result as always, copies it into the tensor's memory, and gives the tensor
the result's place in the graph. Views share memory, so each living view of the same elements gets a new place
too: its old values with the changed ones put in. Gradients then reach both as if nothing had been in place.
"""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import Any

import numpy as np

from distgrad.autograd.casting import WEAK
from distgrad.autograd.dispatch import operations
from distgrad.autograd.failures import check_devices, explain
from distgrad.autograd.graph import Leaf, Node
from distgrad.autograd.lines import describe_line, user_line
from distgrad.autograd.modes import modes
from distgrad.autograd.ops.move import moved
from distgrad.autograd.primitive import REGISTRY
from distgrad.autograd.tensor import OPERANDS, UNTRACKED, Tensor, decline, make_tensor
from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.backend.device import CPU, Device, device_of, native, owner_of, to_device
from distgrad.backend.meta import META
from distgrad.errors import DeviceError, DTypeError, GraphError, InPlaceError, ShapeError

__all__ = [
    "in_place_methods",
    "in_place_operator",
    "in_two",
    "look_through",
    "move_in_graph",
    "overwrite",
    "plain_key",
]


#: Kinds of numbers, each of which the later ones hold.
_RANKS = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}


def overwrite(target: Tensor, result: Tensor, where: str) -> Tensor:
    """Give ``target`` the elements of ``result`` and its place in the graph; returns ``target``.

    Args:
        target: what is changed.
        result: of the same shape, and of a dtype that converts to the target's.
        where: the operation, for messages.

    Raises:
        GraphError: a leaf that requires a gradient, or a view of one, while operations are recorded.
        InPlaceError: read-only memory, or a view that was made while nothing was recorded.
        ShapeError, DTypeError: a result that does not fit.
    """
    if result.shape != target.shape:
        raise ShapeError(
            f"{where}: the result is {list(result.shape)} and does not fit into {list(target.shape)}"
        )
    if _RANKS[result.dtype.kind] > _RANKS[target.dtype.kind]:
        raise DTypeError(
            f"{where}: the result is {result.dtype} and does not fit into {target.dtype}; "
            "use the operation that is not in place"
        )
    if not getattr(target._data.flags, "writeable", True):  # a device knows no read-only memory
        raise InPlaceError(f"{where}: the tensor's memory is read-only (a broadcast view?); clone() it first")
    if modes.grad:
        move_in_graph(target, result, where)
    target._data[...] = result._data
    target.changed(describe_line(user_line()))
    return target


def move_in_graph(target: Tensor, result: Tensor, where: str) -> None:
    """Give ``target``, and all views of its elements, the places of ``result`` in the graph.

    Raises:
        GraphError, InPlaceError: as :func:`overwrite`.
    """
    if isinstance(target._node, Leaf):
        raise GraphError(
            f"{where}: a leaf that requires a gradient cannot be changed in place; "
            "use dg.no_grad() or a new tensor"
        )
    if target._aliases is UNTRACKED:
        raise InPlaceError(
            f"{where}: the tensor is a view of one in the graph that was made while nothing was recorded, so "
            "gradients cannot follow this change; clone() it first, or change it under dg.no_grad()"
        )
    if result.dtype != target.dtype:
        result = operations.astype(result, target.dtype)
    if target._aliases is not None:
        moved = [(view, _with_change(view, target, result, where)) for view in target._aliases.others(target)]
        for view, node in moved:
            _place(view, node)
    if isinstance(result._node, Node):
        _keep_old_values(result._node, target)
    _place(target, result._node)


def look_through(target: Tensor, view: Tensor, where: str) -> Tensor:
    """Let ``target`` look at its memory as a view of it does, and take the view's place in the graph.

    Args:
        target: what is changed.
        view: of its elements.
        where: the operation, for messages.

    Raises:
        GraphError: a leaf that requires a gradient, while operations are recorded.
    """
    if isinstance(target._node, Leaf):
        raise GraphError(
            f"{where}: a leaf that requires a gradient cannot be changed in place; use the operation that is "
            "not in place"
        )
    target._data = view._data
    _place(target, view._node)
    target.changed(describe_line(user_line()))
    return target


def _keep_old_values(node: Node, target: Tensor) -> None:
    """Let the operation, which may have saved what it is about to overwrite, save a copy."""
    cell = target._version
    if any(version is not None and version[0] is cell for version in node.versions):
        node.saved = _copied(node.saved, _owner(target._data))
        node.versions = tuple([v if v is None or v[0] is not cell else None for v in node.versions])


def _copied(value: Any, owner: Any) -> Any:
    """The saved values, those in the owner's memory copied."""
    if isinstance(value, tuple):
        return tuple([_copied(each, owner) for each in value])
    return value.copy() if _is_array(value) and _owner(value) is owner else value


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray) or x.__class__ in ARRAY_MODULES


def _owner(x: Any) -> Any:
    """The array that owns the memory."""
    while _is_array(x.base):
        x = x.base
    return x


def _place(tensor: Tensor, node: Any) -> None:
    before = tensor._node
    if isinstance(before, Node) and isinstance(node, Node):
        node.retained, before.retained = before.retained, None  # of the tensor, not of its old values
    tensor._node = node


def _with_change(view: Tensor, target: Tensor, result: Tensor, where: str) -> Any:
    """The node of ``view`` once ``result`` stands in the elements that it shares with ``target``."""
    keys = _shared_keys(view, target)
    if keys is None or (view._node is None and result._node is None):
        return view._node
    if isinstance(view._node, Leaf):
        raise GraphError(
            f"{where}: a view of a leaf that requires a gradient cannot be changed in place; "
            "use dg.no_grad() or a new tensor"
        )
    values = operations.reshape(make_tensor(result._data, result._node), (-1,))
    old = operations.reshape(make_tensor(view._data, view._node), (-1,))
    places, sources = keys
    new = operations.setitem(old, operations.getitem(values, sources), places)
    return operations.reshape(new, view.shape)._node


def _shared_keys(view: Tensor, target: Tensor) -> tuple[Any, Any] | None:
    """The keys of the elements that two tensors share, in each of them flattened; None if there are none.

    Of what holds no elements any may be shared; how many is all that counts there.
    """
    if target.device == META:
        every = slice(0, min(view.size, target.size))
        return every, every
    places, sources = _shared_elements(view._data, target._data)
    return (_as_key(places, target.device), _as_key(sources, target.device)) if places.size else None


def _shared_elements(view: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which elements of two arrays are the same memory: their places in each, both flattened."""
    ours, theirs = _addresses(view), _addresses(target)
    if theirs.size == 0:
        return theirs, theirs
    order = np.argsort(theirs)
    nearest = order[np.minimum(np.searchsorted(theirs, ours, sorter=order), theirs.size - 1)]
    places = np.flatnonzero(theirs[nearest] == ours)
    return places, nearest[places]


def _addresses(x: Any) -> np.ndarray:
    """The address of each element, in row order."""
    address = np.asarray(owner_of(x).address(x))
    for n, stride in zip(x.shape, x.strides, strict=True):
        address = address[..., None] + np.arange(n) * stride
    return address.reshape(-1)


def _as_key(places: np.ndarray, device: Device) -> Any:
    """Neighbouring places as a slice, which is read and written faster; others on the device as they are."""
    first, last = int(places[0]), int(places[-1])
    if np.array_equal(places, np.arange(first, last + 1)):
        return slice(first, last + 1)
    return to_device(places, device)


# -- methods


def in_place_operator(name: str) -> Callable[[Tensor, Any], Any]:
    """An operation of two arrays as the method behind an operator such as ``+=``."""
    operation = operations.__dict__[name]

    def operator(self: Tensor, other: Any) -> Any:
        if isinstance(other, OPERANDS):
            return overwrite(self, operation(self, other), name)
        return decline(other, name, "x2")

    return operator


def plain_key(key: Any, tensor: Tensor) -> Any:
    """An index into ``tensor`` as arrays understand it: tensors in it become arrays, and lists where it lies.

    Raises:
        DeviceError: an array that lies elsewhere.
    """
    if isinstance(key, tuple):
        return tuple([plain_key(part, tensor) for part in key])
    if isinstance(key, list):
        parts = [to_device(part._data, CPU) if isinstance(part, Tensor) else part for part in key]
        return to_device(np.asarray(parts, dtype=None if key else np.int64), tensor.device)
    if isinstance(key, Tensor):
        key = key._data
        if key.__class__ is np.ndarray and not key.ndim and key.dtype.kind in "iu":
            return int(key)  # which gives a view
    kind = key.__class__
    if kind is not tensor._data.__class__ and kind in ARRAY_MODULES:
        raise DeviceError(
            f"index: the tensor lies on {tensor.device}, got an index on {device_of(key)}; move it with "
            f".to('{tensor.device}')"
        )
    return key


_BASIC = frozenset({int, slice, type(None), EllipsisType})


def in_two(key: Any) -> tuple[Any, Any] | None:
    """A key of numbers and arrays apart from each other as that of numbers and slices, and that of arrays.

    To PyTorch the numbers are taken first. To NumPy they count among the arrays, whose common axis comes
    first where they do not stand side by side. None where there is nothing to part, and where scalars are not
    PyTorch's.

    Args:
        key: of :func:`plain_key`.
    """
    if not WEAK or key.__class__ is not tuple or len(key) < 3:
        return None
    if all(part.__class__ in _BASIC for part in key) or not any(map(_is_number, key)):
        return None
    first: list[Any] = []
    rest: list[Any] = []
    for part in key:
        if part.__class__ in _BASIC or _is_number(part):
            first.append(part)
            if not _is_number(part):
                rest.append(Ellipsis if part is Ellipsis else slice(None))
        else:
            mask = isinstance(part, bool) or part.dtype.kind == "b"
            first += [slice(None)] * (getattr(part, "ndim", 0) if mask else 1)
            rest.append(part)
    return tuple(first), tuple(rest)


def _is_number(part: Any) -> bool:
    return isinstance(part, int | np.integer) and not isinstance(part, bool)


def _setitem(self: Tensor, key: Any, value: Any, /) -> None:
    """Replace a part of the tensor in place."""
    key = plain_key(key, self)
    if (apart := in_two(key)) is not None:
        operations.getitem(self, apart[0])[apart[1]] = value
        return
    if modes.grad and (_in_graph(self) or getattr(value, "_node", None) is not None):
        overwrite(self, operations.setitem(self, value, key), "setitem")
        return
    if value is None:
        raise DTypeError("setitem: expected a tensor, an array or a number, got None")
    array = value._data if isinstance(value, Tensor) else native(value)
    if array.__class__ in ARRAY_MODULES and array.__class__ is not self._data.__class__:
        check_devices(REGISTRY["setitem"], (self._data, array))
    try:
        self._data[key] = array
    except Exception as error:
        raise explain(REGISTRY["setitem"], error, (self._data, array)) from error
    self.changed(describe_line(user_line()))


def _in_graph(tensor: Tensor) -> bool:
    """Whether a change of its elements may concern gradients."""
    if tensor._node is not None or tensor._aliases is UNTRACKED:
        return True
    views = tensor._aliases.others(tensor) if tensor._aliases is not None else []
    return any(view._node is not None for view in views)


def _fill(self: Tensor, value: Any) -> Tensor:
    """Set every element to ``value``, a number or a tensor with one element; returns the tensor."""
    if getattr(value, "ndim", 0):
        raise ShapeError(f"fill_: expected a number, got a tensor of shape {list(value.shape)}; use copy_")
    return overwrite(self, operations.setitem(self, value, ...), "fill_")


def _zero(self: Tensor) -> Tensor:
    """Set every element to 0; returns the tensor."""
    return overwrite(self, operations.setitem(self, 0, ...), "zero_")


def _copy(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Set the elements to those of ``src``, from any device, broadcast and converted; returns the tensor."""
    if isinstance(src, Tensor):
        src = moved(src, self.device)
    return overwrite(self, operations.setitem(self, src, ...), "copy_")


def in_place_methods() -> dict[str, Any]:
    """The methods that change the tensor and are no operation written into it, by name."""
    return {"__setitem__": _setitem, "copy_": _copy, "fill_": _fill, "zero_": _zero}
