"""The recorder: takes the spans of this process, and appends them to its spool file twice a second."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Container
from pathlib import Path
from threading import get_ident
from typing import Any

from distgrad import env, trace
from distgrad.errors import OptionError
from distgrad.profiler import clocks, owners
from distgrad.profiler.spool import encode
from distgrad.profiler.status import StatusWriter
from distgrad.profiler.usage import UsageMeter

__all__ = ["FLUSH_S", "MAX_PENDING", "Recorder", "find_rank", "find_size"]

FLUSH_S = 0.5  # between two writes: what a killed rank loses
MAX_PENDING = 1 << 16  # spans that wait for the next one: more are counted and dropped; 20 MB at most
_PINGS = 16  # questions for the time with each write, and four times as many at both ends


class Recorder:
    """A listener of :mod:`distgrad.trace` that keeps everything in a file of this process's own.

    Args:
        folder: the spool folder, one for all ranks; it is made.
        steps: the steps to keep, counted from 0; None keeps everything.
        spans: whether spans are written, or the status alone.

    Attributes:
        step: steps of training that are over: calls of :func:`distgrad.profiler.step`, or else updates of
            the optimizer.
        failed: whether the folder could not be written to at some time.
        path: the spool file.
    """

    def __init__(self, folder: Path, steps: Container[int] | None = None, spans: bool = True) -> None:
        self.step = 0
        self._dropped = self._unwritten = 0
        self.told: dict[str, float] = {}
        self.failed = False
        self._steps, self._spans = steps, spans
        self._keeps = steps is None or 0 in steps
        self._torn = False
        self._pending: deque[tuple[Any, ...]] = deque()
        self._by_hand = False
        self._first_update: int | None = None
        self._began_s = self._last_began_s = time.perf_counter()
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = folder / f"{socket.gethostname()}-{os.getpid()}-{id(self):x}.jsonl"
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (open until close)
        except OSError as error:
            raise OptionError(
                f"profiler: {folder} must be a folder that every rank can write to ({error}); name another"
            ) from error
        self._status = StatusWriter(self.path.with_suffix(".status"))
        self._usage = UsageMeter()
        self._server: clocks.TimeServer | None = None
        self._rank: int | None = None
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._clock = clocks.identity()
        self._about = {
            "host": socket.gethostname(), "pid": os.getpid(), "clock": self._clock, "argv": sys.argv,
            "perf_s": self._began_s, "time_s": time.time(), "attempt": env.read().attempt,
        }  # fmt: skip
        self.flush(first=True)
        self._thread = threading.Thread(target=self._run, name="distgrad profiler", daemon=True)
        self._thread.start()

    # -- what listeners are called with

    def span(self, name: str, start_s: float, end_s: float, fields: dict[str, Any]) -> None:
        """Keep a span."""
        if self._keeps:
            pending = self._pending
            if len(pending) < MAX_PENDING:
                pending.append((name, start_s, end_s, get_ident(), fields))
            else:
                self._dropped += 1
        if name == "optimizer.step" and "step" in fields and not self._by_hand:  # not a program's own span
            update = fields["step"]
            if self._first_update is None:
                self._first_update = update
            if update - self._first_update >= self.step:  # of several optimizers the first
                self._end_step(end_s)

    def event(self, name: str, time_s: float, fields: dict[str, Any]) -> None:
        """Keep an event."""
        if self._keeps and name != "step":  # of which end_step was told
            if len(self._pending) < MAX_PENDING:
                self._pending.append((name, time_s, None, get_ident(), fields))
            else:
                self._dropped += 1

    def end_step(self, told: dict[str, float]) -> None:
        """A step is over, as the program says, with numbers that are worth telling."""
        if not self._by_hand and self.step:  # the optimizer has ended this step, and does so no more
            self.step, self._began_s = self.step - 1, self._last_began_s
            if self._pending and self._pending[-1][0] == "step":
                self._pending.pop()
        self._by_hand, self.told = True, told
        self._end_step(time.perf_counter())

    def _end_step(self, end_s: float) -> None:
        if self._keeps:
            fields = {"step": self.step, **self.told}
            self._pending.append(("step", self._began_s, end_s, get_ident(), fields))
        self._last_began_s, self._began_s = self._began_s, end_s
        self.step += 1
        self._keeps = self._steps is None or self.step in self._steps

    # -- what is written

    @property
    def lost(self) -> int:
        """Spans that came faster than they could be written, or when nothing could be."""
        return self._dropped + self._unwritten

    def _write(self, line: Any) -> None:
        self._append(json.dumps(line, default=str, separators=(",", ":")).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        """Write a line, all of it; one that was torn before, as the disk was full, ends here."""
        rest = memoryview(b"\n" + line if self._torn else line)
        self._torn = True
        while rest:
            rest = rest[self._file.write(rest) :]
        self._torn = False

    def flush(self, first: bool = False, last: bool = False) -> None:
        """Write what has come since the last time, and where the process is.

        What cannot be written is dropped, which is counted and said once: training goes on.
        """
        with self._writing:
            if self._file.closed:
                return
            take = self._pending.popleft
            batch = [take() for _ in range(len(self._pending))]
            try:
                self._keep(batch, first, last)
            except OSError as error:
                self._say(error)
            finally:
                if last:
                    self._file.close()
                    self._usage.close()

    def _keep(self, batch: list[tuple[Any, ...]], first: bool, last: bool) -> None:
        usage, held = self._usage.read(), owners.measure()
        self._unwritten += len(batch)
        self._introduce()
        if batch and self._spans:
            self._append(encode(batch))
        self._unwritten -= len(batch)
        if self._spans:
            self._write({"usage": usage, "owners": held, "lost": self.lost})
        known = {"rank": self._rank or 0, "told": self.told, "owners": held, "ended": last}
        self._status.update(batch, usage["at_s"], self.step, usage, **known)
        self._align(_PINGS * (4 if first or last else 1))
        if last:
            self._write({"limits": {name: measure() for name, measure in owners.limits.items()}})
            self._write({"end": True})

    def _say(self, error: OSError) -> None:
        """Say what could not be written, the first time."""
        if not self.failed:
            known = find_rank()
            rank = "" if known is None else f"rank {known}: "
            with contextlib.suppress(
                OSError, ValueError
            ):  # that goes to a file on the same disk, or is closed
                print(
                    f"profiler: {rank}{self._folder} cannot be written to ({error.strerror or error}); the "
                    "program goes on, and what it does meanwhile is not recorded",
                    file=sys.stderr,
                )
        self.failed = True

    def _introduce(self) -> None:
        """Say what process this is, first of all, and which rank, as soon as it is known."""
        if self._about:
            self._write(self._about)
            self._about = {}
        settings = env.read()
        rank = find_rank(settings)
        if rank is not None and rank != self._rank:
            self._write({"rank": rank, "size": find_size(settings)})
            self._rank = rank
        if rank == 0 and self._server is None and find_size(settings) > 1:
            with contextlib.suppress(OSError):  # no network: the others say that they could not ask
                self._server = clocks.TimeServer(self._folder)

    def _align(self, count: int) -> None:
        """Ask rank 0 for its time, unless this process reads the same clock."""
        if not self._rank:
            return
        server = clocks.find_server(self._folder)
        if server is not None and server.clock != self._clock:
            self._write({"pings": clocks.ask(server, count)})

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_S):
            self.flush()

    def close(self) -> None:
        """Write the rest; nothing is kept from here on."""
        trace.unsubscribe(self)
        self._stop.set()
        self._thread.join()
        self.flush(last=True)

    def close_server(self) -> None:
        """Tell nobody the time any more."""
        if self._server is not None:
            self._server.close()
            self._server = None


def find_rank(settings: env.Environment | None = None) -> int | None:
    """This process's place among all ranks; None before it is known."""
    settings = settings or env.read()
    known = settings.rank if settings.rank is not None else settings.mpi_rank
    alone = settings.mpi_size is None and settings.slurm_size is None
    return 0 if known is None and alone else known


def find_size(settings: env.Environment | None = None) -> int:
    """The number of ranks, as far as it is known."""
    settings = settings or env.read()
    return settings.world_size or settings.mpi_size or settings.slurm_size or 1
