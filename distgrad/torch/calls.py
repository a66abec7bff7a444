"""Calls of modules and functions in other ways: with other parameters, in pieces."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from distgrad.autograd.checkpoint import checkpoint as _checkpoint
from distgrad.autograd.dispatch import operations as ops
from distgrad.errors import OptionError
from distgrad.func import value_and_grad
from distgrad.nn.module import Module

__all__ = [
    "checkpoint", "checkpoint_sequential", "functionalize", "get_device_states", "grad_and_value",
    "noop_context_fn", "replace_all_batch_norm_modules_", "set_device_states", "stack_module_state",
]  # fmt: skip


def stack_module_state(models: Sequence[Module]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters and the buffers of modules that are built alike, each stacked along a new first axis."""
    if not models:
        raise OptionError("stack_module_state: expected at least one model, got none")
    parameters = [dict(each.named_parameters()) for each in models]
    buffers = [dict(each.named_buffers()) for each in models]
    stacked = [
        {name: ops.stack([each[name].detach() for each in every]) for name in every[0]}
        for every in (parameters, buffers)
    ]
    for each in stacked[0].values():
        each.requires_grad = True
    return stacked[0], stacked[1]


def grad_and_value(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that gives the gradient and the value, and with ``has_aux`` what else ``func`` returns.

    Args:
        func: returns one number, or with ``has_aux`` a pair of it and something else.
        argnums: the places of the arguments with respect to which the gradient is taken.
        has_aux: see ``func``.
    """
    both = value_and_grad(func, argnums, has_aux)

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return gradient, value

    return call


def functionalize(func: Callable[..., Any], *, remove: str = "mutations") -> Callable[..., Any]:
    """The function itself: operations in place have the same derivatives here."""
    return func


def replace_all_batch_norm_modules_(root: Module) -> Module:
    """Have the batch norms within keep no statistics, which calls under ``vmap`` cannot change."""
    for each in root.modules():
        if isinstance(getattr(each, "track_running_stats", None), bool):
            each.running_mean = each.running_var = each.num_batches_tracked = None
            each.track_running_stats = False
    return root


def noop_context_fn() -> tuple[Any, Any]:
    """Two contexts that do nothing."""
    return nullcontext(), nullcontext()


def get_device_states(*args: Any) -> tuple[list[int], list[Any]]:
    """No devices, whose generators would have states: random numbers come from the host's."""
    return [], []


def set_device_states(devices: Sequence[int], states: Sequence[Any], **options: Any) -> None:
    """Nothing, as there are no devices with states."""


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], tuple[Any, Any]] = noop_context_fn,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """As :func:`distgrad.autograd.checkpoint`.

    Args:
        function, args, kwargs: what to call, now and once more in backward.
        use_reentrant, determinism_check, debug, early_stop: taken for PyTorch's sake; there is one way here.
        context_fn: makes two contexts, one for each of the two calls.
        preserve_rng_state: give the second call the default generator's numbers of the first.
    """
    contexts = iter(context_fn())

    def within(*args: Any, **kwargs: Any) -> Any:
        with next(contexts, nullcontext()):
            return function(*args, **kwargs)

    called = function if context_fn is noop_context_fn else within
    return _checkpoint(called, *args, preserve_rng_state=preserve_rng_state, **kwargs)


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **options: Any
) -> Any:
    """Run a sequence of modules in pieces, of which all but the last are checkpointed.

    Args:
        functions: an ``nn.Sequential``, or functions.
        segments: number of pieces.
        input: of the first.
        use_reentrant: taken; there is one way here.
        **options: of ``checkpoint``.
    """
    steps = list(functions.children()) if isinstance(functions, Module) else list(functions)
    if not 1 <= segments <= max(1, len(steps)):
        raise OptionError(f"checkpoint_sequential: segments must be from 1 to {len(steps)}, got {segments}")
    length = len(steps) // segments

    def piece(start: int, stop: int) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            for step in steps[start:stop]:
                x = step(x)
            return x

        return run

    for start in range(0, length * (segments - 1), length):
        input = checkpoint(piece(start, start + length), input, **options)
    return piece(length * (segments - 1), len(steps))(input)
