"""Max pooling with windows of 2 × 2 side by side, by far the most used; NumPy is as fast on others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.support import is_plain, jit
from distgrad.backend.threads import run_parts

_PART = 1 << 14  # elements worth a thread
_PAIRS = ((2, 2), (2, 2), (0, 0), (1, 1))  # kernel, stride, padding, dilation


@jit
def _larger(a: Any, b: Any) -> Any:
    return a if (a >= b) | (a != a) else b  # NaN is largest


@jit
def _max_pool(x: Any, y: Any) -> None:
    for n in range(len(x)):
        for i in range(y.shape[1]):
            upper, lower, out = x[n, 2 * i], x[n, 2 * i + 1], y[n, i]
            for j in range(out.size):
                left = _larger(upper[2 * j], lower[2 * j])
                out[j] = _larger(left, _larger(upper[2 * j + 1], lower[2 * j + 1]))


@jit
def _scatter(g: Any, x: Any, out: Any) -> None:
    """Each element of ``g`` to the first largest of its window, zeros elsewhere."""
    zero = x[0, 0, 0] * 0
    for n in range(len(x)):
        for i in range(g.shape[1]):
            upper, lower, up = x[n, 2 * i], x[n, 2 * i + 1], g[n, i]
            to_upper, to_lower = out[n, 2 * i], out[n, 2 * i + 1]
            for j in range(up.size):
                a, b, c, d = upper[2 * j], upper[2 * j + 1], lower[2 * j], lower[2 * j + 1]
                top = _larger(_larger(a, c), _larger(b, d))
                value = up[j]
                below = (a != top) & (b != top)  # no branches: which is largest cannot be foreseen
                to_upper[2 * j] = value if a == top else zero
                to_upper[2 * j + 1] = value if (a != top) & (b == top) else zero
                to_lower[2 * j] = value if below & (c == top) else zero
                to_lower[2 * j + 1] = value if below & (c != top) else zero


def _planes(x: Any, geometry: Any) -> Any:
    """x as ``[N C, rows, columns]``; None where the windows do not tile it."""
    sizes = tuple(tuple(each) for each in geometry)
    if sizes != _PAIRS or not is_plain(x) or x.ndim != 4 or x.size == 0 or x.shape[2] % 2 or x.shape[3] % 2:
        return None
    return x.reshape(-1, *x.shape[2:])


def _run(kernel: Any, planes: Any, *arrays: Any) -> None:
    def run(start: int, stop: int) -> None:
        kernel(*(x[start:stop] for x in arrays))

    run_parts(run, len(planes), _PART // math.prod(planes.shape[1:]) + 1)


def max_pool(x: Any, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    """Forward; ``ceil_mode`` changes nothing where windows tile the input."""
    planes = _planes(x, (kernel_size, stride, padding, dilation))
    if planes is None:
        return None
    y = np.empty((*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2), x.dtype)
    _run(_max_pool, planes, planes, y.reshape(-1, *y.shape[2:]))
    return y


def max_pool_scatter(upper: Any, x: Any, *, geometry: Any) -> Any:
    """The transpose of :func:`max_pool` at the places of its maxima."""
    planes = _planes(x, geometry[:4])
    if planes is None or not is_plain(x, upper) or upper.size * 4 != x.size:
        return None
    out = np.empty_like(x)
    _run(_scatter, planes, upper.reshape(-1, *upper.shape[2:]), planes, out.reshape(planes.shape))
    return out
