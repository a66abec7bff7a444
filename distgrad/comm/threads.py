"""N ranks in one process, a thread each: cheap tests of many ranks, with faults and odd timing on demand."""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.comm.base import Communicator
from distgrad.comm.calls import Call, DisagreementError, name_ranks
from distgrad.comm.pipeline import Family
from distgrad.comm.reduction import reduce_arrays
from distgrad.comm.topology import Topology, host_name
from distgrad.errors import CommError, CommTimeoutError, RankFailedError

__all__ = ["Link", "ThreadCommunicator", "ThreadWorld", "current"]

_this_thread = threading.local()


def current() -> ThreadCommunicator | None:
    """The communicator of the rank that this thread is, or None outside :meth:`ThreadWorld.run`."""
    return getattr(_this_thread, "communicator", None)


@dataclass(frozen=True)
class Link:
    """An emulated network between ranks: a collective takes ``steps * latency_s + bytes / bytes_per_s``.

    The bytes are those that a rank sends, as ``Communicator.sent_bytes`` counts them, and the steps those of
    a ring, ``size - 1``, twice for an all-reduce.

    Args:
        latency_s: of one message.
        bytes_per_s: of each rank's line.
    """

    latency_s: float
    bytes_per_s: float

    def seconds(self, call: Call, size: int) -> float:
        """What a collective of ``size`` ranks takes once all have come."""
        num_bytes = call.sent_bytes(size)
        steps = (size - 1) * (2 if call.verb == "all_reduce" else 1) if num_bytes else 0
        return steps * self.latency_s + num_bytes / self.bytes_per_s


class ThreadWorld:
    """Runs a function on ``size`` ranks that are threads of this process.

    Args:
        size: number of ranks.
        timeout_s: seconds after which a collective, and after twice as many the whole run, gives up; None
            takes ``DISTGRAD_TIMEOUT``.
        seed: None lets the ranks run as they come. A number delays each rank before each meeting by a random
            time that the seed decides, so that the ranks arrive in another order every time.
        hosts: the name of every rank's host, to lay several hosts out in one process; one host by default.
        link: makes collectives take as long as they would on a network; None leaves them as they are.
    """

    def __init__(
        self,
        size: int,
        timeout_s: float | None = None,
        seed: int | None = None,
        hosts: Sequence[str] | None = None,
        link: Link | None = None,
    ) -> None:
        self.size = size
        self.topology = Topology(tuple(hosts) if hosts is not None else (host_name(),) * size)
        if size < 1 or len(self.topology.hosts) != size:
            raise CommError(
                f"ThreadWorld: size must be 1 or more with a host a rank, got size={size} and "
                f"{len(self.topology.hosts)} hosts"
            )
        self._timeout_s = timeout_s
        self._seed = seed
        self._link = link
        self._waited_s = 0.0

    def run(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Call ``fn(comm, *args)`` on every rank and wait for all.

        Collective: no; blocks: yes.

        Returns:
            What the ranks returned, in their order.

        Raises:
            Exception: what the first failing rank raised, with a note that names the rank. The others'
                pending calls end with RankFailedError.
            CommTimeoutError: a rank was still running twice ``timeout_s`` after the first one ended.
        """
        job = _Job(self.size)
        meeting = _Meeting(job, range(self.size))
        results: list[Any] = [None] * self.size

        def run_rank(rank: int) -> None:
            family = Family(f"distgrad communication of rank {rank}", self._timeout_s)
            delays = None if self._seed is None else random.Random(f"{self._seed} {rank}")
            comm = ThreadCommunicator(rank, "world", self.topology, family, meeting, delays, self._link)
            _this_thread.communicator = comm
            try:
                results[rank] = fn(comm, *args)
                comm.close()
                job.leave(rank)
            except BaseException as error:  # raised again below, in the thread that called run()
                job.fail(rank, error)
                comm.close()

        threads = [
            threading.Thread(target=run_rank, args=(rank,), name=f"rank {rank}", daemon=True)
            for rank in range(self.size)
        ]
        for thread in threads:
            thread.start()
        try:
            self._join(threads, job)
        except BaseException as error:
            job.fail(-1, error)
            raise
        if job.failure is not None:
            raise job.failure
        return results

    def _join(self, threads: list[threading.Thread], job: _Job) -> None:
        job.wait_for_first()
        limit_s = 2 * Family("", self._timeout_s).timeout_s
        deadline_s = time.monotonic() + limit_s
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        late = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
        if late:
            frame = sys._current_frames().get(threads[late[0]].ident or 0)
            stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
            raise CommTimeoutError(
                f"ThreadWorld.run: {name_ranks(late)} of {self.size} still running {limit_s:g} s after the "
                f"first rank ended; rank {late[0]} is at\n{stack}"
            ) from job.failure


class _Job:
    """What the ranks of a run know of each other's end."""

    def __init__(self, size: int) -> None:
        self.changed = threading.Condition()
        self.left: set[int] = set()
        self.failed_rank: int | None = None
        self.failure: BaseException | None = None

    def leave(self, rank: int) -> None:
        with self.changed:
            self.left.add(rank)
            self.changed.notify_all()

    def fail(self, rank: int, error: BaseException) -> None:
        """Keep the first failure and wake whoever waits."""
        with self.changed:
            if self.failure is None:
                self.failed_rank, self.failure = rank, error
                if rank >= 0:
                    error.add_note(f"raised on rank {rank}")
            self.left.add(rank)
            self.changed.notify_all()

    def wait_for_first(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.left)


class _Meeting:
    """Where the ranks of one group exchange references to their arrays."""

    def __init__(self, job: _Job, ranks: Sequence[int]) -> None:
        self.job = job
        self.ranks = list(ranks)  # in the world, by their place in the group
        self.boxes: dict[tuple[int, int, int], deque[NDArray[np.uint8]]] = defaultdict(deque)
        self._round = 0
        self._arrived: dict[int, Any] = {}
        self._exchanged: list[Any] = []

    def exchange(self, rank: int, value: Any, timeout_s: float) -> list[Any]:
        """Everyone's value, once all have come."""
        with self.job.changed:
            self._arrived[rank] = value
            if len(self._arrived) == len(self.ranks):
                self._exchanged = [self._arrived[r] for r in range(len(self.ranks))]
                self._arrived = {}
                self._round += 1
                self.job.changed.notify_all()
                return self._exchanged
            now = self._round
            self.wait(
                lambda: self._round != now,
                lambda: set(range(len(self.ranks))) - set(self._arrived),
                timeout_s,
            )
            return self._exchanged  # of this round: the next one is not complete without this rank

    def put(self, key: tuple[int, int, int], message: NDArray[np.uint8]) -> None:
        with self.job.changed:
            self.boxes[key].append(message)
            self.job.changed.notify_all()

    def take(self, key: tuple[int, int, int], timeout_s: float) -> NDArray[np.uint8]:
        with self.job.changed:
            self.wait(lambda: bool(self.boxes[key]), lambda: {key[0]}, timeout_s)
            return self.boxes[key].popleft()

    def wait(self, done: Callable[[], bool], missing: Callable[[], set[int]], timeout_s: float) -> None:
        """Wait with the lock held; ``missing`` gives the ranks that this one waits for."""
        job = self.job

        def hopeless() -> bool:
            return job.failure is not None or any(self.ranks[r] in job.left for r in missing())

        if not job.changed.wait_for(lambda: done() or hopeless(), timeout_s):
            raise CommTimeoutError(
                f"waited {timeout_s:g} s for {name_ranks(missing())}; look for a rank that skipped this "
                "call or is stuck"
            )
        if done():
            return
        if job.failure is not None:
            raise RankFailedError(
                f"cannot go on, since rank {job.failed_rank} of the world failed "
                f"({type(job.failure).__name__}: {job.failure})"
            )
        gone = [r for r in missing() if self.ranks[r] in job.left]
        raise RankFailedError(f"waited for {name_ranks(gone)}, which ended without issuing it")


class ThreadCommunicator(Communicator):
    """A group of threads; :class:`ThreadWorld` makes them."""

    backend = "threads"

    def __init__(
        self,
        rank: int,
        group: str,
        topology: Topology,
        family: Family,
        meeting: _Meeting,
        delays: random.Random | None,
        link: Link | None,
    ) -> None:
        super().__init__(rank, len(topology.hosts), group, topology, family)
        self._meeting = meeting
        self._delays = delays
        self._link = link
        self._waited_s = 0.0
        self._mark = 0

    def _announce(self, mark: int) -> None:
        self._mark = mark

    @property
    def waited_s(self) -> float:
        """Seconds that calls have waited for other ranks to come."""
        return self._waited_s

    def _carry_out(self, call: Call, body: Callable[[], Any]) -> Any:
        result = super()._carry_out(call, body)
        if self._link is not None:
            time.sleep(self._link.seconds(call, self.size))
        return result

    def _meet(self, value: Any = None) -> list[Any]:
        if self._delays is not None:
            time.sleep(self._delays.random() * 1e-3)
        start_s = time.perf_counter()
        entries = self._meeting.exchange(self.rank, (self._mark, value), self.family.timeout_s)
        self._waited_s += time.perf_counter() - start_s
        if any(mark != self._mark for mark, _ in entries):
            raise DisagreementError
        return [value for _, value in entries]

    def _all_reduce(self, x: NDArray[Any], op: str) -> None:
        arrays = self._meet(x)
        start, stop = (x.size * r // self.size for r in (self.rank, self.rank + 1))
        parts = [array[start:stop] for array in arrays]  # nobody else reads or writes these
        reduce_arrays(parts, parts, op)
        self._meet()

    def _reduce_scatter(self, x: NDArray[Any], out: NDArray[Any], op: str, edges: list[int]) -> None:
        start, stop = edges[self.rank : self.rank + 2]
        reduce_arrays([array[start:stop] for array in self._meet(x)], [out], op)
        self._meet()

    def _broadcast(self, x: NDArray[np.uint8], root: int) -> None:
        arrays = self._meet(x)
        if self.rank != root:
            x[:] = arrays[root]
        self._meet()

    def _all_gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8], edges: list[int]) -> None:
        for (start, stop), array in zip(itertools.pairwise(edges), self._meet(x), strict=True):
            out[start:stop] = array
        self._meet()

    def _all_to_all(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        for row, array in zip(out, self._meet(x), strict=True):
            row[:] = array[self.rank]
        self._meet()

    def _gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8] | None, root: int) -> None:
        arrays = self._meet(x)
        if out is not None:
            for row, array in zip(out, arrays, strict=True):
                row[:] = array
        self._meet()

    def _scatter(self, x: NDArray[np.uint8] | None, out: NDArray[np.uint8], root: int) -> None:
        out[:] = self._meet(x)[root][self.rank]
        self._meet()

    def _send(self, message: NDArray[np.uint8], dest: int, tag: int) -> None:
        self._meeting.put((self.rank, dest, tag), message)

    def _recv(self, source: int, tag: int) -> NDArray[np.uint8]:
        return self._meeting.take((source, self.rank, tag), self.family.timeout_s)

    def _has_message(self, source: int, tag: int) -> bool:
        with self._meeting.job.changed:
            return bool(self._meeting.boxes.get((source, self.rank, tag)))

    def _barrier(self) -> None:
        self._meet()

    def _split(self, color: int | None, members: list[int], group: str) -> ThreadCommunicator | None:
        lead = color is not None and members[0] == self.rank
        made = _Meeting(self._meeting.job, [self._meeting.ranks[r] for r in members]) if lead else None
        meetings = self._meet(made)
        if color is None:
            return None
        return ThreadCommunicator(
            members.index(self.rank),
            group,
            self.topology.select(members),
            self.family,
            meetings[members[0]],
            self._delays,
            self._link,
        )
