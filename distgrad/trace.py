"""Spans and events of a running step: nothing until someone listens.

A listener (a profiler, a test, a statistics collector) is an object with two methods::

    class Listener:
        def span(self, name: str, start_s: float, end_s: float, fields: dict) -> None: ...
        def event(self, name: str, time_s: float, fields: dict) -> None: ...

Times are ``time.perf_counter()`` seconds. Listeners are called in the thread that did the work, so they
append and return.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = ["Listener", "event", "listening", "span", "subscribe", "unsubscribe"]


class Listener(Protocol):
    """What :func:`subscribe` takes."""

    def span(self, name: str, start_s: float, end_s: float, fields: dict[str, Any]) -> None:
        """A stretch of work has ended."""

    def event(self, name: str, time_s: float, fields: dict[str, Any]) -> None:
        """Something happened at one moment."""


_listeners: tuple[Listener, ...] = ()


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


@contextmanager
def span(name: str, **fields: Any) -> Iterator[None]:
    """Report the time that the body of the ``with`` statement takes."""
    if not _listeners:
        yield
        return
    start_s = time.perf_counter()
    try:
        yield
    finally:
        end_s = time.perf_counter()
        for listener in _listeners:
            listener.span(name, start_s, end_s, fields)


def event(name: str, **fields: Any) -> None:
    """Report one moment."""
    if _listeners:
        now_s = time.perf_counter()
        for listener in _listeners:
            listener.event(name, now_s, fields)
