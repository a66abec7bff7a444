"""Writing that blocks nobody: each file is written by a thread of its own."""

from __future__ import annotations

import collections
import select
import signal
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

from .loop import STOPPING

__all__ = ["Writer"]

_BATCH_BYTES = 1 << 16


class Writer:
    """Takes bytes for one or several files, and writes them in this order as fast as they are taken.

    A reader that pauses, a stopped terminal or a disk that does not answer holds up this thread alone.

    Args:
        told: called in the writer's thread with the tokens of what is written, or can never be.
        failed: called in the writer's thread with a file that takes no more, and the error.
    """

    def __init__(
        self, told: Callable[[list[Any]], None], failed: Callable[[BinaryIO, OSError], None]
    ) -> None:
        self._told = told
        self._failed = failed
        self._queue: collections.deque[tuple[BinaryIO | None, bytes | None, Any]] = collections.deque()
        self._change = threading.Condition()
        self._writing = False
        self._broken: set[int] = set()
        self._thread: threading.Thread | None = None

    def put(self, file: BinaryIO, data: bytes, token: Any = None) -> None:
        """Write ``data`` to ``file`` in its turn, and tell ``token`` when that is done."""
        with self._change:
            if self._thread is None:
                # It may be stuck for ever, and must not keep the process.
                self._thread = threading.Thread(target=self._run, name="launch writer", daemon=True)
                self._thread.start()
            self._queue.append((file, data, token))
            self._change.notify()

    def finish(self, file: BinaryIO) -> None:
        """Close ``file`` once what was put for it before is written."""
        with self._change:
            if self._thread is None:  # nothing ever was
                file.close()
                return
            self._queue.append((file, None, None))
            self._change.notify()

    def flush(self, limit_s: float | None = None) -> bool:
        """Wait until all is written; False if it is not after ``limit_s`` seconds."""
        with self._change:
            return self._change.wait_for(self._is_idle, limit_s)

    @property
    def idle(self) -> bool:
        """Whether all is written."""
        with self._change:
            return self._is_idle()

    def close(self) -> None:
        """Let the thread end, once all is written."""
        with self._change:
            self._queue.append((None, b"", None))
            self._change.notify()

    def _is_idle(self) -> bool:
        return not self._queue and not self._writing

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # they are for the thread that watches
        while True:
            with self._change:
                self._change.wait_for(lambda: self._queue)
                file, parts, tokens = self._take()
                self._writing = file is not None
            if file is None:
                return
            if not tokens:
                self._broken.discard(id(file))  # another file may be given this number
                file.close()
            elif id(file) not in self._broken:
                try:
                    _write(file, b"".join(parts))
                except OSError as error:
                    self._broken.add(id(file))
                    self._failed(file, error)
            with self._change:
                self._writing = False
                self._change.notify_all()
            self._told(tokens)

    def _take(self) -> tuple[BinaryIO | None, list[bytes], list[Any]]:
        """What is to be done next: bytes for a file with their tokens; none of them to close it."""
        file, data, token = self._queue.popleft()
        parts: list[bytes] = []
        tokens: list[Any] = []
        size = 0
        while data is not None:
            parts.append(data)
            tokens.append(token)
            size += len(data)
            ahead = self._queue[0] if self._queue else (None, None, None)
            if ahead[0] is not file or ahead[1] is None or size >= _BATCH_BYTES:
                break
            _, data, token = self._queue.popleft()
        return file, parts, tokens


def _write(file: BinaryIO, data: bytes) -> None:
    """Write without a buffer, which a thread that is stuck would keep from being flushed at the end."""
    raw = getattr(file, "raw", file)
    rest = memoryview(data)
    while rest:
        written = raw.write(rest)
        if written is None:  # whoever shares the file does not want to be blocked
            select.select([], [raw], [])
        else:
            rest = rest[written:]
