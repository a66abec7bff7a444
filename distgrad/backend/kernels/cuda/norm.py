"""Layer and root-mean-square norm over the last axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.launch import (
    THREADS,
    arithmetic,
    empty,
    launch,
    over_rows,
    prepare,
    writable,
)

_RUNS = 256  # at most, that gradients of weight and bias are summed in
_SMALLEST_RUN = 64  # rows
_EPSILON = {"f": 2.0**-23, "d": 2.0**-52, "e": 2.0**-10, "E": 2.0**-7}


def _taken(x: Any, arrays: tuple[Any, ...], parameters: tuple[Any, ...], normalized_shape: Any) -> Any:
    """The arrays prepared, if the kernels take them."""
    shape = tuple(normalized_shape)
    if x.size == 0 or not shape or x.shape[x.ndim - len(shape) :] != shape:
        return None
    if any(p is not None and p.shape != shape for p in parameters):
        return None
    if any(each.shape != x.shape for each in arrays):
        return None
    return prepare(x, *arrays, *parameters)


def _run(x: Any, weight: Any, bias: Any, normalized_shape: Any, eps: float, centred: bool) -> Any:
    taken = _taken(x, (), (weight, bias), normalized_shape)
    if taken is None:
        return None
    columns = math.prod(normalized_shape)
    y = empty(x, x.shape)
    over_rows(
        "norm", "norm_forward", x.size // columns, columns, x.dtype.char, *taken, float(eps), int(centred), y
    )
    return y


def _run_gradient(
    g: Any, x: Any, weight: Any, normalized_shape: Any, eps: float, needs: Any, into: Any, before: Any,
    centred: bool,
) -> Any:  # fmt: skip
    taken = _taken(x, (g,) if before is None else (g, before), (weight,), normalized_shape)
    if taken is None:
        return None
    x, g, *before, weight = taken
    char, columns = x.dtype.char, math.prod(normalized_shape)
    rows = x.size // columns
    g_x = empty(x, x.shape)
    moments = empty(x, (rows, 2), arithmetic(char))
    strips = -(-columns // THREADS)
    done = empty(x, strips, np.uint32)
    arguments = (
        *(g, x, weight, before[0] if before else None, float(eps), int(centred), g_x, moments),
        *(strips, done),
    )
    over_rows("norm", "norm_backward", rows, columns, char, *arguments)
    parameters = [
        writable(home, x, tuple(normalized_shape)) if need else None
        for need, home in zip(needs[1:], into[1:], strict=True)
    ]
    if any(needs[1:]):
        run = max(_SMALLEST_RUN, -(-rows // _RUNS))
        runs = -(-rows // run)
        partial = empty(x, (runs, 2, columns), arithmetic(char))
        gradients = (*parameters, None)[:2]
        arguments = (rows, columns, run, g, x, moments, partial, done, *gradients)
        launch("norm", "norm_affine", char, (strips, runs), THREADS, arguments)
    return (g_x if needs[0] else None, *parameters)


def layer_norm(x: Any, weight: Any, bias: Any, *, normalized_shape: Any, eps: float) -> Any:
    """Forward."""
    return _run(x, weight, bias, normalized_shape, eps, True)


def layer_norm_gradient(
    g: Any, x: Any, weight: Any, normalized_shape: Any, eps: float, needs: Any, into: Any, before: Any
) -> Any:
    """Gradients in x, weight and bias."""
    return _run_gradient(g, x, weight, normalized_shape, eps, needs, into, before[0], True)


def rms_norm(x: Any, weight: Any, *, normalized_shape: Any, eps: float | None) -> Any:
    """Forward."""
    return _run(x, weight, None, normalized_shape, _epsilon(x, eps), False)


def rms_norm_gradient(
    g: Any, x: Any, weight: Any, normalized_shape: Any, eps: float | None, needs: Any, into: Any, before: Any
) -> Any:
    """Gradients in x and weight."""
    return _run_gradient(g, x, weight, normalized_shape, _epsilon(x, eps), needs, into, before[0], False)


def _epsilon(x: Any, eps: float | None) -> float:
    return _EPSILON[x.dtype.char] if eps is None else eps
