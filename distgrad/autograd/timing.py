"""Operations one by one, for whoever listens to :mod:`distgrad.trace`: by name, and by the line that called.

Compiled functions call their formula by a name among their globals; while operations are timed, that name
holds the formula with a clock around it. Without, nothing is paid.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from distgrad.autograd import graph
from distgrad.autograd.later import read_all
from distgrad.autograd.lines import describe_line, outside
from distgrad.autograd.nodes import Node
from distgrad.autograd.primitive import REGISTRY, Composite, Primitive
from distgrad.trace import report, timers

__all__ = ["timed_operations"]


@functools.lru_cache(maxsize=4096)
def _place(code: Any, instruction: int) -> str:
    return describe_line((code, instruction))


def _timed_formula(record: Primitive, formula: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **named: Any) -> Any:
        start_s = time.perf_counter()
        y = formula(*args, **named)
        end_s = time.perf_counter()
        frame = outside(sys._getframe(1))
        size = getattr(y, "nbytes", None)
        line = _place(frame.f_code, frame.f_lasti)
        report(record.name, start_s, end_s, op="forward", line=line, bytes=size)
        return y

    timed.formula = formula  # type: ignore[attr-defined]
    return timed


def _timed_walk(differentiate: Callable[..., Any]) -> Callable[..., Any]:
    def timed(self: Any, node: Node, g: Any, edges: tuple[Any, ...]) -> Any:
        start_s = time.perf_counter()
        found = differentiate(self, node, g, edges)
        end_s = time.perf_counter()
        line = None if node.line is None else _place(*node.line[:2])
        report(node.op.name, start_s, end_s, op="backward", line=line)
        return found

    return timed


@contextlib.contextmanager
def timed_operations() -> Iterator[None]:
    """Report every operation as a span: ``op`` is ``forward`` or ``backward``, ``line`` the user's.

    A span covers what is computed on arrays, not what Python costs around it; on a GPU it is the time in
    which the work is issued.
    """
    read_all()  # what is imported later would not be among them
    scopes = [
        (record, scope)
        for record in REGISTRY.values()
        if not isinstance(record, Composite)
        for scope in record.scopes
    ]
    walk = graph.Walk.differentiate
    for record, scope in scopes:
        scope["formula"] = _timed_formula(record, scope["formula"])
    graph.Walk.differentiate = _timed_walk(walk)  # type: ignore[method-assign]
    try:
        yield
    finally:
        graph.Walk.differentiate = walk  # type: ignore[method-assign]
        for _, scope in scopes:
            scope["formula"] = scope["formula"].formula


timers["operations"] = timed_operations
