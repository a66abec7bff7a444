"""How many threads one process computes with: one number for matrix products and kernels.

A kernel's loop over rows is cut into as many parts as there are threads; the parts run in a pool, since
kernels hold no lock of the interpreter. Where a part begins never changes what is computed for a row.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from distgrad import env
from distgrad.backend.blas import find_blas

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["get_num_threads", "run_parts", "set_num_threads", "share_cores"]


class _State:
    """The chosen number (0: not chosen yet), and the pool that the other parts run in."""

    threads = 0
    pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    _State.pool = None


os.register_at_fork(after_in_child=_forget_pool)  # its threads stay behind in the parent


def _default() -> int:
    """``OMP_NUM_THREADS``, or this process's share of the cores that it may run on."""
    settings = env.read()
    if settings.num_threads is not None:
        return settings.num_threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (settings.local_world_size or settings.mpi_local_size or 1))


def set_num_threads(num_threads: int) -> None:
    """Compute with ``num_threads`` threads: matrix products and kernels alike.

    Args:
        num_threads: at least 1. Without a call it is ``OMP_NUM_THREADS``, which the launcher sets, or else
            the cores that the process may run on, divided by the ranks on its host.

    Raises:
        ValueError: a number below 1.
    """
    if num_threads < 1:
        raise ValueError(f"set_num_threads: expected at least 1, got {num_threads}")
    blas = find_blas()
    if blas.set_threads is not None:
        blas.set_threads(num_threads)
    if _State.pool is not None:
        _State.pool.shutdown()
        _State.pool = None
    _State.threads = num_threads


def get_num_threads() -> int:
    """The number of threads that matrix products and kernels use."""
    if _State.threads == 0:
        _State.threads = _default()
    return _State.threads


def share_cores() -> None:
    """Keep to this process's share of the cores if others of its job run on the host and nobody has said so.

    Left alone, the BLAS library of every rank would take all cores.
    """
    settings = env.read()
    if settings.num_threads is None and (settings.local_world_size or settings.mpi_local_size or 1) > 1:
        set_num_threads(_default())


def run_parts(run: Callable[[int, int], None], length: int, smallest: int) -> None:
    """Call ``run(start, stop)`` so that the parts cover ``0 … length``, one a thread.

    Args:
        run: writes what belongs to the rows from ``start`` to ``stop``, and nothing else.
        length: rows in all.
        smallest: rows that are worth a thread of their own.
    """
    threads = min(get_num_threads(), length // max(smallest, 1))
    if threads < 2:
        run(0, length)
        return
    if _State.pool is None:
        from concurrent.futures import ThreadPoolExecutor  # costs an import 6 ms

        _State.pool = ThreadPoolExecutor(_State.threads - 1, thread_name_prefix="kernel part")
    edges = [length * part // threads for part in range(threads + 1)]
    futures = [_State.pool.submit(run, *edge) for edge in itertools.pairwise(edges[1:])]
    run(0, edges[1])
    for future in futures:
        future.result()
