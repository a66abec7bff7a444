"""Ranks that are MPI processes: all of a job, or those of a communicator inside somebody's MPI program."""

from __future__ import annotations

import atexit
import functools
import itertools
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from distgrad import env
from distgrad.comm.base import Communicator
from distgrad.comm.calls import Call, name_ranks
from distgrad.comm.hostcompare import HostLine
from distgrad.comm.hostgroup import HostGroup
from distgrad.comm.mpifamily import MPIFamily
from distgrad.comm.mpilibrary import MPI, abort_on_exception, check_running, exit_in_order, relayed
from distgrad.comm.reduction import is_narrow
from distgrad.comm.shm import HostCommunicator
from distgrad.comm.topology import Topology, host_name
from distgrad.errors import CommError, CommTimeoutError, RankFailedError

__all__ = ["MPICommunicator", "adopt", "close_newer", "connect", "end_with_mpi"]

_OPS = {"sum": MPI.SUM, "min": MPI.MIN, "max": MPI.MAX, "prod": MPI.PROD}
_SPIN_S = 200e-6  # small messages are through by then; sleeping would double their time
_SLEEP_S = (50e-6, 500e-6)  # first and longest
_LISTEN_S = 0.25  # how often a rank that waits looks for news of the others
_PIECE_BYTES = 1 << 28  # bounds the library's temporary copies, and keeps counts far below 2**31
_adopted: list[MPICommunicator] = []  # in the order in which they were made


def connect(timeout_s: float | None = None) -> MPICommunicator:
    """The communicator of all ranks that the MPI launcher started.

    From here on, an exception that nobody catches ends the whole job after its traceback.

    Collective: yes; blocks: yes.
    """
    check_running()
    world = _join(MPI.COMM_WORLD, None, "world", timeout_s)
    _unlink_segments()
    exit_in_order(world.family.close)
    return world


def adopt(comm: Any, timeout_s: float | None = None) -> MPICommunicator:
    """The communicator of the ranks of ``comm``, which was duplicated, so that messages never meet.

    It is made once for ``comm``, and is closed at the latest when ``comm`` is freed or the program ends.

    Collective: yes, on ``comm``; blocks: yes.

    Args:
        comm: mpi4py's, of any ranks of the program.
        timeout_s: seconds after which a collective gives up.

    Raises:
        CommError: it has two sides, or holds no ranks.
    """
    check_running()
    why = ""
    if comm == MPI.COMM_NULL:
        why = "MPI_COMM_NULL; call this on the ranks of the group alone"
    elif comm.Is_inter():
        why = "an intercommunicator; merge its sides, comm.Merge(), or give the one of your own side"
    if why:
        raise CommError(f"comm.init: comm must be an intracommunicator of mpi4py, got {why}")
    known = comm.Get_attr(_key())
    if known is not None and not known.family.closed:
        return cast(MPICommunicator, known)
    found = _join(comm, comm, comm.Get_name() or f"group of {comm.Get_size()}", timeout_s)
    comm.Set_attr(_key(), found)  # in the place of one that was closed
    _adopted.append(found)
    return found


@functools.cache
def _key() -> int:
    """Where a communicator of the user's has ours."""
    atexit.register(close_newer)
    return int(MPI.Comm.Create_keyval(delete_fn=_forget))


def _forget(comm: Any, key: int, ours: MPICommunicator) -> None:
    """Close ours: the user's is freed, or the program ends."""
    _adopted.remove(ours)
    ours.close()


def close_newer(than: Communicator | None = None) -> None:
    """At the program's end, close what was adopted after ``than``, or all, the last first.

    All ranks of a group come to its end in that order, whatever other groups each is in.
    """
    while _adopted and _adopted[-1] is not than:
        _adopted[-1].mpi.Delete_attr(_key())


@functools.cache
def end_with_mpi(end: Callable[[], None]) -> None:
    """Call ``end`` before MPI does, be it in the midst of the program, and close what was adopted.

    The library forgets what is kept with ``COMM_SELF`` as the first part of ``MPI_Finalize``.
    """

    def forget(comm: Any, key: int, call: Callable[[], None]) -> None:
        call()
        close_newer()

    MPI.COMM_SELF.Set_attr(MPI.Comm.Create_keyval(delete_fn=forget), end)


def _join(base: Any, given: Any, group: str, timeout_s: float | None) -> MPICommunicator:
    """Connect the ranks of ``base``."""
    abort_on_exception()
    _meet(base, env.read().timeout_s if timeout_s is None else timeout_s)
    secret = base.bcast(secrets.token_hex(16))
    topology = Topology(tuple(base.allgather(host_name())))
    family = MPIFamily(base, given, topology, secret, timeout_s)
    return _make(family.keep(base.Dup()), group, topology, family, range(base.Get_size()))


def _meet(base: Any, timeout_s: float) -> None:
    """Wait for every rank with a deadline, which what follows has not."""
    request = base.Ibarrier()
    deadline_s = time.monotonic() + timeout_s
    while not request.Test():
        if time.monotonic() > deadline_s:
            _unlink_segments()  # all have mapped them when MPI's start returns
            raise CommTimeoutError(
                f"comm.init: waited {timeout_s:g} s for all {base.Get_size()} ranks to call init(); look for "
                "a rank that ended or waits before it"
            )
        time.sleep(_SLEEP_S[1])


def _unlink_segments() -> None:
    """Take the names of MPICH's shared memory away, now that every rank has mapped it.

    MPICH does so at its end, and a killed job leaves the segments behind; without names they go with the last
    process.
    """
    maps = Path("/proc/self/maps")
    for name in set(re.findall(r"/dev/shm/mpich_shm_\w+$", maps.read_text(), re.M)) if maps.exists() else ():
        Path(name).unlink(missing_ok=True)


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
            start_s = time.perf_counter()
            self._comm.complete(self._request)
            self._request = None
            self._comm.meeting.add_wait(time.perf_counter() - start_s)
        return bool(self._largest[0] == ~self._largest[1])


class _Line:
    """Messages between hosts, by MPI's own between their first ranks, where nothing else sends any."""

    def __init__(self, leaders: Any, family: MPIFamily) -> None:
        self.rank, self.size = leaders.Get_rank(), leaders.Get_size()
        self._leaders = leaders
        self._relay = family.relay
        self._sending: list[Any] = []  # a request keeps its message
        self._lock = threading.Lock()  # the program's thread and the watchdog send and look

    def is_open(self) -> bool:
        return self._relay is None or self._relay.is_main()

    def is_idle(self) -> bool:
        with self._lock:
            self._drop_sent()
            return not self._sending

    def send(self, message: NDArray[np.uint8], host: int, kind: int) -> None:
        with self._lock:
            self._drop_sent()
            self._sending.append(self._leaders.Isend(message, host, kind))

    def _drop_sent(self) -> None:
        self._sending = [request for request in self._sending if not request.Test()]

    def receive(self, host: int, kind: int) -> NDArray[np.uint8] | None:
        status = MPI.Status()
        matched = self._leaders.Improbe(host, kind, status)
        if matched is None:
            return None
        message = np.empty(relayed(status, self._relay).Get_count(MPI.BYTE), np.uint8)
        matched.Recv(message)
        return message


class MPICommunicator(Communicator):
    """A group of MPI processes on several hosts; :func:`connect` makes the first one.

    Every operation is started nonblocking and then tested until it is complete: that keeps a deadline, which
    MPI has not, and lets the sleeping communication thread leave the processor to the computation. An
    all-reduce goes through shared memory within the hosts, and through MPI between their first ranks. These
    compare what all have come for by a message of 16 bytes, which in an all-reduce is under way while the
    hosts reduce among themselves, and in every other collective takes its time before anything else.
    """

    backend = "mpi"
    family: MPIFamily

    def __init__(
        self,
        handle: Any,
        group: str,
        topology: Topology,
        family: MPIFamily,
        ranks: Sequence[int],
        name: str = "",
    ) -> None:
        super().__init__(handle.Get_rank(), handle.Get_size(), group, topology, family)
        self._handle = handle
        self._ranks = ranks  # in the world
        self._name = name
        self._mpi = None if name else family.given or MPI.COMM_WORLD
        family.logs[name] = self.log
        near = [ranks[r] for r, host in enumerate(topology.hosts) if host == topology.hosts[self.rank]]
        self._host = HostGroup(family.neighbours, near, name, self._watch, family.thread.is_current)
        leaders = handle.Split(0 if self._host.rank == 0 else MPI.UNDEFINED, self.rank)
        self._leaders = family.keep(leaders)
        self._question: _Question
        self._settled = False  # whether it is known that all ranks have come for the call

    @property
    def mpi(self) -> Any:
        """The ranks' communicator of mpi4py, for messages of the program's own.

        It is the one that was given to ``init``, or ``COMM_WORLD``; for a group that was split from these,
        one that is made when first asked for.

        Collective: yes, at first, on a group that was split; blocks: then.
        """
        if self._mpi is None:
            self._mpi = self._issue(Call("mpi"), self._duplicate, False)
            self.family.keep(self._mpi)
        return self._mpi

    def _duplicate(self) -> Any:
        self._barrier()
        return self._handle.Dup()

    def __exit__(self, *exception: object) -> None:
        self.family.deserts = exception[0] is not None
        self.close()

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
        family.check()
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

    @property
    def line(self) -> HostLine | None:
        """Messages between the first ranks of the group's hosts."""
        is_first = self._host.rank == 0 and self._host.size < self.size
        return _Line(self._leaders, self.family) if is_first else None

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

    def _reduce_scatter(self, x: NDArray[Any], out: NDArray[Any], op: str, edges: list[int]) -> None:
        self._agree()
        counts = [stop - start for start, stop in itertools.pairwise(edges)]
        sent = x.astype(np.float32) if is_narrow(x.dtype) else x
        part = np.empty(out.shape, sent.dtype)  # MPI's own, as out may be a part of x
        self.complete(self._handle.Ireduce_scatter(sent, part, counts, _OPS[op]))
        with np.errstate(all="ignore"):  # an overflow is the caller's to find
            np.copyto(out, part, casting="unsafe")

    def _broadcast(self, x: NDArray[np.uint8], root: int) -> None:
        self._agree()
        for start in range(0, x.size, _PIECE_BYTES):
            self.complete(self._handle.Ibcast(x[start : start + _PIECE_BYTES], root))

    def _all_gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8], edges: list[int]) -> None:
        self._agree()
        counts = [stop - start for start, stop in itertools.pairwise(edges)]
        own = out[edges[self.rank] : edges[self.rank + 1]]
        if not np.may_share_memory(own, x):
            own[:] = x
        self.complete(self._handle.Iallgatherv(MPI.IN_PLACE, [out, counts, edges[:-1], MPI.BYTE]))

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
        count = relayed(status, self.family.relay).Get_count(MPI.BYTE)
        message = np.empty(count, np.uint8)
        self.complete(matched.Irecv(message))
        return message

    def _has_message(self, source: int, tag: int) -> bool:
        return bool(self._handle.Iprobe(source, tag))

    def _barrier(self) -> None:
        self._agree()
        self.complete(self._handle.Ibarrier())

    def _split(self, color: int | None, members: list[int], group: str) -> MPICommunicator | None:
        key = members.index(self.rank) if color is not None else 0
        handle = self.family.keep(self._handle.Split(MPI.UNDEFINED if color is None else color, key))
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
