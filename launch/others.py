"""Options of torchrun and horovodrun, as data: what they are called here, or why they are not needed.

Whoever comes from there finds that his command line works. An option of no use here is told of once, with
the reason; one that asks for what is not here is an error that names the way.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["add_others", "notes", "ssh_command"]

_SHARED = "the ranks of a host share memory, and those of several talk by MPI; see --backend"
_FOUND = "the ranks find each other by themselves"
_SELF = "buckets are measured, not tuned by hand; see bucket_cap_mb of DistributedDataParallel"
_TRACE = "give --trace FILE for a timeline of all ranks"

#: Without a value: why it is not needed.
_FLAGS = {
    "--standalone": _FOUND,
    "--gloo": _SHARED,
    "--mpi": _SHARED,
    "--jsrun": "on such a cluster, start with its own launcher and --backend mpi in DISTGRAD_BACKEND",
    "--tcp": _SHARED,
    "--verbose": "the launcher tells what goes wrong, and --dry-run what would be started",
    "--disable-cache": "hosts are looked at anew each time",
    "--use-env --use_env": "LOCAL_RANK is always in the environment",
    "--autotune": _SELF,
    "--no-autotune": _SELF,
    "--hierarchical-allreduce": _SHARED,
    "--hierarchical-allgather": _SHARED,
    "--timeline-mark-cycles": _TRACE,
    "--no-stall-check": "give --hang-after inf to wait for ever",
    "--prefix-output-with-timestamp": "lines begin with their rank",
}

#: With a value: why it is not needed.
_VALUES = {
    "--rdzv-backend --rdzv_backend": _FOUND,
    "--rdzv-endpoint --rdzv_endpoint": _FOUND,
    "--rdzv-id --rdzv_id": _FOUND,
    "--rdzv-conf --rdzv_conf": _FOUND,
    "--node-rank --node_rank": "one command starts the ranks of all --hosts",
    "--local-addr --local_addr": _FOUND,
    "--monitor-interval --monitor_interval": "a rank's end is seen at once",
    "--start-method --start_method": "ranks are forks of one Python",
    "--role": "all ranks have one role",
    "--redirects -r": "give --log-dir to keep each rank's output",
    "--tee": "give --log-dir to keep each rank's output",
    "--network-interface --network-interfaces --nics": "the system's routes decide",
    "--start-timeout": "give --timeout for the whole job",
    "--gloo-timeout-seconds": "set DISTGRAD_TIMEOUT",
    "--fusion-threshold-mb": _SELF,
    "--cycle-time-ms": _SELF,
    "--cache-capacity": "calls are compared at every meeting",
    "--timeline-filename": _TRACE,
    "--log-level": "the launcher tells what goes wrong",
    "--num-nccl-streams": _SHARED,
    "--thread-affinity": "give --bind for processor cores of each rank's own",
    "--stall-check-warning-time-seconds": "give --hang-after S",
    "--stall-check-shutdown-time-seconds": "give --hang-after S",
    "--slots-per-host --slots": "give --nproc-per-node, or slots in --hosts",
    "--blacklist-cooldown-range": "a host whose ranks keep failing has its slots back after ten minutes",
}

#: What asks for something that is not here, and the way.
_REFUSED = {
    "--no-python --no_python": "the script must be Python's; start other programs by mpirun",
    "--mpi-args": "start with mpirun itself: mpirun ARGS python train.py",
    "--config-file": "write the options on the command line",
}


class _Taken(argparse.Action):
    """Keeps why an option is not needed."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.taken = [*namespace.taken, f"{option_string}: {self.const}"]


class _Refused(argparse.Action):
    """Ends with the way."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        parser.error(f"{option_string} is not to be had: {self.const}")


def add_others(parser: argparse.ArgumentParser) -> None:
    """Have a parser take the options of torchrun and horovodrun."""
    parser.set_defaults(taken=[])
    add = parser.add_argument_group("of torchrun and horovodrun").add_argument
    add("-p", "--ssh-port", type=int, metavar="PORT", help="the port of ssh")
    add("-i", "--ssh-identity-file", metavar="FILE", help="the key of ssh")
    add("--output-filename", "--log_dir", dest="log_dir", type=Path, metavar="DIR", help="as --log-dir")
    add("--master-addr", "--master_addr", dest="master_addr", metavar="HOST", help="sets MASTER_ADDR")
    add("--master-port", "--master_port", dest="master_port", metavar="PORT", help="sets MASTER_PORT")
    for table, count in ((_FLAGS, 0), (_VALUES, 1)):
        for names, reason in table.items():
            options: dict[str, Any] = {} if count else {"nargs": 0}
            add(*names.split(), action=_Taken, const=reason, help=argparse.SUPPRESS, **options)
    for names, reason in _REFUSED.items():
        add(*names.split(), action=_Refused, nargs="?", const=reason, help=argparse.SUPPRESS)


def ssh_command(options: argparse.Namespace) -> str:
    """The command that reaches other hosts, with the port and the key that were given."""
    port = [] if options.ssh_port is None else ["-p", str(options.ssh_port)]
    key = [] if options.ssh_identity_file is None else ["-i", options.ssh_identity_file]
    return " ".join([options.ssh, shlex.join([*port, *key])]).strip()


def notes(taken: Sequence[str]) -> str:
    """What is told of options that are not needed; empty without any."""
    return "\n".join(f"launch: not needed, {each}" for each in taken)
