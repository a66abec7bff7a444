"""What tensors, graphs and flat buffers hold, for :func:`distgrad.profiler.memory`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distgrad.autograd.flat import FlatBuffer
from distgrad.autograd.lines import describe_line
from distgrad.autograd.nodes import Node
from distgrad.autograd.tensor import Tensor
from distgrad.profiler.owners import holders

__all__: list[str] = []

_Holding = tuple[str, Any, str]
_elements: Any = Tensor.__dict__[
    "_data"
]  # the slot itself: a sharded parameter would be gathered by all ranks


def _line(node: Any) -> str:
    line = getattr(node, "line", None)
    return "" if line is None else describe_line(line)


def _of_tensor(tensor: Tensor) -> Iterator[_Holding]:
    try:
        data, node = _elements.__get__(tensor), getattr(tensor, "_node", None)
    except AttributeError:  # it is being made
        return
    if not hasattr(data, "nbytes"):
        return
    if isinstance(node, Node):
        yield "activations", data, _line(node)
    elif node is not None:  # a leaf that wants a gradient
        yield "parameters", data, ""
        gradient = tensor.grad
        if gradient is not None:
            yield "gradients", gradient._data, ""
    else:
        yield "other", data, ""


def _of_node(node: Node) -> Iterator[_Holding]:
    saved = getattr(node, "saved", None)
    if saved.__class__ is tuple:
        for value in saved:
            if hasattr(value, "nbytes") and hasattr(value, "ndim"):
                yield "activations", value, _line(node)


def _of_buffer(buffer: FlatBuffer) -> Iterator[_Holding]:
    yield "parameters", buffer.data, ""
    yield "gradients", buffer.grad, ""


holders[Tensor] = _of_tensor
holders[Node] = _of_node
holders[FlatBuffer] = _of_buffer
