"""Groups of ranks and their collectives.

::

    import numpy as np, distgrad as dg

    comm = dg.comm.init()             # one rank, or all that distgrad run, mpirun or srun started
    x = np.full(4, comm.rank, np.float32)
    comm.all_reduce(x)                # in place, the same bits on every rank
    work = comm.all_reduce(x, op="mean", async_op=True)
    work.wait()                       # meanwhile the communication thread was at work

Backends: ``single`` (one rank), ``threads`` (:class:`ThreadWorld`: N ranks in one process), ``shm`` (ranks of
one host, nothing to install) and ``mpi``.
"""

from typing import TYPE_CHECKING

from distgrad.comm.base import Communicator
from distgrad.comm.registry import BACKENDS, attempt, finalize, get_world, init, is_initialized
from distgrad.comm.threads import Link, ThreadWorld
from distgrad.comm.work import Work

if not TYPE_CHECKING:  # for whom a module with it has every name
    from distgrad.comm.registry import explain_name as __getattr__  # noqa: F401

__all__ = [
    "BACKENDS",
    "Communicator",
    "Link",
    "ThreadWorld",
    "Work",
    "attempt",
    "finalize",
    "get_world",
    "init",
    "is_initialized",
]
