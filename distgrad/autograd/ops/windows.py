"""Sliding windows: ``sliding_window_view`` and ``unfold`` read them, ``fold`` adds them up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import Shape, normalize_axes, pairs
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import widened
from distgrad.errors import AxisError, ShapeError

Sizes = tuple[int, ...]


def _windows_shape(x: Shape, *, window: Sizes, axes: Sizes, stride: Sizes, dilation: Sizes) -> Shape:
    """The windows' places on ``axes``, and the windows' own axes at the end."""
    shape = list(x)
    for axis, k, s, d in zip(axes, window, stride, dilation, strict=True):
        shape[axis] = (x[axis] - d * (k - 1) - 1) // s + 1
        if min(k, s, d) < 1 or shape[axis] < 1:
            raise ShapeError(
                f"windows: length {x[axis]} of axis {axis} holds no window of {k} (stride {s}, dilation {d})"
            )
    return (*shape, *window)


_LINE = {"window": (3,), "axes": (1,), "stride": (1,), "dilation": (1,)}
_PLANE = {"window": (2, 3), "axes": (0, 2), "stride": (2, 1), "dilation": (1, 2)}


@primitive(
    math="y[…, p, …, k] = x[…, stride p + dilation k, …]",
    shape=_windows_shape,
    view=True,
    samples=[Sample(((2, 5),), _LINE), Sample(((5, 2, 7),), _PLANE, note="strides, dilation")],
    rejects=[Reject(((2, 2),), ShapeError, "holds no window of 3", _LINE)],
)
def windows(xp: Any, x: Array, /, *, window: Sizes, axes: Sizes, stride: Sizes, dilation: Sizes) -> Array:
    """Every window of an array, as a view that cannot be written.

    Args:
        x: any shape.
        window: lengths of the windows, one an axis of ``axes``, as are the last two.
        axes: the axes, not negative, that windows move along.
        stride: step from window to window.
        dilation: distance of a window's elements.

    Returns:
        ``x``'s axes, counting windows on ``axes``, then the windows' own.
    """
    shape = _windows_shape(x.shape, window=window, axes=axes, stride=stride, dilation=dilation)
    steps = list(x.strides)
    for axis, s in zip(axes, stride, strict=True):
        steps[axis] *= s
    inner = tuple(x.strides[axis] * d for axis, d in zip(axes, dilation, strict=True))
    return xp.as_strided(x, shape, (*steps, *inner))


@windows.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape, window: Sizes, axes: Sizes, stride: Sizes, dilation: Sizes) -> Array:
    return xp.overlap_add(g, shape=x_shape, window=window, axes=axes, stride=stride, dilation=dilation)


@primitive(
    math="y[…, stride p + dilation k, …] = Σ x[…, p, …, k]",
    shape=lambda x, shape, **attributes: shape,
    samples=[
        Sample(((2, 3, 3),), {"shape": (2, 5), **_LINE}),
        Sample(((2, 2, 3, 2, 3),), {"shape": (5, 2, 7), **_PLANE}, note="strides, dilation"),
    ],
    rejects=[Reject(((2, 2, 3),), ShapeError, "overlap_add: x is [2, 2, 3]", {"shape": (2, 5), **_LINE})],
)
def overlap_add(
    xp: Any, x: Array, /, *, shape: Shape, window: Sizes, axes: Sizes, stride: Sizes, dilation: Sizes
) -> Array:
    """Windows added up at their places: the transpose of :func:`windows`.

    Args:
        x: as :func:`windows` returns it.
        shape: of the result.
        window, axes, stride, dilation: as there.
    """
    expected = _windows_shape(shape, window=window, axes=axes, stride=stride, dilation=dilation)
    if x.shape != expected:
        raise ShapeError(f"overlap_add: x is {list(x.shape)}, expected {list(expected)}")
    (wide,) = widened(x)
    out = xp.zeros(shape, dtype=wide.dtype)
    for place in itertools.product(*map(range, window)):
        key: list[Any] = [slice(None)] * len(shape)
        for axis, k, s, d in zip(axes, place, stride, dilation, strict=True):
            key[axis] = slice(k * d, k * d + s * (expected[axis] - 1) + 1, s)
        out[tuple(key)] += wide[(..., *place)]
    return out.astype(x.dtype, copy=False)


@overlap_add.vjp("x")
def _(xp: Any, g: Array, window: Sizes, axes: Sizes, stride: Sizes, dilation: Sizes) -> Array:
    return xp.windows(g, window=window, axes=axes, stride=stride, dilation=dilation)


# -- NumPy's and PyTorch's names


@composite(
    math="y[…, p, …, k] = x[…, p + k, …]",
    samples=[
        Sample(((2, 5), 3), {"axis": 1}),
        Sample(((3, 4),), {"window_shape": (2, 2)}, note="every axis"),
    ],
    rejects=[
        Reject(((2, 5), 3), ShapeError, "1 window lengths for 2 axes"),
        Reject(((2, 5), 3), AxisError, "axis 2", {"axis": 2}),
    ],
)
def sliding_window_view(xp: Any, x: Array, /, window_shape: Any, axis: Any = None) -> Array:
    """Windows at every place, their own axes at the end, as a view.

    Args:
        x: any shape.
        window_shape: length of the windows, one number an axis.
        axis: the axes that windows move along; None means all.
    """
    window = (window_shape,) if isinstance(window_shape, int) else tuple(window_shape)
    named = range(len(x.shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = tuple(normalize_axes(each, len(x.shape), "sliding_window_view")[0] for each in named)
    if len(axes) != len(window) or len(set(axes)) != len(axes):
        raise ShapeError(f"sliding_window_view: {len(window)} window lengths for {len(axes)} axes {axis}")
    ones = (1,) * len(axes)
    return xp.windows(x, window=window, axes=axes, stride=ones, dilation=ones)


def _spatial(
    where: str, kernel_size: Any, dilation: Any, padding: Any, stride: Any, count: int
) -> tuple[Sizes, Sizes, Sizes, Sizes]:
    return (
        pairs(kernel_size, count, where, "kernel_size"),
        pairs(dilation, count, where, "dilation"),
        pairs(padding, count, where, "padding", 0),
        pairs(stride, count, where, "stride"),
    )


@composite(
    math="y[n, (c, k), p] = x[n, c, stride p + dilation k - padding]",
    samples=[
        Sample(((2, 3, 4, 5),), {"kernel_size": (2, 3)}),
        Sample(((2, 1, 5, 4),), {"kernel_size": 2, "dilation": 2, "padding": 1, "stride": (2, 1)}),
        Sample(((2, 3, 6),), {"kernel_size": 2, "stride": 2}, note="one dimension"),
    ],
    rejects=[Reject(((2, 3),), ShapeError, "expected [N, C, *spatial]", {"kernel_size": 2})],
)
def unfold(
    xp: Any, x: Array, /, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Array:
    """Patches of an image as columns.

    Args:
        x: ``[N, C, *spatial]``.
        kernel_size: of a patch; a number, or one for each spatial axis, as are the rest.
        dilation: distance of a patch's elements.
        padding: zeros added to both ends.
        stride: step from patch to patch.

    Returns:
        ``[N, C prod(kernel_size), patches]``.
    """
    count = len(x.shape) - 2
    if count < 1:
        raise ShapeError(f"unfold: x is {list(x.shape)}, expected [N, C, *spatial]")
    window, dilations, paddings, strides = _spatial("unfold", kernel_size, dilation, padding, stride, count)
    if any(paddings):
        x = xp.pad_constant(x, pad_width=((0, 0), (0, 0), *((p, p) for p in paddings)))
    axes = tuple(range(2, 2 + count))
    y = xp.windows(x, window=window, axes=axes, stride=strides, dilation=dilations)
    y = xp.permute_dims(y, (0, 1, *range(2 + count, 2 + 2 * count), *axes))
    columns = math.prod(y.shape[2 + count :])
    return xp.reshape(y, (x.shape[0], x.shape[1] * math.prod(window), columns))


@composite(
    math="y[n, c, stride p + dilation k - padding] = Σ x[n, (c, k), p]",
    samples=[
        Sample(((2, 18, 9),), {"output_size": (4, 5), "kernel_size": (2, 3)}),
        Sample(
            ((2, 4, 12),),
            {"output_size": (5, 4), "kernel_size": 2, "dilation": 2, "padding": 1, "stride": (2, 1)},
        ),
    ],
    rejects=[
        Reject(
            ((2, 4, 9),), ShapeError, "fold: x is [2, 4, 9]", {"output_size": (4, 5), "kernel_size": (2, 3)}
        ),
    ],
)
def fold(
    xp: Any,
    x: Array,
    /,
    output_size: Sequence[int],
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Array:
    """Columns added up to images: the transpose of :func:`unfold`.

    Args:
        x: ``[N, C prod(kernel_size), patches]``.
        output_size: lengths of the spatial axes of the result.
        kernel_size, dilation, padding, stride: as there.

    Returns:
        ``[N, C, *output_size]``.
    """
    count = len(output_size)
    window, dilations, paddings, strides = _spatial("fold", kernel_size, dilation, padding, stride, count)
    padded = tuple(n + 2 * p for n, p in zip(output_size, paddings, strict=True))
    axes = tuple(range(2, 2 + count))
    rows = math.prod(window)
    channels = x.shape[1] // rows if len(x.shape) == 3 else 0
    places = _windows_shape((0, 0, *padded), window=window, axes=axes, stride=strides, dilation=dilations)[
        2 : 2 + count
    ]
    if len(x.shape) != 3 or x.shape[1] % rows or x.shape[2] != math.prod(places):
        raise ShapeError(
            f"fold: x is {list(x.shape)}, expected [N, C · {rows}, {math.prod(places)}] for output_size "
            f"{list(output_size)} and kernel {list(window)}"
        )
    y = xp.reshape(x, (x.shape[0], channels, *window, *places))
    y = xp.permute_dims(y, (0, 1, *range(2 + count, 2 + 2 * count), *axes))
    shape = (x.shape[0], channels, *padded)
    y = xp.overlap_add(y, shape=shape, window=window, axes=axes, stride=strides, dilation=dilations)
    return xp.pad_constant(y, pad_width=((0, 0), (0, 0), *((-p, -p) for p in paddings)))
