"""Where each rank runs, and with how many threads: pure functions of hosts, slots and cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distgrad.env import THREAD_VARIABLES, given_threads
from distgrad.errors import LaunchError

__all__ = ["Host", "RankSpec", "count", "environment", "place", "share"]


@dataclass(frozen=True)
class Host:
    """A machine.

    Attributes:
        name: its host name.
        slots: the number of ranks it may take.
    """

    name: str
    slots: int


@dataclass(frozen=True)
class RankSpec:
    """One rank before it is started.

    Attributes:
        rank: place among all ranks, from 0.
        local_rank: place among the ranks of its host.
        node_rank: place of its host among the hosts in use.
        world_size: number of ranks of the job.
        local_world_size: number of ranks on its host.
        host: name of its host.
    """

    rank: int
    local_rank: int
    node_rank: int
    world_size: int
    local_world_size: int
    host: str


def place(hosts: Sequence[Host], world_size: int) -> tuple[RankSpec, ...]:
    """Fill the hosts' slots in order with ``world_size`` ranks.

    Ranks of one host are neighbours.

    Raises:
        LaunchError: fewer than one rank, or more ranks than slots.
    """
    slots = sum(host.slots for host in hosts)
    if world_size < 1:
        raise LaunchError(f"launch: the number of ranks must be at least 1, got {world_size}")
    if world_size > slots:
        names = ", ".join(f"{host.name}:{host.slots}" for host in hosts)
        raise LaunchError(
            f"launch: {world_size} ranks were asked for, but {names} have {slots} slots; add hosts"
        )
    specs: list[RankSpec] = []
    for node_rank, host in enumerate(host for host in hosts if host.slots > 0):
        taken = min(host.slots, world_size - len(specs))
        specs += [
            RankSpec(
                rank=len(specs) + local_rank,
                local_rank=local_rank,
                node_rank=node_rank,
                world_size=world_size,
                local_world_size=taken,
                host=host.name,
            )
            for local_rank in range(taken)
        ]
    return tuple(specs)


def count(specs: Sequence[RankSpec]) -> list[Host]:
    """The hosts in use, each with as many slots as ranks run there."""
    used = {spec.node_rank: Host(spec.host, spec.local_world_size) for spec in specs}
    return list(used.values())


def share(spec: RankSpec, cores: Sequence[int]) -> list[int]:
    """The rank's share of its host's cores: an even part, and at least one core."""
    part = max(1, len(cores) // spec.local_world_size)
    start = spec.local_rank * part % len(cores)
    return list(cores[start : start + part])


def environment(spec: RankSpec, cores: Sequence[int], given: Mapping[str, str]) -> dict[str, str]:
    """The variables that a rank finds, without those of the launcher's line.

    Args:
        spec: the rank.
        cores: the cores that its host's ranks share; empty if they are not known.
        given: the user's variables; a number of threads that stands in one holds for all libraries that have
            none of their own.
    """
    variables = {
        "RANK": str(spec.rank),
        "LOCAL_RANK": str(spec.local_rank),
        "WORLD_SIZE": str(spec.world_size),
        "LOCAL_WORLD_SIZE": str(spec.local_world_size),
        "NODE_RANK": str(spec.node_rank),
    }
    threads = given_threads(given) or len(share(spec, cores) if cores else [])
    if threads == 0:
        return variables
    return variables | {name: str(threads) for name in THREAD_VARIABLES if not given.get(name)}
