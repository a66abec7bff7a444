"""The trace of a job: where the ranks leave their parts, and what becomes of them at the end."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from distgrad.errors import DataError, LaunchError
from distgrad.profiler.merge import merge
from distgrad.profiler.recording import spool_folder

from .logs import Console

__all__ = ["tracing"]


@contextlib.contextmanager
def tracing(output: Path | None, ops: bool, console: Console) -> Iterator[dict[str, str]]:
    """Have the ranks of the jobs in the body record what they do, and make one file of it at the end.

    Also after a failure: what a killed rank has left is there up to its last second.

    Args:
        output: the file; None records nothing.
        ops: whether operations are recorded one by one.
        console: what tells of the file.

    Returns:
        A context manager, which gives the variables for the ranks.

    Raises:
        LaunchError: no file can be made there.
    """
    if output is None:
        yield {}
        return
    output = output.absolute()
    folder = spool_folder(output)
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a launcher that was killed
        folder.mkdir()
    except OSError as error:
        raise LaunchError(
            f"launch: --trace {output} must be in a folder that can be written to ({error}); name another"
        ) from error
    try:
        yield {"DISTGRAD_TRACE_SPOOL": str(folder), "DISTGRAD_TRACE_OPS": "1" if ops else "0"}
    finally:
        try:
            console.say("\n".join(merge(folder, output)))
        except (DataError, OSError) as error:
            console.say(f"launch: no trace was written: {error}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
