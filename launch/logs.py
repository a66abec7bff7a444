"""What the ranks write, put on the screen in whole lines that carry the rank, and into a file a rank."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from .folders import create_files

__all__ = ["Console", "LineSplitter", "OutputClosedError"]

_LONGEST_LINE_BYTES = 1 << 20
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # ANSI foregrounds that read on light and on dark
_ERASE_LINE = b"\r\x1b[2K"
_BREAK = re.compile(rb"\r*\n|\r")


class OutputClosedError(Exception):
    """Whoever read the launcher's output has gone, as head(1) does."""


class LineSplitter:
    """Cuts one stream of one rank into lines.

    A line that was drawn anew with carriage returns, as progress bars do, comes out once, in its last state.

    Attributes:
        bar: the present state of a line that is being drawn anew; empty if there is none.
    """

    def __init__(self) -> None:
        self.bar = b""
        self._drawn = b""  # what the line showed before the last carriage return
        self._redrawn = False
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that ``data`` completes, without their ends."""
        text = self._rest + data
        start = 0
        for match in _BREAK.finditer(text):
            if match.end() == len(text) and not match.group().endswith(b"\n"):
                break  # a newline may still follow this carriage return
            piece = text[start : match.start()]
            start = match.end()
            if match.group().endswith(b"\n"):
                yield self._complete(piece)
            else:
                self._drawn = piece or self._drawn
                self._redrawn = True
        self._rest = text[start:]
        if len(self._rest) > _LONGEST_LINE_BYTES:
            yield self._complete(self._rest)
            self._rest = b""
        present = self._rest.rstrip(b"\r") or self._drawn
        self.bar = present if self._redrawn or self._rest.endswith(b"\r") else b""

    def close(self) -> Iterator[bytes]:
        """Yield the line that was never ended, if it shows anything."""
        line = self._complete(self._rest.rstrip(b"\r"))
        if line:
            yield line
        self._rest = b""
        self.bar = b""

    def _complete(self, piece: bytes) -> bytes:
        line = (piece or self._drawn).rstrip(b" ") if self._redrawn else piece
        self._drawn = b""
        self._redrawn = False
        return line


class Console:
    """The launcher's two output streams, and the log files.

    Args:
        stdout: where the ranks' standard output goes.
        stderr: where their standard error and the launcher's own words go.
        world_size: number of ranks.
        quiet: show rank 0 only.
        log_dir: folder for ``rank0.txt`` and so on; made if it is not there, files of that name are replaced.
        plain: show no colours, even on a terminal.
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
        self.log_dir = log_dir
        self.live = stderr.isatty()
        self._colours = [stream.isatty() and not plain for stream in self.streams]
        self._splitters = [(LineSplitter(), LineSplitter()) for _ in range(world_size)]
        self._logs: list[FileIO] = []
        self._bar_shown = b""
        if log_dir is not None:
            self._logs = create_files(log_dir, [self.log_path(rank).name for rank in range(world_size)])

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
        self._show(rank, stream, self._splitters[rank][stream].feed(data))

    def close_rank(self, rank: int) -> None:
        """Show what a rank wrote last and did not end with a newline."""
        for stream, splitter in enumerate(self._splitters[rank]):
            self._show(rank, stream, splitter.close())

    def show(self, rank: int, text: str) -> None:
        """Show lines that came from a rank by another way than its output, as if on its standard error."""
        self._show(rank, 1, iter(text.encode(errors="replace").splitlines()), always=True)

    def log(self, rank: int, text: str) -> None:
        """Write to a rank's log file only, if there is one."""
        if self._logs:
            self._logs[rank].write(text.encode(errors="replace"))
            self._logs[rank].flush()

    def say(self, text: str) -> None:
        """Show the launcher's own words, as they are."""
        self._put(1, [text.encode(errors="replace")])

    def clear(self) -> None:
        """Take the last progress bar off the screen."""
        self._send(1, _ERASE_LINE if self._bar_shown else b"")
        self._bar_shown = b""

    def close(self) -> None:
        """Close the log files."""
        for log in self._logs:
            log.close()

    def mute(self) -> None:
        """Show nothing more: nobody reads it."""
        with open(os.devnull, "wb") as null:
            for stream in self.streams:
                os.dup2(null.fileno(), stream.fileno())

    def _show(self, rank: int, stream: int, lines: Iterator[bytes], *, always: bool = False) -> None:
        whole = list(lines)
        if self._logs and whole:
            self._logs[rank].write(b"\n".join(whole) + b"\n")
            self._logs[rank].flush()
        if self.quiet and rank and not always:
            return
        prefix = _prefix(rank)
        if self._colours[stream]:
            prefix = b"\x1b[%dm%s\x1b[0m" % (_COLOURS[rank % len(_COLOURS)], prefix)
        self._put(stream, [prefix + line for line in whole])

    def _put(self, stream: int, lines: list[bytes]) -> None:
        bar = self._bar() if self.live else b""
        if lines or bar != self._bar_shown:
            self._send(1, _ERASE_LINE if self._bar_shown else b"")
            self._send(stream, b"".join(line + b"\n" for line in lines))
            self._send(1, bar)
            self._bar_shown = bar

    def _send(self, stream: int, data: bytes) -> None:
        if data:
            try:
                self.streams[stream].write(data)
                self.streams[stream].flush()
            except BrokenPipeError:
                raise OutputClosedError from None

    def _bar(self) -> bytes:
        """The progress bar of the lowest rank that has one, cut to the width of the screen."""
        shown = self._splitters[:1] if self.quiet else self._splitters
        for rank, splitters in enumerate(shown):
            for splitter in reversed(splitters):
                if splitter.bar.strip():
                    text = (_prefix(rank) + splitter.bar).decode(errors="replace")
                    return text[: shutil.get_terminal_size().columns - 1].encode()
        return b""


def _prefix(rank: int) -> bytes:
    return f"[{rank}] ".encode()
