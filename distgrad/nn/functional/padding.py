"""Padding: elements added at the ends of axes."""

from __future__ import annotations

from collections.abc import Sequence

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError

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
        ShapeError: more pairs than axes, or more elements than "reflect" or "circular" can give.
        OptionError: another mode, or a value given for a mode that adds the input's own elements.
    """
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ShapeError(
            f"pad: expected up to {input.ndim} pairs of numbers for {list(input.shape)}, got {pad}"
        )
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise OptionError(f"pad: mode must be 'constant', 'reflect', 'replicate' or 'circular', got {mode!r}")
    if mode != "constant" and value is not None:
        raise OptionError(f"pad: mode {mode!r} adds the input's own elements and takes no value, got {value}")
    sides = [(0, 0)] * (input.ndim - len(pad) // 2)
    sides += [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    if mode == "circular":  # goes round in what is left
        kept = [slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(input.shape, sides, strict=True)]
        input = input[tuple(kept)] if min(map(min, sides), default=0) < 0 else input
        sides = [(max(a, 0), max(b, 0)) for a, b in sides]
    for length, side in zip(input.shape, sides, strict=True):
        most = {"reflect": length - 1, "circular": length}.get(mode, max(side))
        if max(side) > max(most, 0):
            raise ShapeError(
                f"pad: mode {mode!r} can add at most {most} elements to an axis of {length}, got {side}"
            )
    return ops.pad(input, sides, mode, constant_values=value or 0)
