"""Modules as functions of their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distgrad.errors import StateDictError
from distgrad.nn.module import Module

__all__ = ["functional_call"]


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
