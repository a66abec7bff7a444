"""Pooling in any number of spatial dimensions.

A window's maximum or sum is found by going over the places in the kernel, each of which is one strided slice
of the input. The maximum's gradient goes to the first place that holds it; ``max_pool_scatter`` and
``max_pool_gather`` are that choice and its transpose, ``sum_pool`` and ``sum_pool_input`` the sum and its:
each pair is closed under differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.conv import Geometry, Sizes, interior, pad
from distgrad.autograd.ops.scatter import check_index
from distgrad.autograd.ops.shape_rules import Shape, first_dtype, pairs
from distgrad.autograd.primitive import Reject, Sample
from distgrad.autograd.tensor import FLOATING
from distgrad.backend.device import at_hand, widened
from distgrad.errors import OptionError, OutOfBoundsError, ShapeError


def check_fit(where: str, x: Shape, geometry: Geometry) -> Geometry:
    """The geometry itself, if windows of it can move over an input.

    Raises:
        ShapeError: an input with other axes than ``[N, C]`` and the kernel's, or smaller than a window, or
            padding of more than half a window, which could be all padding.
    """
    kernel = geometry.kernel
    if len(x) != len(kernel) + 2 or not kernel:
        raise ShapeError(
            f"{where}: x is {list(x)} but the kernel {list(kernel)} expects [N, C] and {len(kernel)} spatial "
            "axes"
        )
    if any(2 * p > d * (k - 1) + 1 for k, _, p, d in zip(*geometry[:4], strict=True)):
        raise ShapeError(
            f"{where}: padding {list(geometry.padding)} is more than half of the kernel {list(kernel)}"
        )
    if min(geometry.out(x[2:])) < 1:
        raise ShapeError(f"{where}: kernel {list(kernel)} is larger than the input {list(x[2:])}")
    return geometry


def geometry_of(
    where: str, x: Shape, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Geometry:
    """The geometry from PyTorch's arguments: a number for all spatial axes or one each.

    Raises:
        ShapeError: numbers that do not fit the input.
    """
    count = len(x) - 2
    kernel = pairs(kernel_size, count, where, "kernel_size")
    return check_fit(
        where,
        x,
        Geometry(
            kernel,
            kernel if stride is None or stride == () else pairs(stride, count, where, "stride"),
            pairs(padding, count, where, "padding", 0),
            pairs(dilation, count, where, "dilation"),
            ceil_mode,
        ),
    )


def _shape(
    x: Shape, *, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool = False
) -> Shape:
    return (*x[:2], *Geometry(kernel_size, stride, padding, dilation, ceil_mode).out(x[2:]))


# -- the largest


def _lowest(dtype: Any) -> float:
    return -np.inf if dtype.char in FLOATING else np.iinfo(dtype).min


def _first_hits(xp: Any, x: Array, geometry: Geometry) -> Iterator[tuple[tuple[Any, ...], Array]]:
    """For each place in the kernel: its slice, and where it is the first to hold the window's maximum.

    NaN is largest, so that the gradient goes where the value came from; of several the last, as PyTorch's.
    """
    padded = pad(xp, x, geometry, _lowest(x.dtype))
    inside = pad(xp, xp.ones((1, 1, *x.shape[2:]), dtype=bool), geometry, False)  # padding may tie with -∞
    offsets = geometry.offsets(geometry.out(x.shape[2:]))
    y = _maximum(xp, padded, offsets)
    free = xp.ones(y.shape, dtype=bool)
    nans = _last_nans(xp, padded, y, offsets)
    for offset, nan in zip(offsets, nans, strict=True):
        key = (..., *offset)
        hit = free & inside[key] & (padded[key] == y) | nan
        free &= ~hit
        yield key, hit


def _last_nans(xp: Any, padded: Array, y: Array, offsets: list[tuple[slice, ...]]) -> list[Any]:
    """For each place in the kernel, where it is the last to hold a NaN; nowhere if there is none."""
    nan = y != y
    if at_hand(y) and not xp.any(nan):
        return [xp.zeros((), dtype=bool)] * len(offsets)
    found = []
    for offset in reversed(offsets):
        there = padded[(..., *offset)]
        found.append(nan & (there != there))
        nan = nan & ~found[-1]
    return found[::-1]


def _maximum(xp: Any, padded: Array, offsets: list[tuple[slice, ...]]) -> Array:
    y = padded[(..., *offsets[0])].copy()
    for offset in offsets[1:]:
        xp.maximum(y, padded[(..., *offset)], out=y)
    return y


_TWO = Geometry((2, 2), (2, 2), (0, 0), (1, 1))
_ODD = Geometry((3, 2), (2, 1), (1, 1), (1, 2))
_CEIL = Geometry((2,), (3,), (1,), (1,), True)


def _arguments(geometry: Geometry) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    return dict(zip(names, geometry, strict=True))


@primitive(
    math="y[n, c, p] = max_k x[n, c, stride p + dilation k - padding]",
    shape=_shape,
    dtypes="real numeric",
    samples=[
        Sample(((2, 3, 4, 6),), _arguments(_TWO)),
        Sample(((2, 3, 5, 6),), _arguments(_ODD), note="overlap, padding, dilation"),
        Sample(((2, 3, 6),), _arguments(_CEIL), note="a last window that reaches beyond"),
        Sample(((0, 3, 4, 6),), _arguments(_TWO), note="empty"),
    ],
    rejects=[
        Reject(((2, 3, 1, 6),), ShapeError, "larger than the input", _arguments(_TWO)),
        Reject(((3, 4, 6),), ShapeError, "expects [N, C]", _arguments(_TWO)),
        Reject(((2, 3, 4, 6),), ShapeError, "more than half", _arguments(_TWO._replace(padding=(2, 0)))),
    ],
)
def max_pool(
    xp: Any,
    x: Array,
    /,
    *,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool = False,
) -> Array:
    """Largest element of each window.

    Args:
        x: ``[N, C, *spatial]``.
        kernel_size: window's length, one number a spatial axis, as are the next three.
        stride: step of the window.
        padding: elements, never the largest, added to both ends.
        dilation: distance of the window's elements.
        ceil_mode: one more window where the last one leaves elements over.
    """
    geometry = Geometry(kernel_size, stride, padding, dilation, ceil_mode)
    check_fit("max_pool", x.shape, geometry)
    padded = pad(xp, x, geometry, _lowest(x.dtype))
    return _maximum(xp, padded, geometry.offsets(geometry.out(x.shape[2:])))


@max_pool.vjp("x")
def _(
    xp: Any,
    g: Array,
    x: Array,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
) -> Array:
    return xp.max_pool_scatter(g, x, geometry=Geometry(kernel_size, stride, padding, dilation, ceil_mode))


@primitive(
    math="y = upper at each window's maximum of x, 0 elsewhere",
    shape=lambda upper, x, geometry: x,
    dtypes="real numeric",
    samples=[
        Sample(((2, 3, 2, 3), (2, 3, 4, 6)), {"geometry": _TWO}),
        Sample(((2, 3, 3, 6), (2, 3, 5, 6)), {"geometry": _ODD}),
        Sample(((2, 3, 3), (2, 3, 6)), {"geometry": _CEIL}),
    ],
)
def max_pool_scatter(xp: Any, upper: Array, x: Array, /, *, geometry: Geometry) -> Array:
    """Each window's ``upper`` added to the element of ``x`` that is its maximum; linear in ``upper``."""
    (wide,) = widened(upper)
    out = xp.zeros((*x.shape[:2], *geometry.padded(x.shape[2:])), dtype=wide.dtype)
    for key, hit in _first_hits(xp, x, geometry):
        out[key] += wide * hit
    return out[interior(geometry, x.shape[2:])].astype(upper.dtype, copy=False)


@max_pool_scatter.vjp("upper")
def _(xp: Any, g: Array, x: Array, geometry: Geometry) -> Array:
    return xp.max_pool_gather(g, x, geometry=geometry)


@primitive(
    math="y = upper where each window's maximum of x is",
    shape=lambda upper, x, geometry: (*x[:2], *geometry.out(x[2:])),
    dtypes="real numeric",
    samples=[
        Sample(((2, 3, 4, 6), (2, 3, 4, 6)), {"geometry": _TWO}),
        Sample(((2, 3, 5, 6), (2, 3, 5, 6)), {"geometry": _ODD}),
        Sample(((2, 3, 6), (2, 3, 6)), {"geometry": _CEIL}),
    ],
)
def max_pool_gather(xp: Any, upper: Array, x: Array, /, *, geometry: Geometry) -> Array:
    """The element of ``upper`` at the place of each window's maximum of ``x``; linear in ``upper``."""
    padded = pad(xp, upper, geometry)
    out = xp.zeros((*x.shape[:2], *geometry.out(x.shape[2:])), dtype=upper.dtype)
    for key, hit in _first_hits(xp, x, geometry):
        out += padded[key] * hit
    return out


@max_pool_gather.vjp("upper")
def _(xp: Any, g: Array, x: Array, geometry: Geometry) -> Array:
    return xp.max_pool_scatter(g, x, geometry=geometry)


@primitive(
    math="y = place of each window's maximum",
    shape=lambda x, geometry: (*x[:2], *geometry.out(x[2:])),
    dtypes="real numeric",
    result="int64",
    samples=[Sample(((2, 3, 4, 6),), {"geometry": _TWO}), Sample(((2, 3, 5, 6),), {"geometry": _ODD})],
)
def argmax_pool(xp: Any, x: Array, /, *, geometry: Geometry) -> Array:
    """Index of each window's maximum in its channel's flattened plane, the first of several."""
    spatial = x.shape[2:]
    index = xp.zeros((*x.shape[:2], *geometry.out(spatial)), dtype=xp.int64)
    for key, hit in _first_hits(xp, x, geometry):
        places = xp.ogrid[key[1:]]  # in the padded plane, one array an axis
        flat = sum(
            xp.clip(place - p, 0, n - 1) * math.prod(spatial[axis + 1 :])
            for axis, (place, p, n) in enumerate(zip(places, geometry.padding, spatial, strict=True))
        )
        index = xp.where(hit, flat, index)
    return index


def at_places(xp: Any, x: Array, index: Array) -> Array:
    """The elements of each channel's flattened plane that ``index`` names, in the index's shape."""
    plane = xp.reshape(x, (*x.shape[:2], math.prod(x.shape[2:])))
    flat = xp.reshape(index, (*x.shape[:2], math.prod(index.shape[2:])))
    return xp.reshape(xp.gather_elements(plane, flat, axis=2), index.shape)


@composite(
    math="y = the largest of each window, and its place",
    dtypes="real numeric",
    samples=[
        Sample(((2, 3, 4, 6), 2)),
        Sample(((2, 3, 5, 6),), _arguments(_ODD), note="overlap, padding, dilation"),
        Sample(((2, 3, 6),), _arguments(_CEIL), note="a last window that reaches beyond"),
    ],
    rejects=[Reject(((2, 3, 1, 6), 2), ShapeError, "larger than the input")],
)
def max_pool_with_indices(
    xp: Any,
    x: Array,
    /,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """Largest element of each window, and its index in the channel's flattened plane.

    Args:
        x: ``[N, C, *spatial]``.
        kernel_size: window's length; a number, or one for each spatial axis, as are the next three.
        stride: step of the window; None or () means its length.
        padding: elements, never the largest, added to both ends.
        dilation: distance of the window's elements.
        ceil_mode: one more window where the last one leaves elements over.
    """
    geometry = geometry_of("max_pool", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    index = xp.argmax_pool(x, geometry=geometry)
    return at_places(xp, x, index), index


_PLACES = np.array([[[5, 0, 3]]])


@primitive(
    math="y = x at the places of indices, 0 elsewhere",
    shape=lambda x, index, output_size: (*x[:2], *output_size),
    result=first_dtype,
    samples=[
        Sample(((1, 1, 3), _PLACES), {"output_size": (7,)}),
        Sample(((1, 1, 3, 1), _PLACES[..., None]), {"output_size": (2, 3)}, note="images"),
    ],
    rejects=[Reject(((1, 1, 3), _PLACES), OutOfBoundsError, "index holds 5", {"output_size": (5,)})],
)
def max_unpool(xp: Any, x: Array, index: Array, /, output_size: Sizes) -> Array:
    """Elements put back to where :func:`max_pool_with_indices` took them from.

    Args:
        x: ``[N, C, *]``.
        index: of that shape; places in a channel's flattened plane, each named once or with one value.
        output_size: lengths of the result's spatial axes.
    """
    check_index("max_unpool", index, math.prod(output_size))
    plane = xp.zeros((math.prod(x.shape[:2]), math.prod(output_size)), dtype=x.dtype)
    rows = (plane.shape[0], math.prod(x.shape[2:]))
    xp.put_along_axis(plane, index.reshape(rows), x.reshape(rows), axis=1)
    return plane.reshape(*x.shape[:2], *output_size)


@max_unpool.vjp("x")
def _(xp: Any, g: Array, index: Array) -> Array:
    return at_places(xp, g, index)


# -- sums and means


@primitive(
    math="y[n, c, p] = Σ_k x[n, c, stride p + dilation k - padding]",
    shape=lambda x, geometry: (*x[:2], *geometry.out(x[2:])),
    dtypes="floating-point",
    samples=[
        Sample(((2, 3, 4, 6),), {"geometry": _TWO}),
        Sample(((2, 3, 5, 6),), {"geometry": _ODD}),
        Sample(((2, 3, 6),), {"geometry": _CEIL}),
    ],
)
def sum_pool(xp: Any, x: Array, /, *, geometry: Geometry) -> Array:
    """Sum of each window, padding counting as 0."""
    (wide,) = widened(x)
    padded = pad(xp, wide, geometry)
    first, *rest = geometry.offsets(geometry.out(x.shape[2:]))
    y = padded[(..., *first)].copy()
    for offset in rest:
        y += padded[(..., *offset)]
    return y.astype(x.dtype, copy=False)


@sum_pool.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape, geometry: Geometry) -> Array:
    return xp.sum_pool_input(g, spatial=x_shape[2:], geometry=geometry)


@primitive(
    math="the transpose of sum_pool",
    shape=lambda cotangent, spatial, geometry: (*cotangent[:2], *spatial),
    dtypes="floating-point",
    samples=[
        Sample(((2, 3, 2, 3),), {"spatial": (4, 6), "geometry": _TWO}),
        Sample(((2, 3, 3, 6),), {"spatial": (5, 6), "geometry": _ODD}),
    ],
)
def sum_pool_input(xp: Any, cotangent: Array, /, *, spatial: Sizes, geometry: Geometry) -> Array:
    """What each element of the input gets from the windows that hold it."""
    (wide,) = widened(cotangent)
    out = xp.zeros((*cotangent.shape[:2], *geometry.padded(spatial)), dtype=wide.dtype)
    for offset in geometry.offsets(geometry.out(spatial)):
        out[(..., *offset)] += wide
    return out[interior(geometry, spatial)].astype(cotangent.dtype, copy=False)


@sum_pool_input.vjp("cotangent")
def _(xp: Any, g: Array, geometry: Geometry) -> Array:
    return xp.sum_pool(g, geometry=geometry)


def _counts(geometry: Geometry, spatial: Sizes, count_include_pad: bool) -> np.ndarray:
    """How many elements each window holds, with or without padding; never what lies beyond that."""
    counts = np.ones((), dtype=np.int64)
    sizes = zip(spatial, geometry.out(spatial), *geometry[:3], strict=True)
    for n, length, k, s, p in sizes:
        edge = p if count_include_pad else 0
        start = np.arange(length) * s - p
        counts = counts[..., None] * (np.minimum(start + k, n + edge) - np.maximum(start, -edge))
    return counts


@composite(
    math="y[n, c, p] = Σ_k x[n, c, stride p + k - padding] / count",
    dtypes="floating-point",
    samples=[
        Sample(((2, 3, 4, 6), 2)),
        Sample(((2, 3, 5, 6),), {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1}),
        Sample(((2, 3, 6),), {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}),
        Sample(((2, 3, 6),), {"kernel_size": 3, "padding": 1, "count_include_pad": False}),
        Sample(((2, 3, 6),), {"kernel_size": 3, "divisor_override": 2}),
        Sample(((1, 2, 3, 4, 4), 2), note="three dimensions"),
    ],
    rejects=[
        Reject(((2, 3, 1, 6), 2), ShapeError, "larger than the input"),
        Reject(((2, 3, 4, 6), 2), ShapeError, "more than half", {"padding": 2}),
    ],
)
def avg_pool(
    xp: Any,
    x: Array,
    /,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Mean of each window.

    Args:
        x: ``[N, C, *spatial]``.
        kernel_size: window's length; a number, or one for each spatial axis, as are the next two.
        stride: step of the window; None means its length.
        padding: zeros added to both ends.
        ceil_mode: one more window where the last one leaves elements over.
        count_include_pad: whether padding counts in the mean.
        divisor_override: what sums are divided by instead of the count.
    """
    geometry = geometry_of("avg_pool", x.shape, kernel_size, stride, padding, 1, ceil_mode)
    total = xp.sum_pool(*widened(x), geometry=geometry)
    if divisor_override == 0:
        raise OptionError("avg_pool: divisor_override must not be 0")
    if divisor_override is not None:
        y = total / divisor_override
    else:
        counts = _counts(geometry, x.shape[2:], count_include_pad)
        y = total * xp.asarray((1.0 / counts).astype(total.dtype))
    return y.astype(x.dtype, copy=False)


@composite(
    math="y[n, c, p] = (Σ_k x[n, c, stride p + k]^norm_type)^(1/norm_type)",
    dtypes="floating-point",
    domain=(0.5, 2.0),
    samples=[
        Sample(((2, 3, 4, 6), 2, 2)),
        Sample(((2, 3, 7),), {"norm_type": 3, "kernel_size": 3, "stride": 2, "ceil_mode": True}),
        Sample((np.zeros((1, 1, 4)), 2, 2), note="at 0", grad=False),
    ],
)
def lp_pool(
    xp: Any, x: Array, /, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Array:
    """Power mean of each window, times its length to the same power; at 0 the gradient is 0.

    Args:
        x: ``[N, C, *spatial]``.
        norm_type: the power; 1 gives the sum.
        kernel_size: window's length; a number, or one for each spatial axis, as is the next.
        stride: step of the window; None means its length.
        ceil_mode: one more window where the last one leaves elements over.
    """
    size = math.prod(pairs(kernel_size, len(x.shape) - 2, "lp_pool", "kernel_size"))
    (wide,) = widened(x)
    total = xp.avg_pool(wide**norm_type, kernel_size, stride, 0, ceil_mode) * size
    zero = total == 0
    y = xp.where(zero, 0.0, xp.where(zero, 1.0, total) ** (1.0 / norm_type))
    return y.astype(x.dtype, copy=False)
