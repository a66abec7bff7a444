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
from collections.abc import Sequence
from pathlib import Path

from distgrad import env
from distgrad.errors import LaunchError, MissingDependencyError

from . import commands, exit_codes, hosts, plan, slurm
from .arguments import make_parser
from .attempts import Attempts, Elastic, Fixed
from .delivery import deliver
from .entry import __file__ as entry_file
from .job import Options
from .limits import allow_files
from .logs import Console
from .loop import STOPPING
from .memory import Agents
from .others import notes
from .placing import Job, Planner
from .rank import usable_cores
from .restarts import RestartPolicy
from .roster import Roster, Sizes
from .supervise import LAST_WORDS_S
from .tracing import Recorded, tracing

__all__ = ["main"]

_ELASTIC_RESTARTS = 10
_MANY_RANKS = 1 << 16  # more than hosts that may come will have room for
_OWN_FILES = 20  # 16 were open at most


def _dry_run(job: Job, given: dict[str, str]) -> str:
    """What would be started, in lines that a shell would understand."""
    lines = [shlex.join(job.start(given).command)]
    for spec in job.specs:
        cores = usable_cores() if hosts.is_local(spec.host, must_resolve=False) else []
        found = plan.environment(spec, cores, given)
        variables = [f"{name}={shlex.quote(value)}" for name, value in found.items()]
        lines.append(f"# rank {spec.rank} on {spec.host}: {' '.join(variables)}")
    return "\n".join(lines)


def _sizes(options: argparse.Namespace, named: Sequence[plan.Host]) -> Sizes:
    """How many ranks a job of changing size may have."""
    most = options.max_ranks or options.ranks or sum(host.slots for host in named)
    fewest = options.min_ranks or options.ranks or 1
    begins = options.ranks or fewest
    if options.max_ranks is None and options.hosts_from is not None and options.ranks is None:
        most = _MANY_RANKS  # as many as the hosts that come have slots
    if not fewest <= begins <= most:
        raise LaunchError(
            f"launch: expected --min-ranks <= -n <= --max-ranks, got {fewest}, {begins} and {most}"
        )
    return Sizes(begins, fewest, most)


def _plans(options: argparse.Namespace, planner: Planner) -> Fixed:
    """A plan for a job of one size, or one for each attempt."""
    named = planner.named()
    if not _is_elastic(options):
        job = planner.place(named, options.ranks or sum(host.slots for host in named))
        _check_files(options, len(job.specs))
        return Fixed(job)

    def place(found: list[plan.Host], number: int) -> Job:
        _check_files(options, number)
        return planner.place(found, number, check=False)

    return Elastic(Roster(planner.named, planner.problems, _sizes(options, named)), place, options.wait)


def _is_elastic(options: argparse.Namespace) -> bool:
    """Whether the job may go on with another number of ranks, or on other hosts."""
    return (options.min_ranks, options.max_ranks, options.hosts_from) != (None, None, None)


def _limits(options: argparse.Namespace, job: Job) -> Options:
    return Options(
        options.timeout,
        options.hang_after,
        options.hang_report_only,
        options.bind,
        job.address,
        options.grace,
        options.time_limit,
    )


def _run(options: argparse.Namespace, attempts: Attempts, console: Console) -> int:
    """Run the job, and run it anew after a failure as often as that is wanted."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # but for the time that an attempt takes
    try:
        outcome = attempts.run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    code = outcome.code
    if code == exit_codes.PREEMPTED:
        code = _preempted(options, console)
    if outcome.causes:
        lines = [f"  {number}. {cause}" for number, cause in enumerate(outcome.causes, 1)]
        first = f"launch: restarted {len(outcome.causes)} times, after"
        console.say("\n".join([first, *lines, f"Exit code {code}"]))
    verdict = deliver(console, LAST_WORDS_S if outcome.stopped else outcome.left_s)
    if not code and verdict is not None:
        code = verdict.code
        console.say(verdict.text)
        console.flush(LAST_WORDS_S)
    return code


def _preempted(options: argparse.Namespace, console: Console) -> int:
    """What becomes of a job that was asked to end and has saved; its exit code."""
    if options.requeue:
        console.flush(LAST_WORDS_S)
        why = slurm.requeue(os.environ)
        console.say(f"launch: not requeued: {why}" if why else "launch: requeued; it goes on where it stands")
    return int(options.preempt_code)


def _with_package(given: dict[str, str]) -> dict[str, str]:
    """The variables with which ranks find the package where the launcher found it.

    In a folder that is not installed, ``python -m`` finds it in the current one, and a script would not; or
    it would find another, which is installed.
    """
    home = str(Path(sys.modules["distgrad"].__path__[0]).resolve().parent)
    if not sys.path or os.path.realpath(sys.path[0]) != home:
        return given
    return given | {"PYTHONPATH": os.pathsep.join(filter(None, [home, given.get("PYTHONPATH")]))}


def _meeting_place(options: argparse.Namespace, job: Job) -> dict[str, str]:
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


def _check_files(options: argparse.Namespace, num_ranks: int) -> None:
    """See that the launcher may open a line to each rank, log files, and what it needs itself."""
    needed = num_ranks * (2 if options.log_dir is not None else 1) + _OWN_FILES
    allowed = allow_files(needed)
    if allowed is not None:
        raise LaunchError(
            f"launch: this many ranks need {needed} open files at once, but the system allows {allowed}; "
            f"raise the limit (ulimit -n {needed}), or start fewer ranks"
        )


def _check(options: argparse.Namespace) -> None:
    """See that options go together, and that there is a script."""
    if not options.module and not Path(options.script).is_file():
        raise LaunchError(
            f"launch: the script must be a file, but there is no file {options.script} "
            f"(seen from {Path.cwd()}); correct the path, or use -m for a module"
        )
    if options.time_limit is not None and options.time_limit <= options.grace:
        raise LaunchError(
            f"launch: --time-limit {options.time_limit:g} s leaves nothing before the {options.grace:g} s of "
            "--grace, in which the ranks save; give more time, or a shorter --grace"
        )
    if options.requeue and not os.environ.get("SLURM_JOB_ID"):
        raise LaunchError("launch: --requeue is for a job of Slurm's, and SLURM_JOB_ID is not set")
    if options.trace_ops and options.trace is None:
        raise LaunchError("launch: --trace-ops goes with --trace FILE; name the file")
    if options.wait and not _is_elastic(options):
        raise LaunchError(
            "launch: --wait-for-hosts is for a job that goes on with the hosts there are; give --hosts-from, "
            "--min-ranks or --max-ranks too"
        )
    if (options.no_restart_codes or options.restart_window < math.inf) and not _max_restarts(options):
        raise LaunchError(
            "launch: --restart-window and --no-restart-codes are for a job that is started anew; give "
            "--max-restarts too"
        )


def _launch(options: argparse.Namespace) -> int:
    _check(options)
    target: tuple[str, ...] = (*(["-m"] if options.module else []), options.script, *options.arguments)
    if options.torch:
        target = ("-m", "distgrad.torch", *target)
    if options.taken:
        print(notes(options.taken), file=sys.stderr)
    given = _with_package({**os.environ, **dict(options.env)})
    paths = [entry_file, os.getcwd(), *([] if options.module else [os.path.abspath(options.script)])]
    planner = Planner(options, target, paths, given)
    if options.dry_run:
        named = planner.named()
        job = planner.place(named, options.ranks or sum(host.slots for host in named), check=False)
        print(_dry_run(job, _meeting_place(options, job) | given))
        return 0
    plans = _plans(options, planner)
    policy = RestartPolicy(
        _max_restarts(options), options.restart_window, frozenset(options.no_restart_codes)
    )
    console = Console(
        sys.stdout.buffer, sys.stderr.buffer, 0, quiet=options.quiet, plain=env.read(given).no_color
    )
    traced = given.pop("DISTGRAD_TRACE", None)
    output = options.trace or (Path(traced) if traced else None)
    ops = options.trace_ops or env.read(given).trace_ops
    wanted = Recorded(output, ops and output is not None, options.watch, options.metrics_port)
    agents = Agents(planner.reach, given)
    with contextlib.closing(console), contextlib.closing(agents), tracing(wanted, console) as variables:
        attempts = Attempts(
            plans,
            policy,
            lambda job: _meeting_place(options, job) | given | variables,
            console,
            lambda job: _limits(options, job),
            options.log_dir,
            agents if policy.most else None,
        )
        return _run(options, attempts, console)


def _max_restarts(options: argparse.Namespace) -> int:
    """How often a job is started anew: by default never, but for one of changing size."""
    if options.max_restarts is None:
        return _ELASTIC_RESTARTS if _is_elastic(options) else 0
    return int(options.max_restarts)


def main(arguments: Sequence[str] | None = None, program: str = "python -m distgrad.launch") -> int:
    """Run the launcher with ``arguments`` (default: the command line's); return the exit code."""
    options = make_parser(program).parse_args(arguments)
    try:
        with commands.ended_behind():
            return _launch(options)
    except (LaunchError, MissingDependencyError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
