"""Ranks that are MPI processes, through mpi4py; the only file that imports it."""

from __future__ import annotations

import faulthandler
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad import env
from distgrad.comm.base import Communicator
from distgrad.comm.calls import CallLog, name_ranks
from distgrad.comm.hostgroup import HostGroup
from distgrad.comm.neighbours import Neighbours
from distgrad.comm.reduction import is_narrow
from distgrad.comm.shm import HostCommunicator
from distgrad.comm.topology import Topology, host_name
from distgrad.comm.transport import Family
from distgrad.errors import CommError, CommTimeoutError, MissingDependencyError, RankFailedError

# MPI's start waits for all ranks in C, where only this can end a process that waits for one that never comes.
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

__all__ = ["MPICommunicator", "connect"]

_OPS = {"sum": MPI.SUM, "min": MPI.MIN, "max": MPI.MAX, "prod": MPI.PROD}
_SPIN_S = 200e-6  # small messages are through by then; sleeping would double their time
_SLEEP_S = (50e-6, 500e-6)  # first and longest
_LISTEN_S = 0.25  # how often a rank that waits looks for news of the others
_ANSWER_S = 2.0  # how long a rank that gives up waits to hear where the others are
_FORWARD_S = 0.2  # mpiexec drops output that it has not forwarded when the job is aborted
_PIECE_BYTES = 1 << 28  # bounds the library's temporary copies, and keeps counts far below 2**31
_hooked = False  # whether sys.excepthook ends the job


def connect(timeout_s: float | None = None) -> MPICommunicator:
    """The communicator of all ranks that the MPI launcher started.

    From here on, an exception that nobody catches ends the whole job after its traceback.

    Collective: yes; blocks: yes.

    Raises:
        CommError: the MPI library was initialised without MPI_THREAD_MULTIPLE.
    """
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise CommError(
            f"comm.init: MPI must be initialised with MPI_THREAD_MULTIPLE (level {MPI.THREAD_MULTIPLE}), got "
            f"{MPI.Query_thread()}; leave mpi4py.rc.thread_level at 'multiple', or import distgrad first"
        )
    _abort_on_exception()
    _meet(env.read().timeout_s if timeout_s is None else timeout_s)
    handle = MPI.COMM_WORLD.Dup()
    topology = Topology(tuple(handle.allgather(host_name())))
    secret = handle.bcast(secrets.token_hex(16))
    family = _MPIFamily(secret, topology, timeout_s)
    _unlink_segments()
    return _make(handle, "world", topology, family, range(handle.Get_size()))


def _meet(timeout_s: float) -> None:
    """Wait for every rank with a deadline, which what follows has not."""
    request = MPI.COMM_WORLD.Ibarrier()
    deadline_s = time.monotonic() + timeout_s
    while not request.Test():
        if time.monotonic() > deadline_s:
            raise CommTimeoutError(
                f"comm.init: waited {timeout_s:g} s for all {MPI.COMM_WORLD.Get_size()} ranks to call "
                "init(); look for a rank that ended or waits before it"
            )
        time.sleep(_SLEEP_S[1])


def _abort_on_exception() -> None:
    global _hooked
    if _hooked or env.read().supervisor is not None:  # distgrad run reports and ends the job by itself
        return
    _hooked = True
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        previous(kind, error, trace)
        _abort(f"ended by {kind.__name__}")

    sys.excepthook = hook


def _unlink_segments() -> None:
    """Take the names of MPICH's shared memory away, now that every rank has mapped it.

    MPICH does so at its end, and a killed job leaves the segments behind; without names they go with the last
    process.
    """
    maps = Path("/proc/self/maps")
    for name in set(re.findall(r"/dev/shm/mpich_shm_\w+$", maps.read_text(), re.M)) if maps.exists() else ():
        Path(name).unlink(missing_ok=True)


def _abort(why: str) -> None:
    print(f"distgrad: rank {MPI.COMM_WORLD.Get_rank()} {why}, so the whole job ends", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(_FORWARD_S)
    MPI.COMM_WORLD.Abort(1)
    os._exit(1)  # MPICH's Abort may return before the launcher's signal arrives


class _MPIFamily(Family):
    """The ranks' news of each other: a rank that leaves says so, and one that waits answers where it is.

    MPI itself tells nobody that a rank has ended its program or is elsewhere. Ranks are those of the world.

    Attributes:
        sending: requests of sends that may not be received yet; a request keeps its message.
        logs: the call log of every group of this rank, by a name that all its ranks know it by.
        left: for every rank that has left, how many collectives of each group it had issued.
        answers: where the ranks are that were asked.
        line: carries the news, apart from the groups' own messages.
        neighbours: the ranks of this host.
    """

    def __init__(self, secret: str, topology: Topology, timeout_s: float | None) -> None:
        super().__init__("distgrad communication", timeout_s)
        self.line = MPI.COMM_WORLD.Dup()
        rank = self.line.Get_rank()
        near = [r for r, host in enumerate(topology.hosts) if host == topology.hosts[rank]]
        self.neighbours = Neighbours(secret, rank, near, self.timeout_s)
        self.sending: list[Any] = []
        self.logs: dict[str, CallLog] = {}
        self.left: dict[int, dict[str, int]] = {}
        self.answers: dict[int, str] = {}
        self._telling: list[Any] = []

    def listen(self, here: str) -> None:
        """Take in the others' news, and answer with ``here`` who asks."""
        while self.line.Iprobe():
            status = MPI.Status()
            kind, content = self.line.recv(status=status)
            source = status.Get_source()
            if kind == "ask":
                self.tell("answer", here, source)
            else:
                (self.left if kind == "left" else self.answers)[source] = content

    def tell(self, kind: str, content: Any, rank: int) -> None:
        """Send news without waiting."""
        self._telling.append(self.line.isend((kind, content), rank))

    def locate(self, ranks: Sequence[int], here: str) -> str:
        """Ask where ``ranks`` are, for an error report."""
        others = [rank for rank in ranks if rank != self.line.Get_rank()]
        self.answers.clear()
        for rank in others:
            self.tell("ask", None, rank)
        deadline_s = time.monotonic() + _ANSWER_S
        while time.monotonic() < deadline_s and not set(others) <= set(self.answers):
            self.listen(here)
            time.sleep(_SLEEP_S[1])
        lines = [
            f"rank {rank}: {self.answers.get(rank, 'no answer, so in no collective')}" for rank in others
        ]
        return "; ".join(lines)

    def close(self) -> None:
        """Finish what was issued, and wait for all ranks to come here, as MPI's own end does by spinning."""
        if self.closed:
            return
        try:
            super().close()
        except CommTimeoutError as error:
            self.failure = error
        self.neighbours.leave()
        if self.failure is not None:  # MPI cannot end in order while an operation is pending
            _abort(f"ended after a failure in communication ({self.failure})")
        counts = {name: log.count for name, log in self.logs.items()}
        others = set(range(self.line.Get_size())) - {self.line.Get_rank()}
        for rank in others:
            self.tell("left", counts, rank)
        while not others <= set(self.left):
            self.listen("at the end of its program")
            time.sleep(_SLEEP_S[1])
        self._finish_sending()
        self.neighbours.close()

    def _finish_sending(self) -> None:
        """With everyone at the end, what has not been received never will be."""
        deadline_s = time.monotonic() + _ANSWER_S
        while not MPI.Request.Testall(self.sending):
            if time.monotonic() > deadline_s:
                pending = sum(not request.Test() for request in self.sending)
                _abort(f"ended with {pending} messages that no rank has received")
            time.sleep(_SLEEP_S[1])


class _Question:
    """Whether the hosts have come for one call: 16 bytes among their first ranks, as one all-reduce.

    Args:
        comm: whose call it is.
        mark: of the call.
    """

    def __init__(self, comm: MPICommunicator, mark: int) -> None:
        self._comm = comm
        self._mark = mark
        self._largest: NDArray[np.int64] | None = None  # of the hosts' marks, and of their complements
        self._request: Any = None

    def ask(self, agreed: bool) -> None:
        """Start, unless the call has asked before."""
        if self._largest is None:
            other = np.iinfo(np.int64).max  # its own complement nowhere
            self._largest = np.array([self._mark, ~self._mark] if agreed else [other, other])
            self._request = self._comm.start_between(self._largest, "max")

    def hear(self) -> bool:
        """Wait for the answer, which stays."""
        assert self._largest is not None
        if self._request is not None:
            self._comm.complete(self._request)
            self._request = None
        return bool(self._largest[0] == ~self._largest[1])


class MPICommunicator(Communicator):
    """A group of MPI processes on several hosts; :func:`connect` makes the first one.

    Every operation is started nonblocking and then tested until it is complete: that keeps a deadline, which
    MPI has not, and lets the sleeping communication thread leave the processor to the computation. An
    all-reduce goes through shared memory within the hosts, and through MPI between their first ranks. These
    compare what all have come for by a message of 16 bytes, which in an all-reduce is under way while the
    hosts reduce among themselves, and in every other collective takes its time before anything else.
    """

    backend = "mpi"
    family: _MPIFamily

    def __init__(
        self,
        handle: Any,
        group: str,
        topology: Topology,
        family: _MPIFamily,
        ranks: Sequence[int],
        name: str = "",
    ) -> None:
        super().__init__(handle.Get_rank(), handle.Get_size(), group, topology, family)
        self._handle = handle
        self._ranks = ranks  # in the world
        self._name = name
        family.logs[name] = self.log
        near = [ranks[r] for r, host in enumerate(topology.hosts) if host == topology.hosts[self.rank]]
        self._host = HostGroup(family.neighbours, near, name, self._watch, family.thread.is_current)
        self._leaders = handle.Split(0 if self._host.rank == 0 else MPI.UNDEFINED, self.rank)
        self._question: _Question
        self._settled = False  # whether it is known that all ranks have come for the call

    def gone(self) -> list[int]:
        """The ranks of this group that have left, and of those on this host also those that have ended."""
        left, near = self.family.left, self.family.neighbours
        return [
            place
            for place, rank in enumerate(self._ranks)
            if rank in left or (rank in near.ranks and near.has_ended(rank))
        ]

    def complete(self, request: Any) -> None:
        """Wait for what MPI was asked to do."""
        self._poll(request.Test, self._late)

    def _late(self) -> list[int]:
        """The ranks of the world that left before the collective that is being carried out."""
        left, number = self.family.left, self._call.number
        return [rank for rank in self._ranks if rank in left and left[rank].get(self._name, 0) <= number]

    def _poll(self, test: Callable[[], Any], find_gone: Callable[[], list[int]]) -> Any:
        """Call ``test`` until it returns something true, which is returned."""
        start_s = time.monotonic()
        listen_s = start_s + _LISTEN_S
        sleep_s, longest_s = _SLEEP_S
        while not (result := test()):
            now_s = time.monotonic()
            if now_s - start_s < _SPIN_S:
                continue
            if now_s > listen_s:
                self._listen(now_s - start_s, find_gone())
                listen_s = now_s + _LISTEN_S
            time.sleep(sleep_s)
            sleep_s = min(1.5 * sleep_s, longest_s)
        return result

    def _listen(self, waited_s: float, gone: list[int]) -> None:
        """Take in the others' news, and give up past the deadline or if a rank that is needed is gone."""
        family, here = self.family, f"in {self._call.name}, group '{self.group}', at {self._call.place}"
        if gone:  # heard of in the last round, so its last messages are here by now
            raise RankFailedError(f"waited for {name_ranks(gone)} of the world, which ended without it")
        family.listen(here)
        if waited_s > family.timeout_s:
            raise CommTimeoutError(
                f"waited {family.timeout_s:g} s for the other ranks; look for a rank that skipped this "
                f"call or is stuck. In the world, {family.locate(self._ranks, here)}"
            )

    def _watch(self, missing: list[int], waited_s: float) -> None:
        self._listen(waited_s, self._late())

    @property
    def meeting(self) -> HostGroup:
        """Where the group's ranks on this host meet."""
        return self._host

    def _announce(self, mark: int) -> None:
        self._host.announce(mark)
        self._question = _Question(self, mark)
        self._settled = False

    def start_between(self, x: NDArray[Any], op: str) -> Any:
        """Start to reduce ``x`` over the hosts, whose first ranks call this."""
        return self._leaders.Iallreduce(MPI.IN_PLACE, x, _OPS[op])

    def _agree(self) -> None:
        """Before anything else in a call: see that all ranks have come for it."""
        if not self._settled:
            self._host.agree_between(self._question)
            self._settled = True

    def _all_reduce(self, x: NDArray[Any], op: str) -> None:
        def between(part: NDArray[Any]) -> None:
            self.complete(self.start_between(part, op))

        self._host.all_reduce_between(x, op, between, self._question)
        self._settled = True

    def _reduce_scatter(self, x: NDArray[Any], out: NDArray[Any], op: str) -> None:
        self._agree()
        if is_narrow(x.dtype):
            wide = np.empty(out.shape, np.float32)
            self.complete(self._handle.Ireduce_scatter_block(x.astype(np.float32), wide, _OPS[op]))
            with np.errstate(all="ignore"):  # an overflow is the caller's to find
                np.copyto(out, wide, casting="unsafe")
        else:
            self.complete(self._handle.Ireduce_scatter_block(x, out, _OPS[op]))

    def _broadcast(self, x: NDArray[np.uint8], root: int) -> None:
        self._agree()
        for start in range(0, x.size, _PIECE_BYTES):
            self.complete(self._handle.Ibcast(x[start : start + _PIECE_BYTES], root))

    def _all_gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        self._agree()
        self.complete(self._handle.Iallgather(x, out))

    def _all_to_all(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        self._agree()
        self.complete(self._handle.Ialltoall(x, out))

    def _gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8] | None, root: int) -> None:
        self._agree()
        self.complete(self._handle.Igather(x, out, root))

    def _scatter(self, x: NDArray[np.uint8] | None, out: NDArray[np.uint8], root: int) -> None:
        self._agree()
        self.complete(self._handle.Iscatter(x, out, root))

    def _send(self, message: NDArray[np.uint8], dest: int, tag: int) -> None:
        sending = self.family.sending
        sending[:] = [request for request in sending if not request.Test()]
        sending.append(self._handle.Isend(message, dest, tag))

    def _recv(self, source: int, tag: int) -> NDArray[np.uint8]:
        status = MPI.Status()
        sender = self._ranks[source]
        matched = self._poll(
            lambda: self._handle.Improbe(source, tag, status),
            lambda: [sender] if sender in self.family.left else [],
        )
        message = np.empty(status.Get_count(MPI.BYTE), np.uint8)
        self.complete(matched.Irecv(message))
        return message

    def _barrier(self) -> None:
        self._agree()
        self.complete(self._handle.Ibarrier())

    def _split(self, color: int | None, members: list[int], group: str) -> MPICommunicator | None:
        key = members.index(self.rank) if color is not None else 0
        handle = self._handle.Split(MPI.UNDEFINED if color is None else color, key)
        if color is None:
            return None
        ranks = [self._ranks[r] for r in members]
        name = f"{self._name}/{self._call.number}.{color}"
        return _make(handle, group, self.topology.select(members), self.family, ranks, name)


class _HostMPICommunicator(HostCommunicator, MPICommunicator):
    """A group of MPI processes on one host: MPI carries its messages, memory that they share the rest."""


def _make(handle: Any, group: str, topology: Topology, *place: Any) -> MPICommunicator:
    kind = _HostMPICommunicator if len(set(topology.hosts)) == 1 else MPICommunicator
    return kind(handle, group, topology, *place)
