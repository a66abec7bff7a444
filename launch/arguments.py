"""The launcher's options."""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from . import gpus, ssh
from .exit_codes import PREEMPTED
from .job import SIGNAL_GRACE_S
from .others import add_others
from .rank import usable_cores

__all__ = ["make_parser"]


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


def _time(text: str) -> float:
    """Seconds, or a time as Slurm writes it: ``MINUTES:SECONDS``, ``HOURS:MINUTES:SECONDS``, ``DAYS-…``."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    numbers = [days] * bool(dash) + parts
    if not all(re.fullmatch(r"\d+(\.\d+)?", number) for number in numbers) or len(parts) > 3:
        raise argparse.ArgumentTypeError(
            f"must be seconds, or a time like 2:30:00 (hours, minutes, seconds) or 1-12:00:00, got {text!r}"
        )
    while dash and len(parts) < 3:  # a day is followed by hours
        parts.append("0")
    seconds = sum(float(part) * 60**place for place, part in enumerate(reversed(parts)))
    return _seconds(str(seconds + float(days or 0) * 86400))


def _codes(text: str) -> list[int]:
    codes = [int(each) if each.isdecimal() else -1 for each in text.split(",")]
    if not all(0 < code < 256 for code in codes):
        raise argparse.ArgumentTypeError(f"must be exit codes from 1 to 255, like 2,64, got {text!r}")
    return codes


def _exit_code(text: str) -> int:
    if not text.isdecimal() or int(text) > 255:
        raise argparse.ArgumentTypeError(f"must be an exit code from 0 to 255, got {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, got {text!r}")
    return int(text)


def _words(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a command, got {text!r}: {error}") from error
    if not words:
        raise argparse.ArgumentTypeError("must be a command, got nothing")
    return text


def make_parser(program: str) -> argparse.ArgumentParser:
    """The parser of the launcher's command line; ``program`` is what it is called there."""
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
    _add_restarts(parser.add_argument_group("restarts").add_argument)
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
    add("--ssh", type=_words, default=ssh.DEFAULT, metavar="COMMAND",
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
    add("--watch", action="store_true", help="show a line a rank: its step, samples/s, loss, waiting, memory")
    add("--metrics-port", type=_port, metavar="PORT",
        help="answer with the same for Prometheus, at http://127.0.0.1:PORT/metrics")  # fmt: skip
    add("--timeout", type=_seconds, metavar="S", help="end the job if it takes longer than S seconds")
    add("--hang-after", type=_seconds, default=60.0, metavar="S",
        help="end the job when a rank waits S seconds for another (default: 60; inf: never)")  # fmt: skip
    add("--hang-report-only", action="store_true", help="say what hangs, and go on")
    add("--grace", type=_seconds, default=SIGNAL_GRACE_S, metavar="S",
        help="after SIGTERM, SIGINT or SIGHUP, give the ranks S seconds to end by themselves "
        "(default: 10)")  # fmt: skip
    add("--time-limit", type=_time, metavar="TIME",
        help="like --timeout, in seconds or as H:MM:SS, but --grace S before the end the ranks are asked to "
        "save and end")  # fmt: skip
    add("--preempt-code", type=_exit_code, default=PREEMPTED, metavar="CODE",
        help="exit code of a job that was asked to end and has saved (default: 75)")  # fmt: skip
    add("--requeue", action="store_true", help="put such a job into Slurm's queue again")


def _add_restarts(add: Callable[..., argparse.Action]) -> None:
    add("--max-restarts", "--max_restarts", type=_restarts, metavar="R",
        help="start the job anew after a failure, at most R times (default: 0, or 10 with one of the "
        "following)")  # fmt: skip
    add("--restart-window", type=_seconds, default=math.inf, metavar="S",
        help="count the restarts of the last S seconds only")  # fmt: skip
    add("--no-restart-codes", type=_codes, default=[], metavar="CODES",
        help="exit codes after which the job is not started anew, like 2,64")  # fmt: skip
    add("--min-ranks", "--min-np", "--min-num-proc", dest="min_ranks", type=_count, metavar="RANKS",
        help="go on with this many ranks if hosts or slots are gone (default: -n)")  # fmt: skip
    add("--max-ranks", "--max-np", "--max-num-proc", dest="max_ranks", type=_count, metavar="RANKS",
        help="take up to this many ranks if there are hosts for them (default: -n, or all)")  # fmt: skip
    add("--hosts-from", "--host-discovery-script", dest="hosts_from", metavar="FILE|COMMAND",
        help="a host file, or a command that writes one, which is looked at again and again")  # fmt: skip
    add("--wait-for-hosts", "--elastic-timeout", dest="wait", type=_seconds, default=0.0, metavar="S",
        help="when too few hosts are left, wait S seconds for others")  # fmt: skip
