"""Shape rules of what moves elements without computing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.ops.shape_rules import Shape, normalize_axes
from distgrad.backend.device import CPU, at_hand, plain, to_device

__all__ = [
    "broadcast",
    "concatenated",
    "expanded",
    "permuted",
    "repeat_counts",
    "repeated",
    "reshaped",
    "squeezed",
    "stacked",
    "turned",
    "unstacked",
]


def reshaped(x: Shape, *, shape: Shape, **attributes: Any) -> Shape:
    """Another shape of as many elements."""
    known = math.prod(n for n in shape if n != -1)
    if -1 in shape and known == 0:
        raise ValueError(f"cannot tell -1 in {list(shape)}")
    out = tuple(math.prod(x) // known if n == -1 else n for n in shape)
    if math.prod(out) != math.prod(x):
        raise ValueError(f"cannot reshape {math.prod(x)} elements into {list(shape)}")
    return out


def permuted(x: Shape, axes: tuple[int, ...]) -> Shape:
    """The axes in another order."""
    if sorted(axis % max(len(x), 1) for axis in axes) != list(range(len(x))):
        raise ValueError(f"axes {axes} do not name each of {len(x)} axes once")
    return tuple(x[axis] for axis in axes)


def turned(x: Shape) -> Shape:
    """Matrices turned over."""
    if len(x) < 2:
        raise ValueError("expected at least two axes")
    return (*x[:-2], x[-1], x[-2])


def broadcast(x: Shape, shape: Shape) -> Shape:
    """A shape that the input broadcasts to."""
    if np.broadcast_shapes(x, shape) != tuple(shape):
        raise ValueError(f"cannot broadcast to {list(shape)}")
    return tuple(shape)


def expanded(x: Shape, axis: int | tuple[int, ...] = 0) -> Shape:
    """New axes of length 1."""
    added = (axis,) if isinstance(axis, int) else axis
    places = normalize_axes(added, len(x) + len(added), "expand_dims")
    rest = iter(x)
    return tuple(1 if i in places else next(rest) for i in range(len(x) + len(places)))


def squeezed(x: Shape, axis: int | tuple[int, ...]) -> Shape:
    """Without some axes of length 1."""
    places = normalize_axes(axis, len(x), "squeeze")
    if any(x[i] != 1 for i in places):
        raise ValueError(f"axes {places} must have length 1")
    return tuple(n for i, n in enumerate(x) if i not in places)


def concatenated(*arrays: Shape, axis: int | None = 0) -> Shape:
    """One array behind the other along an axis."""
    if axis is None:
        return (sum(map(math.prod, arrays)),)
    place = normalize_axes(axis, len(arrays[0]), "concat")[0]
    others = {(*x[:place], *x[place + 1 :]) for x in arrays}
    if len(others) != 1:
        raise ValueError(f"all axes but {place} must agree")
    first = arrays[0]
    return (*first[:place], sum(x[place] for x in arrays), *first[place + 1 :])


def stacked(*arrays: Shape, axis: int = 0) -> Shape:
    """One array behind the other along a new axis."""
    if len(set(arrays)) != 1:
        raise ValueError("all arrays must have one shape")
    place = normalize_axes(axis, len(arrays[0]) + 1, "stack")[0]
    return (*arrays[0][:place], len(arrays), *arrays[0][place:])


def unstacked(x: Shape, *, axis: int = 0) -> list[Shape]:
    """The parts along an axis."""
    where = normalize_axes(axis, len(x), "unstack")[0]
    return [(*x[:where], *x[where + 1 :])] * x[where]


def repeat_counts(repeats: Any) -> Any:
    """Numbers of repetitions as the host's integers: not uint64, nor the floats of an empty list."""
    counts = np.asarray(repeats if at_hand(repeats) else to_device(plain(repeats), CPU))
    return counts.astype(np.int64) if counts.size == 0 or counts.dtype.kind == "u" else counts


def repeated(x: Shape, repeats: Any, axis: int | None = None) -> Shape:
    """Each element as often as is said, along an axis or of the flattened array."""
    counts = repeat_counts(repeats)
    shape = (math.prod(x),) if axis is None else x
    place = 0 if axis is None else normalize_axes(axis, len(x), "repeat")[0]
    total = int(np.broadcast_to(counts, (shape[place],)).sum()) if counts.ndim else shape[place] * int(counts)
    return (*shape[:place], total, *shape[place + 1 :])
