"""Ranks that hold one GPU each, and exchange its arrays by NCCL.

A call is put on the communicator's own stream and returns; the host waits for nothing. Before it the stream
waits for what the caller's stream has been given, after it the caller's stream waits for it. What only hosts
have to agree on (objects, checks, splits) goes over a communicator of theirs that stands beside.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.backend.device import Device, activated, find_backend, resolve
from distgrad.backend.graphs import graph_recording
from distgrad.backend.streams import Stream
from distgrad.comm.base import Communicator
from distgrad.comm.calls import Call, name_ranks
from distgrad.comm.ledger import PERIOD, Ledger
from distgrad.comm.libnccl import Link, Provider, open_provider
from distgrad.comm.ncclverbs import NcclVerbs
from distgrad.comm.streamwork import GRACE_S, LOOK_S, StreamWork, Watchdog
from distgrad.comm.work import Work
from distgrad.errors import (
    CommError,
    CommMismatchError,
    CommTimeoutError,
    DeviceError,
    RankFailedError,
)

__all__ = ["NcclCommunicator", "connect"]

_PATIENCE_S = 1.0  # what hosts need at most to compare their calls
_SETTLE_S = 100e-6


def connect(
    host: Communicator, device: Device | str | None = None, provider: str | None = None
) -> NcclCommunicator:
    """The communicator of the GPUs of a host communicator's ranks.

    From here on this thread's work goes to its GPU where it names none.

    Collective: yes; blocks: yes.

    Args:
        host: the ranks; reduces their host arrays.
        device: this rank's GPU; None is the one that ``"cuda"`` means.
        provider: of :data:`distgrad.comm.libnccl.PROVIDERS`; None means CuPy's.

    Raises:
        DeviceError: there is no such GPU.
        CommError: two ranks hold one GPU, or NCCL does not come up.
        MissingDependencyError: NCCL is not installed.
    """
    found = resolve("cuda" if device is None else device)
    if found.kind != "cuda":
        raise DeviceError(f"comm.init: backend 'nccl' needs a GPU, got device {str(found)!r}; pass 'cuda'")
    find_backend(found.kind).set_index(found.index)
    _check_distinct(host, found)
    return NcclCommunicator(host, found, open_provider(provider), "world")


def _check_distinct(host: Communicator, device: Device) -> None:
    properties = getattr(find_backend(device.kind), "properties", None)
    own = properties(device.index).get("uuid") if properties is not None else None
    name = host.topology.hosts[host.rank].split()[0]
    holders: dict[Any, int] = {}
    for rank, (uuid, place) in enumerate(host.all_gather_object((own, f"{device} of {name}"))):
        first = holders.setdefault(uuid, rank) if uuid is not None else rank
        if first != rank:
            raise CommError(
                f"comm.init: backend 'nccl' needs a GPU for every rank, but ranks {first} and {rank} both "
                f"hold {place}; start as many ranks on a host as it has GPUs"
            )


def _seat_of(device: Device, host: Communicator) -> str:
    """Where a GPU sits, as the driver and the kernel's log call it."""
    backend = find_backend(device.kind)
    found = backend.properties(device.index) if hasattr(backend, "properties") else {}
    places = [found.get(f"pci{part}ID", 0) for part in ("Domain", "Bus", "Device")]
    name = host.topology.hosts[host.rank].split()[0]
    return f"GPU {places[0]:04x}:{places[1]:02x}:{places[2]:02x}.0 of {name}"


class NcclCommunicator(NcclVerbs):
    """A group of ranks with a GPU each; :func:`connect` makes the first one.

    A verb takes arrays of this rank's GPU and returns when it is on the communication stream: its result may
    be computed with at once, on the current stream. ``barrier`` and the verbs of objects wait for the hosts.
    float16 and bfloat16, but for means, are summed in NCCL's own way, rounded at every rank; int16 and uint16
    it does not know. ``send`` occupies the stream until its ``recv`` has come, so that two ranks must not
    both send first; tags are 0. :meth:`submit` runs its function at once, with the communication stream as
    the current one.

    Args:
        host: the same ranks, for what is on hosts.
        device: this rank's GPU.
        provider: NCCL's binding.
        group: the name in error reports.

    Attributes:
        device: this rank's GPU.
        stream: where collectives run; it waits for no other but where told.
        provider: NCCL's binding.
    """

    backend = "nccl"

    def __init__(self, host: Communicator, device: Device, provider: Provider, group: str) -> None:
        super().__init__(host.rank, host.size, group, host.topology, host.family)
        self._host = host
        self.device = device
        self.provider = provider
        self.stream = Stream(device, priority=-1)
        self._seat = _seat_of(device, host)  # asked while it still answers
        self._ledger = self._open_ledger()
        self._within: Call | None = None  # the call of submit that is running
        unique_id = host.broadcast_object(provider.make_id() if host.rank == 0 else None)
        self._link = self._join(unique_id)
        self._watchdog = Watchdog(self)
        self._parts: list[NcclCommunicator] = []
        self._ending = threading.Lock()  # held by the first who ends the link, and never given back

    @property
    def host(self) -> Communicator:
        """The same ranks, for arrays on the host."""
        return self._host

    @property
    def mpi(self) -> Any:
        """The same ranks' communicator of mpi4py, for messages of the program's own.

        Collective: as that of ``host``; blocks: likewise.

        Raises:
            CommError: these ranks are not MPI's.
        """
        return self._host.mpi

    def _join(self, unique_id: bytes) -> Link:
        """NCCL's own start, which waits in C for all ranks, with a deadline."""
        outcome: list[Any] = []

        def join() -> None:
            try:
                with activated(self.device):
                    outcome.append(self.provider.connect(self.size, unique_id, self.rank))
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=join, name="NCCL's start", daemon=True)
        thread.start()
        deadline_s = time.monotonic() + self.family.timeout_s
        alone_s: float | None = None  # since when a rank is gone, which may have come before
        while thread.is_alive():
            thread.join(LOOK_S)
            gone = self._host.gone() if thread.is_alive() else []
            alone_s = (alone_s or time.monotonic()) if gone else None
            if alone_s is not None and time.monotonic() > alone_s + GRACE_S:
                raise RankFailedError(
                    f"comm.init, group '{self.group}': waited for {name_ranks(gone)}, which ended without it"
                )
            if time.monotonic() > deadline_s:
                raise CommTimeoutError(
                    f"comm.init, group '{self.group}': NCCL did not come up within "
                    f"{self.family.timeout_s:g} s; set NCCL_DEBUG=INFO to see what it waits for"
                )
        (found,) = outcome
        if isinstance(found, Exception):
            raise CommError(
                f"comm.init, group '{self.group}': NCCL does not come up on rank {self.rank}, {self.device} "
                f"({found}); set NCCL_DEBUG=INFO to see why"
            ) from found
        link: Link = found
        return link

    # -- how a call gets through

    def _issue(self, call: Call, body: Callable[[], Any], async_op: bool, *, everyone: bool = True) -> Any:
        outer = self._within
        if outer is not None:
            call.number, call.site = outer.number if everyone else -1, outer.site
            call.within = outer.options
        else:
            self.log.add(call, numbered=everyone)
            self.family.num_issued += 1
            if self.family.closed:
                raise CommError(
                    f"{call.name}, group '{self.group}': the communicator is closed; issue calls before "
                    "close()"
                )
        self._call = call
        self.check_failure(call)
        if everyone and self._ledger is not None and self._ledger.write(call):
            self._compare_period(self._ledger)
        with activated(self.device):
            try:
                work = StreamWork(self, call, body)
                work.run()
            except Exception as error:
                self._explain(call, error)
                raise
            recording = graph_recording()
            if recording is None:
                self._watchdog.watch(work)
            else:  # its events are no moments, and its arrays are needed at every replay
                recording.keep((work, work.held))
            self.sent_bytes += call.sent_bytes(self.size)
            return work if async_op else work.wait()

    def _explain(self, call: Call, error: Exception) -> None:
        """Raise what lies behind an error, if that is known."""
        mismatch = None if isinstance(error, CommMismatchError) else self._find_cause()
        is_nccl = type(error).__name__ == "NcclError"  # CuPy's class, and that of libnccl's own binding
        is_cuda = type(error).__name__ == "CUDARuntimeError"
        if mismatch is not None or is_nccl:
            self.fail(CommError(f"{call.name}, group '{self.group}': rank {self.rank}: {error}"))
        elif is_cuda:
            self.fail(self.device_failure(error))
        if mismatch is not None or is_nccl or is_cuda:
            if mismatch is not None:
                self.family.told = True
                raise mismatch from error
            self.check_failure(call)

    def _open_ledger(self) -> Ledger | None:
        hosts, meeting = self.topology.hosts, self._host.meeting
        if meeting is None or self.size == 1:
            return None
        near = [rank for rank, host in enumerate(hosts) if host == hosts[self.rank]]
        return Ledger(meeting, self.group, near, self._host.line, self._num_hosts)

    @property
    def _num_hosts(self) -> int:
        return len(set(self.topology.hosts))

    def _compare_period(self, ledger: Ledger) -> None:
        """Let nobody fall behind by more calls than the ledger keeps."""
        deadline_s = time.monotonic() + self.family.timeout_s

        def wait() -> None:
            gone = self._host.gone()
            if gone or time.monotonic() > deadline_s:
                raise (RankFailedError if gone else CommTimeoutError)(
                    f"group '{self.group}': this rank is {PERIOD} calls and more ahead of others"
                    + (f", of which {name_ranks(gone)} ended" if gone else "; look for one that is stuck")
                )

        ledger.catch_up(wait)

    def _settle_calls(self, groups: Sequence[NcclCommunicator], deadline_s: float) -> None:
        """Wait until these groups' calls have been compared with other hosts', which come here too."""
        ledgers = [group._ledger for group in groups if group._ledger is not None and group._num_hosts > 1]
        family = self.family
        while not all(ledger.is_settled() for ledger in ledgers) and family.failure is None:
            if not family.thread.busy():  # else it listens
                family.listen(f"in {self._call.name}, group '{self.group}', at {self._call.place}")
            if self._host.gone() or time.monotonic() > deadline_s:  # which shows elsewhere
                return
            time.sleep(_SETTLE_S)

    def find_mismatch(self) -> CommMismatchError | None:
        """What the ranks have called where their calls differ."""
        return None if self._ledger is None else self._ledger.mismatch()

    def check_failure(self, call: Call) -> None:
        """Raise what has gone wrong, once as it is and then as the cause."""
        family = self.family
        if family.failure is not None:
            if not self.family.told:
                self.family.told = True
                raise family.failure
            raise CommError(
                f"{call.name}, group '{self.group}': nothing can be sent after an earlier call failed on "
                f"rank {self.rank} ({family.failure}); end the program"
            ) from family.failure

    def device_failure(self, error: Exception) -> CommError:
        """That this rank's GPU does not answer, and where it sits."""
        return CommError(
            f"group '{self.group}': rank {self.rank} on {self.device} failed: {error} ({self._seat}; the "
            "kernel's log, dmesg, says under 'Xid' what became of it)"
        )

    def find_failure(self) -> str | None:
        """What NCCL reports of what runs in the background."""
        return self._link.failure()

    def fail(self, error: CommError) -> None:
        """Let this call and all to come raise; what is under way ends."""
        if self.family.failure is None and self.family.fail(self._find_cause() or error):
            self.abort()

    def _find_cause(self) -> CommMismatchError | None:
        """The mismatch of which an error may come, which NCCL may notice before the hosts have compared."""
        deadline_s = time.monotonic() + (_PATIENCE_S if self._num_hosts > 1 else 0)
        while (found := self.find_mismatch()) is None and time.monotonic() < deadline_s:
            time.sleep(_SETTLE_S)
        return found

    def abort(self) -> None:
        """End what is under way, wherever it waits.

        Collective: no; blocks: no.
        """
        for part in self._parts:
            part.abort()
        if self._ending.acquire(blocking=False):  # the program and the watchdog may both come
            self._link.abort()

    def submit(self, function: Callable[[], Any], name: str = "") -> Work:
        """Run ``function`` at once, its arithmetic and collectives on the communication stream.

        Collective: yes; blocks: no.

        Args:
            function: issues the same calls on every rank; must not read what is on the device.
            name: what it does, for error reports; the same on every rank.

        Returns:
            The Work that returns what ``function`` returns.
        """
        call = Call("submit", options=name)

        def body() -> Any:
            outer, self._within = self._within, call
            try:
                with self._on_stream():
                    return function()
            finally:
                self._within = outer

        work: Work = self._issue(call, body, async_op=True)
        return work

    def close(self) -> None:
        """Finish what was issued and let go of NCCL, for this group and all split from it.

        Collective: yes; blocks: until the device has finished and, with ``mpi`` between hosts, every rank is
            here.

        Raises:
            CommError: the ranks were out of step, or a call failed, and nobody was told before.
        """
        self.__exit__(None, None, None)

    def __exit__(self, *exception: object) -> None:
        try:
            if not self.family.closed:
                self._finish(compares=exception[0] is None)
        finally:
            self._host.__exit__(*exception)
        if exception[0] is None and self.family.failure is not None and not self.family.told:
            self.family.told = True
            raise self.family.failure

    def _finish(self, compares: bool) -> None:
        groups = list(self._with_parts())
        if compares:
            self._call = self.log.add(Call("close"), numbered=False, depth=1)
            for group in groups:
                if group._ledger is not None:
                    group._ledger.end(self._call)
        for group in groups:
            group._await_device()
        if compares:
            for group in groups:
                if (error := group.find_mismatch()) is not None:
                    group.fail(error)
            self._settle_calls(groups, math.inf)
        for group in groups:
            group._let_go()

    def _with_parts(self) -> Iterator[NcclCommunicator]:
        """This group and all split from it, those first."""
        for part in self._parts:
            yield from part._with_parts()
        yield self

    def _await_device(self) -> None:
        deadline_s = time.monotonic() + self.family.timeout_s + GRACE_S
        while self.family.failure is None and not self.stream.query() and time.monotonic() < deadline_s:
            time.sleep(1e-3)

    def _let_go(self) -> None:
        self._watchdog.close()
        with activated(self.device):
            if self.family.failure is not None:
                self.abort()
            elif self._ending.acquire(blocking=False):
                self._link.destroy()

    # -- what goes over the hosts

    def _announce(self, mark: int) -> None:
        pass

    def _barrier(self) -> None:
        while self.family.relay is not None and self.family.failure is None and not self.stream.query():
            self.find_mismatch()  # other hosts are heard by this thread alone
            time.sleep(_SETTLE_S)
        self.stream.synchronize()
        self.check_failure(self._call)
        self._host.barrier()
        self._settle_calls([self], time.monotonic() + self.family.timeout_s)
        if (error := self.find_mismatch()) is not None:
            self.fail(error)
            self.check_failure(self._call)

    def _exchange_objects(self, obj: Any) -> list[Any]:
        return self._host.all_gather_object(obj)

    def broadcast_object(self, obj: Any = None, root: int = 0) -> Any:
        return self._host.broadcast_object(obj, root)

    def gather_object(self, obj: Any, root: int = 0) -> list[Any] | None:
        return self._host.gather_object(obj, root)

    def scatter_object(self, objs: Sequence[Any] | None = None, root: int = 0) -> Any:
        return self._host.scatter_object(objs, root)

    def _gather_lengths(self, length: int) -> list[int]:
        return self._host.all_gather_object(length)

    def _allocate(self, nbytes: int, lazy: bool) -> NDArray[np.uint8]:
        return self._host.allocate(nbytes, lazy=lazy)

    def _split(self, color: int | None, members: list[int], group: str) -> NcclCommunicator | None:
        host = self._host.split(color, members.index(self.rank) if color is not None else 0, group)
        if host is None:
            return None
        part = NcclCommunicator(host, self.device, self.provider, group)
        self._parts.append(part)
        return part
