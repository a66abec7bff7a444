"""Spans and events of a running step: nothing until someone listens.

A listener (a profiler, a test, a statistics collector) is an object with two methods::

    class Listener:
        def span(self, name: str, start_s: float, end_s: float, fields: dict) -> None: ...
        def event(self, name: str, time_s: float, fields: dict) -> None: ...

Times are ``time.perf_counter()`` seconds. Listeners are called in the thread that did the work, so they
append and return. The spans of a training step, and the events:

===================  ==================================================================================
``forward``          of a module under DistributedDataParallel; ``rank``, ``step``, ``samples``
``backward``         of its loss, with the waiting at its end; ``rank``, ``step``; eager also ``flops`` of its
                     products, forward and backward, and ``activation_bytes``, what was kept for it
``bucket.wait``      backward's end waits for a bucket; ``rank``, ``step``, ``bucket``, ``bytes``, ``busy_s``
``bucket.issue``     event: backward hands a bucket over; ``rank``, ``step``, ``bucket``, ``bytes``
``all_reduce`` …     every call of a communicator, by its verb, while it is carried out; ``rank``, ``step``,
                     ``group``, ``number`` (-1 for ``send`` and ``recv``), ``bytes``, ``blocks`` (whether the
                     program does nothing meanwhile); on hosts ``waited_s``: of this time, what it waited for
                     ranks to come, before the code is compiled but for waits below 0.1 ms
``optimizer.step``   ``step`` (its own updates before this one), ``optimizer``
``data.next``        the loop waits for a batch; ``batch``
``checkpoint.save``  ``bytes``, ``path``
``checkpoint.load``  ``bytes``, ``path``
``step``             event: the program says that a step is over (``dg.profiler.step``)
``tuned``            event: what ``DistributedDataParallel(tune=True)`` has found; ``rank``, ``text``
any operation        inside ``timers["operations"]``; ``op`` (forward or backward), ``line``, ``bytes``
===================  ==================================================================================

On a GPU, what is listened to is also a range of NVTX, in which NVIDIA's tools show the kernels launched
meanwhile: spans by :func:`span`, and what is reported when it is over by :func:`annotate`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

__all__ = [
    "Listener",
    "annotate",
    "event",
    "listening",
    "report",
    "set_ranges",
    "span",
    "subscribe",
    "timers",
    "unsubscribe",
]


class Listener(Protocol):
    """What :func:`subscribe` takes."""

    def span(self, name: str, start_s: float, end_s: float, fields: dict[str, Any]) -> None:
        """A stretch of work has ended."""

    def event(self, name: str, time_s: float, fields: dict[str, Any]) -> None:
        """Something happened at one moment."""


#: What reports parts of the work one by one, while a context manager is entered: ``operations``.
timers: dict[str, Callable[[], AbstractContextManager[None]]] = {}

_listeners: tuple[Listener, ...] = ()


#: Opens a range in this thread by its name, and closes the one that was opened last.
_ranges: tuple[Callable[[str], object], Callable[[], object]] | None = None


class _Silent:
    """A listener for its own sake: what is listened to is a range."""

    def span(self, name: str, start_s: float, end_s: float, fields: dict[str, Any]) -> None:
        """Nothing: the range tells it."""

    def event(self, name: str, time_s: float, fields: dict[str, Any]) -> None:
        """Nothing: the range tells it."""


def set_ranges(
    ranges: tuple[Callable[[str], object], Callable[[], object]] | None, always: bool = False
) -> None:
    """Have the spans that somebody listens to open and close ranges of a device's tools.

    Args:
        ranges: opens one in this thread by its name, and closes the one opened last; None: no longer.
        always: also where nobody listens, as such a tool does.
    """
    global _ranges
    _ranges = ranges
    if always:
        subscribe(_Silent())


def subscribe(listener: Listener) -> None:
    """Send spans and events to ``listener`` from now on."""
    global _listeners
    _listeners = (*_listeners, listener)


def unsubscribe(listener: Listener) -> None:
    """Stop sending to ``listener``; one that is not subscribed is no error."""
    global _listeners
    _listeners = tuple(other for other in _listeners if other is not listener)


def listening() -> bool:
    """Whether anyone listens: lets a caller skip building fields."""
    return bool(_listeners)


#: A method that takes anything, gives what is false, and is compiled: half of what an empty one costs.
_nothing = staticmethod("".format)


class _Span:
    """The body of a ``with`` statement that somebody listens to; it is entered as soon as it is made."""

    __slots__ = ("_fields", "_name", "_start_s")
    __enter__ = _nothing

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self._name, self._fields, self._start_s = name, fields, time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        end_s = time.perf_counter()
        for listener in _listeners:
            listener.span(self._name, self._start_s, end_s, self._fields)


class _RangedSpan(_Span):
    """One that is also a range of a device's tools."""

    __slots__ = ("_close",)

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        assert _ranges is not None
        open_range, self._close = _ranges
        open_range(name)
        super().__init__(name, fields)

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._close()


class _Range:
    """A range alone."""

    __slots__ = ("_close",)
    __enter__ = _nothing

    def __init__(self, name: str) -> None:
        assert _ranges is not None
        open_range, self._close = _ranges
        open_range(name)

    def __exit__(self, *exception: object) -> None:
        self._close()


class _Unheard:
    """The body of one that nobody listens to."""

    __enter__ = __exit__ = _nothing


_UNHEARD = _Unheard()


def span(name: str, **fields: Any) -> _Span | _Unheard:
    """Report the time that the body of the ``with`` statement takes, also where it raises."""
    if not _listeners:
        return _UNHEARD
    return _Span(name, fields) if _ranges is None else _RangedSpan(name, fields)


def annotate(name: str) -> _Range | _Unheard:
    """Make the body of the ``with`` statement a range of a device's tools; :func:`report` tells listeners."""
    return _UNHEARD if _ranges is None or not _listeners else _Range(name)


def report(name: str, start_s: float, end_s: float, **fields: Any) -> None:
    """Report a stretch of time that was measured elsewhere."""
    for listener in _listeners:
        listener.span(name, start_s, end_s, fields)


def event(name: str, **fields: Any) -> None:
    """Report one moment."""
    if _listeners:
        now_s = time.perf_counter()
        for listener in _listeners:
            listener.event(name, now_s, fields)
