"""What a graph is made of: nodes and leaves, and who is told of a walk over them."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from distgrad.autograd.lines import Line, describe_line

__all__ = ["Cell", "Leaf", "Node", "Observer", "OutputNode", "Watcher", "describe", "home", "next_number"]

next_number = itertools.count().__next__

#: A version cell is [number of in-place changes, where the last one was made]; views share it.
Cell = list[Any]


class Node:
    """One recorded operation.

    Attributes:
        op: its primitive (or a user's function with the same ``name`` and ``backward``).
        number: creation order.
        edges: for each input its Node or Leaf, None where no gradient is wanted.
        metas: for each input its shape and dtype.
        saved: what the vjps need; None once the graph is freed; or, in its place, what can ``restore`` it.
        versions: (cell, number at saving) of the saved arrays.
        line: the user's line that called it, for messages; None if no line did.
        hooks: functions of the output's gradient, or None.
        retained: takes the output's gradient (``retain_grad``), or None.
        outputs: for several outputs their shapes and dtypes (None for one whose missing gradient stays None),
            else None.
    """

    __slots__ = (
        "edges",
        "hooks",
        "line",
        "metas",
        "number",
        "op",
        "outputs",
        "retained",
        "saved",
        "versions",
    )

    op: Any
    number: int
    edges: tuple[Any, ...]
    metas: tuple[Any, ...]
    saved: Any
    versions: tuple[Any, ...]
    line: Line | None
    hooks: list[Callable[..., Any]] | None
    outputs: tuple[Any, ...] | None
    retained: Any

    def __init__(
        self, op: Any, edges: tuple[Any, ...], metas: tuple[Any, ...], saved: tuple[Any, ...]
    ) -> None:
        self.op = op
        self.number = next_number()
        self.edges = edges
        self.metas = metas
        self.saved = saved
        self.versions = ()
        self.line = None
        self.hooks = None
        self.outputs = None
        self.retained = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.op.name}>"


class OutputNode(Node):
    """One output of an operation with several: hands its gradient to the operation's node."""

    __slots__ = ("index",)

    index: int

    def __init__(self, parent: Node, index: int) -> None:
        super().__init__(parent.op, (parent,), (), ())
        self.index = index


class Observer(Protocol):
    """Watches gradients become ready (a data-parallel reducer does).

    Attributes:
        number: several observers of one pass are told of its start and end in the order of their numbers.
        has_data: whether the pass that goes on, or was the last, computed on any samples that count.
    """

    number: int
    has_data: bool

    def backward_started(self, leaves: set[Leaf], order: Sequence[Node]) -> None:
        """The watched leaves that this backward pass reaches, and all nodes, highest number first."""

    def gradient_ready(self, leaf: Leaf) -> None:
        """The leaf's ``grad`` holds all that this backward pass adds to it."""

    def backward_ended(self) -> None:
        """All gradients are in."""

    def backward_failed(self) -> None:
        """An exception ended the pass; some gradients are not what they should be."""


class Watcher(Protocol):
    """Is told how far a walk has come, whatever it is for, that meets one of its leaves."""

    def walk_started(self, order: Sequence[Node]) -> float:
        """A walk over these nodes begins; below which number it is to call :meth:`passing`."""

    def passing(self, number: int) -> float:
        """The walk comes to the node of this number; below which number it is to call again."""

    def walk_failed(self) -> None:
        """An exception ends the walk, which observers are told of next."""

    def walk_ended(self) -> None:
        """All is done, or an exception has ended it."""


class Leaf:
    """A tensor that a user made and wants the gradient of.

    Attributes:
        grad: the gradient tensor, or None.
        buffer: an array (a slice of a flat buffer) that the gradient is written into, or None.
        home: the buffer during a backward pass that may write its only gradient straight into it, else None.
        scale: what gradients are multiplied by on their way into ``buffer``; 0 writes zeros, whatever comes.
        flat: (flat buffer, first element, one past the last) of the tensor's own elements, or None.
        hooks: functions of the gradient, run before it is added to ``grad``.
        post_hooks: functions of the tensor, run after.
        observer: is told when the gradient is ready.
        tensor: weak reference to the tensor.
        watcher: is told how far walks have come.
    """

    __slots__ = (
        "__weakref__",
        "buffer",
        "flat",
        "grad",
        "home",
        "hooks",
        "observer",
        "post_hooks",
        "scale",
        "tensor",
        "watcher",
    )

    def __init__(self, tensor: Any) -> None:
        self.grad: Any = None
        self.buffer: Any = None
        self.home: Any = None
        self.scale = 1.0
        self.flat: Any = None
        self.hooks: list[Callable[..., Any]] | None = None
        self.post_hooks: list[Callable[..., Any]] | None = None
        self.observer: Observer | None = None
        self.watcher: Watcher | None = None
        self.tensor = weakref.ref(tensor)


def home(edge: Any) -> Any:
    """Where the only gradient of a leaf may be written, which still counts as handed over; None: nowhere."""
    return edge.home if edge.__class__ is Leaf and edge.grad is None else None


def describe(node: Node) -> str:
    """The operation's name and the user's line that called it."""
    return f"{node.op.name} ({describe_line(node.line)})" if node.line is not None else str(node.op.name)
