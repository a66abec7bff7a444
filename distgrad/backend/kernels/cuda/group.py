"""Group and instance norm over channels on axis 1."""

from __future__ import annotations

import math
from typing import Any

from distgrad.backend.kernels.cuda.launch import arithmetic, empty, over_rows, prepare, writable


def _taken(x: Any, arrays: tuple[Any, ...], parameters: tuple[Any, ...], num_groups: int) -> Any:
    """The arrays prepared, if the kernels take them."""
    if x.ndim < 2 or x.size == 0 or x.shape[1] % num_groups or any(each.shape != x.shape for each in arrays):
        return None
    if any(each is not None and each.shape != x.shape[1:2] for each in parameters):
        return None
    return prepare(x, *arrays, *parameters)


def group_norm(x: Any, weight: Any, bias: Any, *, num_groups: int, eps: float) -> Any:
    """Forward."""
    taken = _taken(x, (), (weight, bias), num_groups)
    if taken is None:
        return None
    rows, places, y = len(x) * num_groups, math.prod(x.shape[2:]), empty(x, x.shape)
    arguments = (num_groups, places, *taken, float(eps), y)
    over_rows("group", "group_forward", rows, x.size // rows, x.dtype.char, *arguments)
    return y


def group_norm_gradient(
    g: Any, x: Any, weight: Any, num_groups: int, eps: float, needs: Any, into: Any
) -> Any:
    """Gradients in x, weight and bias."""
    taken = _taken(x, (g,), (weight,), num_groups)
    if taken is None:
        return None
    x, g, weight = taken
    rows, places, channels = len(x) * num_groups, math.prod(x.shape[2:]), x.shape[1]
    g_x, moments = empty(x, x.shape), empty(x, (rows, 2), arithmetic(x.dtype.char))
    arguments = (num_groups, places, g, x, weight, float(eps), g_x, moments)
    over_rows("group", "group_backward", rows, x.size // rows, x.dtype.char, *arguments)
    g_weight, g_bias = (
        writable(home, x, channels) if need else None for need, home in zip(needs[1:], into[1:], strict=True)
    )
    if any(needs[1:]):
        rest = (num_groups, places, g, x, moments, g_weight, g_bias)
        over_rows("group", "group_affine", channels, x.size // channels, x.dtype.char, *rest)
    return (g_x if needs[0] else None), g_weight, g_bias


def instance_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    """Forward: every channel is a group."""
    return group_norm(x, weight, bias, num_groups=x.shape[1], eps=eps) if x.ndim > 1 and x.size else None


def instance_norm_gradient(g: Any, x: Any, weight: Any, eps: float, needs: Any, into: Any) -> Any:
    """Gradients in x, weight and bias."""
    return group_norm_gradient(g, x, weight, x.shape[1], eps, needs, into) if x.size else None
