"""Tensors inside nested tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from distgrad.autograd.tensor import Tensor

__all__ = ["replace_tensors", "tensors_in"]


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors of a nested structure, in order; whatever else it holds is passed over."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, tuple | list):
        return []
    return [tensor for each in tree for tensor in tensors_in(each)]


def replace_tensors(tree: Any, values: Iterable[Any]) -> Any:
    """The same structure with other values in the places of its tensors, in order."""
    return _replaced(tree, iter(values))


def _replaced(tree: Any, values: Iterator[Any]) -> Any:
    if isinstance(tree, Tensor):
        return next(values)
    if isinstance(tree, dict):
        return {key: _replaced(each, values) for key, each in tree.items()}
    if isinstance(tree, tuple | list):
        parts = [_replaced(each, values) for each in tree]
        return tree._make(parts) if hasattr(tree, "_make") else type(tree)(parts)
    return tree
