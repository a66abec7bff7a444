"""The optimizers' rules in one pass over flat arrays, in place: compiled loops, by the rules' names."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container
from typing import Any

from distgrad.backend.kernels.elementwise import Elementwise
from distgrad.backend.kernels.loops import loop_kernel
from distgrad.backend.kernels.rules import RULES
from distgrad.backend.kernels.support import is_plain
from distgrad.backend.threads import run_parts

_ELEMENT_NS = 0.2  # of one thread, for each element of each array
_SELDOM = {"max_exp_avg_sq", "grad_avg"}  # state that few models ask for


def _run(kernel: Any, arrays: list[Any], numbers: Any) -> Any:
    """The kernel over parts of the arrays, of which the first is returned."""
    if not is_plain(*arrays):
        return None
    first = arrays[0]
    flat = [x.reshape(-1) for x in arrays]
    values = [first.dtype.type(number) for number in numbers]
    element_ns = _ELEMENT_NS * len(flat)
    run_parts(lambda start, stop: [(kernel, *[x[start:stop] for x in flat], *values)], first.size, element_ns)
    return first


def _kernel(rule: Elementwise, missing: Container[str]) -> Any:
    arrays, _ = rule.variant(missing)
    return loop_kernel(rule, __name__, missing, rare=bool(_SELDOM & set(arrays)))


def _compiled(rule: Elementwise) -> Callable[..., Any]:
    """``(array, …, numbers)``: a kernel for each choice of the arrays that may be missing."""
    kernels = {
        missing: _kernel(rule, missing)
        for count in range(len(rule.optional) + 1)
        for missing in itertools.combinations(rule.optional, count)
    }

    def run(*given: Any) -> Any:
        *arrays, numbers = given
        missing = rule.missing(arrays)
        return _run(kernels[missing], [x for x in arrays if x is not None] if missing else arrays, numbers)

    return run


globals().update({name: _compiled(rule) for name, rule in RULES.items()})
