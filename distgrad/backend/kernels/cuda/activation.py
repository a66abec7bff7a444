"""Activations and their gradients."""

from __future__ import annotations

from typing import Any

from distgrad.backend.kernels.cuda.launch import empty, over_elements, prepare


def _mapped(name: str, *arrays: Any) -> Any:
    """The kernel over all elements, into a new array."""
    taken = prepare(*arrays)
    if taken is None or arrays[0].shape != arrays[-1].shape:
        return None
    out = empty(taken[0], taken[0].shape)
    over_elements("activation", name, out.size, out.dtype.char, *taken, out)
    return out


def gelu(x: Any, *, approximate: str) -> Any:
    """Forward."""
    kernels = {"none": "gelu", "tanh": "gelu_tanh"}
    return _mapped(kernels[approximate], x) if approximate in kernels else None


def gelu_gradient(g: Any, x: Any, approximate: str) -> Any:
    """Gradient in x."""
    return _mapped("gelu_tanh_gradient" if approximate == "tanh" else "gelu_gradient", g, x)


def silu(x: Any) -> Any:
    """Forward."""
    return _mapped("silu", x)


def silu_gradient(g: Any, x: Any) -> Any:
    """Gradient in x."""
    return _mapped("silu_gradient", g, x)


def sigmoid(x: Any) -> Any:
    """Forward."""
    return _mapped("sigmoid_forward", x)


def relu_gradient(g: Any, y: Any) -> Any:
    """Gradient in x, from the result."""
    return _mapped("relu_gradient", g, y)


def tanh_gradient(g: Any, y: Any) -> Any:
    """Gradient in x, from the result."""
    return _mapped("tanh_gradient", g, y)


def sigmoid_gradient(g: Any, y: Any) -> Any:
    """Gradient in x, from the result."""
    return _mapped("sigmoid_gradient", g, y)
