"""A Slurm allocation: its hosts, and starting ranks in it with srun."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

from distgrad.errors import LaunchError

from . import rank as rank_file
from .mpirun import Starter
from .plan import Host

__all__ = ["allocation", "expand_tasks", "srun"]


def expand_tasks(text: str) -> list[int]:
    """Tasks of each node out of Slurm's short form: ``2(x3),1`` is ``[2, 2, 2, 1]``.

    Raises:
        LaunchError: it is none of Slurm's.
    """
    counts = []
    for part in text.split(","):
        match = re.match(r"^(\d+)(?:\(x(\d+)\))?$", part)
        if match is None:
            raise LaunchError(f"launch: SLURM_TASKS_PER_NODE must be like 2(x3),1, got {text!r}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def allocation(variables: Mapping[str, str]) -> list[Host]:
    """The hosts of the allocation that this process runs in, a slot a task; empty outside of any.

    Raises:
        LaunchError: this is one of several tasks that srun has started, or Slurm cannot name the hosts.
    """
    nodes = variables.get("SLURM_JOB_NODELIST")
    if not nodes or "SLURM_JOB_ID" not in variables:
        return []
    if "SLURM_STEP_NUM_TASKS" in variables and int(variables["SLURM_STEP_NUM_TASKS"]) > 1:
        raise LaunchError(
            f"launch: srun has started {variables['SLURM_STEP_NUM_TASKS']} tasks, and each would start a job "
            "of its own; run distgrad run without srun, or start the script itself: srun python SCRIPT"
        )
    found = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False
    )
    names = found.stdout.split()
    if found.returncode or not names:
        raise LaunchError(f"launch: scontrol cannot name the hosts of {nodes!r}: {found.stderr.strip()}")
    # Outside a step, only what was asked for by --ntasks is known; else a task a node.
    tasks = expand_tasks(variables.get("SLURM_TASKS_PER_NODE") or f"1(x{len(names)})")
    return [Host(name, slots) for name, slots in zip(names, tasks, strict=True)]


def srun(hosts: Sequence[Host], target: tuple[str, ...], environment: Mapping[str, str]) -> Starter:
    """Start ranks of ``target`` as one step of the allocation, each host with its number of ranks.

    Args:
        hosts: the hosts, each with as many slots as ranks run there.
        target: script and arguments, or ``-m``, module and arguments.
        environment: the variables for the ranks.
    """
    places = [host.name for host in hosts for _ in range(host.slots)]
    command = (
        *("srun", "--mpi=pmi2", f"--ntasks={len(places)}", f"--nodes={len(hosts)}"),
        *("--distribution=arbitrary", f"--nodelist={','.join(places)}", "--overlap", "--export=ALL"),
        # The supervisor ends the others, and knows who was first.
        *("--kill-on-bad-exit=0", "--input=none", "--cpu-bind=none"),
        *(sys.executable, rank_file.__file__, "SLURM_PROCID", *target),
    )
    own = {"HWLOC_XMLFILE": os.devnull, **environment}
    own["DISTGRAD_BACKEND"] = "mpi"
    for name in ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_DISTRIBUTION"):
        own.pop(name, None)  # of the allocation; srun would take them for this step's
    return Starter(command, own)
