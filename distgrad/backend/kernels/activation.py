"""Activations and their gradients, an element at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.kernels.activation_rules import RULES
from distgrad.backend.kernels.loops import loop_kernel
from distgrad.backend.kernels.support import exp, is_plain, kernel, lower_normal
from distgrad.backend.memory import host_memory
from distgrad.backend.threads import run_parts

_ELEMENT_NS = 0.5  # of one thread, for each element
F = np.float32
_DENSITY = F(1.0 / math.sqrt(2.0 * math.pi))


@kernel("x1 x1", dtypes="f", writes="y")
def _gelu(x: Any, y: Any) -> None:
    for i in range(x.size):
        v = x[i]
        a = abs(v)
        low = lower_normal(a, exp(F(-0.5) * a * a))
        y[i] = v * (F(1.0) - low if v > F(0.0) else low)


@kernel("x1 x1 x1", dtypes="f", writes="y")
def _gelu_gradient(g: Any, x: Any, y: Any) -> None:
    for i in range(x.size):
        v = x[i]
        a = abs(v)
        e = exp(F(-0.5) * a * a)
        low = lower_normal(a, e)
        y[i] = g[i] * ((F(1.0) - low if v > F(0.0) else low) + v * (_DENSITY * e))


_gelu_tanh = loop_kernel(RULES["gelu_tanh"], __name__, dtypes="f", rare=True)
_gelu_tanh_gradient = loop_kernel(RULES["gelu_tanh_gradient"], __name__, dtypes="f", rare=True)
_silu = loop_kernel(RULES["silu"], __name__, dtypes="f")
_silu_gradient = loop_kernel(RULES["silu_gradient"], __name__, dtypes="f")
_sigmoid = loop_kernel(RULES["sigmoid_forward"], __name__, dtypes="f")
_relu_gradient = loop_kernel(RULES["relu_gradient"], __name__)
_tanh_gradient = loop_kernel(RULES["tanh_gradient"], __name__)
_sigmoid_gradient = loop_kernel(RULES["sigmoid_gradient"], __name__)


def _mapped(kernel: Any, *arrays: Any) -> Any:
    """The kernel over all elements, into a new array."""
    if not is_plain(*arrays) or arrays[0].shape != arrays[-1].shape:
        return None
    out = host_memory.empty_like(arrays[0])
    flat = [x.reshape(-1) for x in (*arrays, out)]
    run_parts(lambda start, stop: [(kernel, *[x[start:stop] for x in flat])], out.size, _ELEMENT_NS)
    return out


def gelu(x: Any, *, approximate: str) -> Any:
    """Forward."""
    kernels = {"none": _gelu, "tanh": _gelu_tanh}
    return _mapped(kernels[approximate], x) if approximate in kernels else None


def gelu_gradient(g: Any, x: Any, approximate: str) -> Any:
    """Gradient in x."""
    return _mapped(_gelu_tanh_gradient if approximate == "tanh" else _gelu_gradient, g, x)


def silu(x: Any) -> Any:
    """Forward."""
    return _mapped(_silu, x)


def silu_gradient(g: Any, x: Any) -> Any:
    """Gradient in x."""
    return _mapped(_silu_gradient, g, x)


def sigmoid(x: Any) -> Any:
    """Forward."""
    return _mapped(_sigmoid, x)


def relu_gradient(g: Any, y: Any) -> Any:
    """Gradient in x, from the result."""
    return _mapped(_relu_gradient, g, y)


def tanh_gradient(g: Any, y: Any) -> Any:
    """Gradient in x, from the result."""
    return _mapped(_tanh_gradient, g, y)


def sigmoid_gradient(g: Any, y: Any) -> Any:
    """Gradient in x, from the result."""
    return _mapped(_sigmoid_gradient, g, y)
