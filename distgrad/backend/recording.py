"""Where somebody may listen to what is computed on the host: a call at a time, or what a step does in Python.

A capture (:mod:`distgrad.replay`) records array calls by itself. What is decorated here is told to it as a
whole, since numbers pass through Python inside (a norm, random counters), or since nothing is computed in it
but what Python remembers (a schedule's step). When nobody listens a decorated function is called as it is.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

__all__ = ["Listener", "as_one_call", "as_truth", "branch", "effect", "here"]

_F = TypeVar("_F", bound=Callable[..., Any])


class Listener(Protocol):
    """Who records what a thread computes."""

    def whole(self, function: Callable[..., Any], args: Any, kwargs: Any, writes: tuple[int, ...]) -> Any:
        """Call ``function``, as one call whose result are arrays or truths.

        Args:
            function: computes on the arrays among its arguments, on live objects and on nothing else.
            args, kwargs: its arguments, nested in tuples, lists and dicts.
            writes: the places of positional arguments whose arrays it changes.
        """

    def effect(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call ``function``, which changes what its first argument remembers and computes on no arrays."""

    def truth(self, function: Callable[..., Any], args: Any, kwargs: Any, writes: tuple[int, ...]) -> Any:
        """Call ``function`` as :meth:`whole` does; what it answers may be another truth in a replay."""

    def branch(self, truth: Any, run: Callable[[], Any]) -> Any:
        """Call ``run`` where the answer of a function of :meth:`truth` was yes, now and in replays."""


class _Here(threading.local):
    """Who listens to this thread; None: nobody.

    Attributes:
        listener: to what it computes.
        hears: is called with each communicator that it issues a call of.
    """

    listener: Listener | None = None
    hears: Callable[[Any], None] | None = None


here = _Here()


def as_one_call(*writes: int) -> Callable[[_F], _F]:
    """For functions that a listener is told of as one call.

    Args:
        writes: the places of positional arguments whose arrays the function changes.
    """
    return _told_by("whole", writes)


def as_truth(*writes: int) -> Callable[[_F], _F]:
    """For functions that answer yes or no, by which nothing goes but :func:`branch` and effects.

    Args:
        writes: the places of positional arguments whose arrays the function changes.
    """
    return _told_by("truth", writes)


def _told_by(tell: str, writes: tuple[int, ...]) -> Callable[[_F], _F]:
    """For functions of whose calls a listener is told by one of its methods."""

    def decorate(function: _F) -> _F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            listener = here.listener
            if listener is None:
                return function(*args, **kwargs)
            return getattr(listener, tell)(function, args, kwargs, writes)

        return cast("_F", call)

    return decorate


def branch(truth: Any, run: Callable[[], Any]) -> Any:
    """What ``run`` gives if a truth holds, else None."""
    listener = here.listener
    if listener is not None:
        return listener.branch(truth, run)
    return run() if truth else None


def effect(function: _F) -> _F:
    """For methods that only change what their object remembers, which is done again when a step is replayed.

    What they return may be handed to other decorated functions, which then get what the repetition returned.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        listener = here.listener
        return function(*args, **kwargs) if listener is None else listener.effect(function, args, kwargs)

    return cast("_F", call)
