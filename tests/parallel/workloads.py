"""Small versions of the benchmark's models, for distgrad and for PyTorch: only the modules differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.scale.bench.models import build

__all__ = ["NAMES", "batch_of", "build_model"]

SIZES: dict[str, tuple[int, ...]] = {
    "tiny": (16, 16, 16, 2),
    "mlp": (20, 24, 24, 10),
    "cnn": (),
    "gpt": (13, 8, 2, 2, 16),
    "gptm": (13, 12, 3, 3, 12),
}
NAMES = tuple(SIZES)


def build_model(nn: Any, F: Any, attend: Any, name: str) -> Any:
    """The model in float64; ``attend`` is the library's scaled_dot_product_attention."""
    return build(nn, F, attend, name, SIZES[name]).double()


def batch_of(name: str, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of ``size`` samples; a GPT's sample has a target a token."""
    rng = np.random.default_rng(seed)
    if name.startswith("gpt"):
        classes, length = SIZES[name][:2]
        return rng.integers(0, classes, (size, length)), rng.integers(0, classes, (size, length))
    shape = (1, 28, 28) if name == "cnn" else (SIZES[name][0],)
    classes = 10 if name == "cnn" else SIZES[name][-1]
    return rng.standard_normal((size, *shape)), rng.integers(0, classes, size)
