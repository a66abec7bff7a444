"""Derivatives as functions of functions, over tensors in nested tuples, lists and dicts.

Nothing is left behind: no ``grad`` is touched, and results have a graph only if they depend on a tensor
outside that requires a gradient. The transformations nest, in themselves and in one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import operations
from distgrad.autograd.functional import grad as _grad
from distgrad.autograd.graph import Leaf, reachable_nodes
from distgrad.autograd.modes import Mode, modes
from distgrad.autograd.tensor import Tensor
from distgrad.autograd.tree import replace_tensors, tensors_in
from distgrad.errors import DTypeError, ShapeError

__all__ = [
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "value_and_grad",
    "vjp",
]

Argnums = int | tuple[int, ...]


class _Recorded(Mode):
    """Record, whatever the mode outside is."""

    def _switch(self) -> None:
        modes.recording = modes.recording or True
        modes.grad = modes.recording


@dataclass
class _Call:
    """One call of a function on tensors that only this call knows.

    Attributes:
        inputs: the tensors to differentiate with respect to.
        value: what the function returned.
        outs: the tensors in it.
        aux: what it returned beside its value.
        tracked: whether gradients outside may lead through the result.
    """

    inputs: list[Tensor]
    value: Any
    outs: list[Tensor]
    aux: Any
    tracked: bool

    def pull(
        self, cotangents: Sequence[Any], *, create_graph: bool = False, retain: bool = True
    ) -> list[Tensor]:
        """The gradients of the inputs, zeros where the outputs do not depend on one."""
        used = [(out, g) for out, g in zip(self.outs, cotangents, strict=True) if out._node is not None]
        if not used:
            return [_zeros(x) for x in self.inputs]
        outs, gs = zip(*used, strict=True)
        create_graph = create_graph or self.tracked
        return list(
            _grad(
                outs, self.inputs, gs, create_graph=create_graph, retain_graph=retain, materialize_grads=True
            )
        )

    def result(self, tree: Any) -> Any:
        """A structure of results as the caller gets it: outside the graph unless that is tracked."""
        return tree if self.tracked else replace_tensors(tree, [x.detach() for x in tensors_in(tree)])


def _zeros(x: Tensor) -> Tensor:
    return Tensor(np.zeros(x.shape, x.dtype))


def _own(x: Tensor, outer: bool) -> Tensor:
    """The same elements with a place of their own in the graph, below that of ``x`` if there is one."""
    if outer and x._node is not None:
        return operations.reshape(x, x.shape)
    return Tensor(x._data, requires_grad=True)


def _call(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    argnums: tuple[int, ...],
    has_aux: bool,
) -> _Call:
    """Call ``function`` with the tensors of its arguments ``argnums`` replaced by ones of the call's own."""
    outer = modes.grad is not False
    with _Recorded():
        given = [args[i] for i in argnums]
        inputs = [_own(x, outer) for x in tensors_in(given)]
        own = replace_tensors(given, inputs)
        passed = list(args)
        for place, each in zip(argnums, own, strict=True):
            passed[place] = each
        value = function(*passed, **kwargs)
    value, aux = value if has_aux else (value, None)
    outs = tensors_in(value)
    mine = {x._node for x in inputs}
    nodes = reachable_nodes([out._node for out in outs], 0)
    ends = {edge for node in nodes for edge in node.edges} | {out._node for out in outs}
    tracked = outer and any(isinstance(end, Leaf) and end not in mine for end in ends)
    return _Call(inputs, value, outs, aux, tracked)


def _places(argnums: Argnums, args: tuple[Any, ...], where: str) -> tuple[int, ...]:
    """``argnums`` as places from the start.

    Raises:
        ShapeError: a place that there is no argument for.
        DTypeError: an argument without tensors.
    """
    places = argnums if isinstance(argnums, tuple) else (argnums,)
    for place in places:
        if not -len(args) <= place < len(args):
            raise ShapeError(f"{where}: argnums={argnums}, but the function got {len(args)} arguments")
        if not tensors_in(args[place]):
            raise DTypeError(
                f"{where}: argument {place} holds no tensor, got {type(args[place]).__name__}; "
                "convert with dg.asarray, or choose others with argnums"
            )
    return tuple(place % len(args) for place in places)


def _like(args: tuple[Any, ...], places: tuple[int, ...], argnums: Argnums, values: list[Any]) -> Any:
    """Values in the structure of the arguments ``argnums``."""
    tree = replace_tensors(tuple(args[i] for i in places), values)
    return tree if isinstance(argnums, tuple) else tree[0]


def value_and_grad(
    func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """A function that returns the value of ``func`` and its gradient.

    Args:
        func: returns a tensor with one element.
        argnums: the argument to differentiate with respect to, or several.
        has_aux: ``func`` returns (value, anything), and so does the new function in the value's place.

    Returns:
        A function of the same arguments that returns (value, gradient), the gradient in the argument's
        structure, a tuple of them if ``argnums`` is one.

    Raises:
        ShapeError: (the new function) a value with more than one element.
    """

    def value_and_gradient(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        places = _places(argnums, args, "grad")
        call = _call(func, args, kwargs, places, has_aux)
        if not isinstance(call.value, Tensor) or call.value.size != 1:
            got = list(call.value.shape) if isinstance(call.value, Tensor) else type(call.value).__name__
            raise ShapeError(
                f"grad: the function must return a tensor with one element, got {got}; use jacobian"
            )
        gradients = call.pull([None], retain=call.tracked)
        value = call.result((call.value, call.aux) if has_aux else call.value)
        return value, _like(args, places, argnums, gradients)

    return value_and_gradient


def grad(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradient of ``func``, and with ``has_aux`` (gradient, anything).

    Args:
        func, argnums, has_aux: as in :func:`value_and_grad`.
    """
    both = value_and_grad(func, argnums, has_aux)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return gradient


def _check_like(given: Any, expected: list[Tensor], where: str, name: str) -> list[Tensor]:
    """The tensors in ``given``, if they have the expected shapes.

    Raises:
        ShapeError: others.
    """
    tensors = tensors_in(given)
    shapes, wanted = [list(x.shape) for x in tensors], [list(x.shape) for x in expected]
    if shapes != wanted:
        raise ShapeError(f"{where}: {name} must have the shapes {wanted}, got {shapes}")
    return tensors


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """The value of ``func``, and the function that pulls cotangents back through it: Jᵀ u.

    Args:
        func: any function of ``primals``.
        primals: where to differentiate it.
        has_aux: ``func`` returns (value, anything).

    Returns:
        (value, pullback), and with ``has_aux`` (value, pullback, anything). The pullback takes cotangents in
        the structure of the value and returns a tuple, one entry a primal; it can be called again.
    """
    places = _places(tuple(range(len(primals))), primals, "vjp")
    call = _call(func, primals, {}, places, has_aux)

    def pullback(cotangents: Any) -> Any:
        gs = _check_like(cotangents, call.outs, "vjp", "cotangents")
        tracked = modes.grad is not False and any(g.requires_grad for g in gs)
        return replace_tensors(primals, call.pull(gs, create_graph=tracked))

    value = call.result(call.value)
    return (value, pullback, call.result(call.aux)) if has_aux else (value, pullback)


class _Pushforward:
    """Jacobian-vector products: the pullback is linear in its cotangents, and its own pullback is J."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        with _Recorded():
            self._cotangents = [
                Tensor(np.zeros(out.shape, out.dtype), requires_grad=True) for out in call.outs
            ]
            self._pulled = call.pull(self._cotangents, create_graph=True)

    def __call__(self, tangents: Sequence[Tensor]) -> list[Tensor]:
        """J v for the tangents of all inputs."""
        used = [(x, v) for x, v in zip(self._pulled, tangents, strict=True) if x._node is not None]
        if not used:
            return [_zeros(out) for out in self._call.outs]
        pulled, vs = zip(*used, strict=True)
        tracked = modes.grad is not False and any(v.requires_grad for v in vs)
        gs = _grad(
            pulled,
            self._cotangents,
            vs,
            create_graph=self._call.tracked or tracked,
            retain_graph=True,
            materialize_grads=True,
        )
        return list(gs)


def jvp(
    func: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...], *, has_aux: bool = False
) -> tuple[Any, ...]:
    """The value of ``func`` and its derivative along ``tangents``: J v.

    Args:
        func: any function of ``primals``.
        primals: where to differentiate it, a tuple of arguments.
        tangents: the direction, in the structure of ``primals``.
        has_aux: ``func`` returns (value, anything).

    Returns:
        (value, derivative), the derivative in the structure of the value; with ``has_aux`` also anything.

    Raises:
        ShapeError: tangents that do not fit the primals.
    """
    places = _places(tuple(range(len(primals))), primals, "jvp")
    vs = _check_like(tangents, tensors_in(primals), "jvp", "tangents")
    call = _call(func, primals, {}, places, has_aux)
    derivative = replace_tensors(call.value, _Pushforward(call)(vs))
    value = call.result(call.value)
    return (value, derivative, call.result(call.aux)) if has_aux else (value, derivative)


def _check_outputs(call: _Call) -> None:
    """Refuse a function without anything to differentiate.

    Raises:
        DTypeError: a value without tensors.
    """
    if not call.outs:
        raise DTypeError(f"jacobian: the function must return tensors, got {type(call.value).__name__}")


def _one_hots(x: Tensor) -> list[Tensor]:
    """The unit vectors of the shape of ``x``."""
    eye = np.eye(x.size, dtype=x.dtype)
    return [Tensor(row.reshape(x.shape)) for row in eye]


def _stacked(parts: list[Tensor], shape: tuple[int, ...], like: tuple[int, ...]) -> Tensor:
    """Parts that differ along ``shape``, each of shape ``like``, as one tensor with the former axes first."""
    if not parts:
        return Tensor(np.zeros((*shape, *like), np.float32))
    return operations.reshape(operations.stack(parts, axis=0), (*shape, *like))


def jacrev(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the Jacobian of ``func``, a row a backward pass.

    Args:
        func: any function.
        argnums, has_aux: as in :func:`value_and_grad`.

    Returns:
        A function of the same arguments. In place of each tensor of the value of ``func`` it has the
        structure of the argument, its tensors ∂value/∂argument of the value's shape, then the argument's.
    """

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        places = _places(argnums, args, "jacobian")
        call = _call(func, args, kwargs, places, has_aux)
        _check_outputs(call)
        blocks = []
        for place, out in enumerate(call.outs):
            others = [_zeros(each) for each in call.outs]
            rows = [call.pull([*others[:place], u, *others[place + 1 :]]) for u in _one_hots(out)]
            columns = [
                _stacked([row[i] for row in rows], out.shape, x.shape) for i, x in enumerate(call.inputs)
            ]
            blocks.append(_like(args, places, argnums, columns))
        tree = replace_tensors(call.value, blocks)
        return (tree, call.result(call.aux)) if has_aux else tree

    return jacobian


def jacfwd(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """As :func:`jacrev`, a column a pass: less work for a function with more outputs than inputs.

    Args:
        func, argnums, has_aux: as in :func:`jacrev`.
    """

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        places = _places(argnums, args, "jacobian")
        call = _call(func, args, kwargs, places, has_aux)
        _check_outputs(call)
        push = _Pushforward(call)
        blocks: list[list[Tensor]] = [[] for _ in call.outs]
        for place, x in enumerate(call.inputs):
            others = [_zeros(each) for each in call.inputs]
            columns = [push([*others[:place], v, *others[place + 1 :]]) for v in _one_hots(x)]
            for i, out in enumerate(call.outs):
                block = _stacked([column[i] for column in columns], x.shape, out.shape)
                axes = (*range(x.ndim, block.ndim), *range(x.ndim))
                blocks[i].append(operations.permute_dims(block, axes))
        tree = replace_tensors(call.value, [_like(args, places, argnums, block) for block in blocks])
        return (tree, call.result(call.aux)) if has_aux else tree

    return jacobian


jacobian = jacrev


def hessian(func: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """A function that returns the second derivatives of ``func``, whose value has one element.

    Args:
        func, argnums: as in :func:`value_and_grad`.

    Returns:
        A function of the same arguments; its result has the structure of the argument, in place of whose
        tensors stand the structure again with tensors ∂²value/∂a∂b of a's shape followed by b's.
    """
    return jacrev(grad(func, argnums), argnums)


def hvp(func: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """The value of ``func`` and its second derivatives times a vector: H v, without forming H.

    Args:
        func: returns a tensor with one element.
        primals: where to differentiate it, a tuple of arguments.
        tangents: v, in the structure of ``primals``.

    Returns:
        (value, H v), the latter in the structure of ``primals``.

    Source: Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation, 1994 (here as the
    gradient of ⟨∇f, v⟩).
    """
    vs = _check_like(tangents, tensors_in(primals), "hvp", "tangents")
    both = value_and_grad(func, tuple(range(len(primals))))

    def along(*arguments: Any) -> tuple[Tensor, Any]:
        value, gradients = both(*arguments)
        products = [operations.sum(g * v) for g, v in zip(tensors_in(gradients), vs, strict=True)]
        total = products[0]
        for each in products[1:]:
            total = total + each
        return total, value

    product, value = grad(along, tuple(range(len(primals))), has_aux=True)(*primals)
    return value, product
