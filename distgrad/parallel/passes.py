"""The forward passes of late, and which of them a backward pass goes back through."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distgrad.autograd.graph import Node, next_number
from distgrad.errors import GraphError

__all__ = ["ForwardPass", "ForwardPasses"]

_MAX_PASSES = 1 << 12  # that are remembered


@dataclass
class ForwardPass:
    """What a call of the module adds to a backward pass.

    Attributes:
        first: number of the first node that it could make.
        stop: one past the last.
        weight: how much it counts.
    """

    first: int
    stop: int
    weight: float


class ForwardPasses(deque[ForwardPass]):
    """The forward passes of late, the last one at the end."""

    def __init__(self) -> None:
        super().__init__(maxlen=_MAX_PASSES)

    def add(self, first: int, weight: float) -> None:
        """Remember one that is over, whose nodes have numbers from ``first`` on."""
        self.append(ForwardPass(first, next_number(), weight))

    def last(self) -> ForwardPass:
        """The last one.

        Raises:
            GraphError: there was none.
        """
        if not self:
            raise GraphError("batch_weight: there was no forward pass yet; set it after calling the module")
        return self[-1]

    def weigh_last(self, weight: Any) -> None:
        """Let the last one count by a number, or a tensor of one element.

        Raises:
            ValueError: it is negative, infinite or no number.
        """
        weight = float(weight)
        if not 0 <= weight < math.inf:
            raise ValueError(f"batch_weight: expected a finite number of at least 0, got {weight}")
        self.last().weight = weight

    def within(self, order: Sequence[Node]) -> tuple[int, ...]:
        """The places of those that have nodes in ``order``, highest number first: -1 is the last one's."""
        found = []
        for number, each in enumerate(reversed(self), 1):
            if not order or each.stop <= order[-1].number:
                break
            place = bisect_left(order, 1 - each.stop, key=lambda node: -node.number)
            if place < len(order) and order[place].number >= each.first:
                found.append(-number)
        return tuple(found)

    def weight_of(self, places: Sequence[int]) -> float:
        """The weight of several together; 1 where there are none."""
        return math.fsum(self[place].weight for place in places) if places else 1.0
