"""How many threads one process computes with: one number for matrix products and kernels.

A kernel's loop over rows and a large matrix product are cut into as many parts as there are threads; the
parts run in threads of our own, since neither holds the lock of the interpreter. Where a part begins never
changes what a kernel computes for a row.
"""

from __future__ import annotations

import contextvars
import functools
import itertools
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from distgrad import env
from distgrad.backend.blas import find_blas, single_threaded

__all__ = ["get_num_threads", "run_parts", "set_num_threads", "share_cores"]


_here = threading.local()


class _Team:
    """Threads that wait for parts: through a queue one wakes another in 7 µs, with futures in 17."""

    def __init__(self, size: int) -> None:
        self.parts: SimpleQueue[Any] = SimpleQueue()
        self.members = [
            threading.Thread(target=self._work, name="kernel part", daemon=True) for _ in range(size)
        ]
        for member in self.members:
            member.start()

    def _work(self) -> None:
        _here.is_member = True
        while (part := self.parts.get()) is not None:
            run, done = part
            try:
                run()
            except BaseException as error:  # raised where the whole was asked for
                done.put(error)
            else:
                done.put(None)
            del part, run, done  # while it waits, nothing is kept alive

    def dismiss(self) -> None:
        """End all threads, after what they have begun."""
        for _ in self.members:
            self.parts.put(None)
        for member in self.members:
            member.join()


class _State:
    """The chosen number (0: not chosen yet), and who runs the other parts."""

    threads = 0
    team: _Team | None = None
    lock = threading.Lock()  # held by whoever gives a team something to do, makes or ends one


def _forget_team() -> None:
    _State.team = None
    _State.lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_team)  # its threads stay behind in the parent


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
    if find_blas().set_threads is not None:
        single_threaded.set_threads(num_threads)
    with _State.lock:
        if _State.team is not None:
            team, _State.team = _State.team, None
            team.dismiss()
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
    # A part of a part waits for nobody; and at the interpreter's end nobody comes any longer.
    if threads < 2 or getattr(_here, "is_member", False) or sys.is_finalizing():
        run(0, length)
        return
    edges = [length * part // threads for part in range(threads + 1)]
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    with _State.lock:
        if _State.team is None:
            _State.team = _Team(max(1, _State.threads - 1))  # 1: who set another number just now
        for start, stop in itertools.pairwise(edges[1:]):
            run_there = functools.partial(contextvars.copy_context().run, run, start, stop)
            _State.team.parts.put((run_there, done))  # NumPy's errstate comes along
    try:
        run(0, edges[1])
    finally:  # nobody writes any longer
        errors = [done.get() for _ in range(threads - 1)]
    error = next((each for each in errors if each is not None), None)
    del errors
    try:
        if error is not None:
            raise error
    finally:
        del error  # its traceback holds this frame
