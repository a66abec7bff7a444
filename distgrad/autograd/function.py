"""Operations that users write, with a gradient of their own."""

from __future__ import annotations

import abc
import weakref
from typing import Any

from distgrad.autograd.dispatch import as_array, operations
from distgrad.autograd.graph import Node, OutputNode
from distgrad.autograd.inplace import move_in_graph
from distgrad.autograd.lines import user_line
from distgrad.autograd.modes import modes, no_grad
from distgrad.autograd.tensor import FLOATING, Tensor, make_tensor, share
from distgrad.errors import DTypeError, GraphError

__all__ = ["Function", "FunctionContext"]


class FunctionContext:
    """What ``forward`` and ``backward`` of a :class:`Function` share; attributes may be set on it freely.

    Attributes:
        needs_input_grad: for each argument of ``forward`` whether it requires a gradient.
    """

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self._to_save: tuple[Any, ...] = ()
        self._dirty: tuple[Tensor, ...] = ()
        self._constants: tuple[Tensor, ...] = ()
        self._materialize = True
        self._saved: list[tuple[Any, Any]] = []  # array, and its node or the number of the output that it is
        self._node: Any = None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs or results of ``forward``; ``saved_tensors`` gives them back in ``backward``."""
        self._to_save = tensors

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Say that ``forward`` changed these arguments in place; it must return them too."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say that these results have no gradient."""
        self._constants = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether ``backward`` gets zeros (True, as it starts) or None for a result that nothing used."""
        self._materialize = value

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What was kept, with its place in the graph."""
        out: list[Tensor | None] = []
        for array, source in self._saved:
            if isinstance(source, int):
                node = self._node
                source = node if node.outputs is None else OutputNode(node, source)
            out.append(None if array is None else make_tensor(array, source))
        return tuple(out)


class Function(abc.ABC):
    """An operation with a gradient of its own: write ``forward`` and ``backward``, call ``apply``.

    ::

        class Cube(dg.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * x * x

            @staticmethod
            def backward(ctx, g):
                (x,) = ctx.saved_tensors
                return 3.0 * x * x * g

        y = Cube.apply(x)

    Nothing inside ``forward`` is recorded. ``backward`` gets a gradient for each result and returns one for
    each argument of ``forward``, None for those without. What it computes with tensor operations can be
    differentiated again.
    """

    @staticmethod
    @abc.abstractmethod
    def forward(ctx: FunctionContext, *args: Any) -> Any:
        """Compute the results, a tensor or a tuple."""

    @staticmethod
    @abc.abstractmethod
    def backward(ctx: FunctionContext, *grad_outputs: Any) -> Any:
        """The gradients of the arguments from those of the results."""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run ``forward`` and record it.

        Args:
            args: what ``forward`` takes after ``ctx``; tensors among them may require a gradient.
        """
        ctx = FunctionContext(tuple(isinstance(x, Tensor) and x.requires_grad for x in args))
        edges = tuple(x._node if isinstance(x, Tensor) else None for x in args)
        with no_grad():
            results = cls.forward(ctx, *args)
        outs = list(results) if isinstance(results, tuple | list) else [results]
        for tensor in ctx._dirty:
            if not any(out is tensor for out in outs):
                raise GraphError(f"{cls.__name__}: forward marked a tensor dirty that it did not return")
            tensor.changed(cls.__name__)
        if modes.grad and any(edges):
            node = _recorded_node(cls, ctx, args, edges, outs)
            outs = [_result(cls, ctx, node, args, outs, place) for place in range(len(outs))]
        return tuple(outs) if isinstance(results, tuple | list) else outs[0]


class _FunctionNode(Node):
    __slots__ = ("__weakref__",)


def _recorded_node(
    cls: type[Function], ctx: FunctionContext, args: tuple[Any, ...], edges: tuple[Any, ...], outs: list[Any]
) -> Node:
    """The node of one call, with what ``forward`` saved."""
    metas = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else None for x in args)
    node = _FunctionNode(None, edges, metas, (ctx,))
    node.op = _Call(cls, node)
    node.line = user_line()
    if len(outs) != 1:
        node.outputs = tuple(
            (out.shape, out.dtype) if isinstance(out, Tensor) and ctx._materialize else None for out in outs
        )
    for tensor in ctx._to_save:
        if tensor is not None and not isinstance(tensor, Tensor):
            raise DTypeError(
                f"{cls.__name__}: save_for_backward takes tensors, got {type(tensor).__name__}; "
                "set anything else as an attribute of ctx"
            )
        ctx._saved.append((None if tensor is None else tensor._data, _source(tensor, edges, args, outs)))
    node.versions = tuple((t._version, t._version[0]) for t in ctx._to_save if t is not None)
    ctx._to_save = ()  # results among them lead back to this node
    if modes.grad is not True:
        modes.grad.recorded(node, [out._data for out in outs if isinstance(out, Tensor)])
    return node


def _source(tensor: Any, edges: tuple[Any, ...], args: tuple[Any, ...], outs: list[Any]) -> Any:
    """Where a saved tensor comes from: the number of a result, the node of an argument, or None."""
    for place, out in enumerate(outs):
        if out is tensor and tensor is not None:
            return place
    return next((edge for edge, x in zip(edges, args, strict=True) if x is tensor), None)


def _result(
    cls: type[Function], ctx: FunctionContext, node: Node, args: tuple[Any, ...], outs: list[Any], place: int
) -> Any:
    """What ``apply`` returns for one of forward's results."""
    out = outs[place]
    if not isinstance(out, Tensor):
        return out
    constant = out.dtype.char not in FLOATING or any(out is each for each in ctx._constants)
    source = None if constant else node if node.outputs is None else OutputNode(node, place)
    if any(out is tensor for tensor in ctx._dirty):
        move_in_graph(out, make_tensor(out._data, source), cls.__name__)
        return out
    result = make_tensor(out._data)
    if any(out is x for x in args):
        share(result, out, out._data)
    else:
        result._version, result._aliases = out._version, out._aliases
        if result._aliases is not None:
            result._aliases.add(result)
    result._node = source
    return result


class _Call:
    """One call of a function, in the place of a primitive in its node."""

    def __init__(self, cls: type[Function], node: _FunctionNode) -> None:
        self.name = cls.__name__
        self._cls = cls
        self._node = weakref.ref(node)

    def backward(
        self, xp: Any, g: Any, saved: tuple[Any, ...], edges: tuple[Any, ...], walk: Any
    ) -> list[Any]:
        """Call the user's ``backward``, on tensors."""
        if self._cls.backward is Function.backward:
            raise GraphError(f"{self.name}: the function has no backward; define it as a static method")
        (ctx,) = saved
        on_tensors = xp is operations
        gs = g if isinstance(g, tuple) else (g,)
        gs = gs if on_tensors else tuple(None if each is None else Tensor(as_array(each)) for each in gs)
        ctx._node = self._node()
        try:
            returned = self._cls.backward(ctx, *gs)
        finally:
            ctx._node = None
        gradients = list(returned) if isinstance(returned, tuple | list) else [returned]
        count = len(edges)
        if len(gradients) < count or any(each is not None for each in gradients[count:]):
            raise GraphError(
                f"{self.name}: backward returned {len(gradients)} gradients, but forward takes "
                f"{count} arguments; return one for each, None for those without a gradient"
            )
        for place, gradient in enumerate(gradients[:count]):
            if gradient is not None and not isinstance(gradient, Tensor):
                raise DTypeError(
                    f"{self.name}: backward must return tensors or None, got {type(gradient).__name__} "
                    f"for argument {place}"
                )
        return [each if on_tensors or each is None else each._data for each in gradients[:count]]
