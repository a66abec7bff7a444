"""What a step computes and keeps, read from its graph, for whoever listens to :mod:`distgrad.trace`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.codegen import retained_names
from distgrad.autograd.nodes import Node
from distgrad.backend.products import matmul
from distgrad.profiler import owners
from distgrad.trace import event

__all__ = ["GraphMeter", "held_buffers", "num_samples", "product_flops"]

_AGAIN_S = 0.5  # a graph of as many nodes is looked at again
_LIMIT_SIDE = 768  # of the products by which the machine's limit is found: 10 ms


def num_samples(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Length of the first axis of the first array among a call's arguments; 1 where there is none."""
    for value in (*args, *kwargs.values()):
        shape = getattr(value, "shape", None)
        if shape:
            return float(shape[0])
    return 1.0


def held_buffers(module: Any) -> dict[str, int]:
    """Bytes of a module's buffers, as :func:`distgrad.profiler.owners.register` wants them."""
    return {"buffers": sum(buffer.nbytes for buffer in module.buffers())}


Shape = tuple[int, ...]


def _linear(x: Shape, weight: Shape, *rest: Any) -> float:
    return 2.0 * math.prod(x) * weight[0]


def _matmul(x1: Shape, x2: Shape, *rest: Any) -> float:
    if len(x1) > 2 or len(x2) < 3:
        return 2.0 * math.prod(x1) * (x2[-1] if len(x2) > 1 else 1)
    return 2.0 * math.prod(x2) * (x1[0] if len(x1) > 1 else 1)  # one matrix times a stack


def _convolution(x: Shape, weight: Shape, bias: Any, saved: dict[str, Any]) -> float:
    places = 1.0
    spatial = zip(x[2:], weight[2:], *(_each(saved[name], len(x) - 2) for name in _SPATIAL), strict=True)
    for length, kernel, stride, padding, dilation in spatial:
        around = sum(padding) if isinstance(padding, tuple | list) else 2 * padding
        places *= max(0, (length + around - dilation * (kernel - 1) - 1) // stride + 1)
    return 2.0 * x[0] * places * math.prod(weight)


def _attention(query: Shape, key: Shape, value: Shape, saved: dict[str, Any]) -> float:
    rows = math.prod(query[:-1])
    whole = 2.0 * rows * key[-2] * (query[-1] + value[-1])
    return whole / 2 if saved["is_causal"] else whole


_SPATIAL = ("stride", "padding", "dilation")


def _each(value: Any, count: int) -> Sequence[Any]:
    return value if isinstance(value, tuple | list) else (value,) * count


_PRODUCTS: dict[str, Callable[..., float]] = {
    "linear": _linear,
    "matmul": _matmul,
    "convolution": _convolution,
    "attention": _attention,
}


def product_flops(node: Node) -> float:
    """Multiplications and additions of a product, of its forward pass and of each gradient that it gives.

    Causal attention counts half; what is no product counts nothing, as is usual.
    """
    count = _PRODUCTS.get(node.op.name)
    if count is None or node.saved.__class__ is not tuple:
        return 0.0
    saved = dict(zip(retained_names(node.op), node.saved, strict=True))
    shapes = []
    for name, meta in zip(node.op.inputs, node.metas, strict=True):  # of an input without gradient: kept
        shape = meta[0] if meta is not None else saved.get(f"{name}_shape")
        shapes.append(shape or getattr(saved.get(name), "shape", None))
    if not (shapes[0] and shapes[1]):
        return 0.0
    gradients = 2 if node.op.name == "attention" else sum(target is not None for target in node.edges[:2])
    return count(*shapes, saved) * (1 + gradients)


class GraphMeter:
    """Tells listeners what a backward pass goes back through: ``flops`` of the step, and bytes kept for it.

    Attributes:
        activation_bytes: of the last graph that was looked at.
    """

    def __init__(self) -> None:
        self.activation_bytes = 0
        self._flops = 0.0
        self._num_nodes = -1
        self._looked_s = 0.0
        owners.register(self, lambda meter: {"activations": meter.activation_bytes})

    def tell(self, order: Sequence[Node], **fields: Any) -> None:
        """Look at a graph, unless one of that size was just looked at, and tell what it takes."""
        now_s = time.perf_counter()
        if len(order) != self._num_nodes or now_s > self._looked_s + _AGAIN_S:
            self._num_nodes, self._looked_s = len(order), now_s
            self._flops = sum(map(product_flops, order))
            kept = {}
            for node in order:
                for array in node.saved if node.saved.__class__ is tuple else ():
                    if hasattr(array, "nbytes"):
                        base = array.base if getattr(array, "base", None) is not None else array
                        kept[id(base)] = array.nbytes
            self.activation_bytes = sum(kept.values())
        event("graph", **fields, flops=self._flops, activation_bytes=self.activation_bytes)


def _measure_limit() -> dict[str, float]:
    """Floating-point operations a second of products of float32 on the host, all ranks at once."""
    x = np.ones((_LIMIT_SIDE, _LIMIT_SIDE), np.float32)
    out = np.empty_like(x)
    least_s = math.inf
    for _ in range(4):
        start_s = time.perf_counter()
        matmul(x, x, out)
        least_s = min(least_s, time.perf_counter() - start_s)
    return {"flops": 2.0 * _LIMIT_SIDE**3 / least_s}


owners.limits["products"] = _measure_limit
