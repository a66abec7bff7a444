"""``distgrad run`` and ``python -m distgrad.launch``: start a script on several ranks."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from distgrad import env
from distgrad.errors import LaunchError, MissingDependencyError

from . import mpirun, plan
from .logs import Console
from .supervise import Supervisor

__all__ = ["main"]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, got {text!r}")
    return seconds


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return name, value


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        usage="%(prog)s [-n RANKS] [options] (script.py | -m module) [ARGS...]",
        description="Start a Python script on several ranks of this machine and watch them. What stands "
        "after the script belongs to the script. The exit code is that of the first rank that failed "
        "(128 + number for a signal), 124 after --timeout, 130 after Ctrl-C.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-n", "-np", "--nproc-per-node", "--nproc_per_node", dest="ranks", type=_count, default=1,
        metavar="RANKS", help="number of ranks (default: 1)")  # fmt: skip
    add("--env", type=_assignment, action="append", default=[], metavar="NAME=VALUE",
        help="an environment variable for the ranks; may be given several times")  # fmt: skip
    add("--log-dir", type=Path, metavar="DIR", help="write all output of rank R to DIR/rankR.txt")
    add("--timeout", type=_seconds, metavar="S", help="end the job if it takes longer than S seconds")
    add("--quiet", action="store_true", help="show the output of rank 0 only, and tracebacks")
    add("--dry-run", action="store_true", help="print what would be started, and start nothing")
    add("-m", "--module", action="store_true", help="the script is a module, as in python -m")
    add("script", help="the script, or with -m the module")
    add("arguments", nargs=argparse.REMAINDER, metavar="ARGS",
        help="arguments of the script").required = False  # fmt: skip
    return parser


def _dry_run(specs: Sequence[plan.RankSpec], start: mpirun.Starter, given: dict[str, str]) -> str:
    """What would be started, in lines that a shell would understand."""
    lines = [shlex.join(start.command)]
    for spec in specs:
        variables = [f"{name}={shlex.quote(value)}" for name, value in plan.environment(spec, given).items()]
        lines.append(f"# rank {spec.rank} on {spec.host}: {' '.join(variables)}")
    return "\n".join(lines)


def _launch(options: argparse.Namespace) -> int:
    if not options.module and not Path(options.script).is_file():
        raise LaunchError(
            f"launch: the script must be a file, but there is no file {options.script} "
            f"(seen from {Path.cwd()}); correct the path, or use -m for a module"
        )
    target = (*(["-m"] if options.module else []), options.script, *options.arguments)
    own = dict(options.env)
    given = {**os.environ, **own}
    specs = plan.place([plan.this_host(options.ranks)], options.ranks)
    if options.dry_run:
        start = mpirun.starter(options.ranks, target, given)
        print(_dry_run(specs, start, given))
        return 0
    try:
        console = Console(
            sys.stdout.buffer,
            sys.stderr.buffer,
            options.ranks,
            quiet=options.quiet,
            log_dir=options.log_dir,
            plain=env.read(given).no_color,
        )
    except (OSError, ValueError) as error:
        raise LaunchError(f"launch: {error}") from error
    supervisor = Supervisor(
        specs,
        lambda variables: mpirun.starter(options.ranks, target, variables),
        given,
        console,
        options.timeout,
    )
    return supervisor.run()


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
