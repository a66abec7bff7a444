"""Calls of modules and functions in other ways: with other parameters, in pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from distgrad.autograd.checkpoint import checkpoint
from distgrad.autograd.dispatch import operations as ops
from distgrad.errors import OptionError
from distgrad.nn.module import Module

__all__ = [
    "checkpoint_sequential", "get_device_states", "noop_context_fn", "set_device_states",
    "stack_module_state",
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


def noop_context_fn() -> tuple[Any, Any]:
    """Two contexts that do nothing."""
    return nullcontext(), nullcontext()


def get_device_states(*args: Any) -> tuple[list[int], list[Any]]:
    """No devices, whose generators would have states: random numbers come from the host's."""
    return [], []


def set_device_states(devices: Sequence[int], states: Sequence[Any], **options: Any) -> None:
    """Nothing, as there are no devices with states."""


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
