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

from distgrad.autograd.primitive import Primitive
from distgrad.autograd.shapes import heard_by

__all__ = ["RULES", "Counter", "counting"]


def _by_last_axis(out: Any, x: Any, *others: Any) -> int:
    return 2 * out.size * x.shape[-1]


def _convolution(out: Any, x: Any, weight: Any, *bias: Any) -> int:
    return 2 * out.size * math.prod(weight.shape[1:])


def _convolution_input(out: Any, cotangent: Any, weight: Any) -> int:
    return 2 * cotangent.size * math.prod(weight.shape[1:])


def _convolution_weight(out: Any, cotangent: Any, x: Any) -> int:
    return 2 * cotangent.size * math.prod(out.shape[1:])


def _attention(out: Any, query: Any, key: Any, value: Any) -> int:
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
    "convolution": _convolution,
    "convolution_input": _convolution_input,
    "convolution_weight": _convolution_weight,
    "linear": _by_last_axis,
    "lstm_steps": _lstm_steps,
    "matmul": _by_last_axis,
}


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
