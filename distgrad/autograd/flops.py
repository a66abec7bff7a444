"""How many multiplications and additions a program's products take, found on shapes alone.

Products are where a network's arithmetic is; what is done element by element is not counted, as is usual.
A multiplication and the addition behind it are two operations (FLOPs). What runs on ``"meta"`` is counted,
where backward passes compute nothing: a product's two gradients take as much again each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distgrad.autograd.codegen import retained_names
from distgrad.autograd.nodes import Node
from distgrad.autograd.primitive import Primitive
from distgrad.autograd.shapes import heard_by

__all__ = ["RULES", "Counter", "counting", "node_flops"]


def _by_last_axis(out: Any, x: Any, *others: Any) -> int:
    return 2 * out.size * x.shape[-1]


def _convolution(out: Any, x: Any, weight: Any, *bias: Any) -> int:
    return 2 * out.size * math.prod(weight.shape[1:])


def _convolution_input(out: Any, cotangent: Any, weight: Any) -> int:
    return 2 * cotangent.size * math.prod(weight.shape[1:])


def _convolution_weight(out: Any, cotangent: Any, x: Any) -> int:
    return 2 * cotangent.size * math.prod(out.shape[1:])


def _attention(out: Any, query: Any, key: Any, value: Any, *rest: Any) -> int:
    """Both products whole: what a causal mask spares counts too, as published figures have it."""
    return 2 * (query.size + out.size) * key.shape[-2]


def _attention_weights(out: Any, query: Any, key: Any) -> int:
    return 2 * out.size * query.shape[-1]


def _lstm_steps(out: Any, from_input: Any, weight: Any, hidden: Any, cell: Any) -> int:
    return 2 * from_input.size * weight.shape[1]


#: What an operation takes, from its result and its inputs.
RULES: dict[str, Callable[..., int]] = {
    "attention": _attention,
    "attention_weights": _attention_weights,
    "attention_with_statistics": _attention,
    "convolution": _convolution,
    "convolution_input": _convolution_input,
    "convolution_weight": _convolution_weight,
    "linear": _by_last_axis,
    "lstm_steps": _lstm_steps,
    "matmul": _by_last_axis,
}


class _Shape:
    """What rules look at of an array."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.size = shape, math.prod(shape)


def node_flops(node: Node) -> int:
    """What a recorded operation takes, in its forward pass and for each gradient that it gives."""
    rule = RULES.get(node.op.name)
    if rule is None or not node.metas or node.saved.__class__ is not tuple or node.op.shape is None:
        return 0
    if node.op.name == "convolution_weight":  # a gradient's own node, which keeps no shape of its result
        return 0
    inputs = node.op.inputs
    saved = dict(zip(retained_names(node.op), node.saved, strict=True))
    shapes = []
    for name, meta in zip(inputs, node.metas, strict=True):  # of an input without gradient: kept
        shape = meta[0] if meta is not None else saved.get(f"{name}_shape")
        shapes.append(shape or getattr(saved.get(name), "shape", None))
    if not (shapes[0] and shapes[1]):
        return 0
    whole = node.op.name in ("attention", "attention_with_statistics")
    gradients = 2 if whole else sum(target is not None for target in node.edges[:2])
    return rule(_result(node, shapes, saved), *(_Shape(each or ()) for each in shapes)) * (1 + gradients)


def _result(node: Node, shapes: list[Any], saved: dict[str, Any]) -> _Shape | None:
    """An operation's result, found anew; None where an option said its shape, and no rule looks at it."""
    parameters = node.op.signature.parameters
    if "shape" in parameters:
        return None
    attributes = {name: saved[name] for name in parameters if name in saved and name not in node.op.inputs}
    out = node.op.shape(*shapes, **attributes)
    return _Shape(out if node.op.outputs == 1 else out[0])


class Counter:
    """The operations so far.

    Attributes:
        flops: of those that ran while it counted.
    """

    def __init__(self) -> None:
        self.flops = 0

    def __call__(self, record: Primitive, args: tuple[Any, ...], out: Any) -> None:
        """Add what one operation takes."""
        rule = RULES.get(record.name)
        if rule is not None:
            self.flops += rule(out, *args[: len(record.inputs)])


@contextmanager
def counting() -> Iterator[Counter]:
    """Count what runs on the device ``"meta"`` inside the ``with`` statement.

    Yields:
        The :class:`Counter`, whose ``flops`` grow.
    """
    counter = Counter()
    heard_by.append(counter)
    try:
        yield counter
    finally:
        heard_by.remove(counter)
