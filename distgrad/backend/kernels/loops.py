"""Kernels that are made of a function of one element: a compiled loop over flat arrays."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

from distgrad.backend.kernels.elementwise import Elementwise
from distgrad.backend.kernels.support import exp, kernel
from distgrad.backend.kernels.translate import loop_form

__all__ = ["loop_kernel"]


def loop_kernel(
    rule: Elementwise, module: str, missing: Container[str] = (), *, dtypes: str = "fd", rare: bool = False
) -> Any:
    """A rule's loop, as a kernel of a module.

    Args:
        rule: what it computes.
        module: ``__name__`` of the one that asks.
        missing: arrays of the rule that it does without.
        dtypes, rare: of :class:`~distgrad.backend.kernels.support.Entry`.
    """
    arrays, _ = rule.variant(missing)
    signature = " ".join(["x1"] * len(arrays) + ["x"] * len(rule.numbers))
    writes = " ".join(f"{name}_" for name in rule.writes if name in arrays)
    loop = loop_form(rule, missing, {"math": math, "exp": exp, "__name__": module})
    return kernel(signature, dtypes, writes=writes, rare=rare, elementwise=True)(loop)
