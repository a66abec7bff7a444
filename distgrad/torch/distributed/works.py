"""What asynchronous calls of ``torch.distributed`` return: works and futures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from distgrad import env
from distgrad.comm.work import Work as CommWork
from distgrad.errors import CommError, CommTimeoutError

__all__ = ["Future", "Work", "collect_all", "seconds_of", "settle_all", "wait_all"]

_POLL_S = 1e-3


def seconds_of(timeout: Any) -> float | None:
    """Seconds of a ``timedelta`` or a number; None for None."""
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


class Future:
    """A value that is there later: ``torch.futures.Future``.

    Functions given to :meth:`then` and :meth:`add_done_callback` run once, in the thread of the program: when
    the future is given its value, or when it or the Work that gives it is waited for, or asked whether it is
    over and is. What nobody asks for runs in ``barrier`` and ``destroy_process_group``.
    """

    def __init__(self, produce: Callable[[], Any] | None = None, *, devices: Any = None) -> None:
        self._produce = produce
        self._ready: Callable[[], bool] | None = None  # whether there is no need to wait
        self._parent: Future | None = None
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._then: list[Callable[[Future], Any]] = []

    def done(self) -> bool:
        """Whether the value is there."""
        if not self._done and self._ready is not None and self._ready():
            self._settle()
        return self._done

    def wait(self) -> Any:
        """The value, once it is there.

        Raises:
            CommError: no other thread is there to set it, or none has within ``DISTGRAD_TIMEOUT``.
            Exception: what it ended with in its place.
        """
        self._settle()
        if self._error is not None:
            raise self._error
        return self._value

    value = wait

    def then(self, callback: Callable[[Future], Any]) -> Future:
        """The future of what ``callback`` makes of this one."""
        found = Future()
        found._parent, found._ready = self, self.done

        def run(_: Future) -> None:
            try:
                value = callback(self)
            except Exception as error:
                found.set_exception(error)
            else:
                found.set_result(value)

        self.add_done_callback(run)
        return found

    def add_done_callback(self, callback: Callable[[Future], Any]) -> None:
        """Call ``callback`` with this future once its value is there."""
        if self._done:
            callback(self)
        else:
            self._then.append(callback)

    def set_result(self, result: Any) -> None:
        """Give it its value.

        Raises:
            CommError: it has one, or ended with an error.
        """
        self._end(result, None)

    def set_exception(self, error: BaseException) -> None:
        """End it with an error, which :meth:`wait` raises."""
        self._end(None, error)

    def _end(self, value: Any, error: BaseException | None) -> None:
        if self._done:
            raise CommError("Future.set_result: it is over already; make another future")
        self._value, self._error = value, error
        self._done = True  # last: another thread may wait for it
        failures = []
        while self._then:
            try:
                self._then.pop(0)(self)
            except Exception as failure:
                failures.append(failure)
        if failures:
            raise failures[0]

    def _wait_for_others(self) -> None:
        """Wait until another thread has ended it.

        Raises:
            CommError: there is no other thread, or none has within ``DISTGRAD_TIMEOUT``.
        """
        deadline_s = time.monotonic() + env.read().timeout_s
        while not self._done:
            if threading.active_count() == 1 or time.monotonic() > deadline_s:
                raise CommError("Future.wait: nothing sets this future; call set_result first")
            time.sleep(_POLL_S)

    def _settle(self) -> None:
        """Wait; an error is for whoever asks for the value."""
        if self._done:
            return
        if self._parent is not None:
            self._parent._settle()
        elif self._produce is None:
            self._wait_for_others()
        else:
            value = error = None
            try:
                value = self._produce()
            except Exception as failure:
                error = failure
            if not self._done:  # a Work has ended its future itself
                self._end(value, error)


def collect_all(futures: Sequence[Future]) -> Future:
    """The future of the list of futures that are done."""
    every = list(futures)

    def produce() -> list[Future]:
        for each in every:
            each._settle()
        return every

    found = Future(produce)
    found._ready = lambda: all(each.done() for each in every)
    for each in every:
        each.add_done_callback(lambda _: found.done())
    return found


def wait_all(futures: Sequence[Future]) -> list[Any]:
    """The values of futures, waited for."""
    return [each.wait() for each in futures]


_awaited: dict[int, Work] = {}  # whose futures have been asked for, until they are over


def settle_all() -> None:
    """Wait for the collectives whose futures have been asked for, and run what waits for these."""
    for each in list(_awaited.values()):
        each.exception_behind()


class Work:
    """A collective that was issued with ``async_op=True``; its results are the caller's behind ``wait``.

    Args:
        work: of the communicator; None where ``finish`` does everything.
        finish: hands the results out, once.
        arrived: without ``work``, whether ``finish`` need not wait.
    """

    def __init__(
        self, work: CommWork | None, finish: Callable[[Any], Any], arrived: Callable[[], bool] | None = None
    ) -> None:
        self._work = work
        self._finish = finish
        self._arrived = arrived
        self._result: Any = None
        self._finished = False
        self._error: BaseException | None = None
        self._future: Future | None = None

    def wait(self, timeout: Any = None) -> bool:
        """Wait until it is over.

        Raises:
            CommTimeoutError: after ``timeout``, a ``timedelta`` or seconds; it goes on.
        """
        if self._error is not None:
            raise self._error
        if not self._finished:
            seconds = seconds_of(timeout) or None
            if seconds is not None and self._arrived is not None:
                self._wait_for_arrival(seconds)
            try:
                result = None if self._work is None else self._work.wait(seconds)
                self._result = self._finish(result)
            except Exception as error:
                if self._work is None or self._work.done():
                    self._error = error
                    self._tell()
                raise
            self._finished = True
            self._tell()
        return True

    def _wait_for_arrival(self, seconds: float) -> None:
        assert self._arrived is not None
        deadline_s = time.monotonic() + seconds
        while not self._arrived():
            if time.monotonic() > deadline_s:
                raise CommTimeoutError(f"wait: no message came within {seconds:g} s; wait again, or longer")
            time.sleep(_POLL_S)

    def _tell(self) -> None:
        """End its future."""
        _awaited.pop(id(self), None)
        if self._future is not None and not self._future._done:
            self._future._end(None if self._result is None else list(self._result), self._error)

    def is_completed(self) -> bool:
        """Whether it is over, and its results are there; does not wait."""
        if not self._finished and self._error is None:
            over = self._work.done() if self._work is not None else self._arrived is None or self._arrived()
            if over:
                self.exception_behind()
        return self._finished or self._error is not None

    def exception_behind(self) -> BaseException | None:
        """Wait; what it ended with, or None."""
        try:
            self.wait()
        except Exception:
            if self._error is None and not self._finished:
                raise
        return self._error

    def is_success(self) -> bool:
        """Whether it is over, and without an error."""
        return self.is_completed() and self._error is None

    def exception(self) -> BaseException | None:
        """What it ended with, or None."""
        self.is_completed()
        return self._error

    def result(self) -> list[Any]:
        """The tensors that it has filled."""
        self.wait()
        return list(self._result)

    def get_future(self) -> Future:
        """The future of :meth:`result`, the same one in each call."""
        if self._future is None:
            self._future = Future(self.result)
            self._future._ready = self.is_completed
            if self._finished or self._error is not None:
                self._tell()
            elif self._work is not None:
                _awaited[id(self)] = self
        return self._future

    def synchronize(self) -> None:
        """Wait."""
        self.wait()
