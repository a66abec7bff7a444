"""How a call gets through: numbered, agreed on by all ranks, carried out in order, explained if it fails."""

from __future__ import annotations

import abc
import itertools
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad import env
from distgrad.backend.device import CPU, Device
from distgrad.backend.recording import here
from distgrad.comm.calls import Call, CallLog, DisagreementError, describe_mismatch
from distgrad.comm.hostcompare import HostLine
from distgrad.comm.meeting import Meeting
from distgrad.comm.progress import Progress, advise
from distgrad.comm.relay import Relay
from distgrad.comm.topology import Topology
from distgrad.comm.work import CommunicationThread, Work
from distgrad.errors import CommError, CommMismatchError, CommTimeoutError, DTypeError, RankFailedError
from distgrad.trace import annotate, listening, report

__all__ = ["CallPipeline", "Family"]

_PAGE_BYTES = 4096
_LABEL_BYTES = 128  # what a message is, as text, before its bytes


class Family:
    """What a communicator shares with everything that is split from it.

    Attributes:
        thread: carries out the collectives of all of them, in one order.
        timeout_s: seconds after which a collective gives up; None takes ``DISTGRAD_TIMEOUT``.
        failure: the error after which the ranks may be out of step and nothing more is sent.
        told: whether the program has seen the failure, or will, since it was raised.
        relay: has the main thread make the calls that the communication thread may not; None: it may all.
        progress: tells the launcher which call this rank is in; None if nobody watches.
        submitted: the call of ``submit`` that the communication thread is carrying out.
        step: of the training under way, as DistributedDataParallel counts them; None without one.
        num_issued: calls that this rank's program has issued, in all groups.
        is_awaited: whether the program waits for what it issues now, beside which it has nothing to do: an
            idle communication thread is not woken for that.
        closed: whether :meth:`close` was called.
    """

    def __init__(self, name: str, timeout_s: float | None = None, relay: Relay | None = None) -> None:
        self.relay = relay
        self.thread = CommunicationThread(name, relay)
        self.timeout_s = env.read().timeout_s if timeout_s is None else timeout_s
        self.failure: BaseException | None = None
        self.told = True
        self._failing = threading.Lock()  # by the program or by a watchdog
        self.progress: Progress | None = None
        self.submitted: Call
        self.step: int | None = None
        self.num_issued = 0
        self.is_awaited = False
        self.closed = False

    def take_turn(self) -> None:
        """Let communication under way go on, if it needs this thread for that.

        Collective: no; blocks: no.
        """
        if self.relay is not None:
            self.relay.serve()

    def listen(self, here: str) -> None:
        """Take in what other ranks tell of themselves; answer with ``here`` who asks where this one is."""

    def check(self) -> None:
        """Raise the failure, if there is one: nobody will come any more."""
        if self.failure is not None:
            raise self.failure

    def fail(self, failure: BaseException) -> bool:
        """Note the failure, of which the program is still to be told; False if there was one before."""
        with self._failing:
            if self.failure is not None:
                return False
            self.told, self.failure = False, failure
            return True

    def close(self) -> None:
        """Finish what was issued, end the communication thread, and leave the others."""
        self.closed = True
        try:
            self.thread.close(self.timeout_s)
        except CommTimeoutError as error:
            self.failure = error
            self._leave()
            raise
        if self.progress is None or self.failure is not None:
            self._leave()
        else:
            self.progress.begin(CallLog().add(Call("finalize"), numbered=False, depth=1), "world")
            self._leave()
            self.progress.end()  # from here on it waits for nobody, and nobody for it

    def _leave(self) -> None:
        """Tell the others that this rank comes no more, and wait for what must be waited for."""


class CallPipeline(abc.ABC):
    """What a backend writes, and what carries the verbs of :class:`distgrad.comm.base.Communicator` to it.

    A backend gets flat arrays: numbers for reductions, bytes for everything else. Where it waits for other
    ranks it raises CommTimeoutError past the family's deadline and RankFailedError if one cannot come any
    more, each saying only whom it waited for; the call, the group and the last calls are added here. In every
    collective, also of empty arrays, the ranks meet at least once, and before an array changes they have
    compared what :meth:`_announce` gave them: if that differs, all of them raise DisagreementError there.
    """

    def __init__(self, rank: int, size: int, group: str, topology: Topology, family: Family) -> None:
        self.rank = rank
        self.size = size
        self.group = group
        self.topology = topology
        self.family = family
        self.log = CallLog()
        self.sent_bytes = 0.0
        self._call: Call  # the one that is being carried out
        self._agreed: Call | None = None  # the last one that all ranks are known to have issued

    def _issue(self, call: Call, body: Callable[[], Any], async_op: bool, *, everyone: bool = True) -> Any:
        """Number ``call`` and carry ``body`` out, here or on the communication thread."""
        thread = self.family.thread
        if thread.is_current():
            return self._issue_within(call, body, async_op, everyone)
        if here.hears is not None:
            here.hears(self)
        if self.family.relay is not None:
            self.family.relay.check(f"{call.name}, group '{self.group}'")
            self.family.relay.serve()
        self.log.add(call, numbered=everyone)
        self.family.num_issued += 1
        if self.family.closed:
            raise CommError(
                f"{call.name}, group '{self.group}': the communicator is closed; issue calls before close()"
            )
        call.blocks = not async_op
        if call.blocks and not thread.busy():
            return self._perform(call, body)
        work = Work(lambda: self._perform(call, body), f"{call.name}, group '{self.group}'")
        is_awaited = self.family.is_awaited and call.verb != "submit"  # whose calls belong to the thread
        if (self.size == 1 or is_awaited) and not thread.busy():  # nothing to overlap
            work.run()
            work.release()
        else:
            thread.submit(work)
        return work if async_op else work.wait()

    def _run_submitted(self, call: Call, function: Callable[[], Any]) -> Any:
        self.family.submitted = call
        return function()

    def _issue_within(self, call: Call, body: Callable[[], Any], async_op: bool, everyone: bool) -> Any:
        """Carry out a call of a function that was given to ``submit``, which has its number and line."""
        outer = self.family.submitted
        call.number, call.site, call.within = outer.number if everyone else -1, outer.site, outer.options
        if not async_op:
            return self._perform(call, body)
        work = Work(lambda: self._perform(call, body), f"{call.name}, group '{self.group}'")
        work.run()
        work.release()
        return work

    def _perform(self, call: Call, body: Callable[[], Any]) -> Any:
        """Carry a call out, and tell who listens how long it took."""
        if not listening():
            return self._carry_out(call, body)
        start_s, waited_s = time.perf_counter(), self.waited_s
        try:
            with annotate(call.verb):
                return self._carry_out(call, body)
        finally:
            self.report(call, start_s, time.perf_counter(), waited_s=self.waited_s - waited_s)

    def report(self, call: Call, start_s: float, end_s: float, **fields: Any) -> None:
        """Tell the listeners of a call that is over."""
        about = {"rank": self.rank, "step": self.family.step, "group": self.group, "number": call.number}
        report(call.verb, start_s, end_s, **about, bytes=call.array_bytes(), blocks=call.blocks, **fields)

    @property
    def waited_s(self) -> float:
        """Seconds that calls have waited for other ranks, all together; see the meeting's."""
        return 0.0 if self.meeting is None else self.meeting.waited_s

    def _carry_out(self, call: Call, body: Callable[[], Any]) -> Any:
        family = self.family
        if family.failure is not None:
            by_another = isinstance(family.failure, RankFailedError)  # so is this
            raise (RankFailedError if by_another else CommError)(
                f"{call.name}, group '{self.group}': nothing can be sent after an earlier call failed on "
                f"rank {self.rank} ({family.failure}); end the program"
            ) from family.failure
        self._call = call
        progress = family.progress
        if progress is not None:
            progress.begin(call, self.group)
        try:
            if call.number < 0:
                return body()
            self._announce(call.fingerprint())
            try:
                result = body()
            except DisagreementError:
                raise self._explain_disagreement(call) from None
            self._agreed = call
            self.sent_bytes += call.sent_bytes(self.size)
            return result
        except CommMismatchError:  # found before data moved, so the ranks are still in step
            raise
        except (CommTimeoutError, RankFailedError) as error:
            if error is family.failure:  # of a call inside a submitted function
                raise
            ended = isinstance(error, RankFailedError)  # which the calls before do not explain
            family.failure = type(error)(
                f"{'' if call.number < 0 else 'collective '}{call.name}, group '{self.group}': rank "
                f"{self.rank} called {call} and {error}"
                + (advise(self.rank, call.place) if ended else f"\n{self.log.report(self.rank)}")
            )
            raise family.failure from error.__cause__
        except Exception as error:
            family.failure = error
            raise
        finally:
            if progress is not None:
                progress.end()

    def _explain_disagreement(self, call: Call) -> CommMismatchError:
        """What the ranks called where they should have called the same, each with its line."""
        self._announce(0)
        entries = self._exchange_objects((str(call), call.place, call.number))
        if len({number for *_, number in entries}) > 1:  # one of them has issued a call without the others
            entries = [(f"#{number} {text}", place, number) for text, place, number in entries]
        by_rank = {rank: (text, place) for rank, (text, place, _) in enumerate(entries)}
        return CommMismatchError(describe_mismatch(f"#{call.number}", self.group, by_rank, self._agreed))

    def _exchange_objects(self, obj: Any) -> list[Any]:
        """Every rank's object, by pickle: the lengths first."""
        data = pickle.dumps(obj)
        lengths = np.empty(self.size, np.int64)
        self._all_gather_even(np.array([len(data)]).view(np.uint8), lengths.view(np.uint8))
        edges = [0, *itertools.accumulate(lengths.tolist())]
        joined = np.empty(edges[-1], np.uint8)
        self._all_gather(np.frombuffer(data, np.uint8), joined, edges)
        return [pickle.loads(joined[start:stop].tobytes()) for start, stop in itertools.pairwise(edges)]

    def _all_gather_even(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Collect as many bytes of every rank."""
        self._all_gather(x, out, [rank * x.size for rank in range(self.size + 1)])

    def takes(self, device: Device) -> bool:
        """Whether the verbs take arrays that lie there.

        Collective: no; blocks: no.
        """
        return device == CPU

    def _check_array(self, verb: str, name: str, x: Any) -> None:
        """Raise unless ``x`` is an array that this communicator moves."""
        if not isinstance(x, np.ndarray):
            kind = type(x).__name__
            if kind == np.ndarray.__name__:  # as CuPy's are called too
                kind = f"{type(x).__module__}.{kind}"
            raise DTypeError(
                f"{verb}: {name} must be a NumPy array, got {kind}; pass np.asarray({name}). Arrays on GPUs "
                "travel with backend 'nccl'"
            )

    def _gather_lengths(self, length: int) -> list[int]:
        """Every rank's length."""
        lengths = np.empty(self.size, np.int64)
        self._all_gather_even(np.array([length]).view(np.uint8), lengths.view(np.uint8))
        return lengths.tolist()

    def _settle(self) -> None:  # noqa: B027 (on a host it has been received when the call returns)
        """Let what the program does with arrays from here on see what has been received."""

    def _send_labelled(self, label: str, flat: NDArray[np.uint8], dest: int, tag: int) -> None:
        """Send bytes behind a label that says what they are."""
        header = np.frombuffer(label.encode().ljust(_LABEL_BYTES), np.uint8)
        self._send(np.concatenate([header, flat]), dest, tag)

    def _recv_labelled(self, label: str, flat: NDArray[np.uint8], source: int, tag: int) -> None:
        """Receive bytes that must have that label."""
        message = self._recv(source, tag)
        self._check_label(message[:_LABEL_BYTES].tobytes().decode().rstrip(), label, source, tag)
        flat[:] = message[_LABEL_BYTES:]

    def _check_label(self, sent: str, expected: str, source: int, tag: int) -> None:
        if sent != expected:
            raise CommMismatchError(
                f"recv, group '{self.group}': rank {self.rank} expected {expected} from rank {source} "
                f"with tag {tag}, which sent {sent}; send and receive the same shape and dtype"
            )

    def gone(self) -> list[int]:
        """The ranks of this group that are known to have left or ended.

        Collective: no; blocks: no.
        """
        return []

    @property
    def meeting(self) -> Meeting | None:
        """Where the group's ranks on this host meet in memory that they share; None if they do not."""
        return None

    @property
    def line(self) -> HostLine | None:
        """Messages between the first ranks of the group's hosts; None on the others, and on one host."""
        return None

    @property
    def mpi(self) -> Any:
        """The same ranks' communicator of mpi4py, for messages of the program's own.

        Collective: no; blocks: no.

        Raises:
            CommError: these ranks are not MPI's.
        """
        raise CommError(
            f"mpi: the ranks of group '{self.group}' are not MPI's; call dg.comm.init(comm=...), or start "
            "them by mpirun"
        )

    def _allocate(self, nbytes: int, lazy: bool) -> NDArray[np.uint8]:
        """Zeroed memory, page aligned, whose pages come as they are written; the ranks meet."""
        self._barrier()
        memory = np.zeros(nbytes + _PAGE_BYTES, np.uint8)
        start = -memory.ctypes.data % _PAGE_BYTES
        return memory[start : start + nbytes]

    @abc.abstractmethod
    def _announce(self, mark: int) -> None:
        """Let the coming meetings compare ``mark``, which says what call this rank has come for."""

    @abc.abstractmethod
    def _all_reduce(self, x: NDArray[Any], op: str) -> None:
        """Reduce the flat ``x`` in place: sum, min, max or prod, with the same bits on every rank."""

    @abc.abstractmethod
    def _reduce_scatter(self, x: NDArray[Any], out: NDArray[Any], op: str, edges: list[int]) -> None:
        """Reduce this rank's part of the flat ``x`` into ``out``, which may be that part.

        Args:
            x: what this rank has.
            out: the part, ``[edges[rank + 1] - edges[rank]]``.
            op: as for :meth:`_all_reduce`.
            edges: where each rank's part begins, and the end; the same on all ranks.
        """

    @abc.abstractmethod
    def _broadcast(self, x: NDArray[np.uint8], root: int) -> None:
        """Replace the flat bytes ``x`` by the root's."""

    @abc.abstractmethod
    def _all_gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8], edges: list[int]) -> None:
        """Collect the flat bytes ``x`` into the parts of ``out``, of which ``x`` may be this rank's.

        Args:
            x: this rank's part.
            out: ``[edges[-1]]``.
            edges: where each rank's part begins, and the end; the same on all ranks.
        """

    @abc.abstractmethod
    def _all_to_all(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Send the rows of ``x`` and receive the rows of ``out``, both ``[size, n]``."""

    @abc.abstractmethod
    def _gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8] | None, root: int) -> None:
        """Collect the flat bytes ``x`` into the rows of the root's ``out``."""

    @abc.abstractmethod
    def _scatter(self, x: NDArray[np.uint8] | None, out: NDArray[np.uint8], root: int) -> None:
        """Send the rows of the root's ``x`` to the ranks' flat ``out``."""

    @abc.abstractmethod
    def _send(self, message: NDArray[np.uint8], dest: int, tag: int) -> None:
        """Hand ``message`` over, which is the backend's own from now on; must not wait for the receiver."""

    @abc.abstractmethod
    def _recv(self, source: int, tag: int) -> NDArray[np.uint8]:
        """Wait for the next message of that source and tag."""

    @abc.abstractmethod
    def _has_message(self, source: int, tag: int) -> bool:
        """Whether that message has come; does not wait."""

    @abc.abstractmethod
    def _barrier(self) -> None:
        """Return when every rank has come."""

    @abc.abstractmethod
    def _split(self, color: int | None, members: list[int], group: str) -> Any:
        """Make the communicator of ``members``, ranks of this group in the new order; None for color None."""
