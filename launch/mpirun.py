"""Start ranks through the MPI library's own starter, and clear away what a killed MPI job leaves."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distgrad.errors import MissingDependencyError

from . import rank as rank_file
from .plan import Host

__all__ = ["Starter", "direct", "mpiexec", "remove_segments"]

_MPI_PREFIXES = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_")
_SEGMENT_FOLDER = Path("/dev/shm")
_SEGMENT_PREFIXES = ("mpich_shm_", "mpich_vci_")


@dataclass(frozen=True)
class Starter:
    """How the ranks of a job are started.

    Attributes:
        command: the program and its arguments, complete.
        environment: what the program is started with.
        note: what the user should know about the choice; empty if nothing.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    note: str = ""


def direct(world_size: int, target: tuple[str, ...], environment: Mapping[str, str]) -> Starter:
    """Start ``world_size`` ranks of ``target`` on this machine without MPI.

    Args:
        world_size: number of ranks.
        target: script and arguments, or ``-m``, module and arguments.
        environment: the variables for the ranks.
    """
    # Inside a rank of some MPI job, these ranks would take themselves for that one.
    own = {name: value for name, value in environment.items() if not name.startswith(_MPI_PREFIXES)}
    if world_size > 1:
        own["DISTGRAD_BACKEND"] = "shm"
    return Starter((sys.executable, rank_file.__file__, f"0:{world_size}", *target), own)


def mpiexec(
    hosts: Sequence[Host], target: tuple[str, ...], environment: Mapping[str, str], reach: str
) -> Starter:
    """Start ranks of ``target`` by the ``mpiexec`` that stands beside this Python.

    So it belongs to the MPI library that this environment's mpi4py loads.

    Args:
        hosts: the hosts, each with as many slots as ranks run there.
        target: script and arguments, or ``-m``, module and arguments.
        environment: the variables for the ranks.
        reach: the command that reaches other hosts, ssh's or srun's; empty if this machine is the only one.

    Raises:
        MissingDependencyError: no ``mpiexec`` was found.
    """
    path, note = _find_mpiexec(environment)
    num_ranks = sum(host.slots for host in hosts)
    if not reach:
        # The fork launcher and the named host keep Hydra from asking a batch system where to go.
        where = ["-launcher", "fork", "-hosts", "localhost"]
        settings = {}
    else:
        program, *extra = shlex.split(reach)
        launcher = "slurm" if os.path.basename(program) == "srun" else "ssh"
        names = ",".join(f"{host.name}:{host.slots}" for host in hosts)
        where = ["-launcher", launcher, "-launcher-exec", shutil.which(program) or program, "-hosts", names]
        settings = {"HYDRA_LAUNCHER_EXTRA_ARGS": " ".join(extra)} if extra else {}
    # Without automatic cleanup mpiexec leaves it to the supervisor to end the others, which then knows who
    # was first.
    options = (*where, "-disable-auto-cleanup", "-n", str(num_ranks))
    command = (path, *options, sys.executable, rank_file.__file__, "PMI_RANK", *target)
    own = {"HWLOC_XMLFILE": os.devnull, **environment, **settings}  # or mpiexec leaves a file in /tmp
    own["DISTGRAD_BACKEND"] = "mpi"
    return Starter(command, own, note)


def _find_mpiexec(environment: Mapping[str, str]) -> tuple[str, str]:
    """The path of mpiexec, and a note if it is not this environment's own."""
    # An installer puts console scripts beside the interpreter; a resolved link would lead out of a venv.
    folder = os.path.dirname(sys.executable)
    beside = shutil.which("mpiexec", path=folder)
    if beside is not None:
        return beside, ""
    elsewhere = shutil.which("mpiexec", path=environment.get("PATH"))
    if elsewhere is None:
        raise MissingDependencyError(
            f"launch: more than one rank needs mpiexec, and there is none in {folder} nor on PATH; "
            'run: pip install "distgrad[mpi]"'
        )
    return elsewhere, (
        f"launch: using {elsewhere} from PATH, as {folder} has no mpiexec; if ranks do not find each other, "
        'run: pip install "distgrad[mpi]"'
    )


def remove_segments(since_s: float) -> list[str]:
    """Remove the shared-memory files that MPICH ranks left when they were killed; return their names.

    Their names say nothing of the job. A file is garbage if it is this user's, was made after the job began,
    and no process of this machine has it open or mapped: MPICH closes a segment only after it has mapped it,
    so looking for descriptors first and for maps second misses no user of it.

    Args:
        since_s: when the job began, in seconds of ``time.time()``.
    """
    garbage = set()
    for prefix in _SEGMENT_PREFIXES:
        for path in _SEGMENT_FOLDER.glob(f"{prefix}*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if status.st_uid == os.getuid() and status.st_ctime >= since_s:
                garbage.add(str(path))
    if not garbage:
        return []
    garbage -= _opened() | _mapped()
    for name in garbage:
        Path(name).unlink(missing_ok=True)
    return sorted(garbage)


def _opened() -> set[str]:
    """The files that processes of this machine have open, as far as this user may see."""
    names = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # another user's, or just closed
            names.add(os.readlink(link))
    return names


def _mapped() -> set[str]:
    """The files of the segment folder that processes of this machine have mapped."""
    names = set()
    for path in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        names |= {line.split(maxsplit=5)[-1] for line in lines if f" {_SEGMENT_FOLDER}/" in line}
    return names
