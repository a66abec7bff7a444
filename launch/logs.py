"""What the ranks write, put on the screen in whole lines that carry the rank, and into a file a rank."""

from __future__ import annotations

import collections
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .folders import create_files
from .job import Verdict
from .writer import Writer

__all__ = ["Console", "LineSplitter"]

_LONGEST_LINE_BYTES = 1 << 20
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # ANSI foregrounds that read on light and on dark
_ERASE_LINE = b"\r\x1b[2K"
_LONGEST_BAR_BYTES = 1 << 12
_BREAK = re.compile(rb"\r*\n|\r+")  # several carriage returns do what one does


class LineSplitter:
    """Cuts one stream of one rank into lines.

    A line that was drawn anew with carriage returns, as progress bars do, comes out once, in its last state.
    One that is longer than a mebibyte comes out in pieces.
    """

    def __init__(self) -> None:
        self._drawn = b""  # what the line showed before the last carriage return
        self._redrawn = False
        self._returned = False  # whether a carriage return came last, and a newline may follow it
        self._rest = bytearray()

    @property
    def bar(self) -> bytes:
        """The beginning of the present state of a line that is being drawn anew; empty if there is none."""
        present = bytes(self._rest[:_LONGEST_BAR_BYTES]) or self._drawn[:_LONGEST_BAR_BYTES]
        return present if self._redrawn or self._returned else b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that ``data`` completes, without their ends."""
        text = b"\r" * self._returned + data
        self._returned = False
        start = 0
        for match in _BREAK.finditer(text):
            self._rest += text[start : match.start()]
            start = match.end()
            if len(self._rest) > _LONGEST_LINE_BYTES:
                yield from self._cut()
            if match.group().endswith(b"\n"):
                yield self._complete()
            elif start == len(text):
                self._returned = True
            else:
                self._return()
        self._rest += text[start:]
        yield from self._cut()

    def close(self) -> Iterator[bytes]:
        """Yield the line that was never ended, if it shows anything."""
        line = self._complete()
        if line:
            yield line
        self._returned = False

    def _cut(self) -> Iterator[bytes]:
        """Yield pieces of a line that is too long, until the rest is not."""
        while len(self._rest) > _LONGEST_LINE_BYTES:
            yield bytes(self._rest[:_LONGEST_LINE_BYTES])
            del self._rest[:_LONGEST_LINE_BYTES]
            self._drawn, self._redrawn = b"", False

    def _return(self) -> None:
        self._drawn = bytes(self._rest) or self._drawn
        self._rest.clear()
        self._redrawn = True

    def _complete(self) -> bytes:
        line = bytes(self._rest)
        self._rest.clear()
        if self._redrawn:
            line = (line or self._drawn).rstrip(b" ")
            self._drawn, self._redrawn = b"", False
        return line


@dataclass
class _Ticket:
    """What a rank has written, on its way to one or two files."""

    rank: int
    stream: int
    num_bytes: int
    num_files: int
    unwritten: list[int]  # of the rank, to which the bytes belong


class Console:
    """The launcher's two output streams, and the log files.

    All of them are written by other threads. What is not written yet is counted for each rank, so that it can
    be kept from writing more.

    Args:
        stdout: where the ranks' standard output goes.
        stderr: where their standard error and the launcher's own words go.
        world_size: number of ranks.
        quiet: show rank 0 only.
        log_dir: folder for ``rank0.txt`` and so on; made if it is not there, files of that name are replaced.
        plain: show no colours, even on a terminal.

    Attributes:
        status: lines to be shown below everything else; set from any thread.
        draws: set, from any thread, to have them drawn by the next :meth:`settle`.
        tell: called from other threads when something was written, or can never be; see :meth:`settle`.
        failures: what cannot be written any more, standard output or error, and why.
    """

    def __init__(
        self,
        stdout: BinaryIO,
        stderr: BinaryIO,
        world_size: int,
        *,
        quiet: bool = False,
        log_dir: Path | None = None,
        plain: bool = False,
    ) -> None:
        self.streams = (stdout, stderr)
        self.quiet = quiet
        self.live = stderr.isatty()
        self.status: list[str] = []
        self.draws = False
        self.tell: Callable[[], None] = lambda: None
        self.failures: list[tuple[str, OSError]] = []
        self._colours = [stream.isatty() and not plain for stream in self.streams]
        self._logs: list[BinaryIO] = []
        self._bar_shown = b""
        self._written: collections.deque[_Ticket] = collections.deque()
        self._log_failures: list[str] = []
        # Two streams into one file have one writer: their order is part of what is written.
        writers = {_identity(stream): Writer(self._note, self._fail) for stream in self.streams}
        self._writers = [writers[_identity(stream)] for stream in self.streams]
        self._log_writer = Writer(self._note, self._fail_log)
        self.begin(world_size, log_dir)

    def begin(self, world_size: int, log_dir: Path | None) -> None:
        """Be ready for the ranks of an attempt, with log files of its own; those before have ended.

        Raises:
            OSError: the folder cannot be made, or a file in it.
        """
        for log in self._logs:
            self._log_writer.finish(log)
        self._logs, self.log_dir = [], log_dir
        self._splitters = [(LineSplitter(), LineSplitter()) for _ in range(world_size)]
        self._unwritten = [[0, 0] for _ in range(world_size)]
        if log_dir is not None:
            self._logs = [*create_files(log_dir, [self.log_path(rank).name for rank in range(world_size)])]

    def log_path(self, rank: int) -> Path:
        """The log file of a rank.

        Raises:
            ValueError: there is no log folder.
        """
        if self.log_dir is None:
            raise ValueError("launch: no log folder was given, so no rank has a log file")
        return self.log_dir / f"rank{rank}.txt"

    def environment(self, rank: int) -> dict[str, str]:
        """The screen's size for a rank's progress bars, which see no terminal; empty without a screen."""
        if not self.live:
            return {}
        size = shutil.get_terminal_size()
        return {"COLUMNS": str(size.columns - len(_prefix(rank))), "LINES": str(size.lines)}

    def write(self, rank: int, stream: int, data: bytes) -> None:
        """Take what a rank wrote to its standard output (``stream`` 0) or standard error (1)."""
        self._show(rank, stream, self._splitters[rank][stream].feed(data), len(data))

    def unwritten(self, rank: int) -> tuple[int, int]:
        """How many bytes that a rank wrote to standard output and error are still on their way."""
        stdout, stderr = self._unwritten[rank]
        return stdout, stderr

    def settle(self) -> set[int]:
        """Take into account what was written since the last call; return the ranks that it came from."""
        ranks = set()
        while self._written:
            ticket = self._written.popleft()
            ticket.num_files -= 1
            if not ticket.num_files:
                ticket.unwritten[ticket.stream] -= ticket.num_bytes
                if ticket.unwritten is self._current(ticket.rank):  # not of an attempt before
                    ranks.add(ticket.rank)
        while self._log_failures:
            self.say(self._log_failures.pop())
        if self.draws:
            self.draws = False
            self._put(1, [] if self.live else [line.encode() for line in self.status])
        return ranks

    def _current(self, rank: int) -> list[int] | None:
        return self._unwritten[rank] if rank < len(self._unwritten) else None

    def verdict(self) -> Verdict:
        """What becomes of a job whose output cannot be written: the first of ``failures`` in words."""
        name, error = self.failures[0]
        if isinstance(error, BrokenPipeError):
            return Verdict(128 + signal.SIGPIPE, "", final=True)
        text = f"launch: {name} cannot be written ({error.strerror}); stopped the job, whose words get lost"
        return Verdict(os.EX_IOERR, text, final=True)

    def close_rank(self, rank: int) -> None:
        """Show what a rank wrote last and did not end with a newline."""
        for stream, splitter in enumerate(self._splitters[rank]):
            self._show(rank, stream, splitter.close())

    def show(self, rank: int, text: str) -> None:
        """Show lines that came from a rank by another way than its output, as if on its standard error."""
        self._show(rank, 1, iter(text.encode(errors="replace").splitlines()), always=True)

    def log(self, rank: int, text: str) -> None:
        """Write to a rank's log file only, if there is one."""
        if self._logs and text:
            self._log_writer.put(self._logs[rank], text.encode(errors="replace"))

    def say(self, text: str) -> None:
        """Show the launcher's own words, as they are."""
        self._put(1, [text.encode(errors="replace")])

    def clear(self) -> None:
        """Take the last progress bar off the screen."""
        self._send(1, _erase(self._bar_shown))
        self._bar_shown = b""

    @property
    def idle(self) -> bool:
        """Whether all is written."""
        return all(writer.idle for writer in (*self._writers, self._log_writer))

    def flush(self, limit_s: float | None = None) -> bool:
        """Wait until all is written; False if something is not after ``limit_s`` seconds for each file."""
        done = [writer.flush(limit_s) for writer in (*self._writers, self._log_writer)]
        return all(done)

    def close(self) -> None:
        """Let go of the log files and threads; what is not written by then may be lost."""
        if self._log_writer.idle:
            for log in self._logs:
                log.close()
        for writer in {*self._writers, self._log_writer}:
            writer.close()

    def _show(
        self, rank: int, stream: int, lines: Iterator[bytes], num_bytes: int = 0, *, always: bool = False
    ) -> None:
        whole = list(lines)
        ticket = _Ticket(rank, stream, num_bytes, 0, self._unwritten[rank]) if num_bytes else None
        if self._logs and whole:
            self._log_writer.put(self._logs[rank], b"\n".join(whole) + b"\n", ticket)
            if ticket is not None:
                ticket.num_files += 1
        if always or not self.quiet or not rank:
            prefix = _prefix(rank)
            if self._colours[stream]:
                prefix = b"\x1b[%dm%s\x1b[0m" % (_COLOURS[rank % len(_COLOURS)], prefix)
            self._put(stream, [prefix + line for line in whole], ticket)
        if ticket is not None and ticket.num_files:
            self._unwritten[rank][stream] += num_bytes

    def _put(self, stream: int, lines: list[bytes], ticket: _Ticket | None = None) -> None:
        bar = self._bar() if self.live else b""
        if lines or bar != self._bar_shown:
            self._send(1, _erase(self._bar_shown))
            self._send(stream, b"".join(line + b"\n" for line in lines), None if bar else ticket)
            self._send(1, bar, ticket)
            self._bar_shown = bar

    def _send(self, stream: int, data: bytes, ticket: _Ticket | None = None) -> None:
        if data:
            if ticket is not None:
                ticket.num_files += 1
            self._writers[stream].put(self.streams[stream], data, ticket)

    # In the writers' threads

    def _note(self, tickets: list[_Ticket | None]) -> None:
        self._written.extend(filter(None, tickets))
        self.tell()

    def _fail(self, stream: BinaryIO, error: OSError) -> None:
        self.failures.append((("standard output", "standard error")[stream is self.streams[1]], error))

    def _fail_log(self, log: BinaryIO, error: OSError) -> None:
        if log in self._logs:
            path = self.log_path(self._logs.index(log))
            self._log_failures.append(
                f"launch: {path}: {error.strerror}; no more is written to it, and the job goes on"
            )

    def _bar(self) -> bytes:
        """The status, or the progress bar of the lowest rank that has one, cut to the width of the screen."""
        if self.status:
            columns, height = shutil.get_terminal_size()
            return "\n".join(line[: columns - 1] for line in self.status[: max(1, height - 2)]).encode()
        shown = self._splitters[:1] if self.quiet else self._splitters
        for rank, splitters in enumerate(shown):
            for splitter in reversed(splitters):
                if splitter.bar.strip():
                    text = (_prefix(rank) + splitter.bar).decode(errors="replace")
                    return text[: shutil.get_terminal_size().columns - 1].encode()
        return b""


def _erase(shown: bytes) -> bytes:
    """What takes lines off the screen that end without a newline."""
    return _ERASE_LINE + b"\x1b[1A\x1b[2K" * shown.count(b"\n") if shown else b""


def _prefix(rank: int) -> bytes:
    return f"[{rank}] ".encode()


def _identity(stream: BinaryIO) -> object:
    """The same for two streams that lead into one file."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # one in memory
        return id(stream)
    return status.st_dev, status.st_ino
