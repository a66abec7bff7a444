"""The trace of a job, and its status: where the ranks leave their parts, and what becomes of them."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distgrad.errors import DataError, LaunchError, OptionError

from .logs import Console
from .supervise import LAST_WORDS_S

__all__ = ["Recorded", "tracing"]


@dataclass(frozen=True)
class Recorded:
    """What is to be seen of a job.

    Attributes:
        output: the trace's file; None for no trace.
        ops: whether operations are recorded one by one.
        watch: whether to show a line a rank.
        port: of Prometheus' text; None for none.
    """

    output: Path | None = None
    ops: bool = False
    watch: bool = False
    port: int | None = None


@contextlib.contextmanager
def tracing(wanted: Recorded, console: Console) -> Iterator[dict[str, str]]:
    """Have the ranks of the jobs in the body tell what they do; a trace is made at the end.

    Also after a failure: what a killed rank has left is there up to its last second.

    Args:
        wanted: what is to be seen.
        console: what tells of it.

    Returns:
        A context manager, which gives the variables for the ranks.

    Raises:
        LaunchError: no file can be made there, or the port is taken.
    """
    if wanted == Recorded():
        yield {}
        return
    from distgrad.profiler.recording import (  # a job of which nothing is recorded starts sooner
        remove_spool,
        spool_folder,
    )

    from . import live

    output = wanted.output.absolute() if wanted.output is not None else None
    try:
        folder = spool_folder(output or Path.cwd() / f".distgrad-{secrets.token_hex(4)}")
    except OptionError as error:
        raise LaunchError(f"launch: --trace: {error}") from error
    try:
        remove_spool(folder)  # of a launcher that was killed
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise LaunchError(
            f"launch: {folder.parent} must be a folder that can be written to ({error}), and that all hosts "
            "see; start from another, or name another file for --trace"
        ) from error
    try:
        with contextlib.ExitStack() as stack:
            if wanted.watch:
                stack.enter_context(live.watching(folder, console))
            if wanted.port is not None:
                stack.enter_context(live.metrics(folder, wanted.port))
            kept = {"OPS": wanted.ops, "SPANS": output is not None}
            yield {
                "DISTGRAD_TRACE_SPOOL": str(folder),
                **{f"DISTGRAD_TRACE_{name}": str(int(value)) for name, value in kept.items()},
            }
    finally:
        if output is None or _merge(folder, output, console):
            remove_spool(folder)
        console.flush(LAST_WORDS_S)


def _merge(folder: Path, output: Path, console: Console) -> bool:
    """Make the trace; False if that failed, and the parts are left."""
    from distgrad.profiler.merge import merge

    try:
        console.say("\n".join(merge(folder, output)))
    except (DataError, OSError) as error:
        console.say(f"launch: no trace was written: {error}")
        left = any(folder.glob("*.jsonl"))
        if left:
            console.say(f"launch: `distgrad report {output}` makes it of {folder}, once it can")
        return not left
    return True
