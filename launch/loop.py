"""One thread that waits for everything at once: what can be read, what is due, signals, and other threads."""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import IO

__all__ = ["STOPPING", "Clock", "Loop"]

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # signals that end a program
_CHUNK_BYTES = 4096
_LATE_S = 1.0  # later than that after a wait, the process or the machine stood still
_ROUNDS = 16  # of reading before something due is done: more than a line may hold


class Clock:
    """Seconds in which others could be judged: it stands while whoever judges is absent, or told to wait."""

    def __init__(self) -> None:
        self._skipped_s = 0.0
        self._stopped_s: float | None = None

    def now_s(self) -> float:
        """The present time."""
        now_s = time.monotonic() if self._stopped_s is None else self._stopped_s
        return now_s - self._skipped_s

    def skip(self, seconds: float) -> None:
        """Take these last seconds for none."""
        if self._stopped_s is None:
            self._skipped_s += seconds

    def stand(self, still: bool) -> None:
        """Stand still from now on, or go on."""
        if still and self._stopped_s is None:
            self._stopped_s = time.monotonic()
        elif not still and self._stopped_s is not None:
            self._skipped_s += time.monotonic() - self._stopped_s
            self._stopped_s = None


class Loop:
    """Calls what was asked for when its time comes; what is watched is closed at the end.

    Before anything that is due is done, all that had come by then has been read: who was stopped, or had much
    to do, first hears what others have said meanwhile.

    Attributes:
        over: set to end :meth:`run`.
        clock: goes with ``time.monotonic()``, but for the time in which this process did not run.
    """

    def __init__(self) -> None:
        self.over = False
        self.clock = Clock()
        self._selector = selectors.DefaultSelector()
        self._sources: set[socket.socket | IO[bytes]] = set()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._agenda_count = itertools.count()  # keeps the order of entries of the same time
        self._signals: collections.deque[signal.Signals] = collections.deque()
        self._posted: collections.deque[Callable[[], None]] = collections.deque()
        awake, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self.watch(awake, lambda: awake.recv(_CHUNK_BYTES))

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *exception: object) -> None:
        for source in (*self._sources, self._wake):
            source.close()
        self._selector.close()

    def watch(self, source: socket.socket | IO[bytes], action: Callable[[], object]) -> None:
        """Call ``action`` whenever ``source`` has something to read."""
        self._sources.add(source)
        self._selector.register(source, selectors.EVENT_READ, action)

    def pause(self, source: socket.socket | IO[bytes]) -> None:
        """Do not look at ``source`` until it is watched again."""
        self._selector.unregister(source)

    def unwatch(self, source: socket.socket | IO[bytes]) -> None:
        """Look at ``source`` no more, and close it."""
        with contextlib.suppress(KeyError):  # it was paused
            self._selector.unregister(source)
        self._sources.discard(source)
        source.close()

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        """Call ``action`` once, ``delay_s`` seconds from now."""
        heapq.heappush(self._agenda, (time.monotonic() + delay_s, next(self._agenda_count), action))

    def post(self, action: Callable[[], None]) -> None:
        """Call ``action`` once, soon; from any thread, and without effect when the loop has been closed."""
        self._posted.append(action)
        with contextlib.suppress(OSError):  # full: it wakes anyway
            self._wake.send(b"\0")

    @contextlib.contextmanager
    def catching(self, numbers: Sequence[int]) -> Iterator[None]:
        """Queue signals for :meth:`run`, and wake it.

        Args:
            numbers: the signals; one that was ignored at our start (nohup, a background job) stays so.
        """

        def take(number: int, frame: FrameType | None) -> None:
            self._signals.append(signal.Signals(number))

        caught = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        handlers = {number: signal.signal(number, take) for number in caught}
        previous_wake = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)  # between two loops they may wait
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            signal.set_wakeup_fd(previous_wake)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def take_signals(self) -> list[signal.Signals]:
        """Those that came after :meth:`run` was over."""
        taken = list(self._signals)
        self._signals.clear()
        return taken

    def run(self, obey: Callable[[signal.Signals], None]) -> None:
        """Go round until ``over`` is set; ``obey`` is called with each signal."""
        while not self.over:
            self._hear(max(0.0, self._agenda[0][0] - time.monotonic()) if self._agenda else None)
            while self._signals:
                obey(self._signals.popleft())
            if self._agenda and self._agenda[0][0] <= time.monotonic():
                self._catch_up()
            now_s = time.monotonic()
            while self._agenda and self._agenda[0][0] <= now_s and not self.over:
                heapq.heappop(self._agenda)[2]()

    def _hear(self, wait_s: float | None) -> bool:
        """Wait for something to read or to do, and deal with it; whether there was any."""
        before_s = time.monotonic()
        ready = self._selector.select(wait_s)
        if wait_s is not None:
            self._note_absence(before_s + wait_s)
        before_s = time.monotonic()
        for key, _ in ready:
            if self._selector.get_map().get(key.fd) is key:  # or an action before has unwatched it
                key.data()
        for _ in range(len(self._posted)):
            self._posted.popleft()()
        self._note_absence(before_s)
        return bool(ready)

    def _catch_up(self) -> None:
        for _ in range(_ROUNDS):
            if not self._hear(0.0):
                break

    def _note_absence(self, expected_s: float) -> None:
        """Let the clock skip a time in which this thread should have gone on, and did not."""
        late_s = time.monotonic() - expected_s
        if late_s > _LATE_S:
            self.clock.skip(late_s)
