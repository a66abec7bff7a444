"""Elements added around an array: a constant, or the array's own again.

Every mode but the constant one repeats elements, so that along an axis it is a list of indices; the gradient
adds up what was repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import Shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import widened
from distgrad.errors import OptionError, ShapeError

Widths = Sequence[tuple[int, int]]

#: Modes by NumPy's name and PyTorch's.
_MODES = {
    "constant": "constant",
    "edge": "edge",
    "replicate": "edge",
    "reflect": "reflect",
    "symmetric": "symmetric",
    "wrap": "wrap",
    "circular": "wrap",
}


def _padded_shape(x: Shape, pad_width: Widths, **attributes: Any) -> Shape:
    return tuple(before + n + after for n, (before, after) in zip(x, pad_width, strict=True))


@primitive(
    math="y = x, with value before and after it",
    shape=_padded_shape,
    samples=[
        Sample(((3, 4),), {"pad_width": ((1, 2), (0, 1))}),
        Sample(((3, 4),), {"pad_width": ((0, 0), (2, 0)), "value": 1.5}),
        Sample(((5, 4),), {"pad_width": ((-1, 2), (1, -2))}, note="negative widths cut off"),
        Sample(((0, 4),), {"pad_width": ((1, 1), (0, 0))}, note="empty"),
    ],
    rejects=[
        Reject(((3,),), ShapeError, "cut off more", {"pad_width": ((-2, -2),)}),
    ],
)
def pad_constant(xp: Any, x: Array, /, *, pad_width: Widths, value: Any = 0) -> Array:
    """One number around an array; a negative width cuts off instead.

    Args:
        x: any shape.
        pad_width: (before, after) for each axis.
        value: the number.
    """
    shape = _padded_shape(x.shape, pad_width)
    if min(shape, default=0) < 0:
        raise ShapeError(f"pad: widths {list(pad_width)} cut off more than there is of {list(x.shape)}")
    out = xp.full(shape, value, dtype=x.dtype)
    inside = tuple(slice(max(b, 0), n - max(a, 0)) for n, (b, a) in zip(shape, pad_width, strict=True))
    used = tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape, pad_width, strict=True))
    out[inside] = x[used]
    return out


@pad_constant.vjp("x")
def _(xp: Any, g: Array, pad_width: Widths) -> Array:
    return xp.pad_constant(g, pad_width=tuple((-before, -after) for before, after in pad_width))


def _axis_indices(length: int, before: int, after: int, mode: str) -> np.ndarray:
    """Which element stands at each place of a padded axis."""
    places = np.arange(-before, length + after)
    if mode == "edge":
        return np.clip(places, 0, length - 1)
    if mode == "wrap":
        return places % length
    period = 2 * length if mode == "symmetric" else max(2 * (length - 1), 1)
    folded = places % period
    return np.where(folded < length, folded, period - folded - (mode == "symmetric"))


@primitive(
    math="y = x at the places that mode repeats",
    shape=_padded_shape,
    samples=[
        Sample(((3, 4),), {"pad_width": ((1, 2), (0, 1)), "mode": "edge"}),
        Sample(((3, 4),), {"pad_width": ((1, 2), (3, 1)), "mode": "reflect"}),
        Sample(((3, 4),), {"pad_width": ((1, 3), (0, 4)), "mode": "symmetric"}),
        Sample(((3, 4),), {"pad_width": ((1, 2), (4, 0)), "mode": "wrap"}),
        Sample(((2, 1),), {"pad_width": ((3, 5), (0, 2)), "mode": "reflect"}, note="more than the length"),
    ],
    rejects=[
        Reject(((0, 4),), ShapeError, "nothing to repeat", {"pad_width": ((1, 1), (0, 0)), "mode": "edge"}),
    ],
)
def pad_repeat(xp: Any, x: Array, /, *, pad_width: Widths, mode: str) -> Array:
    """The array's own elements around it.

    Args:
        x: any shape.
        pad_width: (before, after) for each axis; negative widths cut off.
        mode: ``"edge"``, ``"reflect"``, ``"symmetric"`` or ``"wrap"``.
    """
    for axis, (before, after) in enumerate(pad_width):
        if x.shape[axis] == 0 and (before > 0 or after > 0):
            raise ShapeError(
                f"pad: axis {axis} of {list(x.shape)} has nothing to repeat; use mode='constant'"
            )
        if before or after:
            x = xp.take(x, xp.asarray(_axis_indices(x.shape[axis], before, after, mode)), axis=axis)
    return x


@pad_repeat.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape, pad_width: Widths, mode: str) -> Array:
    return xp.pad_fold(g, shape=x_shape, pad_width=pad_width, mode=mode)


@primitive(
    math="y = Σ x over the places that mode repeats",
    shape=lambda x, shape, **attributes: shape,
    samples=[
        Sample(((6, 5),), {"shape": (3, 4), "pad_width": ((1, 2), (0, 1)), "mode": "edge"}),
        Sample(((6, 8),), {"shape": (3, 4), "pad_width": ((1, 2), (3, 1)), "mode": "reflect"}),
        Sample(((6, 8),), {"shape": (3, 4), "pad_width": ((1, 2), (4, 0)), "mode": "wrap"}),
    ],
)
def pad_fold(xp: Any, x: Array, /, *, shape: Shape, pad_width: Widths, mode: str) -> Array:
    """What was repeated, added up: the transpose of :func:`pad_repeat`.

    Args:
        x: a padded array.
        shape: of the array before it was padded.
        pad_width, mode: how it was padded.
    """
    dtype = x.dtype
    (x,) = widened(x)
    for axis, (before, after) in enumerate(pad_width):
        if before or after:
            length = shape[axis]
            folded = xp.zeros((*x.shape[:axis], length, *x.shape[axis + 1 :]), dtype=x.dtype)
            ahead = (slice(None),) * axis
            inside = slice(max(-before, 0), length - max(-after, 0))
            core = slice(max(before, 0), x.shape[axis] - max(after, 0))
            folded[(*ahead, inside)] = x[(*ahead, core)]
            places = _axis_indices(length, before, after, mode)
            for place in (*range(max(before, 0)), *range(x.shape[axis] - max(after, 0), x.shape[axis])):
                folded[(*ahead, places[place])] += x[(*ahead, place)]
            x = folded
    return x.astype(dtype, copy=False)


@pad_fold.vjp("x")
def _(xp: Any, g: Array, pad_width: Widths, mode: str) -> Array:
    return xp.pad_repeat(g, pad_width=pad_width, mode=mode)


def _all_widths(pad_width: Any, ndim: int) -> Widths:
    """(before, after) for each axis, from any of NumPy's short forms."""
    try:
        pairs = np.broadcast_to(np.asarray(pad_width, dtype=int), (ndim, 2))
    except ValueError:
        raise ShapeError(
            f"pad: pad_width={pad_width} does not give (before, after) for {ndim} axes"
        ) from None
    return tuple((int(before), int(after)) for before, after in pairs)


@composite(
    math="y = x with elements before and after each axis",
    samples=[
        Sample(((3, 4), 1)),
        Sample(((3, 4),), {"pad_width": [(1, 2), (0, 1)], "constant_values": 2.0}),
        Sample(((3, 4),), {"pad_width": [(1, 2)], "mode": "reflect"}),
        Sample(((3, 4),), {"pad_width": [(1, 2), (0, 1)], "mode": "edge"}),
        Sample(((3, 4),), {"pad_width": [(1, 2), (0, 1)], "mode": "replicate"}, note="PyTorch's name"),
        Sample(((3, 4),), {"pad_width": [(1, 2), (0, 1)], "mode": "circular"}, note="PyTorch's name"),
    ],
    rejects=[
        Reject(((3, 4),), ShapeError, "for 2 axes", {"pad_width": [(1, 2)] * 3}),
        Reject(((3, 4),), OptionError, "mode must be one of", {"pad_width": 1, "mode": "mean"}),
    ],
)
def pad(xp: Any, x: Array, /, pad_width: Any, mode: str = "constant", *, constant_values: Any = 0) -> Array:
    """Elements added around an array, with NumPy's arguments.

    Args:
        x: any shape.
        pad_width: (before, after) for each axis, or one pair or number for all; negative widths cut off.
        mode: ``"constant"``; ``"edge"`` (or ``"replicate"``) repeats the outermost element; ``"reflect"``
            mirrors without, ``"symmetric"`` with it; ``"wrap"`` (or ``"circular"``) starts over.
        constant_values: the number of ``"constant"``.
    """
    if mode not in _MODES:
        raise OptionError(f"pad: mode must be one of {sorted(_MODES)}, got {mode!r}")
    widths = _all_widths(pad_width, len(x.shape))
    if mode == "constant":
        return xp.pad_constant(x, pad_width=widths, value=constant_values)
    return xp.pad_repeat(x, pad_width=widths, mode=_MODES[mode])
