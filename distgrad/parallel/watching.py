"""What a step computes and keeps, read from its graph, for whoever listens to :mod:`distgrad.trace`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.flops import node_flops
from distgrad.autograd.nodes import Node
from distgrad.backend.products import matmul
from distgrad.profiler import owners

__all__ = ["GraphMeter", "held_buffers", "measured_flops", "num_samples"]

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


class GraphMeter:
    """Measures what backward passes go back through, for whoever listens.

    Attributes:
        activation_bytes: what was kept for the last graph that was looked at.
        flops: of the passes since they were last taken, forward and backward.
    """

    def __init__(self) -> None:
        self.activation_bytes = 0
        self.flops = self._flops = 0.0
        self._num_nodes = -1
        self._looked_s = 0.0
        owners.register(self, lambda meter: {"activations": meter.activation_bytes})

    def add(self, order: Sequence[Node]) -> None:
        """Look at a pass's graph, unless one of that size was just looked at, and count what it takes."""
        now_s = time.perf_counter()
        if len(order) != self._num_nodes or now_s > self._looked_s + _AGAIN_S:
            self._num_nodes, self._looked_s = len(order), now_s
            self._flops = sum(map(node_flops, order))
            kept = {}
            for node in order:
                for array in node.saved if node.saved.__class__ is tuple else ():
                    if hasattr(array, "nbytes"):
                        base = array.base if getattr(array, "base", None) is not None else array
                        kept[id(base)] = array.nbytes
            self.activation_bytes = sum(kept.values())
        self.flops += self._flops

    def take(self) -> dict[str, float]:
        """What the passes of a step took, as fields of its ``backward``; nothing where none was looked at."""
        if not self.flops:
            return {}
        flops, self.flops = self.flops, 0.0
        return {"flops": flops, "activation_bytes": self.activation_bytes}


def measured_flops() -> float:
    """FLOP/s of a large product of float32 on the host with this process's threads, the best of four.

    Collective: no; blocks: no; ranks of one host that ask at once share what it can do.
    """
    x = np.ones((_LIMIT_SIDE, _LIMIT_SIDE), np.float32)
    out = np.empty_like(x)
    least_s = math.inf
    for _ in range(4):
        start_s = time.perf_counter()
        matmul(x, x, out)
        least_s = min(least_s, time.perf_counter() - start_s)
    return 2.0 * _LIMIT_SIDE**3 / least_s


owners.limits["products"] = lambda: {"flops": measured_flops()}
