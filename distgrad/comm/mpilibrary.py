"""The MPI library, through mpi4py; the only file that imports it."""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from distgrad import env
from distgrad.comm.arrival import wait_for_siblings
from distgrad.comm.relay import Relay, Relayed
from distgrad.errors import CommError, MissingDependencyError, RankFailedError

with wait_for_siblings():
    # MPI's start waits for ranks of other hosts in C, where only this can end it if one never comes.
    faulthandler.dump_traceback_later(min(env.read().timeout_s, 1e6), exit=True, file=2)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, an MPI library is not
        raise MissingDependencyError(
            f"comm.init: the backend 'mpi' needs mpi4py and an MPI library ({' '.join(str(error).split())}); "
            'run: pip install "distgrad[mpi]"'
        ) from error
    finally:
        faulthandler.cancel_dump_traceback_later()

__all__ = ["MPI", "abort", "abort_on_exception", "check_running", "exit_in_order", "make_relay", "relayed"]

_FORWARD_S = 0.2  # mpiexec drops output that it has not forwarded when the job is aborted
_CAUSE_S = 5.0  # for the rank that failed first to print its traceback and end the job itself
_LEVELS = {
    MPI.THREAD_SINGLE: "MPI_THREAD_SINGLE",
    MPI.THREAD_FUNNELED: "MPI_THREAD_FUNNELED",
    MPI.THREAD_SERIALIZED: "MPI_THREAD_SERIALIZED",
}
_hooked = False  # whether sys.excepthook ends the job


def abort_on_exception() -> None:
    """From here on, an exception that nobody catches ends the whole job after its traceback."""
    global _hooked
    if _hooked or env.read().supervisor is not None:  # distgrad run reports and ends the job by itself
        return
    _hooked = True
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        previous(kind, error, trace)
        if MPI.Is_finalized():  # the other ranks wait no more
            return
        if isinstance(error, RankFailedError):
            time.sleep(_CAUSE_S)
        abort(f"ended by {kind.__name__}")

    sys.excepthook = hook


def exit_in_order(leave: Callable[[], None]) -> None:
    """Let ``os._exit(0)`` leave the other ranks and MPI before the process, as a program's usual end does.

    A starter such as MPICH's kills all other ranks when one has ended without that, and its own exit code is
    0 then: the job would look finished. This way, a rank that still waits for this one says so, and fails.

    Args:
        leave: leaves the other ranks, if that has not been done.
    """
    if env.read().supervisor is not None:  # distgrad run sees by itself who has ended
        return
    leave_process, process = os._exit, os.getpid()

    def exit_now(status: int) -> NoReturn:
        if status == 0 and os.getpid() == process:  # a fork's end is not the rank's
            leave()
            if not MPI.Is_finalized():
                MPI.Finalize()
        leave_process(status)

    os._exit = exit_now


def abort(why: str) -> None:
    """End the whole job."""
    print(f"distgrad: rank {MPI.COMM_WORLD.Get_rank()} {why}, so the whole job ends", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(_FORWARD_S)
    MPI.COMM_WORLD.Abort(1)
    os._exit(1)  # MPICH's Abort may return before the launcher's signal arrives


def check_running() -> None:
    """See that there is something to join.

    Raises:
        CommError: the program has ended MPI.
    """
    if MPI.Is_finalized():
        raise CommError(
            "comm.init: MPI_Finalize was called, and no rank can join another after it; call it at the end"
        )


def make_relay() -> Relay | None:
    """What has this thread make the calls of others, if the library takes calls from one thread only.

    Raises:
        CommError: it takes them from another thread than this one.
    """
    level = MPI.Query_thread()
    if level >= MPI.THREAD_MULTIPLE:
        return None
    if not MPI.Is_thread_main():
        raise CommError(
            f"comm.init: MPI was initialised with {_LEVELS[level]} and takes calls from its main thread, but "
            "init() was called in another one; call it there, or initialise MPI with MPI_THREAD_MULTIPLE"
        )
    return Relay()


def relayed(handle: Any, relay: Relay | None) -> Any:
    """An MPI object whose calls the main thread makes, where there is need for that."""
    return handle if relay is None else Relayed(handle, relay, (MPI.Request, MPI.Message))
