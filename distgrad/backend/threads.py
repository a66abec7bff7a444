"""How many threads one process computes with: one number for matrix products and kernels.

A kernel's loop over rows and a large matrix product are cut into as many parts as there are threads, as long
as each is worth handing over; one pool does all of them. Where a part begins never changes what is computed
for a row: the bits are those of one thread.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from distgrad import env
from distgrad.backend.blas import find_blas
from distgrad.backend.kernels.compiler import has_numba, load_numba

__all__ = [
    "Calls",
    "count_parts",
    "cut",
    "edges_of",
    "get_num_threads",
    "run_parts",
    "set_num_threads",
    "share_cores",
]

#: What a part consists of: ``(kernel, argument, …)`` in turn.
Calls = Iterable[Sequence[Any]]

_WORTH = 4  # hand-overs that a part's own time must come to
_SPIN_NS = 2_000_000  # longer than what Python does between two calls of a step
_SHORT_SPIN_NS = 50_000  # where cores are short: as long as it takes to wake a thread


class _State:
    """The chosen number (0: not chosen yet), and who does the other parts."""

    threads = 0
    pool: Any = None
    grain_ns = 0.0  # of one thread's time that a part must have; 0: not measured yet
    ended = False
    lock = threading.Lock()  # held by whoever gives the pool something to do, makes or ends one


def _forget_pool() -> None:
    if _State.pool is not None:
        _State.pool.close()
    _State.pool = None
    _State.lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_pool)  # its threads stay behind in the parent


def _end() -> None:
    """At the interpreter's end: from then on one thread computes."""
    with _State.lock:
        _State.ended = True
        _dismiss()


atexit.register(_end)


def _dismiss() -> None:
    if _State.pool is not None:
        pool, _State.pool = _State.pool, None
        pool.dismiss()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ranks() -> int:
    """The processes of this job on this host."""
    settings = env.read()
    return settings.local_world_size or settings.mpi_local_size or 1


def _default() -> int:
    """``OMP_NUM_THREADS``, or this process's share of the cores that it may run on."""
    settings = env.read()
    return max(1, _cores() // _ranks()) if settings.num_threads is None else settings.num_threads


def _spin_ns() -> int:
    """How long threads spin: long only where each of the host's ranks has cores for all its threads.

    One of several ranks has a thread more, which communicates. Ranks that are bound have cores of their own.
    """
    ranks, cores = _ranks(), _cores()
    bound = cores < (os.cpu_count() or 1)
    needed = (get_num_threads() + (ranks > 1)) * (1 if bound else ranks)
    return _SPIN_NS if needed <= cores else _SHORT_SPIN_NS


def set_num_threads(num_threads: int) -> None:
    """Compute with ``num_threads`` threads: matrix products and kernels alike.

    NumPy's own BLAS then keeps to one thread, since distgrad's do its products' parts.

    Args:
        num_threads: at least 1. Without a call it is ``OMP_NUM_THREADS``, which the launcher sets, or else
            the cores that the process may run on, divided by the ranks on its host.

    Raises:
        ValueError: a number below 1.
    """
    if num_threads < 1:
        raise ValueError(f"set_num_threads: expected at least 1, got {num_threads}")
    with _State.lock:
        _dismiss()
        _State.threads, _State.grain_ns = num_threads, 0.0
        _set_blas_threads()


def _set_blas_threads() -> None:
    """One, where the pool multiplies: OpenBLAS's own threads take cores for 20 ms after each product."""
    blas = find_blas()
    if blas.set_threads is not None:
        blas.set_threads(1 if has_numba() and blas.sgemm else get_num_threads())


def get_num_threads() -> int:
    """The number of threads that matrix products and kernels use."""
    if _State.threads == 0:
        _State.threads = _default()
    return _State.threads


def share_cores() -> None:
    """Keep to this process's share of the cores if others of its job run on the host and nobody has said so.

    Left alone, the BLAS library of every rank would take all cores.
    """
    if env.read().num_threads is None and _ranks() > 1:
        set_num_threads(_default())


def _make_pool() -> Any:
    """The pool, with the lock held; None where there can be none."""
    if _State.pool is None and not _State.ended and get_num_threads() > 1 and load_numba():
        from distgrad.backend.kernels.workers import Pool

        _set_blas_threads()
        _State.pool = Pool(get_num_threads(), spin := _spin_ns())
        cost = _State.pool.hand_over
        _State.grain_ns = _WORTH * (cost.awake_ns if spin == _SPIN_NS else cost.asleep_ns)
    return _State.pool


def count_parts(work_ns: float) -> int:
    """How many parts work is cut into that takes one thread so long, in ns."""
    threads = get_num_threads()
    if threads == 1 or _State.ended:
        return 1
    if not _State.grain_ns:
        if work_ns < _WORTH * 1e3:  # not worth a thread anywhere
            return 1
        with _State.lock:
            if _make_pool() is None:
                return 1
    return max(1, min(threads, int(work_ns / _State.grain_ns)))


def cut(length: int, parts: int, step: int = 1) -> list[int]:
    """Edges of ``parts`` parts of ``length``, all but the last multiples of ``step``, as alike as they come.

    Args:
        length: of the whole.
        parts: at least 1.
        step: what parts should be multiples of; smaller ones where one would be much longer than others.
    """
    while step > 1 and length < 4 * step * parts:
        step //= 2
    steps = length // step
    return [steps * part // parts * step for part in range(parts)] + [length]


def edges_of(length: int, row_ns: float, smallest: int = 1) -> list[int]:
    """Where the parts of :func:`run_parts` begin, and where the last one ends."""
    return cut(length, max(1, min(length // smallest, count_parts(length * row_ns))))


def run_parts(part: Callable[[int, int], Calls], length: int, row_ns: float, smallest: int = 1) -> int:
    """Make the calls of ``part(start, stop)``, with parts that cover ``0 … length``, one a thread.

    Args:
        part: the calls that write what belongs to the rows from ``start`` to ``stop``, and nothing else.
        length: rows in all.
        row_ns: time that a row takes one thread, in ns, roughly.
        smallest: rows that a part must have.

    Returns:
        Floating-point exceptions of the C library's numbers that other threads may have met; 0 where this
        thread did everything.
    """
    edges = edges_of(length, row_ns, smallest)
    if len(edges) > 2 and _State.lock.acquire(blocking=False):  # another thread's work keeps this pool busy
        try:
            pool = _make_pool()
            if pool is not None and pool.threads >= len(edges) - 1 and not pool.is_quiet():
                parts = [list(part(*ends)) for ends in itertools.pairwise(edges)]
                flags, failed = pool.run(parts)
                if not failed:
                    return int(flags)
        finally:
            _State.lock.release()
    for kernel, *arguments in part(0, length):  # what has failed says why when it is done here
        kernel(*arguments)
    return 0
