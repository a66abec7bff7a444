"""Jobs of real processes: started through the launcher, held to a time limit, and seen to leave nothing."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .room import Room

LIMIT_S = 100.0  # below what a test may take
_CROWD = re.compile(r"^launch: \d+ ranks share .*\n", re.MULTILINE)


@dataclass
class Ended:
    """A job that is over.

    Attributes:
        code: the exit code.
        stdout: what it wrote.
        stderr: the same, on standard error, but for ``crowd``.
        seconds: from the start of the launcher's process to its end.
        at_s: its end, in ``time.monotonic()``.
        crowd: what was said of more ranks than this machine has cores.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    at_s: float
    crowd: str

    def seconds_since(self, printed: str) -> float:
        """From the last ``at SECONDS`` that a rank printed to the end: without what the start took."""
        moments = re.findall(r"^(?:\[\d+\] )?at (\d+\.\d+)$", printed, re.MULTILINE)
        return self.at_s - max(map(float, moments))

    @property
    def summary(self) -> list[str]:
        """The standard error from the launcher's last sentence on."""
        lines = self.stderr.splitlines()
        last = max(
            (place for place, line in enumerate(lines) if line.startswith("launch: ")), default=len(lines)
        )
        return lines[last:]


class Job:
    """A launcher with its ranks, in ``folder``; every process of it carries a mark in its environment."""

    def __init__(
        self, folder: Path, arguments: list[str], variables: dict[str, str], room: Room | None = None
    ) -> None:
        self.mark = f"LAUNCH_TEST={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        self.began_s = time.monotonic()
        self.process = subprocess.Popen(
            # a background shell may have left the signal ignored
            [
                *(room.inside(folder) if room is not None else ["env"]),
                *("--default-signal=INT", sys.executable, "-m", "distgrad.launch", *arguments),
            ],
            cwd=folder,
            env={**os.environ, **variables, name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> Ended:
        """Wait for the end."""
        stdout, stderr = self.process.communicate(timeout=LIMIT_S)
        at_s = time.monotonic()
        crowd = "".join(_CROWD.findall(stderr))
        return Ended(
            self.process.returncode, stdout, _CROWD.sub("", stderr), at_s - self.began_s, at_s, crowd
        )

    def await_lines(self, *expected: str) -> None:
        """Read standard output until all ``expected`` lines have come, in any order."""
        missing = set(expected)
        while missing:
            line = self.process.stdout.readline()
            assert line, f"the job ended before it wrote {missing}: {self.process.stderr.read()}"
            missing.discard(line.rstrip("\n"))

    def processes(self) -> list[str]:
        """The command lines of the job's living processes."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def await_no_process(self, limit_s: float = LIMIT_S) -> None:
        """See the last process of the job end."""
        deadline_s = time.monotonic() + limit_s
        while (left := self.processes()) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert not left

    def kill(self) -> None:
        """End whatever a failed test has left, its launcher first."""
        self.process.kill()
        self.process.communicate()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)
            except OSError:
                continue


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Start the launcher with options, the text of a script, and the script's arguments."""
    jobs = []

    def start_job(
        options: str | list[str],
        script: str,
        *arguments: str,
        room: Room | None = None,
        **variables: str,
    ) -> Job:
        words = options.split() if isinstance(options, str) else options
        (tmp_path / "script.py").write_text(textwrap.dedent(script))
        jobs.append(Job(tmp_path, [*words, "script.py", *arguments], variables, room))
        return jobs[-1]

    yield start_job
    for job in jobs:
        job.kill()


@pytest.fixture
def run(start: Callable[..., Job]) -> Callable[..., Ended]:
    """Start a job, wait for its end, and see that it has left no process."""

    def run_job(
        options: str, script: str, *arguments: str, room: Room | None = None, **variables: str
    ) -> Ended:
        job = start(options, script, *arguments, room=room, **variables)
        ended = job.end()
        assert job.processes() == []
        return ended

    return run_job


@pytest.fixture
def room() -> Iterator[Room | None]:
    """A room of the test's own, seen empty after it; None where there can be none, as test_room.py says."""
    try:
        found = Room()
    except OSError:
        yield None
        return
    try:
        yield found
        assert found.left() == []
    finally:
        found.close()
