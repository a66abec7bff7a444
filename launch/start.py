"""What starts the ranks of a job: a program of ours on this machine, or an MPI library's (``mpirun.py``)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from .entry import __file__ as entry_file

__all__ = ["Starter", "without_mpi"]

_PREFIXES = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_")  # of what MPI libraries tell a rank


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

    def run(self) -> subprocess.Popen[bytes]:
        """Start it, with what it writes in a pipe.

        Raises:
            OSError: it cannot be run.
        """
        return subprocess.Popen(
            self.command,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C is the supervisor's to pass on
        )


def without_mpi(
    world_size: int, target: tuple[str, ...], environment: Mapping[str, str], on_gpus: bool = False
) -> Starter:
    """Start ``world_size`` ranks of ``target`` on this machine without MPI.

    Args:
        world_size: number of ranks.
        target: script and arguments, or ``-m``, module and arguments.
        environment: the variables for the ranks.
        on_gpus: the ranks communicate by NCCL.
    """
    # Inside a rank of some MPI job, these ranks would take themselves for that one.
    own = {name: value for name, value in environment.items() if not name.startswith(_PREFIXES)}
    if world_size > 1 or on_gpus:
        own["DISTGRAD_BACKEND"] = "nccl" if on_gpus else "shm"
    return Starter((sys.executable, entry_file, f"0:{world_size}", *target), own)
