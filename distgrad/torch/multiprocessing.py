"""``torch.multiprocessing``: Python's, with ``spawn``; tensors go to other processes by value.

PyTorch lays tensors that are sent through a queue into shared memory. Here they are copied, but for those
that ``share_memory_`` or ``Module.share_memory`` has moved there (``distgrad.autograd.sharing``).
"""

from __future__ import annotations

import multiprocessing as _processes
import multiprocessing.connection as _connection
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

__all__ = [
    "ProcessContext",
    "ProcessException",
    "ProcessExitedException",
    "ProcessRaisedException",
    "get_all_sharing_strategies",
    "get_sharing_strategy",
    "set_sharing_strategy",
    "spawn",
    "start_processes",
]

_STRATEGIES = ("file_system", "file_descriptor")
_strategy = ["file_descriptor"]


def get_all_sharing_strategies() -> set[str]:
    """The names that :func:`set_sharing_strategy` takes."""
    return set(_STRATEGIES)


def set_sharing_strategy(new_strategy: str) -> None:
    """Take one of PyTorch's names; memory is always shared by descriptors, which no folder lists."""
    if new_strategy not in _STRATEGIES:
        raise ValueError(f"set_sharing_strategy: expected one of {_STRATEGIES}, got {new_strategy!r}")
    _strategy[0] = new_strategy


def get_sharing_strategy() -> str:
    """The name that was set last."""
    return _strategy[0]


class ProcessException(Exception):
    """A process ended badly.

    Attributes:
        error_index: which one.
        error_pid: its process id.
    """

    def __init__(self, msg: str, error_index: int, pid: int) -> None:
        super().__init__(msg)
        self.msg, self.error_index, self.error_pid, self.pid = msg, error_index, pid, pid


class ProcessRaisedException(ProcessException):
    """It raised an exception, whose traceback is the message."""


class ProcessExitedException(ProcessException):
    """It ended with an exit code other than 0, or by a signal."""

    def __init__(
        self, msg: str, error_index: int, error_pid: int, exit_code: int, signal_name: str | None = None
    ) -> None:
        super().__init__(msg, error_index, error_pid)
        self.exit_code, self.signal_name = exit_code, signal_name


def _call(fn: Callable[..., Any], index: int, args: tuple[Any, ...], failures: str) -> None:
    """What a process does; what it raises goes into a file, which is there whatever becomes of it."""
    try:
        fn(index, *args)
    except KeyboardInterrupt:
        pass
    except Exception:
        Path(failures).write_text(traceback.format_exc())
        raise SystemExit(1) from None


class ProcessContext:
    """Processes that were started together.

    Attributes:
        processes: they.
    """

    def __init__(self, processes: list[Any], folder: tempfile.TemporaryDirectory[str]) -> None:
        self.processes = processes
        self._folder = folder
        self._left = {process.sentinel: index for index, process in enumerate(processes)}

    def pids(self) -> list[int]:
        """Their process ids."""
        return [int(process.pid) for process in self.processes]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait for the next of them to end; once one has failed, end the others.

        Args:
            timeout: seconds to wait; None for any time.
            grace_period: seconds that the others have, after SIGTERM, before SIGKILL.

        Returns:
            Whether all have ended.

        Raises:
            ProcessRaisedException: one raised an exception.
            ProcessExitedException: one ended otherwise.
        """
        if self._left:
            ready = _connection.wait(self._left, timeout=timeout)
            failed = None
            for sentinel in ready:
                index = self._left.pop(sentinel)
                self.processes[index].join()
                if self.processes[index].exitcode and failed is None:
                    failed = index
            if failed is not None:
                self._end(grace_period)
                raise self._explain(failed)
        if not self._left:
            self._folder.cleanup()
        return not self._left

    def _end(self, grace_period: float | None) -> None:
        for process in self.processes:
            if process.is_alive():
                process.terminate()
        deadline_s = time.monotonic() + (30.0 if grace_period is None else grace_period)
        for process in self.processes:
            process.join(max(0.0, deadline_s - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _explain(self, index: int) -> ProcessException:
        process = self.processes[index]
        file = Path(self._folder.name, str(index))
        text = file.read_text() if file.exists() else None
        self._folder.cleanup()
        if text is not None:
            message = f"\n\n-- Process {index} terminated with the following error:\n{text}"
            return ProcessRaisedException(message, index, process.pid)
        code = process.exitcode
        if code < 0:
            name = signal.Signals(-code).name
            message = f"process {index} terminated with signal {name}"
            return ProcessExitedException(message, index, process.pid, code, name)
        message = f"process {index} terminated with exit code {code}"
        return ProcessExitedException(message, index, process.pid, code)


SpawnContext = ProcessContext


def start_processes(
    fn: Callable[..., Any], args: tuple[Any, ...] = (), nprocs: int = 1, join: bool = True,
    daemon: bool = False, start_method: str = "spawn",
) -> ProcessContext | None:  # fmt: skip
    """Call ``fn(i, *args)`` in processes 0 … nprocs − 1.

    Args:
        fn: a function of a module's top level.
        args: what it gets behind its number.
        nprocs: number of processes.
        join: wait for all of them, and end the others once one has failed.
        daemon: whether they end with this one.
        start_method: ``spawn``, ``fork`` or ``forkserver``.

    Returns:
        None, or without ``join`` what to wait for.

    Raises:
        ProcessRaisedException: one raised an exception.
        ProcessExitedException: one ended otherwise.
    """
    folder = tempfile.TemporaryDirectory(prefix="distgrad-spawn-")
    context: Any = _processes.get_context(start_method)
    processes = []
    for index in range(nprocs):
        failures = str(Path(folder.name, str(index)))
        process = context.Process(target=_call, args=(fn, index, args, failures), daemon=daemon)
        process.start()
        processes.append(process)
    found = ProcessContext(processes, folder)
    if not join:
        return found
    try:
        while not found.join():
            pass
    except BaseException:
        found._end(None)
        folder.cleanup()
        raise
    return None


def spawn(
    fn: Callable[..., Any], args: tuple[Any, ...] = (), nprocs: int = 1, join: bool = True,
    daemon: bool = False, start_method: str = "spawn",
) -> ProcessContext | None:  # fmt: skip
    """:func:`start_processes` with the start method ``spawn``."""
    return start_processes(fn, args, nprocs, join, daemon, start_method)


if not TYPE_CHECKING:  # for whom a module with it has every name

    def __getattr__(name: str) -> Any:
        """Everything else is Python's: Process, Queue, Pool, set_start_method …"""
        return getattr(_processes, name)
