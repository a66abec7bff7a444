"""The optimizers' rules over flat arrays, in place: one launch a slice, by the rule's name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.backend.kernels.cuda.launch import over_elements
from distgrad.backend.kernels.elementwise import Elementwise
from distgrad.backend.kernels.rules import RULES

_UNKNOWN = itertools.repeat(0.0)  # the host does not know them


def _run(rule: Elementwise, arrays: list[Any], numbers: list[Any]) -> Any:
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
    over_elements("optimizer", rule.name, first.size, first.dtype.char, *arrays, *numbers)
    return first


def _launcher(rule: Elementwise) -> Callable[..., Any]:
    """``(array, …, numbers)``; what lies on the device stays there, since the host would wait.

    A number may lie there, or all of them, one behind the other, in float64.
    """

    def run(*given: Any) -> Any:
        *arrays, numbers = given
        values: list[Any] = []
        live = numbers if isinstance(numbers, arrays[0].__class__) else None
        for name, number in zip(rule.numbers, numbers if live is None else _UNKNOWN, strict=live is None):
            found = name in rule.measured and isinstance(number, arrays[0].__class__)
            values.append(0.0 if found else float(number))
            if name in rule.measured:
                values.append(number.astype(np.float64, copy=False) if found else None)
        return _run(rule, arrays, [*values, live])

    return run


globals().update({name: _launcher(rule) for name, rule in RULES.items()})
