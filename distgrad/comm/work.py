"""A collective under way, and the thread that carries collectives out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from distgrad.comm.relay import Relay
from distgrad.errors import CommTimeoutError

__all__ = ["CommunicationThread", "Work"]


T = TypeVar("T")


class Work(Generic[T]):
    """A collective that was issued with ``async_op=True``; ``T`` is what it returns.

    Attributes:
        started_s: ``time.perf_counter()`` at which the communication thread took it up, None before.
        ended_s: ``time.perf_counter()`` at which it was complete or had failed, None before.
        relay: what the main thread has to do while it waits; None if nothing.
        over: set once it is, well or badly.
    """

    __slots__ = ("_body", "_error", "_name", "_result", "ended_s", "over", "relay", "started_s")

    def __init__(self, body: Callable[[], T], name: str) -> None:
        self._body: Callable[[], T] | None = body
        self._name = name
        self.over = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None
        self.started_s: float | None = None
        self.ended_s: float | None = None
        self.relay: Relay | None = None

    def done(self) -> bool:
        """Whether it is over, well or badly; ``wait`` then returns at once.

        Collective: no; blocks: no.
        """
        return self.over.is_set()

    def wait(self, timeout: float | None = None) -> T:
        """Wait until the collective is complete.

        Collective: no; blocks: yes.

        Args:
            timeout: seconds to wait; None leaves it to the collective's own deadline.

        Returns:
            What the same call would have returned with ``async_op=False``.

        Raises:
            CommTimeoutError: it is still under way after ``timeout`` seconds; it goes on, and a later
                ``wait`` may see its end.
            Exception: whatever the collective raised.
        """
        if self.relay is None or not self.relay.is_main():
            over = self.over.wait(timeout)
        else:
            over = self.relay.serve_until(self.over, timeout)
        if not over:
            raise CommTimeoutError(
                f"wait: {self._name} was expected to end within {timeout} s and is still under way; "
                "wait again, or longer"
            )
        if self._error is not None:
            raise self._error
        return self._result

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it is under way."""
        if self.started_s is None or self.ended_s is None:
            return None
        return self.ended_s - self.started_s

    def run(self) -> None:
        """Carry the collective out, up to :meth:`release`; the communication thread calls both."""
        assert self._body is not None
        self.started_s = time.perf_counter()
        try:
            self._result = self._body()
        except BaseException as error:  # raised again in wait(), in the thread that asked for it
            self._error = error
        self.ended_s = time.perf_counter()
        self._body = None  # lets go of the arrays

    def release(self) -> None:
        """Let those go on who wait."""
        self.over.set()


class CommunicationThread:
    """Carries out the collectives of one rank, in the order in which they were submitted.

    A communicator and everything split from it share one, so that there is a single order over all groups.
    The first submission starts the thread. One thread of the program at a time submits.

    Args:
        name: of the thread.
        relay: what has the main thread make the calls that this one may not; None if it may make all.
    """

    def __init__(self, name: str, relay: Relay | None = None) -> None:
        self._name = name
        self._relay = relay
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ident: int | None = None  # of the thread
        self._ended = threading.Event()
        self._num_submitted = 0  # written by the submitting side alone
        self._num_ended = 0  # written by the thread alone

    def busy(self) -> bool:
        """Whether anything that was submitted is not over yet."""
        return self._num_submitted != self._num_ended

    def is_current(self) -> bool:
        """Whether the caller runs on it."""
        return threading.get_ident() == self._ident

    def submit(self, work: Work) -> None:
        """Queue ``work`` behind everything that was submitted before."""
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        self._num_submitted += 1
        work.relay = self._relay
        self._queue.put(work)

    def close(self, timeout: float) -> None:
        """Finish what was submitted and end the thread.

        Raises:
            CommTimeoutError: it is still busy after ``timeout`` seconds.
        """
        if self._thread is None:
            return
        self._queue.put(None)
        if self._relay is not None:
            self._relay.serve_until(self._ended, timeout)
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise CommTimeoutError(
                f"close: {self._name} has {self._num_submitted - self._num_ended} collectives under way "
                f"after {timeout:g} s; wait for every Work before close()"
            )
        self._thread = self._ident = None

    def _serve(self) -> None:
        self._ident = threading.get_ident()
        while (work := self._queue.get()) is not None:
            work.run()
            self._num_ended += 1  # before the release: whoever waited finds the thread idle
            over = work.over
            del work  # whose result is the program's alone from here on
            over.set()
            if self._relay is not None:
                self._relay.wake()
        self._ended.set()
        if self._relay is not None:
            self._relay.wake()
