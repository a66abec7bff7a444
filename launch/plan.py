"""Where each rank runs, and with how many threads: a pure function from hosts and slots to rank specs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distgrad.errors import LaunchError

__all__ = ["THREAD_VARIABLES", "Host", "RankSpec", "environment", "place", "this_host"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Host:
    """A machine.

    Attributes:
        name: its host name.
        slots: the number of ranks it may take.
        cores: the number of processor cores that its ranks share.
    """

    name: str
    slots: int
    cores: int


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
        threads: number of threads it may compute with.
    """

    rank: int
    local_rank: int
    node_rank: int
    world_size: int
    local_world_size: int
    host: str
    threads: int


def place(hosts: Sequence[Host], world_size: int) -> tuple[RankSpec, ...]:
    """Fill the hosts' slots in order with ``world_size`` ranks.

    Ranks of one host are neighbours. A host's cores are divided evenly, and a rank has at least one thread.

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
                threads=max(1, host.cores // max(1, taken)),
            )
            for local_rank in range(taken)
        ]
    return tuple(specs)


def environment(spec: RankSpec, given: Mapping[str, str]) -> dict[str, str]:
    """The variables that a rank finds, without those of the launcher's line.

    Args:
        spec: the rank.
        given: the user's variables; a thread count that stands there is left as it is.
    """
    variables = {
        "RANK": str(spec.rank),
        "LOCAL_RANK": str(spec.local_rank),
        "WORLD_SIZE": str(spec.world_size),
        "LOCAL_WORLD_SIZE": str(spec.local_world_size),
        "NODE_RANK": str(spec.node_rank),
    }
    return variables | {name: str(spec.threads) for name in THREAD_VARIABLES if name not in given}


def this_host(slots: int) -> Host:
    """The machine that the launcher runs on, with the cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return Host(socket.gethostname(), slots, cores if quota is None else max(1, min(cores, int(quota))))


def _cgroup_quota(path: str = "/sys/fs/cgroup/cpu.max") -> float | None:
    """How many cores' time a container may use; None without a limit."""
    try:
        with open(path) as file:
            quota_us, period_us = file.read().split()
    except (OSError, ValueError):  # no second-generation control groups here
        return None
    return None if quota_us == "max" else int(quota_us) / int(period_us)
