"""Ranks that are MPI processes, through mpi4py; the only file that imports it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.comm.base import Communicator
from distgrad.comm.topology import Topology, host_name
from distgrad.comm.transport import Family
from distgrad.errors import CommError, CommTimeoutError, MissingDependencyError

try:
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, an MPI library is not
    raise MissingDependencyError(
        f"comm.init: the backend 'mpi' needs mpi4py and an MPI library ({error}); "
        'run: pip install "distgrad[mpi]"'
    ) from error

__all__ = ["MPICommunicator", "connect"]

_OPS = {"sum": MPI.SUM, "min": MPI.MIN, "max": MPI.MAX, "prod": MPI.PROD}
_SPIN_S = 200e-6  # small messages are through by then; sleeping would double their time
_SLEEP_S = (50e-6, 500e-6)  # first and longest
_PIECE_BYTES = 1 << 28  # bounds the library's temporary copies, and keeps counts far below 2**31


def connect(timeout_s: float | None = None, check_calls: float | None = None) -> MPICommunicator:
    """The communicator of all ranks that the MPI launcher started.

    From here on, an exception that nobody catches ends the whole job after its traceback.

    Collective: yes; blocks: yes.

    Raises:
        CommError: the MPI library was initialised without MPI_THREAD_MULTIPLE.
    """
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise CommError(
            f"comm.init: MPI must be initialised with MPI_THREAD_MULTIPLE (level {MPI.THREAD_MULTIPLE}), got "
            f"level {MPI.Query_thread()}; leave mpi4py.rc.thread_level at 'multiple', or import distgrad first"
        )
    _abort_on_exception()
    handle = MPI.COMM_WORLD.Dup()
    topology = Topology(tuple(handle.allgather(host_name())))
    family = Family("distgrad communication", timeout_s, check_calls)
    return MPICommunicator(handle, "world", topology, family)


def _abort_on_exception() -> None:
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        previous(kind, error, trace)
        rank = MPI.COMM_WORLD.Get_rank()
        print(f"distgrad: rank {rank} ended by {kind.__name__}, so the whole job ends", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)

    sys.excepthook = hook


class MPICommunicator(Communicator):
    """A group of MPI processes; :func:`connect` makes the first one.

    Every operation is started nonblocking and then tested until it is complete: that keeps a deadline, which
    MPI has not, and lets the sleeping communication thread leave the processor to the computation.
    """

    backend = "mpi"

    def __init__(self, handle: Any, group: str, topology: Topology, family: Family) -> None:
        super().__init__(handle.Get_rank(), handle.Get_size(), group, topology, family)
        self._handle = handle
        self._sending: list[Any] = []

    def close(self) -> None:
        """Finish what was issued and end the communication thread, for this group and all split from it."""
        super().close()
        for request in self._sending:
            self._complete(request)
        self._sending = []

    def _complete(self, request: Any) -> None:
        self._poll(request.Test)

    def _poll(self, test: Callable[[], Any]) -> Any:
        """Call ``test`` until it returns something true, which is returned."""
        if result := test():
            return result
        start_s = time.monotonic()
        sleep_s, longest_s = _SLEEP_S
        while not (result := test()):
            passed_s = time.monotonic() - start_s
            if passed_s < _SPIN_S:
                continue
            if passed_s > self.family.timeout_s:
                raise CommTimeoutError(
                    f"waited {self.family.timeout_s} s for the other ranks; look for a rank that skipped this "
                    "call or is stuck"
                )
            time.sleep(sleep_s)
            sleep_s = min(1.5 * sleep_s, longest_s)
        return result

    def _all_reduce(self, x: NDArray[Any], op: str) -> None:
        step = max(1, _PIECE_BYTES // x.itemsize)
        for start in range(0, x.size, step):
            self._complete(self._handle.Iallreduce(MPI.IN_PLACE, x[start : start + step], _OPS[op]))

    def _reduce_scatter(self, x: NDArray[Any], out: NDArray[Any], op: str) -> None:
        self._complete(self._handle.Ireduce_scatter_block(x, out, _OPS[op]))

    def _broadcast(self, x: NDArray[np.uint8], root: int) -> None:
        for start in range(0, x.size, _PIECE_BYTES):
            self._complete(self._handle.Ibcast(x[start : start + _PIECE_BYTES], root))

    def _all_gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        self._complete(self._handle.Iallgather(x, out))

    def _all_to_all(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        self._complete(self._handle.Ialltoall(x, out))

    def _gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8] | None, root: int) -> None:
        self._complete(self._handle.Igather(x, out, root))

    def _scatter(self, x: NDArray[np.uint8] | None, out: NDArray[np.uint8], root: int) -> None:
        self._complete(self._handle.Iscatter(x, out, root))

    def _send(self, message: NDArray[np.uint8], dest: int, tag: int) -> None:
        self._sending = [request for request in self._sending if not request.Test()]
        self._sending.append(self._handle.Isend(message, dest, tag))  # keeps the message until it is sent

    def _recv(self, source: int, tag: int) -> NDArray[np.uint8]:
        status = MPI.Status()
        matched = self._poll(lambda: self._handle.Improbe(source, tag, status))
        message = np.empty(status.Get_count(MPI.BYTE), np.uint8)
        self._complete(matched.Irecv(message))
        return message

    def _barrier(self) -> None:
        self._complete(self._handle.Ibarrier())

    def _split(self, color: int | None, members: list[int], group: str) -> MPICommunicator | None:
        key = members.index(self.rank) if color is not None else 0
        handle = self._handle.Split(MPI.UNDEFINED if color is None else color, key)
        if color is None:
            return None
        return MPICommunicator(handle, group, self.topology.select(members), self.family)
