"""Pooling with windows of any kind over up to three axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.launch import empty, over_planes, prepare
from distgrad.backend.kernels.cuda.windows import windows
from distgrad.backend.kernels.geometry import output_lengths


def _setting(x: Any, geometry: Any, ceil_mode: bool) -> Any:
    """The windows and the output's shape; None where the formula is to say what is wrong, or to do it."""
    kernel, stride, padding, dilation = geometry
    if x.size == 0 or len(kernel) != x.ndim - 2 or not kernel:
        return None
    if any(2 * p > d * (k - 1) + 1 for k, p, d in zip(kernel, padding, dilation, strict=True)):
        return None
    out = output_lengths(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    if min(out) < 1:
        return None
    found = windows(x.shape[2:], out, *geometry)
    return None if found is None else (found, (*x.shape[:2], *out))


def max_pool(x: Any, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    """Forward."""
    setting = _setting(x, (kernel_size, stride, padding, dilation), ceil_mode)
    if setting is None:
        return None
    found, shape = setting
    (x,) = prepare(x)
    y = empty(x, shape)
    planes = math.prod(shape[:2])
    over_planes("pool", "max_pool", planes, y.size // planes, x.dtype.char, planes, found, x, y)
    return y


def max_pool_scatter(upper: Any, x: Any, *, geometry: Any) -> Any:
    """The transpose of :func:`max_pool` at the places of its maxima."""
    setting, taken = _setting(x, geometry[:4], geometry[4]), prepare(x, upper)
    if setting is None or taken is None or upper.shape != setting[1]:
        return None
    found, shape = setting
    x, upper = taken
    char, planes = x.dtype.char, math.prod(shape[:2])
    places, out = empty(x, shape, np.int32), empty(x, x.shape)
    over_planes("pool", "max_pool_places", planes, upper.size // planes, char, planes, found, x, places)
    over_planes("pool", "max_pool_scatter", planes, x.size // planes, char, planes, found, upper, places, out)
    return out


def sum_pool(x: Any, *, geometry: Any) -> Any:
    """Sum of each window."""
    setting = _setting(x, geometry[:4], geometry[4])
    if setting is None:
        return None
    found, shape = setting
    (x,) = prepare(x)
    y, planes = empty(x, shape), math.prod(shape[:2])
    over_planes("pool", "sum_pool", planes, y.size // planes, x.dtype.char, planes, found, x, y)
    return y


def sum_pool_input(cotangent: Any, *, spatial: Any, geometry: Any) -> Any:
    """The transpose of :func:`sum_pool`."""
    if cotangent.size == 0 or 0 in spatial:
        return None
    out = empty(cotangent, (*cotangent.shape[:2], *spatial))
    setting = _setting(out, geometry[:4], geometry[4])
    if setting is None or cotangent.shape != setting[1]:
        return None
    (cotangent,) = prepare(cotangent)
    char, planes = out.dtype.char, math.prod(out.shape[:2])
    over_planes(
        "pool", "sum_pool_input", planes, out.size // planes, char, planes, setting[0], cotangent, out
    )
    return out
