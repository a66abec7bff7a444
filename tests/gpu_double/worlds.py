"""What a test's ranks need before a communicator stands: who they are, and a few bytes from rank 0."""

from __future__ import annotations

import os
import time

from gpu_double.runtime import installed
from gpu_double.worker import folder
from real_gpus import on_real_gpus


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks."""
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def share(name: str, value: bytes | None = None) -> bytes:
    """Rank 0 gives ``value``, and all get it.

    Args:
        name: that nothing else of the job uses.
        value: rank 0's.
    """
    file = folder() / f"shared-{name}"
    if value is not None:
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_bytes(value)
        unfinished.replace(file)
    deadline_s = time.monotonic() + 30
    while not file.exists():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"rank 0 has not shared {name!r} within 30 s")
        time.sleep(0.005)
    return file.read_bytes()


def num_host_waits() -> int:
    """How often this process has waited for a device or a stream so far; a real GPU does not count: 0."""
    return 0 if on_real_gpus() else installed().scheduler.num_waits


def num_started(what: str) -> int:
    """How often this process has started what has ``what`` in its name, as ``multiply``; on a real GPU 0."""
    if on_real_gpus():
        return 0
    return sum(count for name, count in installed().scheduler.started.items() if what in name)


def nccl_world(name: str = "world"):
    """A communicator of CuPy's NCCL over all ranks, on the device of the rank's number."""
    import cupy
    from cupy.cuda import nccl

    rank, size = world()
    cupy.cuda.Device(rank).use()
    unique = share(name, nccl.get_unique_id() if rank == 0 else None)
    return nccl.NcclCommunicator(size, unique, rank)
