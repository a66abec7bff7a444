"""Images at another size: interpolation, and pixels moved between channels and space.

Every interpolation is a matrix along each spatial axis in turn; rows hold the weights of the elements that a
place is computed from.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.ops.adaptive import along_axis
from distgrad.autograd.ops.conv import Geometry
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import OptionError, ShapeError

_DIMENSIONS = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
_MODES = ("nearest", "nearest-exact", "area", *_DIMENSIONS)
_CUBIC = -0.75  # the slope that PyTorch and OpenCV choose


def _sources(length: int, size: int, scale: float, align_corners: bool) -> np.ndarray:
    """Where each element of the result lies among those of the input."""
    places = np.arange(size)
    if align_corners:
        return places * ((length - 1) / (size - 1) if size > 1 else 0.0)
    return (places + 0.5) * scale - 0.5


def _linear_matrix(sources: np.ndarray, length: int) -> np.ndarray:
    sources = np.maximum(sources, 0.0)
    first = np.minimum(sources.astype(np.int64), length - 1)
    part = np.where(first < length - 1, sources - first, 0.0)
    return _matrix([(first, 1.0 - part), (np.minimum(first + 1, length - 1), part)], length)


def _cubic_matrix(sources: np.ndarray, length: int) -> np.ndarray:
    """Source: Keys, IEEE Transactions on Acoustics, Speech and Signal Processing, 1981."""
    first = np.floor(sources).astype(np.int64)
    part = sources - first

    def near(t: np.ndarray) -> np.ndarray:
        return ((_CUBIC + 2.0) * t - (_CUBIC + 3.0)) * t * t + 1.0

    def far(t: np.ndarray) -> np.ndarray:
        return ((_CUBIC * t - 5.0 * _CUBIC) * t + 8.0 * _CUBIC) * t - 4.0 * _CUBIC

    weights = (far(part + 1.0), near(part), near(1.0 - part), far(2.0 - part))
    return _matrix([(np.clip(first + i - 1, 0, length - 1), w) for i, w in enumerate(weights)], length)


def _matrix(parts: list[tuple[np.ndarray, np.ndarray]], length: int) -> np.ndarray:
    """``[size, length]`` with each part's weights added at its elements."""
    matrix = np.zeros((len(parts[0][0]), length))
    for elements, weights in parts:
        np.add.at(matrix, (np.arange(len(elements)), elements), weights)
    return matrix


def _sizes_and_scales(
    spatial: tuple[int, ...], size: Any, scale_factor: Any
) -> tuple[list[int], list[float]]:
    """Lengths of the result, and how far apart its elements lie in the input."""
    if (size is None) == (scale_factor is None):
        raise OptionError("interpolate: give either size or scale_factor")
    given = scale_factor if size is None else size
    numbers = (given,) * len(spatial) if isinstance(given, int | float) else tuple(given)
    if len(numbers) != len(spatial):
        raise ShapeError(f"interpolate: {len(numbers)} numbers {given} for spatial axes {list(spatial)}")
    if size is not None:
        sizes = [int(n) for n in numbers]
        scales = [n / m if m else 0.0 for n, m in zip(spatial, sizes, strict=True)]
    else:
        sizes = [math.floor(n * factor) for n, factor in zip(spatial, numbers, strict=True)]
        scales = [1.0 / factor for factor in numbers]
    if min(sizes) < 1 or min(spatial) < 1:
        raise ShapeError(f"interpolate: cannot bring {list(spatial)} to {sizes}; lengths must be at least 1")
    return sizes, scales


@composite(
    math="y[n, c, p] = Σ_q w(p, q) x[n, c, q]",
    dtypes="real floating-point",
    samples=[
        Sample(((2, 3, 4),), {"size": 7}),
        Sample(((1, 2, 3, 4),), {"scale_factor": (2.0, 1.5), "mode": "nearest"}),
        Sample(((1, 2, 3, 4),), {"size": (5, 3), "mode": "nearest-exact"}),
        Sample(((1, 2, 4),), {"size": 6, "mode": "linear"}),
        Sample(((1, 2, 3, 4),), {"size": (5, 3), "mode": "bilinear"}),
        Sample(((1, 2, 3, 4),), {"size": (5, 1), "mode": "bilinear", "align_corners": True}),
        Sample(((1, 2, 3, 4),), {"scale_factor": 1.7, "mode": "bicubic"}),
        Sample(((1, 2, 3, 4),), {"size": (5, 7), "mode": "bicubic", "align_corners": True}),
        Sample(((1, 1, 2, 3, 2),), {"size": 3, "mode": "trilinear"}),
        Sample(((1, 2, 3, 4),), {"size": (2, 3), "mode": "area"}),
    ],
    rejects=[
        Reject(((2, 3, 4),), OptionError, "either size or scale_factor"),
        Reject(((2, 3, 4),), OptionError, "mode must be one of", {"size": 2, "mode": "lanczos"}),
        Reject(((2, 3, 4),), ShapeError, "bilinear needs 2 spatial axes", {"size": 2, "mode": "bilinear"}),
        Reject(((2, 3, 4),), ShapeError, "2 numbers", {"size": (2, 2)}),
        Reject(((2, 3, 4),), OptionError, "align_corners", {"size": 2, "align_corners": True}),
    ],
)
def interpolate(
    xp: Any,
    x: Array,
    /,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Array:
    """Images at another size.

    Args:
        x: ``[N, C, *spatial]``.
        size: lengths of the result's spatial axes, or one for all.
        scale_factor: what lengths are multiplied by instead.
        mode: ``"nearest"``, ``"nearest-exact"`` (which rounds where it rounds down), ``"linear"``,
            ``"bilinear"``, ``"trilinear"``, ``"bicubic"`` or ``"area"`` (means of windows).
        align_corners: whether the outermost elements lie on each other rather than the outermost edges.
    """
    if mode not in _MODES:
        raise OptionError(f"interpolate: mode must be one of {list(_MODES)}, got {mode!r}")
    spatial = tuple(x.shape[2:])
    if align_corners and mode not in _DIMENSIONS:
        raise OptionError(f"interpolate: align_corners has no meaning for mode={mode!r}")
    if len(x.shape) < 3 or _DIMENSIONS.get(mode, len(spatial)) != len(spatial):
        raise ShapeError(
            f"interpolate: {mode} needs {_DIMENSIONS.get(mode, 'some')} spatial axes, got x {list(x.shape)}"
        )
    sizes, scales = _sizes_and_scales(spatial, size, scale_factor)
    if mode == "area":
        return xp.adaptive_avg_pool(x, tuple(sizes))
    if mode in ("nearest", "nearest-exact"):
        shift = 0.5 if mode == "nearest-exact" else 0.0
        return _nearest(xp, x, [
            np.minimum(np.floor((np.arange(m) + shift) * scale).astype(np.int64), n - 1)
            for n, m, scale in zip(spatial, sizes, scales, strict=True)
        ])  # fmt: skip
    for axis, (n, m, scale) in enumerate(zip(spatial, sizes, scales, strict=True), start=2):
        sources = _sources(n, m, scale, align_corners)
        matrix = _cubic_matrix(sources, n) if mode == "bicubic" else _linear_matrix(sources, n)
        x = along_axis(xp, x, matrix, axis)
    return x


def _nearest(xp: Any, x: Array, places: list[np.ndarray]) -> Array:
    """The elements at these places of each spatial axis.

    Where each is taken equally often, the result is what the gradient of sums over windows is.
    """
    sizes = tuple(len(each) for each in places)
    factors = tuple(m // max(n, 1) for n, m in zip(x.shape[2:], sizes, strict=True))
    is_whole = all(
        factor and len(each) == n * factor and np.array_equal(each, np.arange(len(each)) // factor)
        for each, n, factor in zip(places, x.shape[2:], factors, strict=True)
    )
    if is_whole and x.dtype.kind == "f":
        still = (0,) * len(sizes)
        geometry = Geometry(factors, factors, still, tuple(1 for _ in sizes))
        return xp.sum_pool_input(x, spatial=sizes, geometry=geometry)
    for axis, each in enumerate(places, start=2):
        x = xp.index_select(x, axis, xp.asarray(each))
    return x


def _image(where: str, x: Array) -> tuple[tuple[int, ...], int, int, int]:
    """Leading axes, channels, height and width."""
    if len(x.shape) < 3:
        raise ShapeError(f"{where}: x is {list(x.shape)}, expected [..., C, H, W]")
    return tuple(x.shape[:-3]), *x.shape[-3:]


@composite(
    math="y[…, c, r h + i, r w + j] = x[…, c r² + i r + j, h, w], r = upscale_factor",
    source="Shi et al., CVPR 2016",
    samples=[Sample(((2, 8, 2, 3), 2)), Sample(((9, 1, 2), 3), note="no batch")],
    rejects=[Reject(((2, 6, 2, 3), 2), ShapeError, "6 channels are no multiple of 4")],
)
def pixel_shuffle(xp: Any, x: Array, /, upscale_factor: int) -> Array:
    """Channels spread over space: ``[..., C r², H, W]`` becomes ``[..., C, H r, W r]``."""
    lead, channels, height, width = _image("pixel_shuffle", x)
    r = upscale_factor
    if channels % (r * r):
        raise ShapeError(f"pixel_shuffle: {channels} channels are no multiple of {r * r}")
    n = len(lead)
    y = xp.reshape(x, (*lead, channels // (r * r), r, r, height, width))
    y = xp.permute_dims(y, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return xp.reshape(y, (*lead, channels // (r * r), height * r, width * r))


@composite(
    math="y[…, c r² + i r + j, h, w] = x[…, c, r h + i, r w + j], r = downscale_factor",
    source="Shi et al., CVPR 2016",
    samples=[Sample(((2, 2, 4, 6), 2)), Sample(((1, 3, 6), 3), note="no batch")],
    rejects=[Reject(((2, 2, 3, 6), 2), ShapeError, "[3, 6] does not divide by 2")],
)
def pixel_unshuffle(xp: Any, x: Array, /, downscale_factor: int) -> Array:
    """Space gathered into channels: ``[..., C, H r, W r]`` becomes ``[..., C r², H, W]``."""
    lead, channels, height, width = _image("pixel_unshuffle", x)
    r = downscale_factor
    if height % r or width % r:
        raise ShapeError(f"pixel_unshuffle: [{height}, {width}] does not divide by {r}")
    n = len(lead)
    y = xp.reshape(x, (*lead, channels, height // r, r, width // r, r))
    y = xp.permute_dims(y, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return xp.reshape(y, (*lead, channels * r * r, height // r, width // r))


@composite(
    math="y[n, k g + i] = x[n, i C/g + k], g = groups",
    source="Zhang et al., CVPR 2018",
    samples=[Sample(((2, 6, 3), 2))],
    rejects=[
        Reject(((2, 6, 3), 4), ShapeError, "6 channels do not divide into 4 groups"),
        Reject(((6,), 2), ShapeError, "expected [N, C, *]"),
    ],
)
def channel_shuffle(xp: Any, x: Array, /, groups: int) -> Array:
    """Channels of all groups taken in turn, ``[N, C, *]``."""
    if len(x.shape) < 2:
        raise ShapeError(f"channel_shuffle: x is {list(x.shape)}, expected [N, C, *]")
    channels = x.shape[1]
    if channels % groups:
        raise ShapeError(f"channel_shuffle: {channels} channels do not divide into {groups} groups")
    y = xp.reshape(x, (x.shape[0], groups, channels // groups, *x.shape[2:]))
    y = xp.permute_dims(y, (0, 2, 1, *range(3, len(y.shape))))
    return xp.reshape(y, x.shape)
