"""Gradients against finite differences.

Each check projects on random directions: for f, an input direction v and an output weight u, backward gives
u·(J v) and finite differences give u·(f(x + εv) − f(x − εv)) / 2ε. One number tests the whole Jacobian with
probability one, at the cost of two calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.functional import grad
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import to_device
from distgrad.errors import DTypeError, GraphError

__all__ = ["gradcheck", "gradgradcheck"]

_STEP = 1e-6


def _outputs(function: Callable[..., Any], inputs: Sequence[Any]) -> list[Tensor]:
    out = function(*inputs)
    outs = [out] if isinstance(out, Tensor) else list(out)
    return [o for o in outs if o.dtype.kind in "fc"]


def _grad(outs: list[Tensor], inputs: list[Any], weights: Sequence[Any], create_graph: bool = False) -> Any:
    """Gradients of the results that have a graph; the others must be constant, or the differences tell."""
    pairs = [(out, w) for out, w in zip(outs, weights, strict=True) if out.requires_grad]
    starts, seeds = zip(*pairs, strict=True) if pairs else (outs, weights)
    return grad(starts, inputs, list(seeds), create_graph=create_graph, allow_unused=True)


def _differentiable(inputs: Sequence[Any]) -> list[int]:
    chosen = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    for i in chosen:
        if inputs[i].dtype not in (np.float64, np.complex128):
            raise DTypeError(f"gradcheck: input {i} must be float64 or complex128, got {inputs[i].dtype}")
    if not chosen:
        raise GraphError("gradcheck: no input requires a gradient")
    return chosen


def gradcheck(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    eps: float = _STEP,
    atol: float = 1e-6,
    rtol: float = 1e-5,
    directions: int = 2,
    seed: int = 0,
    raise_exception: bool = True,
) -> bool:
    """Compare the gradients of ``function`` with central differences.

    Args:
        function: takes ``inputs``, returns a tensor or several.
        inputs: its arguments; those that require a gradient must be float64 or complex128.
        eps: the difference's step.
        atol, rtol: how far apart the two may be.
        directions: random directions tried for each input.
        seed: of the directions.
        raise_exception: raise instead of returning False.

    Raises:
        GraphError: gradients that differ, with input, numbers and tolerance.
    """
    rng = np.random.default_rng(seed)
    for place in _differentiable(inputs):
        for _ in range(directions):
            outs = _outputs(function, inputs)
            weights = [_random(rng, out) for out in outs]
            direction = _random(rng, inputs[place])
            (g,) = _grad(outs, [inputs[place]], [Tensor(w) for w in weights])
            exact = 0.0 if g is None else _product(g._data, direction)
            numeric = (
                _shifted(function, inputs, place, direction, eps, weights)
                - _shifted(function, inputs, place, direction, -eps, weights)
            ) / (2 * eps)
            if not np.isclose(exact, numeric, atol=atol, rtol=rtol):
                if raise_exception:
                    raise GraphError(
                        f"gradcheck: input {place} {list(inputs[place].shape)}: backward gives {exact!r}, "
                        f"differences give {numeric!r} (atol={atol}, rtol={rtol}); the gradient is wrong, "
                        "or the function has a kink or a jump there"
                    )
                return False
    return True


def _shifted(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    place: int,
    direction: Any,
    step: float,
    weights: list[Any],
) -> float:
    """The weighted sum of the outputs with one input moved."""
    moved = list(inputs)
    moved[place] = Tensor(inputs[place]._data + step * direction, requires_grad=True)
    outs = _outputs(function, moved)
    return float(np.sum([_product(w, out._data) for out, w in zip(outs, weights, strict=True)]))


def _product(x: Any, y: Any) -> float:
    """Re Σ x* y: of real and imaginary parts, the inner product."""
    return float((x.conj() * y).sum().real)


def _random(rng: np.random.Generator, like: Tensor) -> Any:
    """Random numbers of a tensor's shape and kind, where it lies."""
    numbers = np.asarray(rng.standard_normal(like.shape))
    if like.dtype.kind == "c":
        numbers = np.asarray(numbers + 1j * rng.standard_normal(like.shape))
    return to_device(numbers, like.device)


def gradgradcheck(
    function: Callable[..., Any], inputs: Sequence[Any], *, seed: int = 0, **options: Any
) -> bool:
    """Compare the gradients of the gradients of ``function`` with central differences.

    The gradient is itself a function of the inputs and of the output's gradient; it goes through
    :func:`gradcheck` with respect to both. Arguments, result and errors are those of :func:`gradcheck`.
    """
    chosen = _differentiable(inputs)
    rng = np.random.default_rng(seed + 1)
    weights = [Tensor(_random(rng, out), requires_grad=True) for out in _outputs(function, inputs)]

    def gradient(*arguments: Any) -> list[Tensor]:
        xs, ws = arguments[: len(inputs)], arguments[len(inputs) :]
        outs = _outputs(function, xs)
        wanted = [xs[i] for i in chosen]
        gs = _grad(outs, wanted, ws, create_graph=True)
        return [
            x * 0.0 if g is None else g if g.requires_grad else g + x * 0.0
            for g, x in zip(gs, wanted, strict=True)
        ]

    return gradcheck(gradient, [*inputs, *weights], seed=seed, **options)
