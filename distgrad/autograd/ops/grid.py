"""Images sampled at the points of a grid, and grids from affine maps.

Source: Jaderberg et al., "Spatial transformer networks", NIPS 2015.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import OptionError, ShapeError

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")
_CUBIC = -0.75


def _mirrored(xp: Any, place: Array, low: float, high: float) -> Array:
    """Points brought between two bounds by mirroring at them."""
    span = high - low
    if span <= 0:
        return place * 0.0
    away = xp.abs(place - low)
    turns = xp.floor(away / span)
    rest = away - turns * span
    odd = turns - 2.0 * xp.floor(turns / 2.0) == 1.0
    return xp.where(odd, span - rest, rest) + low


def _within(xp: Any, place: Array, length: int, padding_mode: str, align_corners: bool) -> Array:
    """Places between elements, brought into the image unless there are zeros around it."""
    if padding_mode == "zeros":
        return place
    if padding_mode == "reflection":
        bounds = (0.0, length - 1.0) if align_corners else (-0.5, length - 0.5)
        place = _mirrored(xp, place, *bounds)
    return xp.clip(place, 0.0, length - 1.0)


def _read(xp: Any, flat: Array, places: Sequence[Array], lengths: Sequence[int]) -> Array:
    """Elements at whole places, one array an axis ``[N, P]``; 0 outside the image."""
    inside, index = None, None
    for place, length in zip(places, lengths, strict=True):
        here = (place >= 0) & (place <= length - 1)
        inside = here if inside is None else inside & here
        number = xp.astype(xp.clip(place, 0.0, length - 1.0), np.int64)
        index = number if index is None else index * length + number
    assert index is not None
    spread = xp.broadcast_to(xp.expand_dims(index, axis=1), (*flat.shape[:2], index.shape[1]))
    values = xp.gather_elements(flat, spread, axis=2)
    return xp.where(xp.expand_dims(inside, axis=1), values, 0.0)


def _linear(xp: Any, flat: Array, places: Sequence[Array], lengths: Sequence[int]) -> Array:
    """Between the two elements on every axis."""
    floors = [xp.floor(place) for place in places]
    total = None
    for corner in itertools.product((0, 1), repeat=len(places)):
        weight = None
        for place, floor, step in zip(places, floors, corner, strict=True):
            part = place - floor if step else floor + 1.0 - place
            weight = part if weight is None else weight * part
        at = [floor + float(step) for floor, step in zip(floors, corner, strict=True)]
        term = xp.expand_dims(weight, axis=1) * _read(xp, flat, at, lengths)
        total = term if total is None else total + term
    return total


def _cubic_weights(part: Array) -> list[Array]:
    """What four neighbours count by Keys's kernel, a part of the way between the middle two."""
    a, back = _CUBIC, 1.0 - part
    near = [((a + 2.0) * t - (a + 3.0)) * t * t + 1.0 for t in (part, back)]
    far = [((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a for t in (part + 1.0, back + 1.0)]
    return [far[0], near[0], near[1], far[1]]


def _cubic(xp: Any, flat: Array, places: Sequence[Array], lengths: Sequence[int], *padding: Any) -> Array:
    floors = [xp.floor(place) for place in places]
    weights = [_cubic_weights(place - floor) for place, floor in zip(places, floors, strict=True)]
    total = None
    for steps in itertools.product(range(4), repeat=2):
        at = [
            _within(xp, floor + float(step - 1), length, *padding)
            for floor, step, length in zip(floors, steps, lengths, strict=True)
        ]
        weight = weights[0][steps[0]] * weights[1][steps[1]]
        term = xp.expand_dims(weight, axis=1) * _read(xp, flat, at, lengths)
        total = term if total is None else total + term
    return total


_IMAGE = Sample(((2, 2, 3, 4), (2, 2, 3, 2)), domain=(-0.9, 0.9))


@composite(
    math="y[n, c, p] = x[n, c] at grid[n, p], between elements by mode",
    source="Jaderberg et al., NIPS 2015; Keys, IEEE Trans. ASSP, 1981 (bicubic)",
    dtypes="real floating-point",
    samples=[
        _IMAGE,
        Sample(((1, 2, 2, 3, 2), (1, 1, 2, 2, 3)), {"align_corners": True}, domain=(-0.9, 0.9)),
        Sample(_IMAGE.args, {"mode": "bicubic", "padding_mode": "border"}, domain=(-0.7, 0.7)),
        Sample(_IMAGE.args, {"padding_mode": "reflection"}, domain=(1.1, 1.9)),
        Sample(_IMAGE.args, {"mode": "nearest"}, domain=(-0.9, 0.9), grad=False),
    ],
    rejects=[
        Reject(((2, 2, 3, 4), (2, 2, 3, 3)), ShapeError, "grid_sample: x is [2, 2, 3, 4] but grid"),
        Reject(((2, 2, 3, 4), (2, 2, 3, 2)), OptionError, "mode must be one of", {"mode": "area"}),
        Reject(((2, 2, 3, 4), (2, 2, 3, 2)), OptionError, "padding_mode must be", {"padding_mode": "wrap"}),
    ],
)
def grid_sample(
    xp: Any,
    x: Array,
    grid: Array,
    /,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Array:
    """Images read at points, between elements too.

    Args:
        x: ``[N, C, *spatial]``, two or three spatial axes.
        grid: ``[N, *points, spatial axes]``; the last axis counts from the last spatial axis, and −1 … 1
            is the image.
        mode: ``"bilinear"``, ``"nearest"``, or ``"bicubic"`` for two axes.
        padding_mode: outside: ``"zeros"``, the ``"border"``, or the image's ``"reflection"``.
        align_corners: −1 and 1 are the middles of the outermost elements, rather than their edges.

    Returns:
        ``[N, C, *points]``.
    """
    lengths = tuple(x.shape[2:])
    fits = len(lengths) in (2, 3) and len(grid.shape) == len(x.shape) and grid.shape[0] == x.shape[0]
    if not fits or grid.shape[-1] != len(lengths) or 0 in lengths:
        raise ShapeError(f"grid_sample: x is {list(x.shape)} but grid {list(grid.shape)}")
    if mode not in _MODES or (mode == "bicubic" and len(lengths) == 3):
        raise OptionError(f"grid_sample: mode must be one of {_MODES}, bicubic for images, got {mode!r}")
    if padding_mode not in _PADDINGS:
        raise OptionError(f"grid_sample: padding_mode must be one of {_PADDINGS}, got {padding_mode!r}")
    count = math.prod(grid.shape[1:-1])
    rows = xp.reshape(grid, (grid.shape[0], count, grid.shape[-1]))
    places = []
    for axis, length in enumerate(lengths):
        point = rows[..., len(lengths) - 1 - axis]
        place = (point + 1.0) * (0.5 * (length - 1 if align_corners else length))
        places.append(place if align_corners else place - 0.5)
    flat = xp.reshape(x, (*x.shape[:2], math.prod(lengths)))
    if mode == "bicubic":
        y = _cubic(xp, flat, places, lengths, padding_mode, align_corners)
    else:
        places = [
            _within(xp, place, length, padding_mode, align_corners)
            for place, length in zip(places, lengths, strict=True)
        ]
        if mode == "nearest":
            y = _read(xp, flat, [xp.round(place) for place in places], lengths)
        else:
            y = _linear(xp, flat, places, lengths)
    return xp.reshape(y, (*x.shape[:2], *grid.shape[1:-1]))


@composite(
    math="y[n, p] = theta[n] (p, 1)",
    dtypes="real floating-point",
    samples=[Sample(((2, 2, 3),), {"size": (2, 1, 3, 4)})],
    rejects=[Reject(((2, 2, 2),), ShapeError, "affine_grid: theta is [2, 2, 2]", {"size": (2, 1, 3, 4)})],
)
def affine_grid(xp: Any, theta: Array, /, size: Sequence[int], align_corners: bool = False) -> Array:
    """The points of an image, moved by affine maps, as ``grid_sample`` takes them.

    Args:
        theta: ``[N, 2, 3]``, or ``[N, 3, 4]`` for three spatial axes.
        size: of the image, ``[N, C, *spatial]``.
        align_corners: as in ``grid_sample``.

    Returns:
        ``[N, *spatial, 2]`` (or 3).
    """
    lengths = tuple(size[2:])
    if tuple(theta.shape) != (size[0], len(lengths), len(lengths) + 1):
        raise ShapeError(f"affine_grid: theta is {list(theta.shape)} but size {list(size)}")
    lines = []
    for n in lengths:
        line = np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1)
        lines.append(line if align_corners or n == 1 else line * (n - 1) / n)
    grids = np.meshgrid(*lines, indexing="ij")
    points = np.stack([*[grid.reshape(-1) for grid in grids[::-1]], np.ones(grids[0].size)], axis=1)
    dtype = np.float32 if theta.dtype.char in "eE" else theta.dtype
    moved = xp.matmul(xp.asarray(points, dtype=dtype), xp.matrix_transpose(xp.astype(theta, dtype)))
    return xp.reshape(xp.astype(moved, theta.dtype, copy=False), (size[0], *lengths, len(lengths)))
