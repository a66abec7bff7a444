"""Activations and their gradients, of one element each: ``g`` is the result's gradient, ``y`` the result."""

from __future__ import annotations

from distgrad.backend.kernels.elementwise import Elementwise, elementwise, exp, inlined

__all__ = ["RULES"]

_TWICE_SCALE = 1.5957691216057308  # 2 √(2/π)
_CUBIC = 0.044715
_SLOPE_CUBIC = 3 * _CUBIC


@inlined
def logistic(v: float) -> float:
    """Of any number; 0 where e^(−v) is infinite."""
    return 1.0 / (1.0 + exp(-v))


@elementwise
def silu(x: float) -> float:
    """x σ(x)."""
    return x / (1.0 + exp(-x))


@elementwise
def silu_gradient(g: float, x: float) -> float:
    """The slope is s + x s (1 − s)."""
    s = logistic(x)
    return g * (s + x * (s * (1.0 - s)))


@elementwise
def gelu_tanh(x: float) -> float:
    """x/2 (1 + tanh u) is x / (1 + e^(−2u))."""
    return x / (1.0 + exp(-_TWICE_SCALE * x * (1.0 + _CUBIC * x * x)))


@elementwise
def gelu_tanh_gradient(g: float, x: float) -> float:
    """x σ(2u) has the slope σ + x σ (1 − σ) · 2u′."""
    u = _TWICE_SCALE * x * (1.0 + _CUBIC * x * x)
    s = logistic(u)
    slope = _TWICE_SCALE * (1.0 + _SLOPE_CUBIC * x * x)
    return g * (s + x * (s * (1.0 - s)) * slope)


@elementwise
def sigmoid_forward(x: float) -> float:
    """Exact in both tails."""
    e = exp(-abs(x))
    return (1.0 if x > 0 else e) / (1.0 + e)


@elementwise
def relu_gradient(g: float, y: float) -> float:
    """0 · g is NaN where g is."""
    return g if y > 0 else g * 0.0


@elementwise
def tanh_gradient(g: float, y: float) -> float:
    """The slope is 1 − y²."""
    return g * (1.0 - y * y)


@elementwise
def sigmoid_gradient(g: float, y: float) -> float:
    """The slope is y (1 − y)."""
    return g * (y * (1.0 - y))


RULES = {rule.name: rule for rule in list(globals().values()) if isinstance(rule, Elementwise)}
