"""Pooling in any number of spatial dimensions.

A window's maximum is found by going over the places in the kernel, each of which is one strided slice of the
input. The gradient goes to the first place that holds the maximum; ``max_pool_scatter`` and
``max_pool_gather`` are that choice and its transpose, and each other's gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.conv import Geometry, Sizes, interior, pad
from distgrad.autograd.ops.rules import Shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import ShapeError


def _geometry(x: Array, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Geometry:
    geometry = Geometry(kernel_size, stride, padding, dilation)
    if x.ndim != len(kernel_size) + 2:
        raise ShapeError(
            f"max_pool: x is {list(x.shape)} but the kernel {list(kernel_size)} expects [N, C] and "
            f"{len(kernel_size)} spatial axes"
        )
    if min(geometry.out(x.shape[2:])) < 1:
        raise ShapeError(f"max_pool: kernel {list(kernel_size)} is larger than the input {list(x.shape[2:])}")
    return geometry


def _shape(x: Shape, *, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Shape:
    return (*x[:2], *Geometry(kernel_size, stride, padding, dilation).out(x[2:]))


def _lowest(dtype: Any) -> float:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _first_hits(xp: Any, x: Array, geometry: Geometry) -> Any:
    """For each place in the kernel: its slice, and where it is the first to hold the window's maximum."""
    padded = pad(xp, x, geometry, _lowest(x.dtype))
    offsets = geometry.offsets(geometry.out(x.shape[2:]))
    y = _maximum(xp, padded, offsets)
    free = xp.ones(y.shape, dtype=bool)
    for offset in offsets:
        hit = free & (padded[(..., *offset)] == y)
        free &= ~hit
        yield (..., *offset), hit


def _maximum(xp: Any, padded: Array, offsets: list[tuple[slice, ...]]) -> Array:
    y = padded[(..., *offsets[0])].copy()
    for offset in offsets[1:]:
        xp.maximum(y, padded[(..., *offset)], out=y)
    return y


_TWO = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}
_ODD = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 1), "dilation": (1, 2)}


@primitive(
    math="y[n, c, p] = max_k x[n, c, stride p + dilation k - padding]",
    shape=_shape,
    dtypes="real numeric",
    samples=[
        Sample(((2, 3, 4, 6),), _TWO),
        Sample(((2, 3, 5, 6),), _ODD, note="overlap, padding, dilation"),
        Sample(((0, 3, 4, 6),), _TWO, note="empty"),
    ],
    rejects=[
        Reject(((2, 3, 1, 6),), ShapeError, "larger than the input", _TWO),
        Reject(((3, 4, 6),), ShapeError, "expects [N, C]", _TWO),
    ],
)
def max_pool(
    xp: Any, x: Array, /, *, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Array:
    """Largest element of each window.

    Args:
        x: ``[N, C, *spatial]``.
        kernel_size: window's length, one number a spatial axis, as are the next three.
        stride: step of the window.
        padding: elements, never the largest, added to both ends.
        dilation: distance of the window's elements.
    """
    geometry = _geometry(x, kernel_size, stride, padding, dilation)
    padded = pad(xp, x, geometry, _lowest(x.dtype))
    return _maximum(xp, padded, geometry.offsets(geometry.out(x.shape[2:])))


@max_pool.vjp("x")
def _(
    xp: Any, g: Array, x: Array, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Array:
    return xp.max_pool_scatter(
        g, x, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )


@primitive(
    math="y = upper at each window's maximum of x, 0 elsewhere",
    shape=lambda upper, x, **attributes: x,
    dtypes="real numeric",
    samples=[Sample(((2, 3, 2, 3), (2, 3, 4, 6)), _TWO), Sample(((2, 3, 3, 6), (2, 3, 5, 6)), _ODD)],
)
def max_pool_scatter(
    xp: Any, upper: Array, x: Array, /, *, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Array:
    """Each window's ``upper`` added to the element of ``x`` that is its maximum; linear in ``upper``."""
    geometry = _geometry(x, kernel_size, stride, padding, dilation)
    out = xp.zeros((*x.shape[:2], *geometry.padded(x.shape[2:])), dtype=upper.dtype)
    for key, hit in _first_hits(xp, x, geometry):
        out[key] += upper * hit
    return out[interior(geometry, x.shape[2:])]


@max_pool_scatter.vjp("upper")
def _(
    xp: Any, g: Array, x: Array, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Array:
    return xp.max_pool_gather(
        g, x, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )


@primitive(
    math="y = upper where each window's maximum of x is",
    shape=lambda upper, x, **attributes: _shape(x, **attributes),
    dtypes="real numeric",
    samples=[Sample(((2, 3, 4, 6), (2, 3, 4, 6)), _TWO), Sample(((2, 3, 5, 6), (2, 3, 5, 6)), _ODD)],
)
def max_pool_gather(
    xp: Any, upper: Array, x: Array, /, *, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Array:
    """The element of ``upper`` at the place of each window's maximum of ``x``; linear in ``upper``."""
    geometry = _geometry(x, kernel_size, stride, padding, dilation)
    padded = pad(xp, upper, geometry)
    out = xp.zeros((*x.shape[:2], *geometry.out(x.shape[2:])), dtype=upper.dtype)
    for key, hit in _first_hits(xp, x, geometry):
        out += padded[key] * hit
    return out


@max_pool_gather.vjp("upper")
def _(
    xp: Any, g: Array, x: Array, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Array:
    return xp.max_pool_scatter(
        g, x, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )
