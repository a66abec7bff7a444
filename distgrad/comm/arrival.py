"""Ranks that an MPI launcher has started on one host wait for each other here, before MPI starts.

MPI's start waits for all ranks in C, where nothing reaches a process: a rank that ended before it called
``init`` would leave the others there, and what ends them leaves their shared memory behind. Whoever has come
says so by a socket without a file, which goes with the process. Ranks that start MPI by themselves, a solver
in C say, are not waited for: they have mapped its library, or are no Python. Where the system does not show
processes (other systems than Linux), or a launcher does not say how many are here, nobody waits.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from distgrad import env
from distgrad.errors import CommTimeoutError, RankFailedError

__all__ = ["wait_for_siblings"]

_SLEEP_S = (1e-3, 5e-2)  # first and longest
_STARTING_S = 5.0  # in which the launcher will have started them all
_FORWARD_S = 0.2  # mpiexec drops output that it has not forwarded when it ends the job
_LIBRARY = b"/libmpi"


def wait_for_siblings() -> contextlib.AbstractContextManager[Any]:
    """Wait until all ranks of this host have come; this one is seen to have until the end of the context.

    Collective: yes; blocks: yes, for ``DISTGRAD_TIMEOUT`` at most.

    Raises:
        RankFailedError: one of them has ended.
        CommTimeoutError: one of them did not come.
    """
    settings = env.read()
    launcher = _find_launcher() if settings.supervisor is None and settings.mpi_local_size else None
    if launcher is None or settings.mpi_rank is None or _starts_mpi(os.getpid()):
        return contextlib.nullcontext()
    sign = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(OSError):  # init was called before, and failed
            sign.bind(f"\0distgrad {launcher} {settings.mpi_rank}")
        _Siblings(launcher, settings).wait()
    except BaseException:
        sign.close()
        raise
    return sign


class _Siblings:
    """The ranks that a launcher's process has started.

    Args:
        launcher: that process.
        settings: of this rank.
    """

    def __init__(self, launcher: int, settings: env.Environment) -> None:
        self._launcher, self._settings = launcher, settings
        self._size = settings.mpi_local_size or 1
        self._pids: dict[int, int] = {}  # by rank
        self._come: set[int] = set()  # also those that have ended since

    def wait(self) -> None:
        """Until all have come."""
        start_s, sleep_s = time.monotonic(), _SLEEP_S[0]
        while len(come := self._signed()) < self._size:
            self._come |= come
            waited_s = time.monotonic() - start_s
            ended = self._ended(waited_s)
            if ended:
                raise RankFailedError(
                    f"comm.init: {_name(ended)} ended before init(), and the others can make no world "
                    "without it; see what it printed, and let every rank call init()"
                )
            come |= {rank for rank, pid in self._pids.items() if _starts_mpi(pid)}
            if len(come) >= self._size:
                return
            if waited_s > self._settings.timeout_s:
                _end_with_signal()
                raise CommTimeoutError(
                    f"comm.init: waited {self._settings.timeout_s:g} s for "
                    f"{_name(self._pids.keys() - come)} to call init(); look for what it waits for"
                )
            time.sleep(sleep_s)
            sleep_s = min(2 * sleep_s, _SLEEP_S[1])

    def _signed(self) -> set[int]:
        """Those whose socket is there."""
        found = re.findall(rf"@distgrad {self._launcher} (\d+)$", Path("/proc/net/unix").read_text(), re.M)
        return {int(rank) for rank in found}

    def _ended(self, waited_s: float) -> set[int]:
        """The ranks that have ended; of those the ones that had not come, if there are any."""
        there = _children(self._launcher)
        gone = {rank for rank, pid in self._pids.items() if pid not in there}
        for pid in there - set(self._pids.values()):
            rank = _variables(pid).mpi_rank
            if rank is not None:
                self._pids[rank] = pid
        never_seen = len(self._pids) < self._size and waited_s > _STARTING_S
        if (gone or never_seen) and self._size == self._settings.mpi_size:  # else whose ranks these are?
            gone |= set(range(self._size)) - set(self._pids)
        return gone - self._come or gone


def _end_with_signal() -> None:
    """An exception that nobody catches ends this process by a signal, for which mpiexec ends the others.

    For a mere exit code it would wait for the rank that did not come.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        previous(kind, error, trace)
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(_FORWARD_S)
        os.kill(os.getpid(), signal.SIGKILL)

    sys.excepthook = hook


def _name(ranks: set[int]) -> str:
    """Ranks, as a sentence has them."""
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, sorted(ranks)))


def _variables(pid: int) -> env.Environment:
    """The settings that a process was started with; none of one that has ended."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return env.Environment()
    lines = (os.fsdecode(line).partition("=") for line in data.split(b"\0"))
    return env.read({name: value for name, _, value in lines})


def _parent(pid: int) -> int | None:
    """The parent of a process that has not ended."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return int(parent) if state not in "ZX" else None


def _children(launcher: int) -> set[int]:
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return {pid for pid in pids if _parent(pid) == launcher}


def _find_launcher() -> int | None:
    """The nearest ancestor that is no rank: a rank may run in a shell of its own."""
    pid: int | None = os.getpid()
    while pid and _variables(pid).mpi_rank is not None:
        pid = _parent(pid)
    return pid if pid and pid > 1 else None


def _starts_mpi(pid: int) -> bool:
    """Whether a process has mapped an MPI library, or is no Python as this one."""
    try:
        other = os.readlink(f"/proc/{pid}/exe") != os.readlink("/proc/self/exe")
        return other or _LIBRARY in Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:  # it ends
        return False
