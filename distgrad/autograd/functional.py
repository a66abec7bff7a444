"""Differentiation: ``backward`` and ``grad``."""

from __future__ import annotations

import operator
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.codegen import retained_names
from distgrad.autograd.dispatch import as_array, numpy_module, operations, operations_for
from distgrad.autograd.graph import Arithmetic, Leaf, Node, OutputNode, run_backward
from distgrad.autograd.modes import modes
from distgrad.autograd.primitive import Primitive
from distgrad.autograd.tensor import Tensor, make_tensor
from distgrad.backend.array_module import ARRAY_MODULES, HOST_ARRAYS
from distgrad.backend.device import follow
from distgrad.errors import DTypeError, GraphError, ShapeError
from distgrad.tracebacks import warn_once

__all__ = ["backward", "grad"]


def _surplus_axes(
    g_shape: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of a gradient that broadcasting added, and those that it lengthened from 1.

    Raises:
        ShapeError: a gradient whose shape cannot come from broadcasting ``shape``.
    """
    added = len(g_shape) - len(shape)
    lengthened = tuple(
        i + added for i, n in enumerate(shape) if added >= 0 and n == 1 and g_shape[i + added] != 1
    )
    if added < 0 or any(n != g_shape[i + added] for i, n in enumerate(shape) if i + added not in lengthened):
        raise ShapeError(f"the gradient is {list(g_shape)} but the input is {list(shape)}")
    return tuple(range(added)), lengthened


class ArrayArithmetic:
    """Gradients as plain arrays: they are not differentiated again."""

    array_modules: dict[type, Any] = {np.ndarray: numpy_module}  # noqa: RUF012
    unpack: Any = None  # saved arrays are taken as they are
    writes = True
    add = staticmethod(operator.add)  # in new memory: either may be shared with another path

    def choose(self, like: Any) -> Any:
        """A device's array module; NumPy's for its scalars, which small sums turn into."""
        xp = ARRAY_MODULES.get(like.__class__)
        if xp is None:
            return numpy_module
        follow(like)
        return xp

    def _xp(self, g: Any) -> Any:
        return ARRAY_MODULES.get(g.__class__, numpy_module)

    def fit(self, g: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """Sum over what broadcasting added, and convert."""
        if g.shape != shape:
            added, lengthened = _surplus_axes(g.shape, shape)
            if added or lengthened:
                g = self._xp(g).sum(g, axis=added + lengthened).reshape(shape)
        if g.dtype.kind == "c" and dtype.kind != "c":
            g = g.real  # a real input moves along the real axis alone
        return g if g.dtype == dtype else g.astype(dtype)

    def zeros(self, meta: tuple[Any, Any], like: Any) -> Any:
        """Zeros for an output that nothing used."""
        return self._xp(like).zeros(meta[0], dtype=meta[1])

    def tensor(self, g: Any) -> Tensor:
        """Wrap for a hook."""
        return Tensor(as_array(g))

    def value(self, g: Any) -> Any:
        """Unwrap what a hook returned."""
        return g._data if isinstance(g, Tensor) else g

    def accumulate(self, leaf: Leaf, g: Any) -> None:
        """Write into the leaf's buffer, or add to what is there."""
        xp = self._xp(g)
        if leaf.scale == 0.0:
            g = 0.0  # also where the gradient of no samples is NaN
        if leaf.grad is not None:
            grad = leaf.grad._data
            xp.add(grad, g if leaf.scale == 1.0 else g * leaf.scale, out=grad)
            leaf.grad.changed("backward")
        elif leaf.buffer is not None:
            if g is not leaf.buffer or leaf.scale != 1.0:
                xp.multiply(g, leaf.scale, out=leaf.buffer)
            leaf.grad = Tensor(leaf.buffer)
        else:
            leaf.grad = Tensor(as_array(g).copy())


class TensorArithmetic:
    """Gradients as tensors: they can be differentiated again."""

    array_modules: dict[type, Any] = {}  # noqa: RUF012
    writes = False

    def choose(self, like: Any) -> Any:
        """The operations of the device where the gradient lies."""
        return operations_for(like._data) if isinstance(like, Tensor) else operations

    def unpack(self, node: Node) -> tuple[Any, ...]:
        """Saved arrays as tensors with their place in the graph."""
        record = node.op
        saved: tuple[Any, ...] = node.saved
        if not isinstance(record, Primitive):
            return saved
        out: list[Any] = []
        for name, value in zip(retained_names(record), saved, strict=True):
            if value is None or name in record.attributes:
                out.append(value)
            elif name == "y" and node.outputs is not None:
                out.append(tuple(make_tensor(v, OutputNode(node, i)) for i, v in enumerate(value)))
            elif name == "y":
                out.append(make_tensor(value, node))
            elif name not in record.inputs:
                out.append(value)
            elif record.variadic:
                out.append(tuple(make_tensor(v, e) for v, e in zip(value, node.edges, strict=True)))
            elif isinstance(value, int | float | complex):
                out.append(value)
            else:
                out.append(make_tensor(value, node.edges[record.inputs.index(name)]))
        return tuple(out)

    def add(self, x: Tensor, y: Tensor, /) -> Tensor:
        """The recorded sum."""
        return operations.add(x, y)

    def fit(self, g: Tensor, shape: tuple[int, ...], dtype: Any) -> Tensor:
        """Sum over what broadcasting added, and convert."""
        if g.shape != shape:
            added, lengthened = _surplus_axes(g.shape, shape)
            if added or lengthened:
                g = operations.reshape(operations.sum(g, axis=added + lengthened), shape)
        if g.dtype.kind == "c" and dtype.kind != "c":
            g = operations.real(g)
        return g if g.dtype == dtype else operations.astype(g, dtype)

    def zeros(self, meta: tuple[Any, Any], like: Tensor) -> Tensor:
        """Zeros for an output that nothing used."""
        return Tensor(_ON_ARRAYS.zeros(meta, getattr(like, "_data", like)))

    def tensor(self, g: Tensor) -> Tensor:
        """As it is."""
        return g

    def value(self, g: Any) -> Any:
        """As it is."""
        return g

    def accumulate(self, leaf: Leaf, g: Tensor) -> None:
        """Add to what is there, as a new tensor with its graph."""
        if leaf.scale != 1.0:
            g = g * leaf.scale if leaf.scale else operations.zeros_like(g)
        leaf.grad = g if leaf.grad is None else operations.add(leaf.grad, g)


def _one(like: Any) -> Any:
    """The gradient of a loss: 1, where and as the loss is."""
    if like.__class__ in HOST_ARRAYS:
        return np.array(1, like.dtype).reshape(like.shape)
    return _ON_ARRAYS.choose(like).ones(like.shape, dtype=like.dtype)


def _seeds(
    outputs: Sequence[Tensor], gradients: Any, where: str, create_graph: bool
) -> list[tuple[Any, Any]]:
    """(node, gradient) of each output."""
    if gradients is None:
        gradients = [None] * len(outputs)
    elif not isinstance(gradients, Sequence):
        gradients = [gradients]
    if len(gradients) != len(outputs):
        raise GraphError(f"{where}: expected {len(outputs)} gradients, one an output, got {len(gradients)}")
    seeds = []
    for output, gradient in zip(outputs, gradients, strict=True):
        if output._node is None:
            raise GraphError(f"{where}: the tensor does not require a gradient and has no graph")
        if gradient is None:
            if output.size != 1:
                raise ShapeError(
                    f"{where}: a gradient must be given for a tensor of shape {list(output.shape)}; "
                    "without one the tensor must have one element"
                )
            if output.dtype.kind == "c":
                raise DTypeError(
                    f"{where}: a gradient must be given for a complex tensor; a loss is real: take its real "
                    "part, or abs()"
                )
            ones = _one(output._data)
            seeds.append((output._node, Tensor(ones) if create_graph else ones))
            continue
        if not isinstance(gradient, Tensor):
            raise DTypeError(f"{where}: gradient must be a Tensor, got {type(gradient).__name__}")
        if gradient.shape != output.shape:
            raise ShapeError(
                f"{where}: gradient is {list(gradient.shape)} but the tensor is {list(output.shape)}"
            )
        if gradient.dtype.kind == "c" and output.dtype.kind != "c":
            raise DTypeError(f"{where}: gradient is {gradient.dtype} but the tensor {output.dtype}")
        value = gradient if create_graph else gradient._data
        if gradient.dtype != output.dtype:
            value = operations.astype(value, output.dtype) if create_graph else value.astype(output.dtype)
        seeds.append((output._node, value))
    return seeds


def _run(
    outputs: Sequence[Tensor],
    gradients: Any,
    where: str,
    create_graph: bool,
    retain_graph: bool | None,
    wanted: dict[Any, Any] | None = None,
    accumulate: bool = True,
) -> bool:
    """Walk the graph in the grad mode that the gradients' own graph needs, as :func:`run_backward`."""
    arithmetic: Arithmetic = _ON_TENSORS if create_graph else _ON_ARRAYS
    before = modes.grad
    modes.grad = create_graph and modes.recording
    try:
        return run_backward(
            _seeds(outputs, gradients, where, create_graph),
            arithmetic,
            retain_graph=create_graph if retain_graph is None else retain_graph,
            wanted=wanted,
            accumulate=accumulate,
            check=modes.check,
        )
    finally:
        modes.grad = before


_NAN_SHARE = 3  # a NaN weighs as much as three numbers, so that one of several losses in turn is found
_NAN_STEPS = 10  # at least; single ones pass, as where a scaler of gradients looks for its scale


class _Watch(threading.local):
    """What a thread, which may be a rank, knows of its losses.

    Attributes:
        weight: that of the NaN less the number of others, of late.
    """

    weight = 0


_watch = _Watch()


def _watch_loss(loss: Any) -> None:
    """Warn of a loss on the host that is NaN again and again; one on a GPU would have to be waited for."""
    if loss.__class__ is not np.ndarray or loss.size != 1:
        return
    value = loss.item()
    if value == value:  # as NaN does not
        _watch.weight -= _watch.weight > 0
        return
    _watch.weight += _NAN_SHARE
    if _watch.weight >= _NAN_SHARE * _NAN_STEPS:
        warn_once(
            "NaN",
            f"backward: of late {_NAN_STEPS} losses or more were NaN, which is more than one in "
            f"{_NAN_SHARE + 1}, and nothing is learnt from these; lower the lr or clip gradients "
            "(nn.utils.clip_grad_norm_), and find where it begins with dg.autograd.detect_anomaly()",
        )


_ON_ARRAYS = ArrayArithmetic()
_ON_TENSORS = TensorArithmetic()


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add the gradients of ``tensors`` to the ``grad`` of the leaves that they were computed from.

    Args:
        tensors: one tensor or several.
        grad_tensors: a gradient for each, of its shape; None where the tensor has one element (a loss).
        retain_graph: keep the graph for another call; None means only if ``create_graph``.
        create_graph: record the gradients' own computation, so that they can be differentiated.
        inputs: the tensors whose ``grad`` to add to, leaves or results; None means all leaves.

    Raises:
        GraphError: a tensor without a graph, or a graph that was freed.
        InPlaceError: a value that is needed was changed in place.
        ShapeError: a gradient that does not fit its tensor.
    """
    outputs = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if inputs is None:
        if _run(outputs, grad_tensors, "backward", create_graph, retain_graph) and outputs:
            _watch_loss(outputs[0]._data)
        return
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if not inputs:
        raise GraphError("backward: inputs is empty; leave it out to add to all leaves")
    wanted: dict[Any, Any] = dict.fromkeys(_targets(inputs, "backward"))
    if _run(outputs, grad_tensors, "backward", create_graph, retain_graph, wanted) and outputs:
        _watch_loss(outputs[0]._data)
    arithmetic = _ON_TENSORS if create_graph else _ON_ARRAYS
    for tensor in inputs:
        if isinstance(tensor._node, Node) and wanted[tensor._node] is not None:
            arithmetic.accumulate(tensor.leaf_state(), wanted[tensor._node])


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """The gradients of ``outputs`` with respect to ``inputs``; nothing is added to any ``grad``.

    Args:
        outputs: one tensor or several.
        inputs: one tensor or several, leaves or results.
        grad_outputs: as ``grad_tensors`` of :func:`backward`.
        retain_graph, create_graph: as in :func:`backward`.
        allow_unused: return None for an input that the outputs do not depend on, instead of an error; None
            means only if ``materialize_grads``.
        materialize_grads: return zeros for such an input.

    Returns:
        One gradient an input.

    Raises:
        GraphError: an input that is not in the graph.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if materialize_grads and allow_unused is False:
        raise GraphError(
            "grad: materialize_grads=True returns zeros for unused inputs; leave allow_unused out"
        )
    targets = _targets(inputs, "grad")
    wanted: dict[Any, Any] = dict.fromkeys(targets)
    _run(outputs, grad_outputs, "grad", create_graph, retain_graph, wanted, accumulate=False)
    arithmetic = _ON_TENSORS if create_graph else _ON_ARRAYS
    out = []
    for place, (tensor, target) in enumerate(zip(inputs, targets, strict=True)):
        g = wanted[target]
        if g is None and materialize_grads:
            g = arithmetic.zeros((tensor.shape, tensor.dtype), tensor._data)
        elif g is None and not allow_unused:
            raise GraphError(
                f"grad: the outputs do not depend on input {place}; pass allow_unused=True to get None for it"
            )
        out.append(None if g is None else arithmetic.tensor(g))
    return tuple(out)


def _targets(inputs: Sequence[Tensor], where: str) -> list[Any]:
    for place, tensor in enumerate(inputs):
        if tensor._node is None:
            raise GraphError(f"{where}: input {place} does not require a gradient")
    return [tensor._node for tensor in inputs]


def _backward_method(
    self: Tensor,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradient of this tensor to its leaves; see :func:`distgrad.autograd.backward`."""
    backward(self, gradient, retain_graph, create_graph, inputs)


Tensor.backward = _backward_method  # type: ignore[method-assign, assignment]
