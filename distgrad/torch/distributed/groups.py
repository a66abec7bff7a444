"""Process groups: how the ranks find each other, and which of them belong together."""

from __future__ import annotations

import importlib.util
import itertools
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from distgrad import env
from distgrad.backend.device import Device, find_accelerator, parse_device
from distgrad.comm.base import Communicator
from distgrad.comm.registry import finalize, init
from distgrad.comm.registry import is_initialized as _has_world
from distgrad.errors import CommError, OptionError
from distgrad.torch.distributed.stores import FileStore, Store
from distgrad.torch.distributed.works import seconds_of, settle_all

__all__ = [
    "Backend", "GroupMember", "ProcessGroup", "destroy_process_group", "get_backend", "get_backend_config",
    "get_default_backend_for_device", "get_global_rank", "get_group_rank", "get_node_local_rank",
    "get_pg_count",
    "get_process_group_ranks", "get_rank", "get_world_size", "group", "init_process_group", "is_available",
    "is_backend_available", "is_gloo_available", "is_initialized", "is_mpi_available", "is_nccl_available",
    "is_torchelastic_launched", "is_ucc_available", "is_xccl_available", "member_of", "new_group",
    "new_subgroups", "new_subgroups_by_enumeration",
]  # fmt: skip


class Backend(str):
    """The name of a backend, in small letters."""

    GLOO, NCCL, MPI, UCC, XCCL, UNDEFINED = "gloo", "nccl", "mpi", "ucc", "xccl", "undefined"
    backend_list = (UNDEFINED, GLOO, NCCL, MPI)
    default_device_backend_map = {"cpu": GLOO, "cuda": NCCL}  # noqa: RUF012

    def __new__(cls, name: str) -> Backend:
        """The name, checked.

        Raises:
            ValueError: it is no text.
        """
        if not isinstance(name, str):
            raise ValueError(f"Backend constructor parameter must be string-ish: got {name!r}")
        return super().__new__(cls, name.lower())


class ProcessGroup:
    """An ordered group of ranks.

    Args:
        comm: exchanges their arrays.
        ranks: of the world, in the group's order.
        backend: PyTorch's name.
        name: in error reports.
        device: the one that ``init_process_group`` was told.
    """

    class BackendType:
        """Kinds of backends."""

        UNDEFINED, GLOO, NCCL, MPI = "undefined", "gloo", "nccl", "mpi"

    def __init__(
        self, comm: Communicator, ranks: Sequence[int], backend: str, name: str, device: Device | None = None
    ) -> None:
        self.comm = comm
        self.ranks = list(ranks)
        self.backend = Backend(backend)
        self.group_name = self.group_desc = name
        self.bound_device_id = device

    def __repr__(self) -> str:
        return f"<ProcessGroup '{self.group_name}': {self.comm!r}>"

    def rank(self) -> int:
        """This process's place in the group."""
        return self.comm.rank

    def size(self) -> int:
        """The number of its ranks."""
        return self.comm.size

    def name(self) -> str:
        """The backend's name."""
        return str(self.backend)

    def for_device(self, device: Device) -> Communicator:
        """What exchanges the arrays that lie there."""
        return self.comm if self.comm.takes(device) else self.comm.host


class GroupMember:
    """What ``group=`` takes, and what ``new_group`` gives a rank that is not in the group."""

    WORLD: ProcessGroup | None = None
    NON_GROUP_MEMBER = object()


class group:
    """``group.WORLD``: the ranks of ``init_process_group``."""

    WORLD: ProcessGroup | None = None


_groups: list[ProcessGroup] = []  # the world first
_numbers = itertools.count()


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: Any = None,
    world_size: int = -1,
    rank: int = -1,
    store: Store | None = None,
    group_name: str = "",
    pg_options: Any = None,
    device_id: Any = None,
) -> None:
    """Join the ranks that were started together.

    Under ``distgrad run``, ``mpirun`` and ``srun`` those are the ranks of the job, whatever the method says;
    ranks that a program has started itself, or torchrun, meet at the address of ``env://``, ``tcp://`` or
    ``file://``, or find each other through the store. On several hosts they exchange arrays by MPI.

    Args:
        backend: ``gloo``: arrays on the host; ``nccl``: on a GPU a rank; ``mpi``: by MPI; None: on GPUs where
            there are some.
        init_method: ``env://`` (also None), ``tcp://host:port``, ``file:///path``.
        timeout: after which a collective gives up, a ``timedelta``; None takes ``DISTGRAD_TIMEOUT``.
        world_size, rank: of a world that no launcher has started.
        store: in which the ranks leave word for each other.
        group_name: in error reports.
        pg_options: of other backends; taken, and not needed.
        device_id: the GPU of this rank.

    Raises:
        ValueError: there is a world already, or a rank's place is not known.
        CommError: the ranks do not find each other.
    """
    if _groups:
        raise ValueError("trying to initialize the default process group twice!")
    name = _kind_of(backend)
    options: dict[str, Any] = {"timeout_s": seconds_of(timeout)}
    device = None if device_id is None else parse_device(device_id)
    if name == "nccl":
        if find_accelerator() is None:
            raise CommError("init_process_group: backend 'nccl' needs a GPU, and none is here; take 'gloo'")
        options["device"] = device or "cuda"
    if not _has_world():
        options |= _find_place(name, init_method, world_size, rank, store)
    if name == "mpi" and "address" not in options:
        options["backend"] = "mpi"
    comm = init(**options)
    for what, given, ours in (("world_size", world_size, comm.size), ("rank", rank, comm.rank)):
        if given not in (-1, ours):
            raise CommError(
                f"init_process_group: {what} is {given}, but the launcher's is {ours}; leave it out"
            )
    next(_numbers)
    _set_world(ProcessGroup(comm, range(comm.size), name, group_name or "default_pg", device))


def _set_world(world: ProcessGroup | None) -> None:
    group.WORLD = GroupMember.WORLD = world
    if world is not None:
        _groups.append(world)


def _kind_of(backend: str | None) -> str:
    """One of gloo, nccl and mpi."""
    name = "" if backend is None else str(backend).lower()
    if ":" in name:  # a backend for each kind of device
        name = ""
    if not name or name == "undefined":
        return "gloo" if find_accelerator() is None else "nccl"
    if name not in ("gloo", "nccl", "mpi"):
        raise ValueError(f"Invalid backend: {name!r}; distgrad has 'gloo', 'nccl' and 'mpi'")
    return name


def _find_place(
    kind: str, method: str | None, world_size: int, rank: int, store: Store | None
) -> dict[str, Any]:
    """What ``comm.init`` is to be told: nothing where the launcher knows better."""
    settings = env.read()
    if store is not None:
        if world_size < 1 or rank < 0:
            raise ValueError("init_process_group: with store=, world_size and rank must be given")
        return {"address": store.meeting_place(rank, world_size), "rank": rank, "size": world_size}
    url = urlsplit(method or "env://")
    query = parse_qs(url.query)
    rank = int(query.get("rank", [str(rank)])[0])
    world_size = int(query.get("world_size", [str(world_size)])[0])
    if _is_launched(settings, rank, world_size):
        return {}
    if url.scheme == "env" and kind == "mpi" and not os.environ.get("RANK"):
        return {}  # a program that was started alone is a world of one to MPI
    if url.scheme == "env":
        rank = _variable("RANK") if rank < 0 else rank
        world_size = _variable("WORLD_SIZE") if world_size < 0 else world_size
        address = f"{_variable('MASTER_ADDR', str)}:{_variable('MASTER_PORT') + _is_agents()}"
    elif url.scheme == "tcp":
        address = url.netloc
    elif url.scheme == "file":
        address = url.path
    else:
        raise ValueError(
            f"init_process_group: init_method must begin with env://, tcp:// or file://, got {method!r}"
        )
    if rank < 0 or world_size < 1:
        raise ValueError(f"init_process_group: {url.scheme}:// needs rank= and world_size=")
    if url.scheme == "file" and settings.local_world_size not in (None, world_size):
        address = FileStore(address, world_size).meeting_place(rank, world_size)
    return {"address": address, "rank": rank, "size": world_size}


def _is_agents() -> bool:
    """Whether torchrun's agent listens at MASTER_PORT itself, so that ranks take the port above it."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _is_launched(settings: env.Environment, rank: int, world_size: int) -> bool:
    """Whether a launcher of ours or of MPI has started this rank, as the program sees itself too."""
    if settings.job_secret is not None:
        return rank in (-1, settings.rank) and world_size in (-1, settings.world_size)
    sizes = {settings.mpi_size, settings.slurm_size} - {None}
    return bool(sizes) and (world_size in sizes or (world_size == -1 and sizes != {1}))


def _variable(name: str, kind: Any = int) -> Any:
    value = os.environ.get(name)
    if not value:
        raise ValueError(
            f"Error initializing torch.distributed using env:// rendezvous: environment variable {name} "
            "expected, but not set; start with distgrad run --torch -n RANKS train.py"
        )
    return kind(value)


def destroy_process_group(group: Any = None) -> None:
    """Finish what was issued, and leave the group; the world, if none is given.

    Collective: yes; blocks: yes.
    """
    if not _groups:
        raise AssertionError(
            "destroy_process_group: there is no process group; call init_process_group first"
        )
    if group is None or group is _groups[0]:
        try:
            settle_all()
        finally:
            _groups.clear()
            _set_world(None)
            finalize()
    elif group is not GroupMember.NON_GROUP_MEMBER:
        _groups.remove(group)


def is_initialized() -> bool:
    """Whether there is a world."""
    return bool(_groups)


def is_available() -> bool:
    """Yes."""
    return True


def is_gloo_available() -> bool:
    """Yes: ranks of one host share memory, those of several talk by MPI."""
    return True


def is_nccl_available() -> bool:
    """Whether there is a GPU."""
    return find_accelerator() is not None


def is_mpi_available() -> bool:
    """Whether mpi4py is installed."""
    return importlib.util.find_spec("mpi4py") is not None


def is_ucc_available() -> bool:
    """No."""
    return False


is_xccl_available = is_ucc_available


def is_backend_available(backend: str) -> bool:
    """Whether a backend of that name can be had."""
    found = {"gloo": is_gloo_available, "nccl": is_nccl_available, "mpi": is_mpi_available}
    return backend.lower() in found and found[backend.lower()]()


def is_torchelastic_launched() -> bool:
    """Whether torchrun, or one that says so, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def member_of(group: Any, where: str) -> ProcessGroup | None:
    """The group that is meant, None (and a warning) where this rank is not in it.

    Raises:
        ValueError: there is no world.
    """
    if group is GroupMember.NON_GROUP_MEMBER:
        warnings.warn(
            f"Running {where} on global rank {get_rank()} which does not belong to the given group.",
            stacklevel=3,
        )
        return None
    if group is None:
        if not _groups:
            raise ValueError("Default process group has not been initialized, please make sure to call "
                             "init_process_group.")  # fmt: skip
        return _groups[0]
    if not isinstance(group, ProcessGroup):
        raise TypeError(f"{where}: group must be a ProcessGroup, got {type(group).__name__}")
    return group


def get_rank(group: Any = None) -> int:
    """This process's place in a group; -1 if it is not in it."""
    if group is GroupMember.NON_GROUP_MEMBER:
        return -1
    found = member_of(group, "get_rank")
    assert found is not None
    return found.rank()


def get_world_size(group: Any = None) -> int:
    """The number of ranks of a group; -1 if this one is not in it."""
    if group is GroupMember.NON_GROUP_MEMBER:
        return -1
    found = member_of(group, "get_world_size")
    assert found is not None
    return found.size()


def get_backend(group: Any = None) -> Backend:
    """The name of a group's backend."""
    found = member_of(group, "get_backend")
    if found is None:
        raise ValueError("Invalid process group specified")
    return found.backend


def get_backend_config(group: Any = None) -> str:
    """The same, by device."""
    return f"cpu:{get_backend(group)}"


def get_default_backend_for_device(device: Any) -> str:
    """``gloo`` for the host, ``nccl`` for GPUs."""
    return "gloo" if parse_device(device).kind == "cpu" else "nccl"


def get_process_group_ranks(group: Any = None) -> list[int]:
    """A group's ranks, as numbered in the world."""
    found = member_of(group, "get_process_group_ranks")
    return [] if found is None else list(found.ranks)


def get_global_rank(group: ProcessGroup, group_rank: int) -> int:
    """The place in the world of a group's rank."""
    return group.ranks[group_rank]


def get_group_rank(group: ProcessGroup, global_rank: int) -> int:
    """The place in a group of a rank of the world.

    Raises:
        ValueError: it is not in it.
    """
    if global_rank not in group.ranks:
        raise ValueError(f"Global rank {global_rank} is not part of group {group}")
    return group.ranks.index(global_rank)


def get_node_local_rank(fallback_rank: int | None = None) -> int:
    """This process's place on its host."""
    if _groups:
        return _groups[0].comm.local_rank
    local_rank = env.read().local_rank
    if local_rank is None and fallback_rank is None:
        raise RuntimeError("LOCAL_RANK is not in the environment; call init_process_group first")
    return int(local_rank if local_rank is not None else fallback_rank or 0)


def get_pg_count() -> int:
    """How many groups this process is in."""
    return len(_groups)


def new_group(
    ranks: Iterable[int] | None = None,
    timeout: Any = None,
    backend: str | None = None,
    pg_options: Any = None,
    use_local_synchronization: bool = False,
    group_desc: str | None = None,
    device_id: Any = None,
) -> Any:
    """Make a group of some ranks; all ranks of the world call it.

    Collective: yes; blocks: yes.

    Args:
        ranks: of the world; None takes all.
        timeout: that of the world holds for all groups.
        backend: that of the world holds for all groups; it must be there.
        pg_options, device_id: of other backends; taken, and not needed.
        use_local_synchronization: True is an error, as all ranks take part.
        group_desc: the group's name in error reports.

    Returns:
        The group, ``GroupMember.NON_GROUP_MEMBER`` on ranks that are not in it.
    """
    world = member_of(None, "new_group")
    assert world is not None
    if use_local_synchronization:
        raise OptionError("new_group: use_local_synchronization=True: all ranks must call it; leave it out")
    members = sorted(range(world.size()) if ranks is None else ranks)
    if len(set(members)) != len(members) or not set(members) <= set(range(world.size())):
        raise ValueError(f"new_group: ranks must be different ones of 0 … {world.size() - 1}, got {members}")
    number = next(_numbers)
    name = group_desc or f"group {number}"
    comm = world.comm.split(0 if world.rank() in members else None, group=name)
    if comm is None:
        return GroupMember.NON_GROUP_MEMBER
    kind = world.backend if backend is None else Backend(_kind_of(backend))
    found = ProcessGroup(comm, members, kind, name)
    _groups.append(found)
    return found


def new_subgroups(
    group_size: int | None = None,
    group: Any = None,
    timeout: Any = None,
    backend: str | None = None,
    pg_options: Any = None,
    group_desc: str | None = None,
) -> tuple[Any, list[Any]]:
    """Groups of neighbours; the one that this rank is in, and all.

    Args:
        group_size: ranks of each; None takes those of a host.
        group: of which ranks; None is the world, the only one that can be divided.
        timeout, backend, pg_options, group_desc: as for :func:`new_group`.
    """
    world = member_of(None, "new_subgroups")
    assert world is not None
    if group is not None and group is not world:
        raise OptionError("new_subgroups: group must be the world's; call new_group for others")
    size = world.comm.local_size if group_size is None else group_size
    if size < 1 or world.size() % size:
        raise ValueError(f"The world size ({world.size()}) must be divisible by 'group_size={size}'")
    ranks = [list(range(start, start + size)) for start in range(0, world.size(), size)]
    return new_subgroups_by_enumeration(ranks, timeout, backend, pg_options, group_desc)


def new_subgroups_by_enumeration(
    ranks_per_subgroup_list: Sequence[Sequence[int]],
    timeout: Any = None,
    backend: str | None = None,
    pg_options: Any = None,
    group_desc: str | None = None,
) -> tuple[Any, list[Any]]:
    """Groups of the ranks in each list; the one that this rank is in (None if none), and all."""
    together = list(itertools.chain(*ranks_per_subgroup_list))
    if len(set(together)) != len(together):
        raise ValueError("new_subgroups_by_enumeration: a rank is in several groups")
    found = [new_group(ranks, timeout, backend, pg_options, group_desc=group_desc)
             for ranks in ranks_per_subgroup_list]  # fmt: skip
    own = next((each for each in found if each is not GroupMember.NON_GROUP_MEMBER), None)
    return own, found
