"""Optimizers' updates over flat arrays, in place: one launch a slice."""

from __future__ import annotations

from typing import Any

from distgrad.backend.kernels.cuda.launch import over_elements


def _are_flat(*arrays: Any) -> bool:
    """Whether all lie in one piece, with one dtype; they are changed in place, so a copy would not do."""
    p = arrays[0]
    return all(
        x is None or (x.__class__ is p.__class__ and x.dtype == p.dtype and x.flags.c_contiguous)
        for x in arrays
    )


def adam(p: Any, g: Any, m: Any, v: Any, top: Any, numbers: Any) -> Any:
    """Adam's and AdamW's rule; ``numbers`` are those of the formula."""
    if not _are_flat(p, g, m, v, top):
        return None
    over_elements("optimizer", "adam", p.size, p.dtype.char, p, g, m, v, top, *map(float, numbers))
    return p


def sgd(p: Any, g: Any, b: Any, numbers: Any, nesterov: bool) -> Any:
    """The rule of gradient descent with momentum; ``numbers`` are those of the formula."""
    if not _are_flat(p, g, b):
        return None
    over_elements("optimizer", "sgd", p.size, p.dtype.char, p, g, b, *map(float, numbers), int(nesterov))
    return p
