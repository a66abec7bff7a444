"""Short commands whose answer is awaited in other threads, and none of which outlives the launcher."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence

__all__ = ["ended_behind", "run"]

_running: set[subprocess.Popen[str]] = set()
_lock = threading.Lock()
_over = False  # while all are ended
_LIMIT_S = 1.0
_LOOK_S = 0.01


def run(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command without input, and return its exit code and what it wrote.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``timeout_s`` seconds, and was killed.
        OSError: it cannot be run.
    """
    with _lock:
        if _over:
            raise OSError("the launcher ends")
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace",  # whatever it writes
            start_new_session=True,  # so that what it has started ends with it
        )  # fmt: skip
        _running.add(process)
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    finally:
        with _lock:
            _running.discard(process)
        _kill(process)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@contextlib.contextmanager
def ended_behind() -> Iterator[None]:
    """See that no command runs behind the block, in whatever thread."""
    global _over
    try:
        yield
    finally:
        with _lock:
            _over = True
        deadline_s = time.monotonic() + _LIMIT_S
        while _running and time.monotonic() < deadline_s:
            for process in list(_running):
                _kill(process)
            time.sleep(_LOOK_S)
        _over = False


def _kill(process: subprocess.Popen[str]) -> None:
    """End a command and all that it has started, if anything is left."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
