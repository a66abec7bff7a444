"""The graph that operations leave behind, and its walk from the outputs to the leaves.

Every recorded operation is a :class:`Node` that points to the nodes of its inputs; a leaf that wants a
gradient is a :class:`Leaf`. Nodes are numbered as they are made, so an operation's number is above those of
its inputs, and going down the numbers visits each node after all its users.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from distgrad.autograd.nodes import (
    Cell,
    Leaf,
    Node,
    Observer,
    OutputNode,
    Watcher,
    describe,
    home,
    next_number,
)
from distgrad.autograd.shapes import gradients_by_shapes
from distgrad.backend.meta import meta_module
from distgrad.errors import GraphError, InPlaceError, ShapeError
from distgrad.trace import annotate

__all__ = [
    "Arithmetic",
    "Leaf",
    "Node",
    "Observer",
    "OutputNode",
    "Walk",
    "Watcher",
    "describe",
    "home",
    "next_number",
    "reachable_nodes",
    "run_backward",
]


class Arithmetic(Protocol):
    """How gradients are computed: on arrays, or on tensors when they are to be differentiated again.

    Attributes:
        array_modules: the ``xp`` that vjps are called with, by the gradient's type.
        writes: whether vjps may write gradients into the leaves' buffers.
    """

    array_modules: dict[type, Any]
    writes: bool

    def choose(self, like: Any) -> Any:
        """The ``xp`` for a gradient of another type; a device's work goes where the gradient lies."""

    @property
    def unpack(self) -> Callable[[Node], tuple[Any, ...]] | None:
        """The node's saved values as vjps take them; None where they are taken as they are."""

    def add(self, x: Any, y: Any, /) -> Any:
        """The sum of two gradients."""

    def fit(self, g: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """A gradient brought to its input's shape (broadcasting undone) and dtype."""

    def zeros(self, meta: tuple[Any, Any], like: Any) -> Any:
        """The gradient of an output that nothing used."""

    def tensor(self, g: Any) -> Any:
        """A gradient as hooks get it."""

    def value(self, g: Any) -> Any:
        """The reverse of :meth:`tensor`."""

    def accumulate(self, leaf: Leaf, g: Any) -> None:
        """Add a gradient to a leaf's."""


#: Looks at the gradients that a node gave its inputs.
Check = Callable[[Node, Any], None]


def run_backward(
    roots: Iterable[tuple[Any, Any]],
    arithmetic: Arithmetic,
    *,
    retain_graph: bool,
    wanted: dict[Any, Any] | None = None,
    accumulate: bool = True,
    check: Check | None = None,
) -> bool:
    """Walk from ``roots`` to the leaves.

    Args:
        roots: (Node or Leaf, gradient) pairs.
        arithmetic: how gradients are computed.
        retain_graph: keep what the nodes saved, for another walk.
        wanted: Nodes and Leaves whose gradient is asked for; on return it holds the gradients. None: all
            leaves.
        accumulate: whether leaves' ``grad`` take part (``backward``) or not (``grad``).
        check: is called with each node and the gradients that it gave.

    Returns:
        Whether all observers of the leaves say that it computed on data.
    """
    roots = list(roots)
    order, uses = _collect([target for target, _ in roots])
    needed = None
    if wanted is not None:
        needed = _needed(order, wanted)
        order = [node for node in order if node in needed]
    for target, _ in roots:
        if target.__class__ is Leaf:
            uses[target] = uses.get(target, 0) + 1
    walk = Walk(arithmetic, retain_graph, wanted, needed, accumulate, uses)
    observers = walk.start(order)
    try:
        for target, g in roots:
            walk.receive(target, g)
        with annotate("backward"):
            walk.run(order, check)
    except BaseException:
        for watcher in walk.watchers:
            watcher.walk_failed()
        for observer in observers:
            observer.backward_failed()
        raise
    finally:
        for watcher in walk.watchers:
            watcher.walk_ended()
    for observer in observers:
        observer.backward_ended()
    return all(observer.has_data for observer in observers)


def _collect(targets: list[Any]) -> tuple[list[Node], dict[Any, int]]:
    """All nodes below ``targets``, users before inputs, and how many edges lead to each leaf."""
    uses: dict[Any, int] = {}
    nodes = list(dict.fromkeys(target for target in targets if target.__class__ is not Leaf))
    seen = set(nodes)
    for node in nodes:  # grows as it goes
        for target in node.edges:
            if target is None:
                continue
            if target.__class__ is Leaf:
                uses[target] = uses.get(target, 0) + 1
            elif target not in seen:
                seen.add(target)
                nodes.append(target)
    nodes.sort(key=_number, reverse=True)
    return nodes, uses


_number = operator.attrgetter("number")


def reachable_nodes(targets: list[Any], first: int) -> list[Node]:
    """The nodes below ``targets`` with numbers from ``first``, in the order in which they were made."""
    nodes: dict[Node, None] = {}
    stack = list(targets)
    while stack:
        node = stack.pop()
        if isinstance(node, Node) and node.number >= first and node not in nodes:
            nodes[node] = None
            stack.extend(node.edges)
    return sorted(nodes, key=_number)


def _needed(order: list[Node], wanted: dict[Any, Any]) -> set[Any]:
    """The nodes that lead to a wanted one."""
    needed = set(wanted)
    for node in reversed(order):
        if any(target in needed for target in node.edges):
            needed.add(node)
    return needed


class Walk:
    """The state of one backward pass."""

    def __init__(
        self,
        arithmetic: Arithmetic,
        retain_graph: bool,
        wanted: dict[Any, Any] | None,
        needed: set[Any] | None,
        accumulate: bool,
        uses: dict[Any, int],
    ) -> None:
        self.arithmetic = arithmetic
        self.retain_graph = retain_graph
        self.wanted = wanted
        self.needed = needed
        self.accumulate = accumulate
        self.uses = uses
        self.grads: dict[Any, Any] = {}
        self.watchers: dict[Watcher, float] = {}  # and the numbers below which they are called

    def start(self, order: Sequence[Node]) -> list[Observer]:
        """Find homes for gradients, and tell the observers which of their leaves are reached."""
        reached: dict[int, tuple[Observer, set[Leaf]]] = {}
        writes = self.arithmetic.writes and self.accumulate and self.wanted is None
        watchers: dict[Watcher, None] = {}
        for leaf, uses in self.uses.items():
            if leaf.watcher is not None:
                watchers[leaf.watcher] = None
            leaf.home = leaf.buffer if writes and uses == 1 and not leaf.hooks else None
            if self.accumulate and leaf.observer is not None and (self.needed is None or leaf in self.needed):
                reached.setdefault(id(leaf.observer), (leaf.observer, set()))[1].add(leaf)
        started = sorted(reached.values(), key=lambda each: each[0].number)
        for observer, leaves in started:
            observer.backward_started(leaves, order)
        for watcher in watchers:
            self.watchers[watcher] = watcher.walk_started(order)
        return [observer for observer, _ in started]

    def pass_by(self, number: int) -> float:
        """Tell the watchers that wait for this number; below which number the next one does."""
        for watcher, mark in self.watchers.items():
            if number < mark:
                self.watchers[watcher] = watcher.passing(number)
        return max(self.watchers.values())

    def run(self, order: list[Node], check: Check | None) -> None:
        """Turn the gradient of each node's output into those of its inputs.

        The body is one loop, since a call a node or an edge would cost as much as a small operation.
        """
        grads, needed, receive = self.grads, self.needed, self.receive
        add, fit = self.arithmetic.add, self.arithmetic.fit
        mark = max(self.watchers.values(), default=-1.0)
        for node in order:
            if node.number < mark:
                mark = self.pass_by(node.number)
            g = grads.pop(node, None)
            edges = node.edges
            if needed is not None:
                edges = tuple([target if target in needed else None for target in edges])
            if g is None:
                for target in edges:
                    if target.__class__ is Leaf:
                        receive(target, None)
                continue
            if node.hooks is not None or node.retained is not None or needed is not None:
                g = self.show(node, g)
            if node.__class__ is OutputNode:
                self.hand_up(node, g)
                continue
            gradients = self.differentiate(node, g, edges)
            if check is not None:
                check(node, gradients)
            for target, meta, gradient in zip(edges, node.metas, gradients, strict=True):
                if target is None:
                    continue
                if gradient is not None and (gradient.shape != meta[0] or gradient.dtype is not meta[1]):
                    try:
                        gradient = fit(gradient, meta[0], meta[1])
                    except ShapeError as error:
                        raise ShapeError(f"backward of {describe(node)}: {error}") from None
                if target.__class__ is Leaf:
                    receive(target, gradient)
                elif gradient is not None:
                    before = grads.get(target)
                    grads[target] = gradient if before is None else add(before, gradient)
            if node.versions and not self.retain_graph:  # a node that saved no values can be walked again
                node.saved = None

    def receive(self, target: Any, g: Any) -> None:
        """One gradient arrives at a node or leaf; None where the path gave none."""
        if g is not None:
            before = self.grads.get(target)
            self.grads[target] = g if before is None else self.arithmetic.add(before, g)
        if target.__class__ is Leaf:
            self.uses[target] -= 1
            if self.uses[target] == 0:
                self.finish(target)

    def finish(self, leaf: Leaf) -> None:
        """A leaf has all its gradients."""
        g = self.grads.pop(leaf, None)
        if self.needed is not None and leaf not in self.needed:
            return
        if g is not None and leaf.hooks:
            g = self.hooked(leaf.hooks, g)
        if self.wanted is not None:
            self.wanted[leaf] = g
        if self.accumulate:
            if g is not None:
                self.arithmetic.accumulate(leaf, g)
                if leaf.post_hooks:
                    tensor = leaf.tensor()
                    for hook in tuple(leaf.post_hooks):
                        hook(tensor)
            if leaf.observer is not None:
                leaf.observer.gradient_ready(leaf)

    def take(self, target: Any) -> Any:
        """The sum of what came to a node or leaf so far, or None; the caller hands it back in its own."""
        return self.grads.pop(target, None)

    def show(self, node: Node, g: Any) -> Any:
        """Let those who asked for a result's gradient see it; returns it as the hooks leave it."""
        if node.hooks is not None:
            g = self.hooked(node.hooks, g)
        if self.wanted is not None and node in self.wanted:
            self.wanted[node] = g
        if node.retained is not None:
            node.retained(self.arithmetic.tensor(g))
        return g

    def hooked(self, hooks: list[Callable[..., Any]], g: Any) -> Any:
        """The gradient as the hooks leave it."""
        for hook in tuple(hooks):
            changed = hook(self.arithmetic.tensor(g))
            if changed is not None:
                changed = self.arithmetic.value(changed)
                if changed.shape != g.shape:
                    raise ShapeError(
                        f"hook: the gradient is {list(g.shape)} but the hook returned {list(changed.shape)}"
                    )
                g = changed
        return g

    def hand_up(self, node: Any, g: Any) -> None:
        """Put an output's gradient beside those of the operation's other outputs."""
        parent = node.edges[0]
        slots = self.grads.setdefault(parent, [None] * len(parent.outputs))
        before = slots[node.index]  # from where the result was used, or from where the vjp had saved it
        slots[node.index] = g if before is None else self.arithmetic.add(before, g)

    def differentiate(self, node: Node, g: Any, edges: tuple[Any, ...]) -> Any:
        """What the node's vjps return."""
        for version in node.versions:
            if version is not None and version[0][0] != version[1]:
                raise _changed_in_place(node, version[0])
        saved = node.saved
        if saved.__class__ is not tuple:
            saved = node.saved = _restored(node)
        arithmetic = self.arithmetic
        like = g
        if node.outputs is not None:
            like = next(part for part in g if part is not None)
            g = tuple(
                arithmetic.zeros(meta, like) if part is None and meta is not None else part
                for part, meta in zip(g, node.outputs, strict=True)
            )
        xp = arithmetic.array_modules.get(like.__class__)
        if xp is None:
            xp = arithmetic.choose(like)
            if xp is meta_module:
                return gradients_by_shapes(node, g, edges, self)
        if arithmetic.unpack is not None:
            saved = arithmetic.unpack(node)
        try:
            return node.op.backward(xp, g, saved, edges, self)
        except Exception as error:
            error.add_note(f"in backward of {describe(node)}")
            raise


def _restored(node: Node) -> tuple[Any, ...]:
    """What a node saved, where it is not at hand."""
    if node.saved is None:
        raise GraphError(
            f"backward: the graph of {describe(node)} was freed by an earlier backward; "
            "pass retain_graph=True to that one, or run forward again"
        )
    saved: tuple[Any, ...] = node.saved.restore(node)
    return saved


def _changed_in_place(node: Node, cell: Cell) -> InPlaceError:
    """The error for a saved array that is not what it was."""
    return InPlaceError(
        f"backward: {describe(node)} saved an array that was changed in place at {cell[1]}; "
        "change a copy instead, or make the change after backward"
    )
