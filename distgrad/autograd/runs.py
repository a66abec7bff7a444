"""Gradients as few arrays: neighbours in a flat buffer are one, so that one call goes over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from distgrad.autograd.tensor import Tensor

__all__ = ["gradient_runs"]

_GAP_BYTES = 64  # neighbours in a flat buffer lie no further apart; what lies between is 0


def gradient_runs(parameters: Iterable[Tensor], where: str | None = None) -> list[Any]:
    """The arrays that hold the parameters' gradients, each element once, and zeros between neighbours.

    Args:
        parameters: those without a gradient are passed over.
        where: who is about to change the arrays in place, for messages about it; None changes nothing.
    """
    pieces: list[tuple[Any, int, int]] = []
    runs: list[tuple[Any, int, int]] = []
    loose: list[Any] = []
    for parameter in dict.fromkeys(parameters):
        if parameter.grad is None:
            continue
        if where is not None:
            parameter.grad.changed(where)
        leaf = parameter.leaf_state()
        if parameter.grad._data is leaf.buffer:
            pieces.append(leaf.flat)
        else:
            loose.append(parameter.grad._data)
    for buffer, start, stop in sorted(pieces, key=lambda piece: (id(piece[0]), piece[1])):
        if runs and runs[-1][0] is buffer and (start - runs[-1][2]) * buffer.dtype.itemsize < _GAP_BYTES:
            runs[-1] = (buffer, runs[-1][1], stop)
        else:
            runs.append((buffer, start, stop))
    return loose + [buffer.grad[start:stop] for buffer, start, stop in runs]
