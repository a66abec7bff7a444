"""Ranks of one host that are processes and share memory; nothing to install."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad import env
from distgrad.comm.base import Communicator
from distgrad.comm.calls import name_ranks
from distgrad.comm.hostgroup import HostGroup
from distgrad.comm.mailbox import Mailbox
from distgrad.comm.neighbours import Neighbours
from distgrad.comm.pipeline import Family
from distgrad.comm.topology import Topology, host_name
from distgrad.errors import CommError, CommTimeoutError

__all__ = ["HostCommunicator", "SharedMemoryCommunicator", "connect", "join"]

_num_worlds = itertools.count()  # a world that is set up again must not meet what the last one left


def connect(timeout_s: float | None = None) -> SharedMemoryCommunicator:
    """The communicator of all ranks that the launcher started on this host.

    Collective: yes; blocks: yes.

    Raises:
        CommError: the variables that tell a rank its place are missing, or speak of several hosts.
    """
    settings = env.read()
    rank, size, secret = settings.rank, settings.world_size, settings.job_secret
    if rank is None or size is None or secret is None or not 0 <= rank < size:
        raise CommError(
            "comm.init: backend 'shm' needs RANK below WORLD_SIZE, and a DISTGRAD_JOB_SECRET that all ranks "
            f"share, got RANK={rank}, WORLD_SIZE={size} and {'a' if secret else 'no'} secret; start with: "
            "distgrad run -n RANKS --backend shm script.py"
        )
    if settings.local_world_size not in (None, size):
        raise CommError(
            "comm.init: backend 'shm' serves the ranks of one host, but only "
            f"{settings.local_world_size} of {size} are on this one; use backend 'mpi'"
        )
    return join(f"{secret} {next(_num_worlds)}", rank, size, timeout_s)


def join(secret: str, rank: int, size: int, timeout_s: float | None) -> SharedMemoryCommunicator:
    """The communicator of the processes of this host that know a secret, another one for every world.

    Collective: yes; blocks: yes.
    """
    family = _SharedMemoryFamily(secret, rank, size, timeout_s)
    topology = Topology((host_name(),) * size)
    return SharedMemoryCommunicator("world", topology, family, list(range(size)), "world")


class _SharedMemoryFamily(Family):
    """What the groups of a process have in common: the processes around it, and messages."""

    def __init__(self, secret: str, rank: int, size: int, timeout_s: float | None) -> None:
        super().__init__("distgrad communication", timeout_s)
        self.neighbours = Neighbours(secret, rank, range(size), self.timeout_s)
        self.mailbox = Mailbox(self.neighbours)

    def close(self) -> None:
        """Finish what was issued, and tell the others that this rank leaves."""
        super().close()
        self.neighbours.close()

    def _leave(self) -> None:
        self.neighbours.leave()


class HostCommunicator(Communicator):
    """A group of processes of one host; its collectives go through memory that they share."""

    _host: HostGroup

    def _allocate(self, nbytes: int, lazy: bool) -> NDArray[np.uint8]:
        return self._host.allocate(nbytes, lazy)

    @property
    def meeting(self) -> HostGroup:
        """Where the ranks meet."""
        return self._host

    def _announce(self, mark: int) -> None:
        self._host.announce(mark)

    def _all_reduce(self, x: NDArray[Any], op: str) -> None:
        self._host.all_reduce(x, op)

    def _reduce_scatter(self, x: NDArray[Any], out: NDArray[Any], op: str, edges: list[int]) -> None:
        self._host.reduce_scatter(x, out, op, edges)

    def _broadcast(self, x: NDArray[np.uint8], root: int) -> None:
        self._host.broadcast(x, root)

    def _all_gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8], edges: list[int]) -> None:
        self._host.all_gather(x, out, edges)

    def _all_to_all(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        self._host.all_to_all(x, out)

    def _gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8] | None, root: int) -> None:
        self._host.gather(x, out)

    def _scatter(self, x: NDArray[np.uint8] | None, out: NDArray[np.uint8], root: int) -> None:
        self._host.scatter(x, out, root)

    def _barrier(self) -> None:
        self._host.meet()


class SharedMemoryCommunicator(HostCommunicator):
    """A group of processes that the launcher started; :func:`connect` makes the first one."""

    backend = "shm"
    family: _SharedMemoryFamily

    def __init__(
        self, group: str, topology: Topology, family: _SharedMemoryFamily, ranks: list[int], name: str
    ) -> None:
        near = family.neighbours
        super().__init__(ranks.index(near.rank), len(ranks), group, topology, family)
        self._ranks = ranks  # in the world
        self._name = name
        self._host = HostGroup(near, ranks, name, self._watch, family.thread.is_current)

    def _watch(self, missing: list[int], waited_s: float) -> None:
        """Say where this rank is, and give up past the deadline."""
        family, near = self.family, self.family.neighbours
        family.check()
        near.tell(f"in {self._call.name}, group '{self.group}', at {self._call.place}")
        if waited_s > family.timeout_s:
            others = [rank for rank in self._ranks if rank != near.rank]
            raise CommTimeoutError(
                f"waited {family.timeout_s:g} s for {name_ranks(missing)} of the world; look for a rank that "
                "skipped this call or is stuck. In the world, "
                + "; ".join(f"rank {rank}: {near.locate(rank)}" for rank in others)
            )

    def gone(self) -> list[int]:
        """The ranks of this group that have left or ended."""
        near = self.family.neighbours
        return [place for place, rank in enumerate(self._ranks) if near.has_ended(rank)]

    def _key(self, tag: int) -> str:
        return f"{self._name} {tag}"

    def _send(self, message: NDArray[np.uint8], dest: int, tag: int) -> None:
        self.family.mailbox.send(self._ranks[dest], self._key(tag), message)

    def _recv(self, source: int, tag: int) -> NDArray[np.uint8]:
        rank = self._ranks[source]
        return self.family.mailbox.receive(
            rank, self._key(tag), lambda waited_s: self._watch([rank], waited_s)
        )

    def _has_message(self, source: int, tag: int) -> bool:
        return self.family.mailbox.has(self._ranks[source], self._key(tag))

    def _split(self, color: int | None, members: list[int], group: str) -> SharedMemoryCommunicator | None:
        if color is None:
            return None
        ranks = [self._ranks[rank] for rank in members]
        name = f"{self._name}/{self._call.number}.{color}"
        return SharedMemoryCommunicator(group, self.topology.select(members), self.family, ranks, name)
