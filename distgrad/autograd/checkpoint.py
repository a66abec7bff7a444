"""Gradient checkpointing: compute again in backward what would else be kept since forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.autograd.casting import casting_as
from distgrad.autograd.graph import Leaf, Node, describe, next_number, reachable_nodes
from distgrad.autograd.modes import modes
from distgrad.autograd.tree import tensors_in
from distgrad.backend.rng import default_generator
from distgrad.errors import GraphError, InPlaceError

__all__ = ["checkpoint"]


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool = False,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """Call ``function`` and forget what its operations saved for backward; backward calls it once more.

    The graph is that of the first call, so parameters, hooks and gradients of gradients behave as without it;
    only the saved arrays come from the second. ``function`` must do the same operations in both.

    Args:
        function: what to call.
        args, kwargs: its arguments; they are kept until backward.
        use_reentrant: only False: the graph is never walked inside itself here.
        preserve_rng_state: give the second call the default generator's numbers of the first.

    Returns:
        What ``function`` returns.

    Raises:
        InPlaceError: (in backward) an argument or parameter was changed since the first call.
        GraphError: (in backward) the second call did other operations.

    Source: Chen et al., "Training deep nets with sublinear memory cost", 2016.
    """
    if use_reentrant:
        raise ValueError(
            "checkpoint: use_reentrant=True is not offered; leave it out, the result is the same"
        )
    if not modes.grad:
        return function(*args, **kwargs)
    region = _Region(function, args, kwargs, preserve_rng_state)
    first = next_number()
    out = function(*args, **kwargs)
    region.forget(out, first)
    return out


class _Region:
    """One checkpointed call."""

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], preserve: bool
    ) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._casts = modes.casts
        self._random = default_generator.get_state() if preserve else None
        self._versions = [(t._version, t._version[0]) for t in tensors_in((args, kwargs))]
        self._operations: list[tuple[str, Any]] = []
        self._values: dict[int, Any] | None = None  # what the second call saved, by the operation's place

    def forget(self, out: Any, first: int) -> None:
        """Drop what the operations behind ``out`` saved, from number ``first`` on."""
        nodes = reachable_nodes([tensor._node for tensor in tensors_in(out)], first)
        leaves = {edge for node in nodes for edge in node.edges if isinstance(edge, Leaf)}
        parameters = [tensor for leaf in leaves if (tensor := leaf.tensor()) is not None]
        self._versions += [(t._version, t._version[0]) for t in parameters]
        nodes = [node for node in nodes if node.versions]
        self._operations = [(node.op.name, node.metas) for node in nodes]
        for place, node in enumerate(nodes):
            node.saved = _Recomputed(self, place)

    def value(self, place: int) -> Any:
        """What the operation at ``place`` saves, computed again where it has not been."""
        if self._values is None:
            self._values = self._recompute()
        return self._values.pop(place)

    def _recompute(self) -> dict[int, Any]:
        for cell, number in self._versions:
            if cell[0] != number:
                raise InPlaceError(
                    f"checkpoint: an argument or parameter was changed in place at {cell[1]} after the "
                    "forward pass, which cannot be repeated now; make the change after backward"
                )
        outer = default_generator.get_state()
        if self._random is not None:
            default_generator.set_state(self._random)
        first = next_number()
        recording, modes.grad = modes.grad, True
        try:
            with casting_as(self._casts):
                out = self._function(*self._args, **self._kwargs)
        finally:
            modes.grad = recording
            if self._random is not None:
                default_generator.set_state(outer)
        nodes = reachable_nodes([tensor._node for tensor in tensors_in(out)], first)
        nodes = [node for node in nodes if node.versions]
        operations = [(node.op.name, node.metas) for node in nodes]
        if operations != self._operations:
            names = [[name for name, _ in each] for each in (self._operations, operations)]
            raise GraphError(
                f"checkpoint: the function did other operations when it was called again; first {names[0]}, "
                f"then {names[1]}; it must depend on nothing but its arguments and the default generator"
            )
        return {place: node.saved for place, node in enumerate(nodes)}


class _Recomputed:
    """Stands in a node for what it saved."""

    def __init__(self, region: _Region, place: int) -> None:
        self._region = region
        self._place = place

    def restore(self, node: Node) -> Any:
        """The saved values; inside another checkpoint they may have to be computed in turn."""
        saved = self._region.value(self._place)
        if saved is None:
            raise GraphError(f"checkpoint: {describe(node)} was freed by a backward inside the function")
        return saved if isinstance(saved, tuple) else saved.restore(node)
