"""Recording a program: a part of it, as a script says, or all of it, as the launcher does."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Container, Iterator
from pathlib import Path

from distgrad import env, trace
from distgrad.errors import DataError, OptionError
from distgrad.profiler import spool
from distgrad.profiler.clocks import ADDRESS_FILE
from distgrad.profiler.merge import merge
from distgrad.profiler.recorder import Recorder, find_rank, find_size

__all__ = ["record", "remove_spool", "spool_folder", "start", "step"]

_PATIENCE_S = 60.0  # for the other ranks to come to their end
_FAILED_S = 2.0  # the same where this one has failed: they may wait for it
_LOOK_S = 0.05

_running: list[Recorder] = []
_timing: list[bool] = []  # whether operations are reported one by one


def spool_folder(output: Path) -> Path:
    """The folder in which ranks leave what becomes the file ``output``.

    Raises:
        OptionError: no file can have this name, as that of a folder.
    """
    if not output.name or output.is_dir():
        raise OptionError(f"profiler: a trace becomes a file, and {output} is a folder; name a file in it")
    return output.with_name(f"{output.name}.spool")


def remove_spool(folder: Path) -> None:
    """Remove what ranks have left, and the folder if nothing else is in it; what is not there is no error."""
    for path in folder.glob("*"):
        if path.suffix in (".jsonl", ".status", ".part") or path.name == ADDRESS_FILE:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def record(
    path: str | os.PathLike[str] = "trace.json.gz",
    steps: Container[int] | None = None,
    *,
    ops: bool = False,
) -> Iterator[Recorder]:
    """Write a trace of what the body does, on all ranks, into one file that Perfetto and Chrome show.

    ::

        with dg.profiler.record("out.json.gz", steps=range(10, 15)):
            train()

    Every rank keeps a file of its own in the folder ``out.json.gz.spool``, which all hosts must see; rank 0
    makes one of them when all have come to the end of the body, and removes the folder. Recordings into other
    files, the launcher's among them, go on meanwhile.

    Args:
        path: the file; compressed if its name ends with ``.gz``.
        steps: the steps to keep, counted from 0 at the beginning of the body: those that :func:`step` ends,
            or else the updates of the optimizer. None keeps everything.
        ops: also trace each operation, by its name and the line that called it.

    Returns:
        A context manager, which gives the recorder.

    Collective: no; blocks: rank 0, at the end, until the others are there, a minute at most; two seconds
    where an exception ends the body.

    Raises:
        OptionError: the folder cannot be written to, or the process is being recorded into it already.
    """
    output = Path(path).absolute()
    began_s = time.time()
    recorder = _begin(spool_folder(output), steps)
    patience_s = _FAILED_S
    try:
        with _operations(ops):
            yield recorder
        # At the program's end, what ended it is not raised here.
        patience_s = _PATIENCE_S if getattr(sys, "last_value", None) is None else _FAILED_S
    finally:
        _end(recorder)
        if find_rank() == 0:
            _collect(recorder, output, began_s, _FAILED_S if recorder.failed else patience_s)


def step(**told: float) -> None:
    """Say that a step of training is over, for programs whose steps no optimizer of ours ends.

    Args:
        told: numbers that are worth showing: ``loss=…``; ``samples=…`` is the number of samples of this
            rank's batch; ``step`` is counted here.

    Raises:
        OptionError: a number named ``step``.

    Collective: no; blocks: no.
    """
    if "step" in told:
        raise OptionError("profiler.step: steps are counted here, from 0; tell step under another name")
    if _running:
        numbers = {name: float(value) for name, value in told.items()}
        for recorder in _running:
            recorder.end_step(numbers)
    trace.event("step")


@contextlib.contextmanager
def _operations(wanted: bool) -> Iterator[None]:
    timer = trace.timers.get("operations") if wanted else None
    if timer is None or _timing:  # once is enough for all recordings
        yield
        return
    _timing.append(True)
    try:
        with timer():
            yield
    finally:
        _timing.pop()


def _begin(folder: Path, steps: Container[int] | None, spans: bool = True) -> Recorder:
    if any(recorder.path.parent == folder for recorder in _running):
        raise OptionError(
            f"profiler.record: this process is being recorded already, into {folder}; end that first, or "
            "name another file"
        )
    recorder = Recorder(folder, steps, spans)
    _running.append(recorder)
    trace.subscribe(recorder)
    return recorder


def _forget() -> None:
    """In a fork, such as a worker that loads data: what it does is none of the rank's."""
    while _running:
        trace.unsubscribe(_running.pop())


os.register_at_fork(after_in_child=_forget)


def _end(recorder: Recorder) -> None:
    if recorder in _running:  # not in a fork
        _running.remove(recorder)
        recorder.close()


def _collect(recorder: Recorder, output: Path, began_s: float, patience_s: float) -> None:
    """Rank 0: wait for the others, and make one file of all."""
    folder = spool_folder(output)
    own_s = min(began_s, recorder.path.stat().st_mtime) - 1.0  # the clock of a file server may be another
    deadline_s = time.monotonic() + patience_s
    while not _all_ended(folder, own_s) and time.monotonic() < deadline_s:
        time.sleep(_LOOK_S)
    recorder.close_server()
    try:
        lines = merge(folder, output, own_s)
    except DataError as error:
        print(f"profiler: no trace was written: {error}", file=sys.stderr)
        print(f"profiler: `distgrad report {output}` makes it of {folder}, once it can", file=sys.stderr)
        return
    for line in lines:
        print(line, file=sys.stderr)
    remove_spool(folder)


def _all_ended(folder: Path, since_s: float) -> bool:
    files = [path for path in folder.glob("*.jsonl") if path.stat().st_mtime >= since_s]
    return len(files) >= find_size() and all(map(spool.has_ended, files))


def start() -> None:
    """Record this process from now to its end, as the environment says: ``DISTGRAD_TRACE`` and its like.

    Under the launcher, it makes one file of all ranks; without it, rank 0 does at its end.
    """
    settings = env.read()
    env.untrace()
    if _running or (settings.trace is None and settings.trace_spool is None):
        return
    output = Path(settings.trace).absolute() if settings.trace is not None else None
    if settings.trace_spool is None:
        assert output is not None
        manager = record(output, ops=settings.trace_ops)
        manager.__enter__()
        atexit.register(manager.__exit__, None, None, None)
        return
    recorder = _begin(Path(settings.trace_spool), None, settings.trace_spans)
    atexit.register(recorder.close_server)  # behind the end, up to which others may ask
    atexit.register(_end, recorder)
    operations = _operations(settings.trace_ops)
    operations.__enter__()
    atexit.register(operations.__exit__, None, None, None)
