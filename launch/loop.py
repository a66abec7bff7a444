"""One thread that waits for everything at once: what can be read, what is due, and signals."""

from __future__ import annotations

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

__all__ = ["Loop"]

_CHUNK_BYTES = 4096


class Loop:
    """Calls what was asked for when its time comes; what is watched is closed at the end."""

    def __init__(self) -> None:
        self.over = False
        self._selector = selectors.DefaultSelector()
        self._sources: set[socket.socket | IO[bytes]] = set()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._agenda_count = itertools.count()  # keeps the order of entries of the same time
        self._signals: list[signal.Signals] = []

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *exception: object) -> None:
        for source in self._sources:
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

    @contextlib.contextmanager
    def catching(self, numbers: Sequence[int], urgent: Callable[[int], None]) -> Iterator[None]:
        """Queue signals for :meth:`run`, and wake it.

        Args:
            numbers: the signals; one that was ignored at our start (nohup, a background job) stays so.
            urgent: called at once with the signal's number, whatever the loop is doing; may raise.
        """

        def take(number: int, frame: FrameType | None) -> None:
            urgent(number)
            self._signals.append(signal.Signals(number))

        caught = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        awake, wake = socket.socketpair()
        wake.setblocking(False)
        self.watch(awake, lambda: awake.recv(_CHUNK_BYTES))
        handlers = {number: signal.signal(number, take) for number in caught}
        previous_wake = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous_wake)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            wake.close()

    def run(self, obey: Callable[[signal.Signals], None]) -> None:
        """Go round until ``over`` is set; ``obey`` is called with each signal."""
        while not self.over:
            wait_s = max(0.0, self._agenda[0][0] - time.monotonic()) if self._agenda else None
            for key, _ in self._selector.select(wait_s):
                if self._selector.get_map().get(key.fd) is key:  # or an action before has unwatched it
                    key.data()
            while self._signals:
                obey(self._signals.pop(0))
            while self._agenda and self._agenda[0][0] <= time.monotonic():
                heapq.heappop(self._agenda)[2]()
