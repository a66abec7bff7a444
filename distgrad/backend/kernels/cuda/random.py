"""Random numbers on the device: the words, and the uniform numbers, are the host's to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backend.graphs import graph_recording
from distgrad.backend.kernels.cuda.launch import over_elements

__all__ = ["State", "bits", "normal", "uniform", "words_of"]

_MASK = (1 << 64) - 1
State = tuple[int, int, int]  # seed, stream, and blocks drawn before


def words_of(state: State) -> tuple[Any, ...]:
    """The state as the kernels take it: four words, and where in memory those lie that they count from."""
    recording, base = graph_recording(), None
    seed, stream, block = state
    if recording is not None:
        seed, stream, block, base = recording.words(state)
    return (*(np.uint64(word & _MASK) for word in (seed, stream, block, block >> 64)), base)


def bits(out: Any, state: State) -> Any:
    """Fill ``out``, uint64 of any shape, with random words; returns it."""
    over_elements("random", "random_bits", out.size, "f", *words_of(state), out)
    return out


def uniform(out: Any, state: State) -> Any:
    """Fill ``out`` with numbers uniform on [0, 1); returns it."""
    over_elements("random", "random_uniform", out.size, out.dtype.char, *words_of(state), out)
    return out


def normal(out: Any, state: State) -> Any:
    """Fill ``out`` with standard normal numbers: the host's up to rounding; returns it."""
    over_elements("random", "random_normal", out.size, out.dtype.char, *words_of(state), out)
    return out
