"""Calls of modules and functions in other ways: with other parameters, in pieces, compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from distgrad.autograd.checkpoint import checkpoint
from distgrad.autograd.dispatch import operations as ops
from distgrad.errors import OptionError, StateDictError
from distgrad.nn.module import Module

__all__ = [
    "checkpoint_sequential", "compile", "functional_call", "noop_context_fn", "stack_module_state",
]  # fmt: skip

_MODES = (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def compile(
    model: Callable[..., Any] | None = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    disable: bool = False,
) -> Any:
    """The function or module itself, with PyTorch's options: nothing is captured, kernels compile as needed.

    Args:
        model: what would be compiled; None makes a decorator.
        fullgraph, dynamic, backend, mode, options, disable: PyTorch's; of no consequence here.

    Raises:
        OptionError: a mode that is none of PyTorch's, or ``mode`` and ``options`` together.
    """
    if mode not in _MODES or (mode is not None and options is not None):
        raise OptionError(
            f"compile: mode must be one of {', '.join(map(str, _MODES[1:]))}, without options beside it, "
            f"got {mode!r} and {options}"
        )
    return (lambda each: each) if model is None else model


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Any,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call a module with other tensors in the place of its parameters and buffers; gradients flow into these.

    Args:
        module: is as before afterwards.
        parameter_and_buffer_dicts: tensors by name, or several such dicts.
        args: one argument, or a tuple of them.
        kwargs: arguments by keyword.
        tie_weights: whether names of one parameter are replaced together.
        strict: whether all names must be given.

    Raises:
        StateDictError: names that the module lacks, or with ``strict`` that are not given.
    """
    dicts = parameter_and_buffer_dicts
    given = dict(dicts) if isinstance(dicts, Mapping) else {k: v for each in dicts for k, v in each.items()}
    own = dict([*_named(module, "_parameters"), *_named(module, "_buffers")])
    missing = sorted(own.keys() - given.keys()) if strict else []
    unknown = sorted(given.keys() - own.keys())
    if unknown or missing:
        raise StateDictError(
            f"functional_call: {type(module).__name__} has no {unknown}, and was not given {missing}"
        )
    if tie_weights:
        by_tensor = {id(own[name]): each for name, each in given.items()}
        given = {name: by_tensor[id(each)] for name, each in own.items() if id(each) in by_tensor}
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)
    with _replaced(module, given):
        return module(*arguments, **(kwargs or {}))


def _named(module: Module, kind: str) -> Iterator[tuple[str, Any]]:
    """The module's tensors, those of two names under both."""
    for prefix, part in module.named_modules(remove_duplicate=False):
        for name, each in getattr(part, kind).items():
            if each is not None:
                yield f"{prefix}.{name}" if prefix else name, each


@contextmanager
def _replaced(module: Module, given: Mapping[str, Any]) -> Iterator[None]:
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name, each in given.items():
            place, _, last = name.rpartition(".")
            part = module.get_submodule(place)
            held: dict[str, Any] = part._parameters if last in part._parameters else part._buffers
            before.append((held, last, held[last]))
            held[last] = each
        yield
    finally:
        for held, last, each in reversed(before):
            held[last] = each


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
