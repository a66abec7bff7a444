"""Start ranks through the MPI library's own starter, and clear away what a killed MPI job leaves."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from distgrad.errors import MissingDependencyError

from .entry import __file__ as entry_file
from .plan import Host
from .rank import SEGMENT_PREFIXES
from .start import Starter

__all__ = ["family", "mpiexec", "remove_segments"]

# What `mpiexec --version` says, in the order in which it is unmistakable: Intel's is a Hydra too.
_FAMILIES = {"Open MPI": r"open ?mpi|prrte|open-mpi", "Intel MPI": "intel", "MPICH": "hydra|mpich"}
_SEGMENT_FOLDER = Path("/dev/shm")


def mpiexec(
    hosts: Sequence[Host],
    target: tuple[str, ...],
    environment: Mapping[str, str],
    reach: str,
    on_gpus: bool = False,
) -> Starter:
    """Start ranks of ``target`` by the ``mpiexec`` that stands beside this Python.

    So it belongs to the MPI library that this environment's mpi4py loads.

    Args:
        hosts: the hosts, each with as many slots as ranks run there.
        target: script and arguments, or ``-m``, module and arguments.
        environment: the variables for the ranks.
        reach: the command that reaches other hosts, ssh's or srun's; empty if this machine is the only one.
        on_gpus: the ranks communicate by NCCL, and their hosts by MPI.

    Raises:
        MissingDependencyError: no ``mpiexec`` was found.
    """
    path, note = _find_mpiexec(environment)
    kind = family(path)
    if kind == "Open MPI":
        options, settings, variable = *_open_mpi(hosts, reach), "OMPI_COMM_WORLD_RANK"
    else:
        options, settings, variable = *_hydra(kind, hosts, reach), "PMI_RANK"
    rank = (sys.executable, entry_file, variable, *target)
    if kind == "Intel MPI" and reach:  # it fills the first host, whatever stands in -hosts
        parts = [(":", "-host", host.name, "-n", str(host.slots), *rank) for host in hosts]
        where = [word for part in parts for word in part][1:]
    else:
        where = ["-n", str(sum(host.slots for host in hosts)), *rank]
    command = (path, *options, *where)
    backend = {"DISTGRAD_BACKEND": "nccl" if on_gpus else "mpi"}
    return Starter(command, {**settings, **environment, **backend}, note)


def family(path: str) -> str:
    """Whose an ``mpiexec`` is: ``MPICH``, ``Intel MPI``, ``Open MPI``, or why it does not say."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    words = done.stdout + done.stderr
    return next(
        (name for name, form in _FAMILIES.items() if re.search(form, words, re.IGNORECASE)), "unknown"
    )


def _hydra(kind: str, hosts: Sequence[Host], reach: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The options and settings of MPICH's and Intel's mpiexec.

    Without automatic cleanup mpiexec leaves it to the supervisor to end the others, which then knows who was
    first.
    """
    is_intel = kind == "Intel MPI"
    # Or MPICH's leaves a file in /tmp; Intel's does not survive it.
    settings = {} if is_intel else {"HWLOC_XMLFILE": os.devnull}
    if not reach:
        # The fork launcher and the named host keep Hydra from asking a batch system where to go.
        return ("-launcher", "fork", "-hosts", "localhost", "-disable-auto-cleanup"), settings
    program, *extra = shlex.split(reach)
    if extra:
        name = "I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS" if is_intel else "HYDRA_LAUNCHER_EXTRA_ARGS"
        settings[name] = " ".join(extra)
    launcher = "slurm" if os.path.basename(program) == "srun" else "ssh"
    where = ["-launcher", launcher, "-launcher-exec", shutil.which(program) or program]
    if not is_intel:
        where += ["-hosts", ",".join(f"{host.name}:{host.slots}" for host in hosts)]
    return (*where, "-disable-auto-cleanup"), settings


def _open_mpi(hosts: Sequence[Host], reach: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The options and settings of Open MPI's mpiexec.

    By default it refuses root and more ranks than cores, binds ranks to cores, which is ours to do, gives
    ranks of other hosts none of the variables, and looks for network cards for a second at the start.
    """
    settings = {"OMPI_MCA_btl": "^ofi"}
    if os.geteuid() == 0:
        settings |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    names = [f"{host.name if reach else 'localhost'}:{host.slots}" for host in hosts]
    options = ("--host", ",".join(names), "--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none", "-x", "*")
    if not reach:
        settings |= {"PRTE_MCA_ras": "^slurm,pbs", "PRTE_MCA_plm": "ssh"}
    elif os.path.basename(shlex.split(reach)[0]) == "srun":
        settings |= {"PRTE_MCA_plm_slurm_args": "--overlap --cpu-bind=none --mpi=none"}
    else:
        settings |= {"PRTE_MCA_ras": "^slurm,pbs", "PRTE_MCA_plm": "ssh", "PRTE_MCA_plm_ssh_agent": reach}
    return options, settings


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
    """Remove the shared-memory files that MPI ranks left when they were killed; return their names.

    Their names say nothing of the job. A file is garbage if it is this user's, was made after the job began,
    and no process of this machine has it open or mapped: MPI closes a segment only after it has mapped it,
    so looking for descriptors first and for maps second misses no user of it.

    Args:
        since_s: when the job began, in seconds of ``time.time()``.
    """
    garbage = set()
    for prefix in SEGMENT_PREFIXES:
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
    for link in glob.iglob("/proc/[0-9]*/fd/*"):  # where pathlib's raises if a process ends meanwhile
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
