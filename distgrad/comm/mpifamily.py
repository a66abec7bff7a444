"""What the groups of one MPI job have in common: news of the ranks, and what is freed at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from distgrad.comm.calls import CallLog
from distgrad.comm.mpilibrary import MPI, abort, make_relay, relayed
from distgrad.comm.neighbours import Neighbours
from distgrad.comm.pipeline import Family
from distgrad.comm.topology import Topology
from distgrad.errors import CommTimeoutError

__all__ = ["MPIFamily"]

_LOOK_S = 500e-6
_ANSWER_S = 2.0  # how long a rank that gives up waits to hear where the others are
_deserted: list[MPIFamily] = []  # left before the end: MPI may still be sending what they hold


class MPIFamily(Family):
    """The ranks' news of each other: a rank that leaves says so, and one that waits answers where it is.

    MPI itself tells nobody that a rank has ended its program or is elsewhere. Ranks are those of the world.

    Args:
        base: the communicator of all of them, which stays as it is.
        given: the caller's own, who goes on when these ranks are done; None if the job is all there is.
        topology: which of them runs on which host.
        secret: what only they know.
        timeout_s: as for :class:`~distgrad.comm.pipeline.Family`.

    Attributes:
        sending: requests of sends that may not be received yet; a request keeps its message.
        logs: the call log of every group of this rank, by a name that all its ranks know it by.
        left: for every rank that has left, how many collectives of each group it had issued.
        answers: where the ranks are that were asked.
        line: carries the news, apart from the groups' own messages.
        neighbours: the ranks of this host.
        deserts: whether this rank leaves by an exception, before the others.
    """

    def __init__(
        self,
        base: Any,
        given: Any,
        topology: Topology,
        secret: str,
        timeout_s: float | None,
    ) -> None:
        super().__init__("distgrad communication", timeout_s, make_relay())
        self.given = given
        self.deserts = False
        self._opened: list[Any] = []
        self.line = self.keep(base.Dup())
        rank = self.line.Get_rank()
        near = [r for r, host in enumerate(topology.hosts) if host == topology.hosts[rank]]
        self.neighbours = Neighbours(secret, rank, near, self.timeout_s)
        self.sending: list[Any] = []
        self.logs: dict[str, CallLog] = {}
        self.left: dict[int, dict[str, int]] = {}
        self.answers: dict[int, str] = {}
        self._telling: list[Any] = []

    def keep(self, handle: Any) -> Any:
        """An MPI communicator to use, which is freed at the end."""
        if handle != MPI.COMM_NULL:
            self._opened.append(handle)
        return relayed(handle, self.relay)

    def listen(self, here: str) -> None:
        """Take in the others' news, and answer with ``here`` who asks."""
        while self.line.Iprobe():
            status = MPI.Status()
            kind, content = self.line.recv(status=status)
            source = relayed(status, self.relay).Get_source()
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
            time.sleep(_LOOK_S)
        lines = [
            f"rank {rank}: {self.answers.get(rank, 'no answer, so in no collective')}" for rank in others
        ]
        return "; ".join(lines)

    def close(self) -> None:
        """Finish what was issued, and wait for all ranks to come here, as MPI's own end does by spinning.

        Inside somebody's program, after a failure, the others are told and not waited for.
        """
        if not self.closed:
            with contextlib.suppress(CommTimeoutError):  # then it is the failure
                super().close()

    def _leave(self) -> None:
        self.neighbours.leave()
        if self.failure is not None and self.given is None:  # MPI cannot end while an operation is pending
            report = str(self.failure)
            abort(
                f"ended after a failure in communication ({report.splitlines()[0] if self.told else report})"
            )
        counts = {name: log.count for name, log in self.logs.items()}
        others = set(range(self.line.Get_size())) - {self.line.Get_rank()}
        for rank in others:
            self.tell("left", counts, rank)
        if self.given is not None and (self.failure is not None or self.deserts):
            _deserted.append(self)
            return
        while not others <= set(self.left):
            self.listen("at the end of its program")
            time.sleep(_LOOK_S)
        self._finish_sending()
        self.neighbours.close()
        for handle in reversed(self._opened):
            handle.Free()

    def _are_sent(self) -> bool:
        tests = [request.Test() for request in self.sending]  # all of them: a test is also what moves it on
        return all(tests)

    def _finish_sending(self) -> None:
        """With everyone at the end, what has not been received never will be."""
        deadline_s = time.monotonic() + _ANSWER_S
        while not self._are_sent():
            if time.monotonic() > deadline_s:
                pending = sum(not request.Test() for request in self.sending)
                abort(f"ended with {pending} messages that no rank has received")
            time.sleep(_LOOK_S)
