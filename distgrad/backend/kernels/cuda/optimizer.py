"""Optimizers' updates over flat arrays, in place: one launch a slice."""

from __future__ import annotations

from typing import Any

from distgrad.backend.kernels.cuda.launch import over_elements


def run_rule(family: str, name: str, arrays: tuple[Any, ...], *numbers: Any) -> Any:
    """The kernel over the arrays, of which the first is returned; None may stand for one.

    They are changed where they lie, so a copy of one that is not contiguous would not do: the answer is None,
    as for arrays that are not of one dtype.
    """
    first = arrays[0]
    kind = first.__class__, first.dtype
    if any(
        x is not None and ((x.__class__, x.dtype) != kind or not x.flags.c_contiguous or x.size != first.size)
        for x in arrays
    ):
        return None
    over_elements(family, name, first.size, first.dtype.char, *arrays, *numbers)
    return first


def adam(p: Any, g: Any, m: Any, v: Any, top: Any, numbers: Any) -> Any:
    """Adam's and AdamW's rule; ``numbers`` are those of the formula."""
    return run_rule("optimizer", "adam", (p, g, m, v, top), *map(float, numbers))


def sgd(p: Any, g: Any, b: Any, numbers: Any, nesterov: bool) -> Any:
    """The rule of gradient descent with momentum; ``numbers`` are those of the formula."""
    return run_rule("optimizer", "sgd", (p, g, b), *map(float, numbers), int(nesterov))
