"""``torch.distributed.fsdp.wrap``: which modules within a module are blocks of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from distgrad.nn.module import Module
from distgrad.nn.modules.containers import ModuleDict, ModuleList

__all__ = [
    "CustomPolicy", "ModuleWrapPolicy", "always_wrap_policy", "chosen_by", "enable_wrap",
    "lambda_auto_wrap_policy", "size_based_auto_wrap_policy", "transformer_auto_wrap_policy", "wrap",
]  # fmt: skip

_around: list[dict[str, Any]] = []  # the options of the contexts that we are in


def always_wrap_policy(*args: Any, **options: Any) -> bool:
    """Every module is a block."""
    return True


def lambda_auto_wrap_policy(
    module: Module, recurse: bool, nonwrapped_numel: int, lambda_fn: Callable[[Module], bool]
) -> bool:
    """Blocks are the modules of which ``lambda_fn`` says so."""
    return recurse or bool(lambda_fn(module))


def transformer_auto_wrap_policy(
    module: Module, recurse: bool, nonwrapped_numel: int, transformer_layer_cls: Collection[type]
) -> bool:
    """Blocks are the modules of these classes."""
    return recurse or isinstance(module, tuple(transformer_layer_cls))


def size_based_auto_wrap_policy(
    module: Module,
    recurse: bool,
    nonwrapped_numel: int,
    min_num_params: int = 100_000_000,
    force_leaf_modules: Any = None,
    exclude_wrap_modules: Any = None,
) -> bool:
    """Blocks are the modules with at least ``min_num_params`` elements outside blocks within them.

    Args:
        module, recurse, nonwrapped_numel: of the policy's caller.
        min_num_params: elements.
        force_leaf_modules: classes within which no blocks are looked for; None takes MultiheadAttention's.
        exclude_wrap_modules: classes that are no blocks; None takes lists and dicts of modules.
    """
    leaves = tuple(force_leaf_modules or ())
    excluded = tuple(exclude_wrap_modules or (ModuleList, ModuleDict))
    large = nonwrapped_numel >= min_num_params
    if recurse:
        return large and not isinstance(module, leaves)
    return large and not isinstance(module, excluded)


class ModuleWrapPolicy:
    """Blocks are the modules of these classes."""

    def __init__(self, module_classes: Iterable[type]) -> None:
        self._classes = tuple(module_classes)

    def __call__(self, module: Module, recurse: bool, *args: Any, **options: Any) -> bool:
        """Whether to look within, or whether it is one."""
        return recurse or isinstance(module, self._classes)


class CustomPolicy:
    """Blocks are the modules of which ``lambda_fn`` says so; a dict of options counts as yes."""

    def __init__(self, lambda_fn: Callable[[Module], Any]) -> None:
        self._chooses = lambda_fn

    def __call__(self, module: Module, recurse: bool, *args: Any, **options: Any) -> bool:
        """Whether to look within, or whether it is one."""
        return recurse or bool(self._chooses(module))


def chosen_by(policy: Any, module: Module) -> list[Module]:
    """The modules within ``module`` that a policy makes blocks of, the inner ones first."""
    chosen: list[Module] = []

    def visit(each: Module) -> int:
        """Elements inside that are in no block."""
        total = sum(parameter.size for parameter in each.parameters())
        if not policy(module=each, recurse=True, nonwrapped_numel=total):
            return total
        for child in each.children():
            total -= sum(p.size for p in child.parameters()) - visit(child)
        if each is not module and policy(module=each, recurse=False, nonwrapped_numel=total):
            chosen.append(each)
            return 0
        return total

    visit(module)
    return chosen


@contextmanager
def enable_wrap(*, wrapper_cls: Any, **options: Any) -> Iterator[None]:
    """Inside it :func:`wrap` wraps in ``wrapper_cls``, with these options."""
    _around.append({"wrapper_cls": wrapper_cls, **options})
    try:
        yield
    finally:
        _around.pop()


def wrap(module: Module, **overrides: Any) -> Any:
    """The module wrapped as the context around says; itself where there is none."""
    if not _around:
        return module
    options = {**_around[-1], **overrides}
    return functools.partial(options.pop("wrapper_cls"), module, **options)()
