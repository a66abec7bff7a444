"""Dropout whose random words are drawn as they are used: those of ``distgrad.backend.rng`` to the bit."""

from __future__ import annotations

from typing import Any

from distgrad.backend.kernels.cuda.launch import empty, over_elements, prepare
from distgrad.backend.kernels.cuda.random import State, words_of


def dropout(x: Any, *, state: State, p: float) -> Any:
    """Forward, and the gradient, which is the same map."""
    (x,) = prepare(x)
    y = empty(x, x.shape)
    numbers = (p, 1.0 / (1.0 - p) if p < 1.0 else 0.0)
    rounded = (float(x.dtype.type(number)) for number in numbers)
    over_elements("random", "dropout", x.size, x.dtype.char, *words_of(state), *rounded, x, y)
    return y


def dropout_gradient(g: Any, state: State, p: float) -> Any:
    """Gradient in x: the words are drawn again, which costs less than to keep them."""
    return dropout(g, state=state, p=p)
