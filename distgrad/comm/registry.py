"""The world: found once for a process, and shared by everything in it."""

from __future__ import annotations

import atexit
import importlib

from distgrad import env
from distgrad.comm import progress, threads
from distgrad.comm.base import Communicator
from distgrad.comm.calls import Call, CallLog
from distgrad.comm.single import SingleCommunicator
from distgrad.comm.transport import Family
from distgrad.errors import CommError

__all__ = ["BACKENDS", "finalize", "get_world", "init", "is_initialized"]

BACKENDS = ("single", "threads", "shm", "mpi")
_world: Communicator | None = None


def init(
    backend: str | None = None, timeout_s: float | None = None, check_calls: float | None = None
) -> Communicator:
    """Join the ranks that were started together, and return the communicator of all of them.

    Under ``distgrad run``, ``mpirun`` and ``srun`` those are the ranks of the job; a program that was started
    alone is a world of one. A second call returns the same world. What the launcher has left out of
    ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE`` and ``NODE_RANK`` is set from here on.

    Collective: yes; blocks: yes.

    Args:
        backend: ``single``, ``threads`` (inside ``ThreadWorld.run``), ``shm`` (ranks of one host, as
            ``distgrad run`` starts them) or ``mpi``; None takes ``DISTGRAD_BACKEND`` or else finds out.
        timeout_s: seconds after which a collective gives up; None takes ``DISTGRAD_TIMEOUT``.
        check_calls: how many collectives of each group are compared between the ranks before data moves; None
            takes ``DISTGRAD_CHECK_COLLECTIVES``.

    Raises:
        CommError: the backend does not fit what the launcher has started.
        MissingDependencyError: the backend is not installed; the message says how to.
    """
    global _world
    settings = env.read()
    name = backend if backend is not None else settings.backend
    if name is not None and name not in BACKENDS:
        raise CommError(f"comm.init: backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    world = threads.current() or _world
    if world is None:
        if name == "threads":
            raise CommError(
                "comm.init: backend 'threads' exists inside ThreadWorld(size).run(fn) alone; call it there"
            )
        watcher = progress.find()
        if watcher is not None:
            watcher.begin(CallLog().add(Call("init"), numbered=False), "world")
        _world = world = _connect(name, settings, timeout_s, check_calls)
        if watcher is not None:
            watcher.end()
            world.family.progress = watcher
        atexit.register(finalize)
    elif backend is not None and backend != world.backend:
        raise CommError(
            f"comm.init: the world was set up with backend '{world.backend}', and cannot be had as "
            f"'{backend}'; call init() with one backend, or finalize() in between"
        )
    return world


def _connect(
    name: str | None, settings: env.Environment, timeout_s: float | None, check_calls: float | None
) -> Communicator:
    sizes = {
        "WORLD_SIZE": settings.world_size,
        "the MPI launcher's environment": settings.mpi_size,
        "SLURM_STEP_NUM_TASKS": settings.slurm_size,
    }
    told = {source: size for source, size in sizes.items() if size is not None}
    if name is None:
        name = "mpi" if any(size > 1 for size in told.values()) else "single"
    world: Communicator
    if name in ("shm", "mpi"):
        world = importlib.import_module(f"distgrad.comm.{name}").connect(timeout_s, check_calls)
    else:
        world = SingleCommunicator(family=Family("distgrad communication", timeout_s, check_calls))
    for source, size in told.items():
        if size != world.size:
            raise CommError(
                f"comm.init: {source} says {size} ranks, but backend '{name}' sees {world.size}; "
                + _likely_cause(name, source)
            )
    if told:
        topology, rank = world.topology, world.rank
        env.place(
            rank, world.size, topology.local_rank(rank), topology.local_size(rank), topology.node_rank(rank)
        )
    return world


def _likely_cause(name: str, source: str) -> str:
    if name == "single":
        return "every rank would train alone; leave the backend out, or start one rank"
    if source == "SLURM_STEP_NUM_TASKS":
        return (
            "srun and the MPI library do not know each other; start with srun --mpi=pmi2 "
            "(MPICH, Intel MPI) or --mpi=pmix (Open MPI)"
        )
    return (
        "the launcher is likely of another MPI than the library that mpi4py loads; start with the mpiexec "
        "beside this Python"
    )


def is_initialized() -> bool:
    """Whether :func:`get_world` has a world to give.

    Collective: no; blocks: no.
    """
    return threads.current() is not None or _world is not None


def get_world() -> Communicator:
    """The communicator that :func:`init` returned; in a ``ThreadWorld``, the calling rank's.

    Collective: no; blocks: no.

    Raises:
        CommError: there is none yet.
    """
    world = threads.current() or _world
    if world is None:
        raise CommError("comm.get_world: there is no world yet; call dg.comm.init() first")
    return world


def finalize() -> None:
    """Finish what was issued and forget the world; without one, do nothing. Also runs at exit.

    Collective: yes; blocks: until the calls that were issued are over and, with ``mpi``, every rank is here.
    """
    global _world
    world, _world = _world, None
    env.unplace()
    if world is not None:
        atexit.unregister(finalize)
        world.close()
