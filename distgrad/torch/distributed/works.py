"""What asynchronous calls of ``torch.distributed`` return: works and futures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from distgrad.comm.work import Work as CommWork
from distgrad.errors import CommError

__all__ = ["Future", "Work", "collect_all", "seconds_of", "wait_all"]


def seconds_of(timeout: Any) -> float | None:
    """Seconds of a ``timedelta`` or a number; None for None."""
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


class Future:
    """A value that is there later: ``torch.futures.Future``.

    Functions given to :meth:`then` run in the thread that first waits for their value.
    """

    def __init__(self, produce: Callable[[], Any] | None = None, *, devices: Any = None) -> None:
        self._produce = produce
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._then: list[Callable[[Future], Any]] = []

    def done(self) -> bool:
        """Whether the value is there."""
        return self._done

    def wait(self) -> Any:
        """The value, once it is there.

        Raises:
            CommError: nobody is to set it.
            Exception: what it ended with in its place.
        """
        if not self._done:
            if self._produce is None:
                raise CommError("Future.wait: nothing sets this future; call set_result first")
            try:
                self.set_result(self._produce())
            except Exception as error:
                self.set_exception(error)
        if self._error is not None:
            raise self._error
        return self._value

    value = wait

    def then(self, callback: Callable[[Future], Any]) -> Future:
        """The future of what ``callback`` makes of this one."""

        def produce() -> Any:
            self._settle()
            return callback(self)

        return Future(produce)

    def add_done_callback(self, callback: Callable[[Future], Any]) -> None:
        """Call ``callback`` with this future once its value is there."""
        if self._done:
            callback(self)
        else:
            self._then.append(callback)

    def set_result(self, result: Any) -> None:
        """Give it its value."""
        self._done, self._value = True, result
        self._tell()

    def set_exception(self, error: BaseException) -> None:
        """End it with an error, which :meth:`wait` raises."""
        self._done, self._error = True, error
        self._tell()

    def _tell(self) -> None:
        while self._then:
            self._then.pop(0)(self)

    def _settle(self) -> None:
        """Wait; an error is for whoever asks for the value."""
        if not self._done:
            try:
                self.wait()
            except Exception:
                if not self._done:
                    raise


def collect_all(futures: Sequence[Future]) -> Future:
    """The future of the list of futures that are done."""

    def produce() -> list[Future]:
        for each in futures:
            each._settle()
        return list(futures)

    return Future(produce)


def wait_all(futures: Sequence[Future]) -> list[Any]:
    """The values of futures, waited for."""
    return [each.wait() for each in futures]


class Work:
    """A collective that was issued with ``async_op=True``; its results are the caller's behind ``wait``.

    Args:
        work: of the communicator; None where ``finish`` does everything.
        finish: hands the results out, once.
    """

    def __init__(self, work: CommWork | None, finish: Callable[[Any], Any]) -> None:
        self._work = work
        self._finish = finish
        self._result: Any = None
        self._finished = False
        self._error: BaseException | None = None

    def wait(self, timeout: Any = None) -> bool:
        """Wait until it is over.

        Raises:
            CommTimeoutError: after ``timeout``, a ``timedelta`` or seconds; it goes on.
        """
        if not self._finished:
            if self._error is not None:
                raise self._error
            try:
                seconds = seconds_of(timeout)
                result = None if self._work is None else self._work.wait(seconds or None)
                self._result = self._finish(result)
            except Exception as error:
                if self._work is None or self._work.done():
                    self._error = error
                raise
            self._finished = True
        return True

    def is_completed(self) -> bool:
        """Whether it is over; a message to be received is waited for."""
        if self._work is None:
            self.wait()
        return self._finished or self._work is None or self._work.done()

    def is_success(self) -> bool:
        """Whether it is over, and without an error."""
        return self.is_completed() and self.exception() is None

    def exception(self) -> BaseException | None:
        """What it ended with, or None."""
        if self.is_completed() and not self._finished:
            try:
                self.wait()
            except Exception as error:
                return error
        return self._error

    def result(self) -> list[Any]:
        """The tensors that it has filled."""
        self.wait()
        return list(self._result)

    def get_future(self) -> Future:
        """The future of :meth:`result`."""
        return Future(self.result)

    def synchronize(self) -> None:
        """Wait."""
        self.wait()
