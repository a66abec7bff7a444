"""Which rank runs on which host."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Topology", "host_name"]


@dataclass(frozen=True)
class Topology:
    """The hosts of a group's ranks.

    Attributes:
        hosts: the host of every rank; ranks of equal names share a host.
    """

    hosts: tuple[str, ...]

    def local_rank(self, rank: int) -> int:
        """The place of ``rank`` among the ranks of its host, from 0."""
        return self.hosts[:rank].count(self.hosts[rank])

    def local_size(self, rank: int) -> int:
        """Number of ranks on the host of ``rank``."""
        return self.hosts.count(self.hosts[rank])

    def node_rank(self, rank: int) -> int:
        """The place of the host of ``rank`` among the hosts, in the order of their first ranks."""
        return list(dict.fromkeys(self.hosts)).index(self.hosts[rank])

    def select(self, ranks: Sequence[int]) -> Topology:
        """The topology of a group that consists of ``ranks``, in their order."""
        return Topology(tuple(self.hosts[rank] for rank in ranks))


def host_name() -> str:
    """A name that two processes share if, and only if, they run on one host.

    The host name alone will not do, since clones of a machine keep it: Linux draws a boot id at every start.
    Containers of one machine have the same; their network namespaces differ.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/net')}"
