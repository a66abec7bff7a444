"""A run that can be seen: what every rank does, and when, in one trace.

::

    with dg.profiler.record("out.json.gz", steps=range(10, 15)):
        train()

``distgrad run --trace out.json.gz -n 4 train.py`` does it for a whole script, and ``distgrad report
out.json.gz`` makes a page of it.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from distgrad.profiler.held import Held, Memory, assert_no_leak, memory
    from distgrad.profiler.recording import record, step
    from distgrad.profiler.reporting import report

__all__ = ["Held", "Memory", "assert_no_leak", "memory", "record", "report", "step"]

#: Files that are opened when they are first asked for: owners of memory register with one of this room.
_FILES = {
    "held": ("Held", "Memory", "assert_no_leak", "memory"),
    "recording": ("record", "step"),
    "reporting": ("report",),
}


def __getattr__(name: str) -> _Any:
    for file, names in _FILES.items():
        if name in names:
            return getattr(_import_module(f"distgrad.profiler.{file}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
