"""A machine's GPUs, as far as the start of a job depends on them."""

from __future__ import annotations

import glob
import importlib.util
import sys
from collections.abc import Mapping, Sequence

from distgrad.errors import LaunchError, MissingDependencyError

from .plan import Host

__all__ = ["FILES", "check", "count", "shortage"]

FILES = "/dev/nvidia[0-9]*"  # the driver makes one a GPU, and a container is given those of its share


def count(variables: Mapping[str, str], files: str = FILES) -> int:
    """How many GPUs a rank of this machine sees.

    Args:
        variables: the rank's; CUDA counts what stands in CUDA_VISIBLE_DEVICES, up to the first that is none.
        files: the pattern of the driver's device files.
    """
    chosen = variables.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return len(glob.glob(files))
    entries = [entry.strip() for entry in chosen.split(",")]
    valid = [entry != "" and not entry.startswith("-") for entry in entries]
    return [*valid, False].index(False)


def shortage(num_gpus: int, num_ranks: int) -> str:
    """Why a host cannot give each of its ranks a GPU; empty if it can."""
    if num_gpus >= num_ranks:
        return ""
    shown = f"{num_gpus} GPU{'s' * (num_gpus > 1)}" if num_gpus else "no GPU"
    return (
        f"it shows {shown} to {num_ranks} rank{'s' * (num_ranks > 1)}, and backend nccl needs one for each; "
        "start no more ranks there (--nproc-per-node gpu), or use backend mpi or shm"
    )


def check(hosts: Sequence[Host], variables: Mapping[str, str]) -> None:
    """See before the start that this machine has what backend nccl needs.

    Args:
        hosts: this machine, with as many slots as ranks run here; empty if none does.
        variables: those of the ranks.

    Raises:
        MissingDependencyError: this Python has no CuPy.
        LaunchError: it has too few GPUs.
    """
    if importlib.util.find_spec("cupy") is None:
        raise MissingDependencyError(
            f"launch: backend nccl needs CuPy, which {sys.executable} does not have; "
            'run: pip install "distgrad[cuda13]" (CUDA 13 drivers) or "distgrad[cuda12]"'
        )
    for host in hosts:
        problem = shortage(count(variables), host.slots)
        if problem:
            seen = variables.get("CUDA_VISIBLE_DEVICES")
            where = f"by CUDA_VISIBLE_DEVICES={seen}" if seen is not None else "in /dev"
            raise LaunchError(f"launch: host {host.name}: {problem} (counted {where})")
