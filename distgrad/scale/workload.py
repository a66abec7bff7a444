"""The built-in workloads as ranks of a scaling study."""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

from distgrad import env
from distgrad.comm.registry import init
from distgrad.parallel.ddp import DistributedDataParallel
from distgrad.scale.bench.peers import distgrad_step, join_torch, torch_parallel, torch_step

__all__ = ["PEERS", "run"]

PEERS = ("torch-ddp",)


class _Marks(Protocol):
    def event(self, name: str, time_s: float, fields: dict[str, Any]) -> None:
        """A step has ended."""


def run(task: dict[str, Any], marks: _Marks) -> None:
    """Train until the listener ends the program.

    Args:
        task: ``workload``, its name; ``strong``, whether the ranks share its batch; ``peer``, of ``PEERS`` or
            None; ``ddp``, options of DistributedDataParallel; ``store``, a file for the peer's ranks to meet
            at.
        marks: is told of the peer's steps.
    """
    place = env.read()
    rank, size = place.rank or 0, place.world_size or 1
    part, number = ((rank, size), 0) if task["strong"] else ((0, 1), rank)
    threads = place.num_threads or 1
    if task["peer"] is None:
        comm = init()
        step = distgrad_step(
            task["workload"],
            threads,
            wrap=lambda model: DistributedDataParallel(model, comm, **task["ddp"]),
            part=part,
            number=number,
        )
        while True:
            step()
    step = _torch_rank(task, rank, size, threads, part, number)
    while True:
        step()
        marks.event("step", time.perf_counter(), {})


def _torch_rank(
    task: dict[str, Any], rank: int, size: int, threads: int, part: tuple[int, int], number: int
) -> Any:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    join_torch(task["store"], rank, size)
    return torch_step(task["workload"], threads, wrap=torch_parallel, part=part, number=number)
