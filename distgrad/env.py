"""Every environment variable that distgrad reads, in one frozen dataclass.

Nothing else in the package looks at ``os.environ`` for a setting of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "THREAD_VARIABLES",
    "Environment",
    "given_threads",
    "is_traced",
    "place",
    "read",
    "unplace",
    "untrace",
    "without_world",
]

#: Those in which users give a number of threads, the one that is meant for all libraries first.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Environment:
    """The variables as values; ``None`` where a variable is not set.

    Attributes:
        rank: ``RANK``, this process's place among all ranks, from 0.
        world_size: ``WORLD_SIZE``, the number of ranks of the job.
        local_rank: ``LOCAL_RANK``, its place among the ranks of its host; where our launcher has not set it,
            what mpirun or srun says (``MPI_LOCALRANKID``, ``OMPI_COMM_WORLD_LOCAL_RANK``, ``SLURM_LOCALID``).
        local_world_size: ``LOCAL_WORLD_SIZE``, the number of ranks on its host.
        node_rank: ``NODE_RANK``, the place of its host among the hosts.
        address: ``MASTER_ADDR:MASTER_PORT``, where ranks meet that another launcher has started (torchrun).
        backend: ``DISTGRAD_BACKEND``, the communicator that ``dg.comm.init()`` takes when none is named.
        nccl_provider: ``DISTGRAD_NCCL_PROVIDER``, the binding to NCCL when none is named.
        supervisor: ``DISTGRAD_SUPERVISOR``, where the launcher listens for its ranks (``host:port``).
        job_secret: ``DISTGRAD_JOB_SECRET``, what a rank shows the launcher to be let in.
        progress: ``DISTGRAD_PROGRESS``, where a rank tells how far it is (``descriptor:inode`` of a memory).
        timeout_s: ``DISTGRAD_TIMEOUT``, seconds after which a collective gives up.
        mpi_size: the number of ranks that an MPI launcher says it has started (``PMI_SIZE``,
            ``OMPI_COMM_WORLD_SIZE``).
        mpi_rank: this process's place among them, or among Slurm's tasks (``PMI_RANK``,
            ``OMPI_COMM_WORLD_RANK``, ``SLURM_PROCID``).
        mpi_local_size: how many of them are on this host (``MPI_LOCALNRANKS``,
            ``OMPI_COMM_WORLD_LOCAL_SIZE``).
        slurm_size: ``SLURM_STEP_NUM_TASKS``, the number of tasks that ``srun`` has started.
        keep_memory: ``DISTGRAD_KEEP_MEMORY``, whether large freed arrays stay with the process ("0" turns
            it off; see ``distgrad.backend.memory``).
        gpu_libraries: ``DISTGRAD_GPU_LIBRARIES``, whether NVIDIA's libraries compute on a GPU where they can
            ("0": distgrad's own kernels, beside cuBLAS, which CuPy needs).
        num_threads: ``OMP_NUM_THREADS`` or ``OPENBLAS_NUM_THREADS``, how many compute in a process.
        cache_home: ``XDG_CACHE_HOME``, the folder of the user's caches.
        torch_home: ``TORCH_HOME``, where PyTorch keeps files of weights.
        numba_cache: ``NUMBA_CACHE_DIR``, where Numba keeps compiled kernels, if it is to be elsewhere.
        kernel_cache: ``DISTGRAD_CACHE``, a folder of compiled kernels that others may share.
        processor: ``NUMBA_CPU_NAME``, the kind of processor that Numba compiles for, if it is not this one.
        job_end_s: ``SLURM_JOB_END_TIME``, when Slurm will end the job, in seconds since 1970.
        trace: ``DISTGRAD_TRACE``, the file for a trace of what this process does.
        trace_ops: ``DISTGRAD_TRACE_OPS``, whether operations are traced one by one ("1").
        trace_spans: ``DISTGRAD_TRACE_SPANS``, whether spans are kept ("0": the status alone).
        trace_spool: ``DISTGRAD_TRACE_SPOOL``, the folder in which the ranks leave what the launcher reads.
        memory: ``DISTGRAD_MEMORY``, by which a rank finds the launcher's agent of its host, which holds what
            the ranks keep in memory.
        attempt: ``DISTGRAD_ATTEMPT``, how often the launcher had started the ranks before; programs find why
            the last attempt ended in ``DISTGRAD_ATTEMPT_CAUSE``.
        nvtx: ``NVTX_INJECTION64_PATH``, whether a tool of NVIDIA's takes ranges of NVTX from this process.
        no_color: ``NO_COLOR``, whether the user wants no colours (https://no-color.org).
    """

    rank: int | None = None
    world_size: int | None = None
    local_rank: int | None = None
    local_world_size: int | None = None
    node_rank: int | None = None
    address: str | None = None
    backend: str | None = None
    nccl_provider: str | None = None
    supervisor: str | None = None
    job_secret: str | None = None
    progress: str | None = None
    timeout_s: float = 300.0
    mpi_size: int | None = None
    mpi_rank: int | None = None
    mpi_local_size: int | None = None
    slurm_size: int | None = None
    keep_memory: bool = True
    gpu_libraries: bool = True
    num_threads: int | None = None
    cache_home: Path = Path("~/.cache")
    torch_home: str | None = None
    numba_cache: str | None = None
    kernel_cache: str | None = None
    processor: str | None = None
    job_end_s: float | None = None
    trace: str | None = None
    trace_ops: bool = False
    trace_spans: bool = True
    trace_spool: str | None = None
    memory: str | None = None
    attempt: int = 0
    nvtx: bool = False
    no_color: bool = False

    @property
    def meets(self) -> bool:
        """Whether it is for the ranks themselves to find each other, at an address."""
        told = (self.rank, self.world_size, self.address)
        others = (self.job_secret, self.mpi_size, self.slurm_size)
        return None not in told and others == (None, None, None)


def _address(variables: Mapping[str, str]) -> str | None:
    host, port = variables.get("MASTER_ADDR"), variables.get("MASTER_PORT")
    return f"{host}:{port}" if host and port else None


def _number(variables: Mapping[str, str], name: str) -> int | None:
    text = variables.get(name)
    if text is None or text == "":
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"environment: {name} must be a whole number, got {text!r}; unset or correct it"
        ) from None


def _local_rank(variables: Mapping[str, str]) -> int | None:
    names = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
    return next((_number(variables, name) for name in names if variables.get(name)), None)


def _mpi_rank(variables: Mapping[str, str]) -> int | None:
    names = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
    return next((_number(variables, name) for name in names if variables.get(name)), None)


def given_threads(variables: Mapping[str, str], names: tuple[str, ...] = THREAD_VARIABLES) -> int | None:
    """The first number of threads that the user gave; None if there is none.

    Args:
        variables: the user's.
        names: those to look at.
    """
    for name in names:
        text = (variables.get(name) or "").split(",")[0]  # OpenMP takes one number a nesting level
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return None


def read(variables: Mapping[str, str] | None = None) -> Environment:
    """Read the settings from ``variables`` (default: the process's environment).

    Raises:
        ValueError: a number that does not parse, with the variable's name and value.
    """
    if variables is None:
        variables = os.environ
    timeout = variables.get("DISTGRAD_TIMEOUT") or "300"
    try:
        timeout_s = float(timeout)
    except ValueError:
        raise ValueError(
            f"environment: DISTGRAD_TIMEOUT must be seconds, got {timeout!r}; correct it"
        ) from None
    mpi_size = _number(variables, "PMI_SIZE")
    mpi_local_size = _number(variables, "MPI_LOCALNRANKS")
    return Environment(
        rank=_number(variables, "RANK"),
        world_size=_number(variables, "WORLD_SIZE"),
        local_rank=_local_rank(variables),
        local_world_size=_number(variables, "LOCAL_WORLD_SIZE"),
        node_rank=_number(variables, "NODE_RANK"),
        address=_address(variables),
        backend=variables.get("DISTGRAD_BACKEND") or None,
        nccl_provider=variables.get("DISTGRAD_NCCL_PROVIDER") or None,
        supervisor=variables.get("DISTGRAD_SUPERVISOR") or None,
        job_secret=variables.get("DISTGRAD_JOB_SECRET") or None,
        progress=variables.get("DISTGRAD_PROGRESS") or None,
        timeout_s=timeout_s,
        mpi_size=mpi_size if mpi_size is not None else _number(variables, "OMPI_COMM_WORLD_SIZE"),
        mpi_rank=_mpi_rank(variables),
        # Under our launcher a step of Slurm is one task a node, whatever runs in it.
        mpi_local_size=(
            mpi_local_size if mpi_local_size is not None else _number(variables, "OMPI_COMM_WORLD_LOCAL_SIZE")
        ),
        slurm_size=None if "DISTGRAD_SUPERVISOR" in variables else _number(variables, "SLURM_STEP_NUM_TASKS"),
        keep_memory=variables.get("DISTGRAD_KEEP_MEMORY", "1") != "0",
        gpu_libraries=variables.get("DISTGRAD_GPU_LIBRARIES", "1") != "0",
        num_threads=given_threads(variables, THREAD_VARIABLES[:2]),  # what NumPy's library looks at, too
        cache_home=Path(variables.get("XDG_CACHE_HOME") or "~/.cache").expanduser(),
        torch_home=variables.get("TORCH_HOME") or None,
        numba_cache=variables.get("NUMBA_CACHE_DIR") or None,
        kernel_cache=variables.get("DISTGRAD_CACHE") or None,
        processor=variables.get("NUMBA_CPU_NAME") or None,
        job_end_s=_number(variables, "SLURM_JOB_END_TIME"),
        trace=variables.get("DISTGRAD_TRACE") or None,
        trace_ops=variables.get("DISTGRAD_TRACE_OPS") == "1",
        trace_spans=variables.get("DISTGRAD_TRACE_SPANS") != "0",
        trace_spool=variables.get("DISTGRAD_TRACE_SPOOL") or None,
        memory=variables.get("DISTGRAD_MEMORY") or None,
        attempt=_number(variables, "DISTGRAD_ATTEMPT") or 0,
        nvtx=bool(variables.get("NVTX_INJECTION64_PATH")),
        no_color=bool(variables.get("NO_COLOR")),
    )


_TRACE = tuple(f"DISTGRAD_TRACE{end}" for end in ("", "_OPS", "_SPANS", "_SPOOL"))


def is_traced() -> bool:
    """Whether this process is to record what it does."""
    return not os.environ.keys().isdisjoint(_TRACE)


def untrace() -> None:
    """Take back what :func:`is_traced` has found: processes that this one starts are not the job's ranks."""
    for name in _TRACE:
        os.environ.pop(name, None)


_placed: set[str] = set()  # the variables that :func:`place` has set, and nobody before it


def place(rank: int, world_size: int, local_rank: int, local_world_size: int, node_rank: int) -> None:
    """Set ``RANK`` and so on for the script, where no launcher of ours has: under mpirun and srun.

    Args:
        rank: this process's place among all ranks.
        world_size: the number of ranks.
        local_rank: its place among the ranks of its host.
        local_world_size: the number of ranks on its host.
        node_rank: the place of its host among the hosts, in the order of their first ranks.
    """
    numbers = (rank, world_size, local_rank, local_world_size, node_rank)
    for name, number in zip(_PLACE, numbers, strict=True):
        if name not in os.environ:
            os.environ[name] = str(number)
            _placed.add(name)


def unplace() -> None:
    """Take back what :func:`place` has set."""
    while _placed:
        os.environ.pop(_placed.pop(), None)


_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")
_WORLD = (
    *_PLACE,
    "SLURM_STEP_NUM_TASKS",
    *("DISTGRAD_BACKEND", "DISTGRAD_SUPERVISOR", "DISTGRAD_JOB_SECRET", "DISTGRAD_PROGRESS"),
    "DISTGRAD_MEMORY",
    *_TRACE,
)
_MPI = ("PMI_", "PMIX_", "OMPI_", "HYDI_")


def without_world(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables (default: the process's) for a helper process that is no rank, free of the launcher's."""
    if variables is None:
        variables = os.environ
    return {k: v for k, v in variables.items() if k not in _WORLD and not k.startswith(_MPI)}
