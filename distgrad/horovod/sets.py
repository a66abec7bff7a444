"""Ranks and process sets, as Horovod names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.backend.device import find_accelerator
from distgrad.comm.base import Communicator
from distgrad.comm.registry import finalize, get_world
from distgrad.comm.registry import init as _init
from distgrad.comm.registry import is_initialized as _is_initialized
from distgrad.errors import CommError

__all__ = [
    "HorovodInternalError",
    "ProcessSet",
    "add_process_set",
    "ccl_built",
    "cross_rank",
    "cross_size",
    "cuda_built",
    "ddl_built",
    "global_process_set",
    "gloo_built",
    "gloo_enabled",
    "init",
    "is_homogeneous",
    "is_initialized",
    "local_rank",
    "local_size",
    "mpi_built",
    "mpi_enabled",
    "mpi_threads_supported",
    "nccl_built",
    "rank",
    "remove_process_set",
    "rocm_built",
    "shutdown",
    "size",
]  # fmt: skip

#: What collectives end with that the ranks did not come through together.
HorovodInternalError = CommError


class ProcessSet:
    """Some of the ranks, which communicate among themselves.

    Args:
        ranks_or_comm: ranks of the world.

    Attributes:
        ranks: they, None for all.
        process_set_id: its number, None until it is added.
    """

    def __init__(self, ranks_or_comm: Sequence[int] | None) -> None:
        self.ranks = None if ranks_or_comm is None else sorted(ranks_or_comm)
        self.process_set_id: int | None = None
        self._comm: Communicator | None = None

    def __repr__(self) -> str:
        return f"ProcessSet(process_set_id={self.process_set_id}, ranks={self.ranks})"

    @property
    def comm(self) -> Communicator:
        """What exchanges arrays.

        Raises:
            ValueError: the set was not added, or this rank is not in it.
        """
        if self is global_process_set:
            return get_world()
        if self._comm is None:
            raise ValueError(f"horovod: {self} was not added, or rank {get_world().rank} is not in it")
        return self._comm

    def included(self) -> bool:
        """Whether this rank is in it."""
        return self.ranks is None or get_world().rank in self.ranks

    def rank(self) -> int:
        """This process's place in it."""
        return self.comm.rank

    def size(self) -> int:
        """The number of its ranks."""
        return get_world().size if self.ranks is None else len(self.ranks)


global_process_set = ProcessSet(None)
global_process_set.process_set_id = 0
_sets: list[ProcessSet] = []


def init(comm: Any = None, process_sets: Sequence[ProcessSet] | str | None = None) -> None:
    """Join the ranks that were started together.

    Collective: yes; blocks: yes.

    Args:
        comm: a communicator of mpi4py; None takes all ranks.
        process_sets: to be added at once.
    """
    _init(comm=comm)
    for each in () if process_sets is None or isinstance(process_sets, str) else process_sets:
        add_process_set(each)


def shutdown() -> None:
    """Finish what was issued, and leave the others.

    Collective: yes; blocks: yes.
    """
    _sets.clear()
    finalize()


def is_initialized() -> bool:
    """Whether :func:`init` was called."""
    return _is_initialized()


def _world() -> Communicator:
    if not _is_initialized():
        raise ValueError("Horovod has not been initialized; use hvd.init().")
    return get_world()


def rank() -> int:
    """This process's place among all ranks."""
    return _world().rank


def size() -> int:
    """The number of ranks."""
    return _world().size


def local_rank() -> int:
    """This process's place among the ranks of its host."""
    return _world().local_rank


def local_size() -> int:
    """The number of ranks on its host."""
    return _world().local_size


def cross_rank() -> int:
    """The place of its host among those with as high a local rank."""
    return _hosts().index(_world().topology.node_rank(_world().rank))


def cross_size() -> int:
    """The number of hosts with as high a local rank."""
    return len(_hosts())


def _hosts() -> list[int]:
    world, place = _world(), _world().topology
    return sorted({place.node_rank(r) for r in range(world.size) if place.local_rank(r) == world.local_rank})


def is_homogeneous() -> bool:
    """Whether all hosts have as many ranks."""
    return len({_world().topology.local_size(r) for r in range(size())}) == 1


def add_process_set(process_set: ProcessSet | Sequence[int]) -> ProcessSet:
    """Have some ranks communicate among themselves; all ranks call it.

    Collective: yes; blocks: yes.

    Raises:
        ValueError: ranks that are not there, or a set that was added already.
    """
    found = process_set if isinstance(process_set, ProcessSet) else ProcessSet(process_set)
    world = _world()
    if (
        found.process_set_id is not None
        or found.ranks is None
        or not set(found.ranks) <= set(range(world.size))
    ):
        raise ValueError(f"add_process_set: expected a new set of ranks below {world.size}, got {found}")
    found._comm = world.split(0 if found.included() else None, group=f"process set {found.ranks}")
    _sets.append(found)
    found.process_set_id = len(_sets)
    return found


def remove_process_set(process_set: ProcessSet) -> bool:
    """Forget a set; whether it was there.

    Collective: no; blocks: no.
    """
    if process_set.process_set_id is None or process_set is global_process_set:
        return False
    process_set.process_set_id = process_set._comm = None
    return True


def nccl_built() -> int:
    """Whether there are GPUs to exchange arrays of."""
    return int(find_accelerator() is not None)


def cuda_built() -> bool:
    """The same."""
    return bool(nccl_built())


def mpi_built() -> bool:
    """Yes: ranks of several hosts talk by MPI."""
    return True


def mpi_enabled() -> bool:
    """Whether these ranks talk by MPI."""
    return _is_initialized() and get_world().host.backend == "mpi"


def gloo_built() -> bool:
    """Yes: ranks of a host need nothing installed."""
    return True


def gloo_enabled() -> bool:
    """Whether these ranks talk otherwise than by MPI."""
    return not mpi_enabled()


def mpi_threads_supported() -> bool:
    """Yes: a program's own calls of MPI stay in its thread."""
    return True


def rocm_built() -> bool:
    """No."""
    return False


def ccl_built() -> bool:
    """No."""
    return False


def ddl_built() -> bool:
    """No."""
    return False
