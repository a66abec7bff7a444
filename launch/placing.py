"""Which hosts a job has, where its ranks run on them, and how they are started."""

from __future__ import annotations

import argparse
import os
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from distgrad import env
from distgrad.errors import LaunchError

from . import gpus, hosts, mpirun, plan, slurm, ssh, start
from .others import ssh_command
from .start import Starter

__all__ = ["Job", "Planner"]


@dataclass(frozen=True)
class Job:
    """What is started.

    Attributes:
        specs: the ranks.
        start: makes the starter from the variables for the ranks.
        address: this machine's address on the network of the job.
    """

    specs: tuple[plan.RankSpec, ...]
    start: Callable[[Mapping[str, str]], Starter]
    address: str = "127.0.0.1"


class Planner:
    """Turns the options into hosts, and hosts into ranks.

    Args:
        options: of the command line.
        target: script and arguments, or ``-m``, module and arguments.
        paths: files and folders that every host must have under the same path.
        given: the variables for the ranks.

    Raises:
        LaunchError: options that exclude each other, or hosts that nobody can name.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        target: tuple[str, ...],
        paths: Sequence[str],
        given: Mapping[str, str],
    ) -> None:
        self._options, self._target, self._paths, self._given = options, target, paths, given
        self._backend = options.backend or env.read(given).backend
        self._by_slurm = False
        self._named = self._find()

    def named(self) -> list[plan.Host]:
        """The hosts that were named, as they are named now.

        Raises:
            LaunchError: nobody can name them.
        """
        return hosts.select(self._named(), self._options.nnodes, self._options.per_node)

    def _find(self) -> Callable[[], list[plan.Host]]:
        """What names the hosts: options, a Slurm allocation, or this machine's own name."""
        options = self._options
        given = [
            name
            for name, value in (
                ("--hosts", options.hosts), ("--hostfile", options.hostfile),
                ("--hosts-from", options.hosts_from),
            )
            if value is not None
        ]  # fmt: skip
        if len(given) > 1:
            raise LaunchError(f"launch: {' and '.join(given)} were both given; give one of them")
        if options.ranks is not None and options.per_node is not None:
            raise LaunchError("launch: -n and --nproc-per-node were both given; give one of them")
        if options.hosts_from is not None:
            return hosts.source(options.hosts_from)
        if options.hosts is not None:
            found = hosts.parse_hosts(options.hosts)
        elif options.hostfile is not None:
            found = hosts.read_hostfile(options.hostfile)
        else:
            found = slurm.allocation(os.environ)
            self._by_slurm = bool(found)
        if not found:  # this machine takes as many ranks as are wanted
            wanted = options.max_ranks or options.ranks or options.per_node or 1
            found = [plan.Host(socket.gethostname(), wanted)]
        return lambda: found

    @property
    def _reach(self) -> str:
        return slurm.SRUN if self._by_slurm else ssh_command(self._options)

    def reach(self, host: str) -> list[str]:
        """The command that runs another, as one word, on a host; empty for this one."""
        if hosts.is_local(host, must_resolve=False):
            return []
        if self._by_slurm:
            return [*shlex.split(slurm.SRUN), "--nodes=1", "--ntasks=1", f"--nodelist={host}", "sh", "-c"]
        return [*shlex.split(self._reach), host]

    def problems(self, found: Sequence[plan.Host]) -> dict[str, str]:
        """Why hosts cannot be used now, by their names; it takes a moment to find out."""
        names = [host.name for host in found]
        told: dict[str, str] = slurm.problems(names, os.environ) if self._by_slurm else {}
        remote = []
        for host in found:
            try:
                if not hosts.is_local(host.name):
                    remote.append(host)
            except LaunchError as error:
                told[host.name] = str(error).removeprefix(f"launch: host {host.name}: ")
        if not self._by_slurm:
            told |= ssh.problems(remote, self._reach, self._paths, self._backend == "nccl")
        return told

    def place(self, found: Sequence[plan.Host], num_ranks: int, *, check: bool = True) -> Job:
        """Put ranks on hosts.

        Args:
            found: the hosts.
            num_ranks: how many ranks.
            check: whether to see before that the hosts can be used.

        Raises:
            LaunchError: there are too few slots, or a host cannot be used.
            MissingDependencyError: a package that the backend needs.
        """
        target, dry = self._target, self._options.dry_run
        specs = plan.place(found, num_ranks)
        used = plan.count(specs)
        remote = [host for host in used if not hosts.is_local(host.name, must_resolve=not dry)]
        on_gpus = self._backend == "nccl"
        if on_gpus:
            gpus.check([host for host in used if host not in remote], self._given)
        if not remote and len(used) == 1 and self._backend == "mpi":
            return Job(specs, lambda variables: mpirun.mpiexec(used, target, variables, ""))
        if not remote and len(used) == 1:
            return Job(specs, lambda variables: start.without_mpi(len(specs), target, variables, on_gpus))
        if self._backend == "shm":
            names = ", ".join(host.name for host in used)
            raise LaunchError(
                f"launch: --backend shm is for one host, this one, but the hosts are {names}; use mpi"
            )
        reach = self._reach
        job = Job(specs, lambda variables: mpirun.mpiexec(used, target, variables, reach, on_gpus))
        if dry:  # perhaps far from these hosts
            return job
        if check and not self._by_slurm:
            ssh.check_hosts(remote, reach, self._paths, on_gpus)
        return replace(job, address=hosts.job_address(remote[0].name)) if remote else job
