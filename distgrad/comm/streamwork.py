"""Collectives that run on a stream of a GPU: what is known of one, and who looks after those under way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from distgrad.backend.device import Device, activated
from distgrad.backend.streams import Event, Stream, current_stream
from distgrad.comm.calls import Call, CallLog, name_ranks
from distgrad.comm.pipeline import Family
from distgrad.comm.work import Work
from distgrad.errors import CommError, CommTimeoutError, RankFailedError
from distgrad.trace import listening

__all__ = ["GRACE_S", "LOOK_S", "StreamCommunicator", "StreamWork", "Watchdog"]

LOOK_S = 0.01  # how often the watchdog looks, which costs some 10 us
GRACE_S = 2.0  # for what a rank sent before it ended
_ORIGIN_S = 10.0  # a clock of a device is trusted so long
_NAMING_S = 0.25  # for the host to notice the end of a rank that NCCL has noticed


class StreamCommunicator(Protocol):
    """What is asked of a communicator whose collectives run on a stream."""

    device: Device
    stream: Stream
    group: str
    rank: int
    log: CallLog
    family: Family

    @property
    def host(self) -> Any:
        """The same ranks on their hosts."""

    def follow(self) -> None:
        """Let the communication stream wait for the current one."""

    def check_failure(self, call: Call) -> None:
        """Raise what has gone wrong."""

    def find_mismatch(self) -> CommError | None:
        """What the ranks have called where their calls differ."""

    def report(self, call: Call, start_s: float, end_s: float, **fields: Any) -> None:
        """Tell the listeners of a call that is over."""

    def find_failure(self) -> str | None:
        """What the device's side reports."""

    def device_failure(self, error: Exception) -> CommError:
        """That the device does not answer."""

    def abort(self) -> None:
        """End what is under way."""

    def fail(self, error: CommError) -> None:
        """Let all calls raise, and end those under way."""


class StreamWork(Work):
    """A collective on the communication stream, with the arrays that it needs until it is over.

    Attributes:
        call: what was issued.
        issued_s: ``time.monotonic()`` at which it was.
    """

    __slots__ = ("_comm", "_end", "_held", "_start", "call", "issued_s")

    def __init__(self, comm: StreamCommunicator, call: Call, body: Callable[[], Any]) -> None:
        super().__init__(body, f"{call.name}, group '{comm.group}'")
        self.call = call
        self.issued_s = time.monotonic()
        self._comm = comm
        self._held: Any = body
        self._start = Event(enable_timing=True, device=comm.device)
        self._end = Event(enable_timing=True, device=comm.device)

    def run(self) -> None:
        """Put it on the stream."""
        assert self._body is not None
        comm = self._comm
        comm.follow()
        self._start.record(comm.stream)
        self._result = self._body()
        self._end.record(comm.stream)
        self._body = None

    def done(self) -> bool:
        """Whether the device has finished it.

        Collective: no; blocks: no.
        """
        return self._end.query()

    def let_go(self) -> None:
        """Drop what was held for the device, which has finished."""
        self._held = None

    def wait(self, timeout: float | None = None) -> Any:
        """Let the current stream wait for it; the host goes on.

        Collective: no; blocks: no.

        Args:
            timeout: the host waits up to so many seconds until the device has finished; None: not at all.

        Raises:
            CommTimeoutError: it has not within ``timeout``.
            CommError: the ranks are out of step, as the watchdog has found.
        """
        if timeout is not None:
            deadline_s = time.monotonic() + timeout
            while not self.done():
                if time.monotonic() > deadline_s:
                    raise CommTimeoutError(f"wait: {self._name} is still under way after {timeout} s")
                time.sleep(1e-3)
        self._comm.check_failure(self.call)
        try:
            current_stream(self._comm.device).wait_event(self._end)
        except Exception as error:
            self._comm.fail(self._comm.device_failure(error))
            self._comm.check_failure(self.call)
        return self._result

    def device_s(self, origin: Event) -> tuple[float, float]:
        """When the device, which has finished, began and ended, in its own seconds since ``origin``."""
        return origin.elapsed_time(self._start) * 1e-3, origin.elapsed_time(self._end) * 1e-3

    @property
    def held(self) -> Any:
        """What the device needs until it has finished."""
        return self._held

    @property
    def start(self) -> Event:
        """What the device comes to before it."""
        return self._start

    @property
    def seconds(self) -> float | None:
        """How long the device was at it; None if it has not finished."""
        return self._start.elapsed_time(self._end) * 1e-3 if self.done() else None


class Watchdog:
    """Looks after what is under way: lets go of what is over, and ends what will never be.

    Args:
        comm: whose calls they are.
    """

    def __init__(self, comm: StreamCommunicator) -> None:
        self._comm = comm
        self._works: deque[StreamWork] = deque()
        self._stop = threading.Event()
        self._alone_s: float | None = None  # since when another rank is known to be gone
        self._failed_s: float | None = None  # since when NCCL reports a failure
        self._origin: Event | None = None  # of the device's clock in reports
        self._origin_s = self._offset_s = 0.0
        self._thread = threading.Thread(target=self._serve, name="distgrad nccl watchdog", daemon=True)
        self._thread.start()

    def watch(self, work: StreamWork) -> None:
        """Look after ``work`` until it is over."""
        self._works.append(work)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _serve(self) -> None:
        comm = self._comm
        with activated(comm.device):
            while not self._stop.wait(LOOK_S):
                if comm.family.failure is not None:  # of the hosts, or of another group: nobody will answer
                    comm.abort()
                    continue
                try:
                    self._look()
                except Exception as error:  # a GPU that has failed says so to whoever asks it anything
                    comm.fail(comm.device_failure(error))

    def _look(self) -> None:
        works, comm = self._works, self._comm
        finished = []
        while works and works[0].done():
            finished.append(works.popleft())
        if listening():
            self._report(finished)
        for work in finished:
            work.let_go()
        mismatch = comm.find_mismatch()
        if mismatch is not None:
            comm.fail(mismatch)
        if not works or mismatch is not None:
            return
        now_s, timeout_s, oldest = time.monotonic(), comm.family.timeout_s, works[0]
        failure = comm.find_failure()
        gone = comm.host.gone()
        self._failed_s = (self._failed_s or now_s) if failure is not None else None
        self._alone_s = (self._alone_s or now_s) if gone else None
        if self._alone_s is not None and now_s > self._alone_s + GRACE_S:
            self._give_up(RankFailedError, oldest, f"waited for {name_ranks(gone)}, which ended without it")
        elif self._failed_s is not None and (gone or now_s > self._failed_s + _NAMING_S):
            also = f"; {name_ranks(gone)} of the group ended" if gone else ""
            self._give_up(RankFailedError, oldest, f"NCCL failed: {failure}{also}")
        elif now_s > oldest.issued_s + timeout_s:
            self._give_up(
                CommTimeoutError,
                oldest,
                f"waited {timeout_s:g} s for the other ranks; look for a rank that skipped this call or is "
                "stuck",
            )

    def _report(self, works: Sequence[StreamWork]) -> None:
        """Tell the listeners, on the host's clock: as late as no end lies behind the moment it was seen."""
        now_s = time.perf_counter()
        if works and (self._origin is None or now_s > self._origin_s + _ORIGIN_S):  # clocks drift
            self._origin, self._origin_s, self._offset_s = works[0].start, now_s, now_s
        times = [work.device_s(self._origin) for work in works if self._origin is not None]
        self._offset_s = min([self._offset_s, *(now_s - end_s for _, end_s in times)])
        for work, (start_s, end_s) in zip(works, times, strict=True):
            self._comm.report(work.call, self._offset_s + start_s, self._offset_s + end_s)

    def _give_up(self, kind: type[CommError], work: StreamWork, why: str) -> None:
        comm, call = self._comm, work.call
        comm.fail(
            kind(
                f"{'' if call.number < 0 else 'collective '}{call.name}, group '{comm.group}': rank "
                f"{comm.rank} called {call} at {call.place} and {why}\n{comm.log.report(comm.rank)}"
            )
        )
