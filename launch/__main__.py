"""``distgrad run`` and ``python -m distgrad.launch``: start a script on several ranks."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distgrad import env
from distgrad.errors import LaunchError, MissingDependencyError

from . import exit_codes, gpus, hosts, mpirun, plan, slurm, ssh, start
from .delivery import deliver
from .entry import __file__ as entry_file
from .job import SIGNAL_GRACE_S, Options
from .limits import allow_files
from .logs import Console
from .loop import STOPPING
from .others import add_others, notes, ssh_command
from .rank import usable_cores
from .start import Starter
from .supervise import LAST_WORDS_S, Supervisor
from .tracing import tracing

__all__ = ["main"]

#: Before a restart after an attempt without a step, but for the first; each twice the one before.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_OWN_FILES = 20  # 16 were open at most


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _restarts(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, got {text!r}")
    return seconds


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        value = os.environ.get(name, "")
    if not name or not (equals or name in os.environ):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, or a NAME that is set here, got {text!r}")
    return name, value


def _per_node(text: str) -> int:
    """A number of ranks a host, or one for each of this machine's cores or GPUs, as torchrun says it."""
    if text not in ("auto", "cpu", "gpu"):
        return _count(text)
    found = gpus.count(os.environ)
    if text == "gpu" and not found:
        raise argparse.ArgumentTypeError("'gpu' was asked for, but this machine shows no GPU")
    return found if found and text != "cpu" else len(usable_cores())


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        usage="%(prog)s [-n RANKS] [options] (script.py | -m module) [ARGS...]",
        description="Start a Python script on several ranks and watch them: on this machine, on --hosts over "
        "ssh, or in the Slurm allocation that this runs in. What stands after the script belongs to the "
        "script. The exit code is that of the first rank that failed (128 + number for a signal), 3 after a "
        "hang, 124 after --timeout, 130 after Ctrl-C.",
        allow_abbrev=False,
    )
    _add_places(parser.add_argument_group("where").add_argument)
    add = parser.add_argument_group("what").add_argument
    add("-x", "--env", dest="env", type=_assignment, action="append", default=[], metavar="NAME[=VALUE]",
        help="an environment variable for the ranks (they have all of this shell's); may be given several "
        "times")  # fmt: skip
    add("-m", "--module", action="store_true", help="the script is a module, as in python -m")
    add("--torch", action="store_true",
        help="the script is written for PyTorch: its import torch is answered by distgrad.torch")  # fmt: skip
    add("--dry-run", action="store_true", help="print what would be started, and start nothing; works "
        "away from the hosts, too")  # fmt: skip
    _add_watching(parser.add_argument_group("watching").add_argument)
    add_others(parser)
    parser.add_argument("script", help="the script, or with -m the module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS",
        help="arguments of the script").required = False  # fmt: skip
    return parser


def _add_places(add: Callable[..., argparse.Action]) -> None:
    add("-n", "-np", "--num-proc", dest="ranks", type=_count, metavar="RANKS",
        help="number of ranks (default: 1, or all slots of the hosts)")  # fmt: skip
    add("-ppn", "--nproc-per-node", "--nproc_per_node", dest="per_node", type=_per_node, metavar="K",
        help="ranks on each host: a number, cpu, gpu or auto")  # fmt: skip
    add("--nnodes", type=_count, metavar="N", help="use the first N hosts")
    add(
        "-H",
        "--host",
        "--hosts",
        dest="hosts",
        metavar="A:4,B:4",
        help="hosts, each with its number of slots",
    )
    add("--hostfile", "--machinefile", type=Path, metavar="FILE",
        help="the same, one a line: 'name slots=4', 'name:4' or 'name'")  # fmt: skip
    add("--ssh", default=ssh.DEFAULT, metavar="COMMAND",
        help=f"what reaches other hosts (default: {ssh.DEFAULT})")  # fmt: skip
    add("--backend", choices=("shm", "mpi", "nccl"),
        help="how ranks communicate (default: shm on one host, mpi on several; nccl: on GPUs)")  # fmt: skip
    add("--bind", action="store_true", help="give each rank processor cores of its own")


def _add_watching(add: Callable[..., argparse.Action]) -> None:
    add("--log-dir", type=Path, metavar="DIR", help="write all output of rank R to DIR/rankR.txt")
    add("--quiet", action="store_true", help="show the output of rank 0 only, and tracebacks")
    add("--trace", type=Path, metavar="FILE",
        help="write a trace of all ranks to FILE, out.json.gz say, which Perfetto shows (default: "
        "DISTGRAD_TRACE)")  # fmt: skip
    add("--trace-ops", action="store_true", help="in the trace, also operations, by name and line")
    add("--timeout", type=_seconds, metavar="S", help="end the job if it takes longer than S seconds")
    add("--hang-after", type=_seconds, default=60.0, metavar="S",
        help="end the job when a rank waits S seconds for another (default: 60; inf: never)")  # fmt: skip
    add("--hang-report-only", action="store_true", help="say what hangs, and go on")
    add("--grace", type=_seconds, default=SIGNAL_GRACE_S, metavar="S",
        help="after SIGTERM, SIGINT or SIGHUP, give the ranks S seconds to end by themselves "
        "(default: 10)")  # fmt: skip
    add("--max-restarts", "--max_restarts", type=_restarts, default=0, metavar="R",
        help="start the job anew after a failure, at most R times")  # fmt: skip


@dataclass(frozen=True)
class _Job:
    """What the command line amounts to.

    Attributes:
        specs: the ranks.
        start: makes the starter from the variables for the ranks.
        address: this machine's address on the network of the job.
    """

    specs: tuple[plan.RankSpec, ...]
    start: Callable[[Mapping[str, str]], Starter]
    address: str = "127.0.0.1"


def _find_hosts(options: argparse.Namespace) -> tuple[list[plan.Host], bool]:
    """The hosts that were named, or those of a Slurm allocation, or this one; and whether Slurm gave them."""
    if options.hosts is not None and options.hostfile is not None:
        raise LaunchError("launch: --hosts and --hostfile were both given; give one of them")
    if options.ranks is not None and options.per_node is not None:
        raise LaunchError("launch: -n and --nproc-per-node were both given; give one of them")
    if options.hosts is not None:
        found, by_slurm = hosts.parse_hosts(options.hosts), False
    elif options.hostfile is not None:
        found, by_slurm = hosts.read_hostfile(options.hostfile), False
    else:
        found = slurm.allocation(os.environ)
        by_slurm = bool(found)
    if not found:  # this machine takes as many ranks as are wanted
        found = [plan.Host(socket.gethostname(), options.ranks or options.per_node or 1)]
    return hosts.select(found, options.nnodes, options.per_node), by_slurm


def _plan(
    options: argparse.Namespace, target: tuple[str, ...], paths: Sequence[str], given: Mapping[str, str]
) -> _Job:
    """Where the ranks run, and how they are started."""
    backend = options.backend or env.read(given).backend
    found, by_slurm = _find_hosts(options)
    specs = plan.place(found, options.ranks or sum(host.slots for host in found))
    used = plan.count(specs)
    remote = [host for host in used if not hosts.is_local(host.name, must_resolve=not options.dry_run)]
    on_gpus = backend == "nccl"
    if on_gpus:
        gpus.check([host for host in used if host not in remote], given)
    if not remote and len(used) == 1 and backend == "mpi":
        return _Job(specs, lambda variables: mpirun.mpiexec(used, target, variables, ""))
    if not remote and len(used) == 1:
        return _Job(specs, lambda variables: start.without_mpi(len(specs), target, variables, on_gpus))
    if backend == "shm":
        names = ", ".join(host.name for host in used)
        raise LaunchError(
            f"launch: --backend shm is for one host, this one, but the hosts are {names}; use mpi"
        )
    reach = slurm.SRUN if by_slurm else ssh_command(options)
    job = _Job(specs, lambda variables: mpirun.mpiexec(used, target, variables, reach, on_gpus))
    if options.dry_run:  # perhaps far from these hosts
        return job
    if not by_slurm:
        ssh.check_hosts(remote, reach, paths, on_gpus)
    return replace(job, address=hosts.job_address(remote[0].name)) if remote else job


def _dry_run(job: _Job, given: dict[str, str]) -> str:
    """What would be started, in lines that a shell would understand."""
    lines = [shlex.join(job.start(given).command)]
    for spec in job.specs:
        cores = usable_cores() if hosts.is_local(spec.host, must_resolve=False) else []
        found = plan.environment(spec, cores, given)
        variables = [f"{name}={shlex.quote(value)}" for name, value in found.items()]
        lines.append(f"# rank {spec.rank} on {spec.host}: {' '.join(variables)}")
    return "\n".join(lines)


def _attempts(
    job: _Job, options: argparse.Namespace, given: dict[str, str], console: Console, limits: Options
) -> tuple[int, Supervisor, list[str]]:
    """Run the job as often as is allowed; returns its code, the last supervisor, and why it was restarted."""
    causes: list[str] = []
    pause_s = 0.0
    while True:
        attempt = {
            "DISTGRAD_ATTEMPT": str(len(causes)),
            "DISTGRAD_ATTEMPT_CAUSE": causes[-1] if causes else "",
        }
        supervisor = Supervisor(job.specs, job.start, {**given, **attempt}, console, limits)
        try:
            code = supervisor.run(pause_s)
        except OSError as error:
            raise LaunchError(f"launch: the ranks could not be started: {error}") from error
        saved = any(rank.track.code == exit_codes.PREEMPTED for rank in supervisor.ranks)  # asked to end
        code = exit_codes.PREEMPTED if saved else code
        if supervisor.verdict is None or supervisor.stopped or saved or len(causes) == options.max_restarts:
            return code, supervisor, causes
        causes.append(supervisor.verdict.text.removeprefix("launch: "))
        if len(causes) == 1 or any(rank.track.step for rank in supervisor.ranks):
            pause_s = 0.0
        else:
            pause_s = min(2 * pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
        when = f"in {pause_s:g} s" if pause_s else "now"
        console.say(f"launch: restart {len(causes)} of {options.max_restarts} {when}")


def _run(job: _Job, options: argparse.Namespace, given: dict[str, str], console: Console) -> int:
    """Run the job, and run it anew after a failure as often as that is wanted."""
    limits = Options(
        options.timeout,
        options.hang_after,
        options.hang_report_only,
        options.bind,
        job.address,
        options.grace,
    )
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # but for the time that an attempt takes
    try:
        code, supervisor, causes = _attempts(job, options, given, console, limits)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if causes:
        lines = [f"  {number}. {cause}" for number, cause in enumerate(causes, 1)]
        console.say("\n".join([f"launch: restarted {len(causes)} times, after", *lines, f"Exit code {code}"]))
    verdict = deliver(console, LAST_WORDS_S if supervisor.stopped else supervisor.left_s)
    if not code and verdict is not None:
        code = verdict.code
        console.say(verdict.text)
        console.flush(LAST_WORDS_S)
    return code


def _with_package(given: dict[str, str]) -> dict[str, str]:
    """The variables with which ranks find the package where the launcher found it.

    In a folder that is not installed, ``python -m`` finds it in the current one, and a script would not; or
    it would find another, which is installed.
    """
    home = str(Path(sys.modules["distgrad"].__path__[0]).resolve().parent)
    if not sys.path or os.path.realpath(sys.path[0]) != home:
        return given
    return given | {"PYTHONPATH": os.pathsep.join(filter(None, [home, given.get("PYTHONPATH")]))}


def _meeting_place(options: argparse.Namespace, job: _Job) -> dict[str, str]:
    """``MASTER_ADDR`` and ``MASTER_PORT`` as torchrun sets them: the first rank's host, and a free port.

    Ranks of ours do not need them; programs read them, and PyTorch's own listen there.
    """
    first = job.specs[0].host
    here = hosts.is_local(first, must_resolve=False)
    alone = all(spec.host == first for spec in job.specs)
    with socket.create_server(("", 0)) as probe:
        port = str(probe.getsockname()[1]) if here else "29500"
    address = "127.0.0.1" if here and alone else first
    return {"MASTER_ADDR": options.master_addr or address, "MASTER_PORT": options.master_port or port}


def _check_files(number: int) -> None:
    """See that the launcher may open a line to each rank, log files, and what it needs itself."""
    needed = number + _OWN_FILES
    allowed = allow_files(needed)
    if allowed is not None:
        raise LaunchError(
            f"launch: this many ranks need {needed} open files at once, but the system allows {allowed}; "
            f"raise the limit (ulimit -n {needed}), or start fewer ranks"
        )


def _launch(options: argparse.Namespace) -> int:
    if not options.module and not Path(options.script).is_file():
        raise LaunchError(
            f"launch: the script must be a file, but there is no file {options.script} "
            f"(seen from {Path.cwd()}); correct the path, or use -m for a module"
        )
    target: tuple[str, ...] = (*(["-m"] if options.module else []), options.script, *options.arguments)
    if options.torch:
        target = ("-m", "distgrad.torch", *target)
    if options.trace_ops and options.trace is None:
        raise LaunchError("launch: --trace-ops goes with --trace FILE; name the file")
    if options.taken:
        print(notes(options.taken), file=sys.stderr)
    given = _with_package({**os.environ, **dict(options.env)})
    paths = [entry_file, os.getcwd(), *([] if options.module else [os.path.abspath(options.script)])]
    job = _plan(options, target, paths, given)
    given = _meeting_place(options, job) | given
    if options.dry_run:
        print(_dry_run(job, given))
        return 0
    _check_files(len(job.specs) * (2 if options.log_dir is not None else 1))
    try:
        console = Console(
            sys.stdout.buffer,
            sys.stderr.buffer,
            len(job.specs),
            quiet=options.quiet,
            log_dir=options.log_dir,
            plain=env.read(given).no_color,
        )
    except (OSError, ValueError) as error:
        raise LaunchError(f"launch: {error}") from error
    traced = given.pop("DISTGRAD_TRACE", None)
    output = options.trace or (Path(traced) if traced else None)
    ops = options.trace_ops or env.read(given).trace_ops
    with contextlib.closing(console), tracing(output, ops, console) as variables:
        return _run(job, options, given | variables, console)


def main(arguments: Sequence[str] | None = None, program: str = "python -m distgrad.launch") -> int:
    """Run the launcher with ``arguments`` (default: the command line's); return the exit code."""
    options = _parser(program).parse_args(arguments)
    try:
        return _launch(options)
    except (LaunchError, MissingDependencyError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
