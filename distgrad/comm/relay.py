"""Calls that only the main thread may make, asked for by other threads and made when it has time.

An MPI library that was not initialised with MPI_THREAD_MULTIPLE takes calls from one thread only. The
communication thread then asks the main thread for each of its calls, which makes them whenever it has a
turn: while it waits for a :class:`~distgrad.comm.work.Work`, when it issues another call, and at every
gradient that a backward pass has ready. Between these nothing moves.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from distgrad.errors import CommError

__all__ = ["Relay", "Relayed"]


class _Asked:
    """A call that a thread waits for."""

    __slots__ = ("error", "function", "made", "result")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.made = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def make(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:  # raised again in the thread that asked
            self.error = error
        self.made.set()


class Relay:
    """Where other threads leave their calls for the thread that makes this object."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._asked: deque[_Asked] = deque()
        self._news = threading.Condition()

    def is_main(self) -> bool:
        """Whether the caller may make the calls itself."""
        return threading.get_ident() == self._main

    def call(self, function: Callable[[], Any]) -> Any:
        """Have ``function`` called by the main thread; return what it returns, or raise what it raises."""
        if self.is_main():
            return function()
        asked = _Asked(function)
        with self._news:
            self._asked.append(asked)
            self._news.notify()
        asked.made.wait()
        if asked.error is not None:
            raise asked.error
        return asked.result

    def check(self, what: str) -> None:
        """Raise unless the main thread calls: another one would wait for a turn that never comes.

        Raises:
            CommError: it does not.
        """
        if not self.is_main():
            raise CommError(
                f"{what}: called in another thread than comm.init(), but MPI was initialised to take calls "
                "from one; call it in that thread, or initialise MPI with MPI_THREAD_MULTIPLE"
            )

    def serve(self) -> None:
        """Make the calls that are asked for; in the main thread."""
        while self._asked:
            self._asked.popleft().make()

    def serve_until(self, over: threading.Event, timeout: float | None) -> bool:
        """Make calls until ``over`` is set, or for ``timeout`` seconds; return whether it is set."""
        end_s = None if timeout is None else time.monotonic() + timeout
        while not over.is_set():
            with self._news:
                rest_s = None if end_s is None else end_s - time.monotonic()
                if not self._news.wait_for(lambda: self._asked or over.is_set(), rest_s):
                    return False
            self.serve()
        return True

    def wake(self) -> None:
        """Have the main thread look again whether what it waits for is over."""
        with self._news:
            self._news.notify()


class Relayed:
    """An object whose methods the main thread calls, as it calls those of what they return."""

    __slots__ = ("_object", "_relay", "_wrapped")

    def __init__(self, target: Any, relay: Relay, wrapped: tuple[type, ...]) -> None:
        self._object = target
        self._relay = relay
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._object, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = self._relay.call(lambda: method(*args, **kwargs))
            if isinstance(result, self._wrapped):
                return Relayed(result, self._relay, self._wrapped)
            return result

        return call
