"""The processes of one job on one host: how they find each other, share memory, wait and notice an end.

They meet at abstract Unix sockets, whose names only they can foresee, and pass each other descriptors: of
memory that no folder lists (memfd), of bells that wake a sleeper (eventfd), and of themselves (pidfd). All of
it goes with the last process, however that ends. Once in use, the names stand in /proc/net/unix for all to
read; what others send there the kernel drops, as it does not begin with what only these processes know.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import select
import socket
import time
from array import array
from collections.abc import Callable, Sequence

from distgrad.comm.calls import name_ranks
from distgrad.comm.mapping import map_shared
from distgrad.comm.socketfilter import accept_prefix
from distgrad.errors import CommError, CommTimeoutError, RankFailedError
from distgrad.launch.limits import allow_files

__all__ = ["Neighbours"]

_LOOK_S = 0.25  # how often a rank that waits looks at the clock and at the others
_SLEEP_S = (1e-3, 0.1)  # first and longest; the first is short, since a bell may ring just before the sleep
_RETRY_S = 2e-3
_HERE_BYTES = 256
_BATCH = 60  # ranks whose descriptors fit into one message: Linux takes 253 descriptors
_MESSAGE_BYTES = 4096
_OWN_FILES = 16  # besides those of the ranks: the socket, memory that is being handed out, libraries' own


class Neighbours:
    """The ranks of a job on this host. Ranks are numbered as in the world.

    Collective: yes; blocks: until all of them have come.

    Args:
        secret: what only the job's processes know, another one for every world.
        rank: this process.
        ranks: all of them; the first one hands out.
        timeout_s: how long to wait for the others.

    Attributes:
        outboxes: for every rank the descriptor of the memory in which its messages lie.

    Raises:
        CommTimeoutError: some did not come.
        CommError: this rank is there already.
    """

    def __init__(self, secret: str, rank: int, ranks: Sequence[int], timeout_s: float) -> None:
        self.rank = rank
        self.ranks = list(ranks)
        self._secret = secret.encode()
        self._timeout_s = timeout_s
        self._process = os.getpid()
        self._closed = False
        self._check_files()
        self._inbox: dict[str, list[int]] = {}
        self._pidfds: dict[int, int] = {}
        self._bells: dict[int, int] = {}
        self.outboxes: dict[int, int] = {}
        self._polls: dict[int, select.poll] = {}
        self._ended = memoryview(bytearray(8 * len(self.ranks))).cast("q")  # until there is a common one
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        accept_prefix(self._socket, self._digest("message"))
        try:
            self._socket.bind(self._address(rank))
        except OSError as error:
            self._socket.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise CommError(
                f"comm.init: rank {rank} of this job exists already; two processes have the same RANK, or a "
                "child process calls init() with the variables of its parent"
            ) from error
        self._introduce()
        board = self.share(len(self.ranks) * (8 + _HERE_BYTES), self.ranks, "board")
        self._ended = board[: 8 * len(self.ranks)].cast("q")
        self._here = board[8 * len(self.ranks) :]

    def _check_files(self) -> None:
        """See that there is room for the descriptors of all ranks: the system would drop some silently."""
        needed = 3 * len(self.ranks) + len(os.listdir("/proc/self/fd")) + _OWN_FILES
        allowed = allow_files(needed)
        if allowed is not None:
            raise CommError(
                f"comm.init: {len(self.ranks)} ranks on a host need {needed} open files each, but the system "
                f"allows a process {allowed}; raise the limit before the start (ulimit -n {needed})"
            )

    def _introduce(self) -> None:
        """Hand the descriptors of every rank to every rank, by way of the first."""
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        own = [os.pidfd_open(os.getpid()), os.eventfd(0, flags), os.memfd_create("distgrad messages")]
        first, *others = self.ranks
        if self.rank != first:
            self._send(first, f"hello {self.rank}", own)
            for descriptor in own:
                os.close(descriptor)
            everyone: list[int] = []
            for start in range(0, len(self.ranks), _BATCH):
                everyone += self._receive(f"everyone {start}", [first])
        else:
            everyone = list(own)
            for i, rank in enumerate(others):
                everyone += self._receive(f"hello {rank}", others[i:])
            for rank in others:
                for start in range(0, len(self.ranks), _BATCH):
                    batch = everyone[3 * start : 3 * (start + _BATCH)]
                    self._send(rank, f"everyone {start}", batch)
        self._pidfds = dict(zip(self.ranks, everyone[0::3], strict=True))
        self._bells = dict(zip(self.ranks, everyone[1::3], strict=True))
        self.outboxes = dict(zip(self.ranks, everyone[2::3], strict=True))

    # Messages with descriptors

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode(), hashlib.sha256)

    def _address(self, rank: int) -> bytes:
        return b"\0distgrad-" + self._digest(f"address {rank}").hex().encode()

    def _send(self, rank: int, topic: str, descriptors: Sequence[int]) -> None:
        """Send descriptors to a rank, which may not have come yet or be slow to read."""
        message = self._digest("message") + topic.encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                self._socket.sendmsg([message], rights, 0, self._address(rank))
            except OSError as error:
                if error.errno not in (errno.ECONNREFUSED, errno.EAGAIN):
                    raise
                self._check(time.monotonic() > deadline_s, [rank], self._gone([rank]))
                time.sleep(_RETRY_S)
            else:
                return

    def _receive(self, topic: str, missing: Sequence[int]) -> list[int]:
        """Wait for the descriptors of that topic; ``missing`` are the ranks that have to come first."""
        deadline_s = time.monotonic() + self._timeout_s
        own = select.poll()
        own.register(self._socket, select.POLLIN)
        while topic not in self._inbox:
            gone = self._gone(missing)  # looked at first: what a rank sent before its end is here by then
            if not own.poll(0 if gone else 1e3 * _LOOK_S):
                self._check(time.monotonic() > deadline_s, missing, gone)
            else:
                message, descriptors, _, _ = socket.recv_fds(self._socket, _MESSAGE_BYTES, 3 * _BATCH)
                if hmac.compare_digest(message[:32], self._digest("message")):
                    self._inbox[message[32:].decode()] = descriptors
                else:  # from outside the job
                    for descriptor in descriptors:
                        os.close(descriptor)
        return self._inbox.pop(topic)

    def _gone(self, missing: Sequence[int]) -> list[int]:
        return [rank for rank in missing if rank in self._pidfds and self.has_ended(rank)]

    def _check(self, late: bool, missing: Sequence[int], gone: Sequence[int]) -> None:
        if gone:
            raise RankFailedError(f"waited for {name_ranks(gone)} of the world, which ended without it")
        if late:
            raise CommTimeoutError(
                f"comm.init: waited {self._timeout_s:g} s for {name_ranks(missing)} of the world; look for a "
                "rank that ended or waits before it"
            )

    def share(self, num_bytes: int, ranks: Sequence[int], topic: str) -> memoryview:
        """Zeroed memory that ``ranks`` all map; it exists until the last of them lets go of it.

        Collective: yes, on ``ranks``; blocks: yes.

        Args:
            num_bytes: its size.
            ranks: who takes part, this rank among them.
            topic: a name that these ranks use but once.
        """
        if self.rank == ranks[0]:
            descriptor = os.memfd_create(f"distgrad {topic}")
            os.ftruncate(descriptor, max(num_bytes, 1))
            for rank in ranks[1:]:
                self._send(rank, topic, [descriptor])
        else:
            (descriptor,) = self._receive(topic, ranks[:1])
        try:
            return map_shared(descriptor, max(num_bytes, 1))
        finally:
            os.close(descriptor)

    # Waiting

    def ring(self, rank: int) -> None:
        """Wake a rank if it sleeps."""
        os.eventfd_write(self._bells[rank], 1)

    def has_ended(self, rank: int) -> bool:
        """Whether a rank has left or its process has ended."""
        if self._ended[self.ranks.index(rank)]:
            return True
        alone = select.poll()
        alone.register(self._pidfds[rank], select.POLLIN)
        return bool(alone.poll(0))

    def wait_for(self, done: Callable[[], bool], rank: int, watch: Callable[[float], None]) -> None:
        """Sleep until ``done()``, which ``rank`` is to bring about.

        Args:
            done: whether the wait is over.
            rank: who rings when it may be.
            watch: called now and then with the seconds waited; raises to give up.

        Raises:
            RankFailedError: ``rank`` has ended without it.
        """
        start_s = time.monotonic()
        look_s = start_s + _LOOK_S
        sleep_s, longest_s = _SLEEP_S
        while not done():
            self._sleep(rank, sleep_s)
            sleep_s = min(2 * sleep_s, longest_s)
            if self.has_ended(rank) and not done():
                raise RankFailedError(f"waited for {name_ranks([rank])} of the world, which ended without it")
            now_s = time.monotonic()
            if now_s > look_s:
                watch(now_s - start_s)
                look_s = now_s + _LOOK_S
        if look_s > start_s + _LOOK_S:  # watch may have told
            self.tell("")

    def _sleep(self, rank: int, seconds: float) -> None:
        """Until this rank's bell rings or the process of ``rank`` ends."""
        if rank not in self._polls:
            self._polls[rank] = select.poll()
            self._polls[rank].register(self._bells[self.rank], select.POLLIN)
            self._polls[rank].register(self._pidfds[rank], select.POLLIN)
        if self._polls[rank].poll(1e3 * seconds):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bells[self.rank])

    # News

    def tell(self, here: str) -> None:
        """Leave word where this rank is; empty for nowhere in particular."""
        start = self.ranks.index(self.rank) * _HERE_BYTES
        text = here.encode()[-_HERE_BYTES:]
        self._here[start : start + _HERE_BYTES] = text.ljust(_HERE_BYTES, b"\0")

    def locate(self, rank: int) -> str:
        """The word that a rank has left."""
        start = self.ranks.index(rank) * _HERE_BYTES
        text = bytes(self._here[start : start + _HERE_BYTES]).rstrip(b"\0").decode(errors="replace")
        return text or "in no collective"

    def leave(self) -> None:
        """Tell the others that this rank comes no more."""
        if os.getpid() == self._process and not self._closed:  # a fork's end is not the rank's
            self._ended[self.ranks.index(self.rank)] = 1
            for rank in self.ranks:
                self.ring(rank)

    def close(self) -> None:
        """Let go of all descriptors; nobody waits here any more."""
        if os.getpid() == self._process and not self._closed:
            self._closed = True
            self._socket.close()
            for descriptor in (*self._pidfds.values(), *self._bells.values(), *self.outboxes.values()):
                os.close(descriptor)
