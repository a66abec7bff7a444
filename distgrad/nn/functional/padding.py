"""Padding: elements added at the ends of axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distgrad.autograd.dispatch import namespace as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import ShapeError

__all__ = ["pad"]


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Elements added at (or, for negative numbers, taken from) the ends of the last axes.

    Args:
        input: any shape.
        pad: (before, after) of the last axis, then of the one before it, and so on, in one flat sequence.
        mode: "constant"; "reflect" mirrors at the end element, "replicate" repeats it, "circular" goes on at
            the other end.
        value: what "constant" adds; None means 0.

    Raises:
        ShapeError: more pairs than axes, or more elements than the mode can give.
        ValueError: another mode, or a value given for a mode that adds the input's own elements.
    """
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ShapeError(
            f"pad: expected up to {input.ndim} pairs of numbers for {list(input.shape)}, got {pad}"
        )
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise ValueError(f"pad: mode must be 'constant', 'reflect', 'replicate' or 'circular', got {mode!r}")
    if mode != "constant" and value is not None:
        raise ValueError(f"pad: mode {mode!r} adds the input's own elements and takes no value, got {value}")
    sides = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    x = _cropped(input, sides)
    sides = [(max(before, 0), max(after, 0)) for before, after in sides]
    if not any(n for side in sides for n in side):
        return x
    if mode == "constant":
        return _constant(x, sides, value or 0)
    for i, (before, after) in enumerate(sides):
        x = _extended(x, x.ndim - 1 - i, before, after, mode)
    return x


def _cropped(x: Tensor, sides: list[tuple[int, int]]) -> Tensor:
    """Without what negative numbers take away."""
    key = [slice(None)] * x.ndim
    for i, (before, after) in enumerate(sides):
        axis = x.ndim - 1 - i
        key[axis] = slice(max(-before, 0), x.shape[axis] - max(-after, 0))
        if x.shape[axis] + min(before, 0) + min(after, 0) < 0:
            raise ShapeError(f"pad: cannot take {(before, after)} from axis {axis} of {list(x.shape)}")
    return ops.getitem(x, tuple(key)) if any(n < 0 for side in sides for n in side) else x


def _constant(x: Tensor, sides: list[tuple[int, int]], value: float) -> Tensor:
    shape = list(x.shape)
    key = [slice(None)] * x.ndim
    for i, (before, after) in enumerate(sides):
        axis = x.ndim - 1 - i
        shape[axis] += before + after
        key[axis] = slice(before, before + x.shape[axis])
    if value == 0:
        return ops.put_zeros(x, tuple(key), tuple(shape))
    return ops.setitem(np.full(tuple(shape), value, dtype=x.dtype), x, tuple(key))


def _extended(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """One axis lengthened by elements of its own."""
    length = x.shape[axis]
    most = {"reflect": length - 1, "circular": length, "replicate": before + after if length else 0}[mode]
    if max(before, after) > most:
        raise ShapeError(
            f"pad: mode {mode!r} can add at most {most} elements to an axis of {length}, "
            f"got {(before, after)}"
        )

    def part(start: int, stop: int, turned: bool = False) -> Tensor:
        piece = ops.getitem(x, (slice(None),) * axis + (slice(start, stop),))
        return ops.getitem(piece, (slice(None),) * axis + (slice(None, None, -1),)) if turned else piece

    def repeated(start: int, count: int) -> Tensor:
        piece = part(start, start + 1)
        return ops.broadcast_to(piece, (*x.shape[:axis], count, *x.shape[axis + 1 :]))

    if mode == "circular":
        pieces = [part(length - before, length), x, part(0, after)]
    elif mode == "reflect":
        pieces = [part(1, before + 1, True), x, part(length - 1 - after, length - 1, True)]
    else:
        pieces = [repeated(0, before), x, repeated(length - 1, after)]
    return ops.concat(pieces, axis=axis)
