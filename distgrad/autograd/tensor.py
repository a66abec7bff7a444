"""The tensor: an array, and the place in the graph that it came from.

Operators and methods are attached in ``methods.py``, once the operations that they call exist.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from distgrad.autograd.casting import meet
from distgrad.autograd.graph import Leaf, Node
from distgrad.autograd.modes import modes
from distgrad.autograd.porting import Shape, Size
from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.backend.device import Device, device_of, native
from distgrad.errors import DeviceError, DTypeError, GraphError

__all__ = [
    "DIFFERENTIABLE",
    "FLOATING",
    "OPERANDS",
    "UNTRACKED",
    "Aliases",
    "RemovableHandle",
    "Tensor",
    "class_at",
    "constant",
    "decline",
    "home_of",
    "make_tensor",
    "share",
    "show_as",
]

FLOATING = "efdE"
DIFFERENTIABLE = "efdEFD"
_NUMBERS = (int, float, complex, bool)
_WEAKENED: dict[type, Callable[..., Any]] = {np.float64: float, np.complex128: complex}


class RemovableHandle:
    """What registering a hook returns; ``remove()`` takes the hook away again."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks = hooks
        self._hook = hook

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        hooks, self._hooks = self._hooks, []  # the same hook may be registered twice
        if self._hook in hooks:
            hooks.remove(self._hook)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class Aliases:
    """The living tensors that are views of the same elements and have their place in the graph by them.

    A change in place of one gives all of them new places (see :mod:`distgrad.autograd.inplace`).
    """

    __slots__ = ("_limit", "_references", "first_owns")

    def __init__(self, tensor: Tensor) -> None:
        self._references = [weakref.ref(tensor)]
        self.first_owns = tensor._data.base is None  # whether the others' memory is that of the first's array
        self._limit = 8

    def add(self, tensor: Tensor) -> None:
        """Let ``tensor`` be one of them."""
        self._references.append(weakref.ref(tensor))
        if len(self._references) > self._limit:
            self._references = [each for each in self._references if each() is not None]
            self._limit = 2 * len(self._references) + 8

    def others(self, tensor: Tensor) -> list[Tensor]:
        """All but ``tensor``."""
        living = [each() for each in self._references]
        return [each for each in living if each is not None and each is not tensor]


if TYPE_CHECKING:
    from distgrad.autograd.declared import Declared

    _Attached = Declared["Tensor"]
else:
    _Attached = object


class Tensor(_Attached):
    """An n-dimensional array whose operations can be differentiated.

    Make one with ``dg.tensor``, ``dg.asarray``, ``dg.zeros`` and the like; the constructor wraps an existing
    array without a copy.

    Args:
        data: a NumPy or CuPy array.
        requires_grad: whether ``backward`` shall leave a gradient in ``grad``.
    """

    __array_priority__ = 1000  # CuPy's operators give way to it; NumPy's know __array_ufunc__
    __slots__ = ("__dict__", "__weakref__", "_aliases", "_data", "_leaf", "_node", "_version")

    _data: Any
    _node: Any  # Node of the operation that made it; Leaf of one that wants a gradient; None of a constant
    _leaf: Leaf | None
    #: Changes in place that backward counts, where the last was, and, once the elements were reached through
    #: ``data``, a list with the number of all changes, which the tensors with these elements share.
    _version: list[Any]
    _aliases: Aliases | None  # the tensors that are views of the same elements, itself among them

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if data.__class__ is not np.ndarray:
            if not hasattr(data, "dtype"):
                raise DTypeError(f"Tensor: expected an array, got {type(data).__name__}; use dg.tensor")
            data = np.asarray(data) if isinstance(data, np.generic) else data  # what sums of arrays give
        data = native(data)
        if data.dtype.char == "E":
            meet(data.dtype)
        self._data = data
        self._version = [0]
        self._node = None
        self._leaf = None
        self._aliases = None
        if requires_grad:
            self.requires_grad_()

    # -- what it is

    @property
    def shape(self) -> Shape:
        """Lengths of the axes."""
        return Shape(self._data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._data.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        size = Size(self._data.size)
        size.shape = self._data.shape
        return size

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self._data.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._data.nbytes

    @property
    def device(self) -> Device:
        """Where the elements lie."""
        return device_of(self._data)

    # -- its place in the graph

    @property
    def requires_grad(self) -> bool:
        """Whether operations on it are recorded."""
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for a gradient, or stop asking; returns the tensor.

        Raises:
            DTypeError: a dtype that is not floating-point.
            GraphError: switching it off on the result of an operation.
        """
        if requires_grad:
            if self._node is None:
                if self._data.dtype.char not in DIFFERENTIABLE:
                    raise DTypeError(
                        f"requires_grad_: gradients need a floating dtype, got {self.dtype}; "
                        "convert with .astype(dg.float32) first"
                    )
                self._node = self.leaf_state()
        elif self._node is not None:
            if not self.is_leaf:
                raise GraphError(
                    f"requires_grad_: cannot switch off on the result of {self._node.op.name}; use detach()"
                )
            self._node = None
        return self

    def leaf_state(self) -> Leaf:
        """The gradient's home, made when first asked for."""
        if self._leaf is None:
            self._leaf = Leaf(self)
        return self._leaf

    @property
    def is_leaf(self) -> bool:
        """Whether it was made by the user rather than by a recorded operation."""
        return not isinstance(self._node, Node)

    @property
    def grad_fn(self) -> Node | None:
        """The node of the operation that made it; None for a leaf."""
        return self._node if isinstance(self._node, Node) else None

    @property
    def grad(self) -> Tensor | None:
        """The gradient that ``backward`` left here; None before."""
        return None if self._leaf is None else self._leaf.grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise DTypeError(f"grad: expected a Tensor or None, got {type(value).__name__}")
            if value.shape != self.shape or value.dtype != self.dtype:
                raise GraphError(
                    f"grad: expected {self.dtype}{list(self.shape)}, got {value.dtype}{list(value.shape)}"
                )
            if value._data.__class__ is not self._data.__class__ or value.device != self.device:
                raise DeviceError(
                    f"grad: the tensor lies on {self.device}, got a gradient on {value.device}; move it with "
                    f".to('{self.device}')"
                )
        leaf = self.leaf_state()
        if value is not None and leaf.buffer is not None and value._data is not leaf.buffer:
            leaf.buffer[...] = value._data
            value = Tensor(leaf.buffer)
        leaf.grad = value

    def detach(self) -> Tensor:
        """The same elements, in the same memory, outside the graph."""
        out = Tensor(self._data)
        out._version = self._version
        return out

    def detach_(self) -> Tensor:
        """Take the tensor itself out of the graph; returns it.

        Raises:
            GraphError: a tensor with views, which the graph may lead to.
        """
        if self._aliases is not None and self._aliases.others(self):
            raise GraphError("detach_: other tensors are views of the same elements; use detach()")
        self._node = self._aliases = None
        return self

    @property
    def data(self) -> Tensor:
        """The same elements outside the graph; assigning replaces them, by others of any shape and dtype.

        Writes through it are, unlike those through :meth:`detach`, not noticed by backward, which uses
        the new elements.
        """
        out = self.detach()
        cell = out._version
        if len(cell) < 3:
            cell[:] = [cell[0], cell[-1], [cell[0]]]
        out._version = [0, "data", cell[2]]
        return out

    @data.setter
    def data(self, value: Any) -> None:
        array = value._data if isinstance(value, Tensor) else native(value)
        if self._leaf is not None and self._leaf.flat is not None:
            if (array.shape, array.dtype, device_of(array)) != (self.shape, self.dtype, self.device):
                raise GraphError(
                    f"data: the elements lie in a flat buffer, {self.dtype}{list(self.shape)} on "
                    f"{self.device}; got {array.dtype}{list(array.shape)} on {device_of(array)}"
                )
            self._data[...] = array
        elif self._node is not None and array.dtype.char not in DIFFERENTIABLE:
            raise DTypeError(f"data: the tensor requires a gradient, and {array.dtype} has none")
        else:
            self._data = array
            self._aliases = None
        self.changed("data")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        """What PyTorch itself calls where one of its functions gets our tensor.

        Raises:
            DTypeError: always, as it would compute without the gradient.
        """
        raise DTypeError(
            f"torch.{getattr(function, '__name__', 'function')}: got a tensor of distgrad's among PyTorch's "
            "own; convert with torch.from_dlpack(x), or torch.from_numpy(x.numpy())"
        )

    def _overwrite(self, values: Any) -> None:
        """Set the elements, where they lie, to an array's on the same device, or to a number."""
        self._data[...] = values

    def changed(self, where: str) -> None:
        """Note that the elements were changed in place, so that backward can tell."""
        cell = self._version
        if len(cell) == 2:  # as a rule
            cell[0] += 1
            cell[1] = where
            return
        cell[:2] = [cell[0] + 1, where]
        if len(cell) > 2:
            cell[2][0] += 1

    def _num_changes(self) -> int:
        """How often the elements were changed in place, through :attr:`data` included."""
        cell = self._version
        return cast(int, cell[2][0] if len(cell) > 2 else cell[0])

    def retain_grad(self) -> None:
        """Keep the gradient of an operation's result in ``grad`` too.

        Raises:
            GraphError: a tensor that needs no gradient.
        """
        if self._node is None:
            raise GraphError("retain_grad: the tensor needs no gradient")
        if isinstance(self._node, Node):
            reference = weakref.ref(self)

            def retain(g: Tensor) -> None:
                tensor = reference()
                if tensor is not None:
                    tensor.grad = g if tensor.grad is None else tensor.grad + g

            self._node.retained = retain

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call ``hook(gradient)`` in backward; what it returns, unless None, takes the gradient's place.

        Raises:
            GraphError: a tensor that needs no gradient.
        """
        if self._node is None:
            raise GraphError("register_hook: the tensor needs no gradient")
        if self._node.hooks is None:
            self._node.hooks = []
        self._node.hooks.append(hook)
        return RemovableHandle(self._node.hooks, hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``hook(tensor)`` once its ``grad`` is complete.

        Raises:
            GraphError: the result of an operation.
        """
        if not self.is_leaf or self._node is None:
            raise GraphError("register_post_accumulate_grad_hook: only for leaves that require a gradient")
        leaf = self.leaf_state()
        if leaf.post_hooks is None:
            leaf.post_hooks = []
        leaf.post_hooks.append(hook)
        return RemovableHandle(leaf.post_hooks, hook)


#: What an operator takes on its other side.
OPERANDS = (Tensor, np.ndarray, np.generic, *_NUMBERS)


def make_tensor(data: Any, node: Any = None) -> Tensor:
    """A tensor around an array, with its place in the graph."""
    out = _new(Tensor)  # less than half of what the constructor costs
    out._data = data
    out._node = node
    out._version = [0]
    out._leaf = out._aliases = None
    return out


_new = object.__new__


class _Untracked(Aliases):
    def __init__(self) -> None:
        self._references, self.first_owns = [], False

    def add(self, tensor: Tensor) -> None:
        pass


#: Marks a view of a tensor in the graph that was made while nothing was recorded: it counts as a constant.
UNTRACKED = _Untracked()


def share(out: Tensor, x: Any, v: Any) -> None:
    """Let ``out`` count as a view of ``x``, whose array is ``v``, if they share memory."""
    base = out._data
    while base is not None and base is not v and base is not v.base:
        base = getattr(base, "base", None)
    if base is None or not isinstance(x, Tensor):
        out._version = [0]
        out._aliases = None
        return
    out._version = x._version
    aliases = x._aliases
    if x._node is not None and not modes.grad:
        aliases = UNTRACKED
    elif aliases is None:
        aliases = x._aliases = Aliases(x)
    out._aliases = aliases
    aliases.add(out)


def decline(value: Any, where: str, name: str) -> Any:
    """What an operator returns for an operand that it does not know, so that Python asks that one.

    Raises:
        DTypeError: another library's tensor, which would not know ours either.
    """
    return constant(value, where, name) if hasattr(value, "__dlpack__") else NotImplemented


def constant(value: Any, where: str, name: str) -> Any:
    """What a formula gets for an argument that is no Tensor: an array as it is, a Python number as it is.

    Raises:
        DTypeError: anything else.
    """
    if value.__class__ in ARRAY_MODULES:
        return native(value)
    if isinstance(value, _NUMBERS):  # NumPy's, that are Python's too, would be strong
        return _WEAKENED[value.__class__](value) if value.__class__ in _WEAKENED else value
    if isinstance(value, np.ndarray | np.generic):  # a subclass, or a scalar that knows its dtype
        return np.asarray(native(value))
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    way = "convert with dg.from_dlpack" if hasattr(value, "__dlpack__") else "convert with dg.asarray first"
    raise DTypeError(f"{where}: {name} must be a Tensor, an array or a number, got {kind}; {way}")


#: Where classes lie that are shown as another module's.
_HOMES: dict[type, str] = {}


def show_as(kind: type[Tensor], module: str) -> None:
    """Let a class of tensors name another module as its own, as libraries look for it in ``str(type(x))``.

    What is pickled names the place where the class lies.

    Args:
        kind: the class.
        module: the name.
    """
    _HOMES.setdefault(kind, f"{kind.__module__}.{kind.__qualname__}")
    kind.__module__ = module


def home_of(kind: type[Tensor]) -> Any:
    """What is pickled for a class: itself, or the name of the place where it lies."""
    return _HOMES.get(kind, kind)


def class_at(home: Any) -> Any:
    """The class, of what :func:`home_of` gave."""
    if not isinstance(home, str):
        return home
    module, _, name = home.rpartition(".")
    return getattr(importlib.import_module(module), name)
