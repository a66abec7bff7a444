"""The world: found once for a process, and shared by everything in it."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from distgrad import env
from distgrad.backend.device import Device, find_backend
from distgrad.comm import progress, threads
from distgrad.comm.base import Communicator
from distgrad.comm.calls import Call, CallLog
from distgrad.errors import CommError
from distgrad.names.lacking import lacking

__all__ = [
    "BACKENDS",
    "attempt",
    "explain_name",
    "finalize",
    "get_world",
    "init",
    "is_initialized",
    "is_mpi",
]

BACKENDS = ("single", "threads", "shm", "mpi", "nccl")
_world: Communicator | None = None
explain_name = lacking("module 'distgrad.comm'")


def init(
    backend: str | None = None,
    timeout_s: float | None = None,
    *,
    comm: Any = None,
    device: Device | str | None = None,
    nccl_provider: str | None = None,
    address: str | None = None,
    rank: int | None = None,
    size: int | None = None,
) -> Communicator:
    """Join the ranks that were started together, and return the communicator of all of them.

    Under ``distgrad run``, ``mpirun`` and ``srun`` those are the ranks of the job; a program that was started
    alone is a world of one. A second call returns the same world. What the launcher has left out of
    ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE`` and ``NODE_RANK`` is set from here on.

    Processes that a program has started itself (``multiprocessing``) meet at an ``address``, with their
    ``rank`` and ``size``; those that another launcher has started (torchrun) at ``MASTER_ADDR`` and
    ``MASTER_PORT``, if it sets these, ``RANK`` and ``WORLD_SIZE``. Where they are on several hosts, rank 0
    listens there until all have come, and they exchange arrays by MPI (MPICH's, or one of its kind).

    Inside an MPI program, ``init(comm=comm)`` joins the ranks of one of its communicators, and leaves all
    others alone. It is the world if there was none, so that ``get_world()`` and ``init()`` return it; every
    further one stands beside the world. The same ``comm`` gives the same communicator.

    Collective: yes, on ``comm`` if that is given; blocks: yes.

    Args:
        backend: ``single``, ``threads`` (inside ``ThreadWorld.run``), ``shm`` (ranks of one host, as
            ``distgrad run`` starts them), ``mpi``, or ``nccl`` (a GPU a rank, whose hosts talk by one of the
            others); None takes ``DISTGRAD_BACKEND`` or else finds out, and is ``nccl`` where ``device`` is a
            GPU.
        timeout_s: seconds after which a collective gives up; None takes ``DISTGRAD_TIMEOUT``.
        comm: an intracommunicator of mpi4py; it is duplicated, so that messages never meet, and our
            duplicates are freed by ``close()``, or when ``comm`` is freed, or at the end.
        device: where the arrays lie that ranks exchange; None and ``"cpu"``: on the host. ``"cuda"`` is this
            rank's own GPU.
        nccl_provider: the binding to NCCL, ``cupy`` or ``pynccl``; None takes ``DISTGRAD_NCCL_PROVIDER``, or
            else ``cupy``.
        address: where the processes meet: ``host:port`` of rank 0's host, where nobody listens if that is a
            loopback address or ``LOCAL_WORLD_SIZE`` says that all are here; or, on one host, any path of a
            file, which is not made.
        rank: with ``address``, this process's place.
        size: with ``address``, number of ranks.

    Raises:
        CommError: the backend does not fit what the launcher has started.
        DeviceError: there is no such device.
        MissingDependencyError: the backend is not installed; the message says how to.
    """
    global _world
    settings = _settings(address, rank, size)
    name, asked = _choose(backend, settings, device)
    world = threads.current() or _world
    if comm is not None:
        found = _adopt(comm, name if asked else None, timeout_s, device, nccl_provider)
        if _world is None:
            _world = found
            _end_in_time(found)
        return found
    if world is None:
        _world = world = _join(name, settings, timeout_s, device, nccl_provider)
        _end_in_time(world)
    elif asked and name != world.backend:
        raise CommError(
            f"comm.init: the world was set up with backend '{world.backend}', and cannot be had as "
            f"'{name}'; call init() with one backend, or finalize() in between"
        )
    return world


def _settings(address: str | None, rank: int | None, size: int | None) -> env.Environment:
    """What the environment says, or in its place an address."""
    if address is None and rank is None and size is None:
        return env.read()
    if address is None or rank is None or size is None:
        raise CommError(
            f"comm.init: address, rank and size go together, got address={address!r}, rank={rank}, "
            f"size={size}; leave all out where a launcher has started the ranks"
        )
    found = env.read()
    return replace(
        found, rank=rank, world_size=size, address=address, job_secret=None, mpi_size=None, slurm_size=None,
        local_world_size=found.local_world_size if found.world_size == size else None, backend=None,
    )  # fmt: skip


def _choose(
    backend: str | None, settings: env.Environment, device: Device | str | None
) -> tuple[str | None, bool]:
    """The backend's name, None if it is to be found out; and whether the caller has asked for that one."""
    on_gpu = device is not None and not str(device).startswith("cpu")
    if backend is None and on_gpu:
        backend = "nccl"
    name = backend if backend is not None else settings.backend
    if on_gpu and name != "nccl":
        raise CommError(f"comm.init: device {str(device)!r} needs backend 'nccl', got {name!r}; leave it out")
    if name is not None and name not in BACKENDS:
        raise CommError(f"comm.init: backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    if name == "threads" and threads.current() is None and _world is None:
        raise CommError(
            "comm.init: backend 'threads' exists inside ThreadWorld(size).run(fn) alone; call it there"
        )
    return name, backend is not None


def _join(
    name: str | None,
    settings: env.Environment,
    timeout_s: float | None,
    device: Device | str | None,
    provider: str | None,
) -> Communicator:
    """Connect the ranks; whoever watches this one sees it wait for the others."""
    watcher = progress.find()
    if watcher is not None:
        watcher.begin(CallLog().add(Call("init"), numbered=False, depth=1), "world")
    hosts = _host_backend(settings) if name == "nccl" else name
    world = _connect(hosts, settings, timeout_s)
    if name == "nccl":
        world = _connect_gpus(world, device, provider or settings.nccl_provider)
    if watcher is not None:
        watcher.end()
        world.family.progress = watcher
    return world


def is_mpi(comm: Any) -> bool:
    """Whether that is a communicator of mpi4py, which is not imported for the answer."""
    return any(f"{kind.__module__}.{kind.__name__}" == "mpi4py.MPI.Comm" for kind in type(comm).__mro__)


def _adopt(
    comm: Any, name: str | None, timeout_s: float | None,
    device: Device | str | None, provider: str | None,
) -> Communicator:  # fmt: skip
    """The communicator of the ranks of one of mpi4py's."""
    if not is_mpi(comm):
        raise CommError(
            f"comm.init: comm must be an intracommunicator of mpi4py, got {type(comm).__name__}; leave it "
            "out for all ranks that were started together"
        )
    if name not in (None, "mpi", "nccl"):
        raise CommError(f"comm.init: comm= goes with backend 'mpi' or 'nccl', got {name!r}; leave it out")
    world: Communicator = importlib.import_module("distgrad.comm.mpi").adopt(comm, timeout_s)
    if name == "nccl":
        return _connect_gpus(world, device, provider or env.read().nccl_provider)
    if world.size == env.read().mpi_size:  # else whoever watches would wait for ranks that never come
        world.family.progress = progress.find()
    return world


def _host_backend(settings: env.Environment) -> str | None:
    """What the hosts of GPU ranks talk by; None: to be found out."""
    if settings.backend in ("single", "shm", "mpi"):
        return settings.backend
    by_mpi = settings.mpi_size is not None or settings.slurm_size is not None
    return "shm" if settings.job_secret is not None and not by_mpi else None


def _connect_gpus(host: Communicator, device: Device | str | None, provider: str | None) -> Communicator:
    """The GPUs of a world of hosts; NCCL's binding is loaded here alone; a failure closes their world."""
    try:
        if device is None and env.read().local_rank is None:  # no launcher of ours has dealt out the GPUs
            count = find_backend("cuda").device_count()
            device = Device("cuda", host.local_rank % count)
        nccl = importlib.import_module("distgrad.comm.nccl")
        world: Communicator = nccl.connect(host, device, provider)
    except BaseException:
        host.close()
        raise
    return world


def _load(name: str) -> Callable[[float | None], Communicator]:
    """What connects the ranks of a backend, out of the module of its name.

    Raises:
        CommError: there is no such module, or nothing in it that connects.
    """
    path = f"distgrad.comm.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        module = None
    connect: Callable[[float | None], Communicator] | None = getattr(module, "connect", None)
    if connect is None:
        lack = "there is no such module" if module is None else "the module has no such function"
        raise CommError(
            f"comm.init: backend {name!r} is connected by connect(timeout_s) of {path}, but {lack}; write "
            "it, as CONTRIBUTING.md says"
        )
    return connect


def _connect(name: str | None, settings: env.Environment, timeout_s: float | None) -> Communicator:
    sizes = {
        "WORLD_SIZE": settings.world_size,
        "the MPI launcher's environment": settings.mpi_size,
        "SLURM_STEP_NUM_TASKS": settings.slurm_size,
    }
    if settings.mpi_size == settings.slurm_size:  # srun has set both
        sizes["the MPI launcher's environment"] = None
    told = {source: size for source, size in sizes.items() if size is not None}
    if name is None and settings.meets:
        world = _meet(settings, timeout_s)
        name = world.backend
    else:
        if name is None:
            name = "mpi" if any(size > 1 for size in told.values()) else "single"
        world = _load(name)(timeout_s)
    if told.get("the MPI launcher's environment") == world.size:
        told.pop("SLURM_STEP_NUM_TASKS", None)  # mpirun in an allocation is one task of Slurm a node
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


def _meet(settings: env.Environment, timeout_s: float | None) -> Communicator:
    """The ranks that come to one address, on one host or several."""
    rank, size, address = settings.rank, settings.world_size, settings.address
    assert rank is not None
    assert size is not None
    assert address is not None
    seconds = settings.timeout_s if timeout_s is None else timeout_s
    rendezvous = importlib.import_module("distgrad.comm.rendezvous")
    if size > 1 and settings.local_world_size != size and rendezvous.is_reached(address):
        host, _, port = address.rpartition(":")
        bootstrap = importlib.import_module("distgrad.comm.bootstrap")
        several: Communicator | None = bootstrap.meet(host, int(port), rank, size, seconds)
        if several is not None:
            return several
    found: Communicator = rendezvous.meet(rendezvous.local_place(address), rank, size, seconds)
    return found


def _likely_cause(name: str, source: str) -> str:
    if name == "single":
        return "every rank would train alone; leave the backend out, or start one rank"
    if source == "SLURM_STEP_NUM_TASKS":
        return (
            "srun and the MPI library do not know each other; start with srun --mpi=pmi2 "
            "(MPICH, Intel MPI) or --mpi=pmix (Open MPI)"
        )
    if name == "mpi" and env.read().supervisor is not None:
        return "distgrad run has started them without MPI; start with distgrad run --backend mpi"
    if source == "WORLD_SIZE" and env.read().mpi_size is None:
        return (
            "no launcher of MPI has started this process; start all ranks with distgrad run -n or the "
            "mpiexec beside this Python, or unset WORLD_SIZE"
        )
    return (
        "the launcher is likely of another MPI than the library that mpi4py loads; start with the mpiexec "
        "beside this Python"
    )


def attempt() -> int:
    """How often the launcher had started this job's ranks before: 0, and more under ``--max-restarts``.

    Collective: no; blocks: no.
    """
    return env.read().attempt


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
    world = forget()
    if world is not None:
        world.close()


def forget() -> Communicator | None:
    """Leave the world as it is, for :func:`init` to make another; what it was, None if there was none.

    Collective: no; blocks: no.
    """
    global _world
    world, _world = _world, None
    env.unplace()
    atexit.unregister(_finalize_at_exit)
    return world


def _end_in_time(world: Communicator) -> None:
    """Have the world finalized when the program ends, or before it ends MPI."""
    atexit.register(_finalize_at_exit)
    if world.host.backend == "mpi":
        importlib.import_module("distgrad.comm.mpi").end_with_mpi(_finalize_at_exit)


def _finalize_at_exit() -> None:
    """Finalize at the program's end, which fails if that does: Python itself only prints what is raised."""
    world = forget()
    if world is None:
        return
    if world.host.backend == "mpi":  # other ranks may have another world, and end these two in this order
        importlib.import_module("distgrad.comm.mpi").close_newer(world.host)
    error = getattr(sys, "last_value", None)  # by which the program ends: other ranks may never come here
    try:
        world.__exit__(None if error is None else type(error), error, None)
    except Exception as late:
        sys.excepthook(type(late), late, late.__traceback__)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
