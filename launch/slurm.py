"""A Slurm allocation: its hosts, and how they are reached."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence

from distgrad.errors import LaunchError

from . import commands
from .plan import Host

__all__ = ["SRUN", "allocation", "expand_tasks", "problems", "requeue"]

_TIMEOUT_S = 30.0
_DOWN = ("down", "fail", "drained", "powered_down", "unknown")
# mpiexec starts one process a node by it, which starts the ranks. So ranks find each other by their own MPI's
# means, whatever Slurm was built with; a step of its own must not wait for the script's.
SRUN = "srun --overlap --cpu-bind=none --mpi=none"


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
    found = _ask("scontrol", "show", "hostnames", nodes)
    names = found.stdout.split()
    if found.returncode or not names:
        raise LaunchError(f"launch: scontrol cannot name the hosts of {nodes!r}: {found.stderr.strip()}")
    # Outside a step, only what was asked for by --ntasks is known; else a task a node.
    tasks = expand_tasks(variables.get("SLURM_TASKS_PER_NODE") or f"1(x{len(names)})")
    return [Host(name, slots) for name, slots in zip(names, tasks, strict=True)]


def problems(names: Sequence[str], variables: Mapping[str, str]) -> dict[str, str]:
    """Why nodes of the allocation cannot be used now, by their names; none if Slurm does not answer.

    A node that was down, be it for a moment, is taken from the job, which goes on without it only if it was
    submitted with ``--no-kill``, and does not get it back.
    """
    kept = _ask("squeue", "--noheader", "--jobs", variables["SLURM_JOB_ID"], "--format", "%N").stdout.strip()
    nodes = _ask("scontrol", "show", "hostnames", kept).stdout.split() if kept else names
    listed = _ask("sinfo", "--noheader", "--Node", "--nodes", ",".join(names), "--format", "%N %T").stdout
    states = dict(line.split(maxsplit=1) for line in listed.splitlines() if " " in line)
    found = {}
    for name in names:
        state = states.get(name, "")
        if state.startswith(_DOWN) or state.endswith("*"):  # * of one that is silent
            found[name] = f"Slurm says that it is {state}"
        elif name not in nodes:
            found[name] = "Slurm has taken it from the job, as it was down"
    return found


def requeue(variables: Mapping[str, str]) -> str:
    """Put this job into the queue anew, which ends it; returns why that could not be done, or nothing."""
    done = _ask("scontrol", "requeue", variables["SLURM_JOB_ID"])
    return done.stderr.strip() if done.returncode else ""


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    """What one of Slurm's programs answers; one that is missing or does not end has failed."""
    try:
        return commands.run(command, _TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
