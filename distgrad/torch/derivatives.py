"""Names of ``torch.autograd`` that are not in ``dg.autograd``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.autograd.creation import ones_like, zeros_like
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.functional import grad as gradients
from distgrad.autograd.gradcheck import gradcheck as check
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError

__all__ = ["Variable", "grad", "gradcheck", "hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]


class _VariableType(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor)

    def __call__(cls, data: Tensor, requires_grad: bool = False, volatile: bool = False) -> Tensor:
        out = data if data.requires_grad else data.detach()
        return out.requires_grad_() if requires_grad else out


class Variable(metaclass=_VariableType):
    """PyTorch's old name: a tensor, which every tensor is an instance of."""


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """As ``dg.autograd.grad``, with PyTorch's order of arguments.

    Raises:
        OptionError: ``only_inputs`` is False, or ``is_grads_batched`` True.
    """
    if not only_inputs:
        raise OptionError(
            "grad: only_inputs=False would add to the grad of other leaves, which grad leaves alone; call "
            "backward() for that"
        )
    if is_grads_batched:
        raise OptionError(
            "grad: is_grads_batched=True is one call for several rows; call grad for each row of "
            "grad_outputs, with retain_graph=True"
        )
    return gradients(
        outputs, inputs, grad_outputs, retain_graph, create_graph, allow_unused, materialize_grads
    )


def _rows(out: Tensor, inputs: tuple[Tensor, ...], create_graph: bool) -> list[tuple[Tensor, ...]]:
    """The gradient of each element of an output."""
    flat = ops.reshape(out, (-1,))
    rows = []
    for place in range(flat.shape[0]):
        found = gradients(
            [flat[place]], list(inputs), retain_graph=True, create_graph=create_graph, allow_unused=True
        )
        rows.append(tuple(zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)))
    return rows


def _leaves(inputs: Any, keep: bool) -> tuple[Tensor, ...]:
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(each if keep else each.detach().requires_grad_() for each in tensors)


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """The derivatives of all outputs by all inputs.

    Args:
        func: of tensors, to a tensor or several.
        inputs: a tensor or a tuple of them.
        create_graph: whether derivatives of the result are wanted.
        strict, vectorize, strategy: taken for PyTorch's sake.

    Returns:
        For one output and one input a tensor ``[*out, *in]``, else tuples of them.
    """
    leaves = _leaves(inputs, create_graph)
    outs = func(*leaves)
    several = isinstance(outs, tuple)
    blocks = []
    for out in outs if several else (outs,):
        rows = _rows(out, leaves, create_graph)
        parts = tuple(
            ops.reshape(ops.stack([row[i] for row in rows], axis=0), (*out.shape, *x.shape))
            for i, x in enumerate(leaves)
        )
        blocks.append(parts if isinstance(inputs, tuple) else parts[0])
    return tuple(blocks) if several else blocks[0]


def hessian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """The second derivatives of a number; arguments as in :func:`jacobian`."""

    def gradient(*arguments: Tensor) -> Any:
        found = gradients([func(*arguments)], list(arguments), create_graph=True)
        return tuple(found) if isinstance(inputs, tuple) else found[0]

    return jacobian(
        gradient, _leaves(inputs, create_graph) if isinstance(inputs, tuple) else inputs, create_graph
    )


def _found(outs: Any, leaves: tuple[Tensor, ...], given: Any, create_graph: bool) -> tuple[Any, ...]:
    """The gradients of outputs by leaves, zeros where there are none."""
    several = [each for each in (outs if isinstance(outs, tuple) else (outs,)) if each.requires_grad]
    if not several:
        return tuple(zeros_like(x) for x in leaves)
    weights = None if given is None else list(given if isinstance(given, tuple) else (given,))
    found = gradients(several, list(leaves), weights, create_graph=create_graph, allow_unused=True)
    return tuple(zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True))


def _direction(v: Any, inputs: tuple[Tensor, ...], where: str) -> tuple[Any, ...]:
    if v is not None:
        return v if isinstance(v, tuple) else (v,)
    if len(inputs) != 1 or inputs[0].size != 1:
        raise OptionError(f"{where}: v may be left out only for one input of one element; pass it")
    return (ones_like(inputs[0]),)


def vjp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> Any:
    """The function's values, and the product of ``v`` with its Jacobian.

    Args:
        func: of tensors, to a tensor or several.
        inputs: a tensor or a tuple of them.
        v: of the outputs' shapes; None for one output of one element.
        create_graph: whether derivatives of the result are wanted.
        strict: taken for PyTorch's sake.
    """
    leaves = _leaves(inputs, create_graph)
    outs = func(*leaves)
    rows = _found(outs, leaves, v, create_graph)
    return outs, rows if isinstance(inputs, tuple) else rows[0]


def jvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> Any:
    """The function's values, and the product of its Jacobian with ``v``, which has the inputs' shapes.

    Arguments as in :func:`vjp`. The product is the gradient of a vector's product with the Jacobian by that
    vector.

    Raises:
        OptionError: no ``v`` for several numbers.
    """
    leaves = _leaves(inputs, create_graph)
    direction = _direction(v, leaves, "jvp")
    outs = func(*leaves)
    several = outs if isinstance(outs, tuple) else (outs,)
    weights = tuple(zeros_like(each).requires_grad_() for each in several)
    rows = _found(outs, leaves, weights, True)
    found = _found(rows, weights, direction, create_graph)
    return outs, found if isinstance(outs, tuple) else found[0]


def hvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> Any:
    """A function's number, and the product of its second derivatives with ``v``; arguments as in :func:`jvp`.

    Raises:
        OptionError: no ``v`` for several numbers.
    """
    leaves = _leaves(inputs, create_graph)
    direction = _direction(v, leaves, "hvp")
    out = func(*leaves)
    slopes = _found(out, leaves, None, True)
    found = _found(slopes, leaves, direction, create_graph)
    return out, found if isinstance(inputs, tuple) else found[0]


#: The second derivatives are symmetric.
vhp = hvp


def gradcheck(func: Callable[..., Any], inputs: Any, eps: float = 1e-6, atol: float = 1e-5,
              rtol: float = 1e-3, raise_exception: bool = True, **options: Any) -> bool:  # fmt: skip
    """As ``dg.autograd.gradcheck``, with PyTorch's names and tolerances; its other options have no part."""
    several = inputs if isinstance(inputs, list | tuple) else (inputs,)
    return check(func, several, eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception)
