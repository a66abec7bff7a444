"""Start processes on the double, watch them, and leave nothing of them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_double.worker import FOLDER

_TESTS = Path(__file__).parents[1]
_GRACE_S = 3.0  # for the other ranks when one has failed
_START_S = 60.0  # to install the double and import what the tests import
_SHOWN_CHARS = 6000


@dataclass(frozen=True)
class Shape:
    """How a job runs.

    Attributes:
        ranks: processes.
        devices: GPUs that each of them seems to have; rank r finds its own as local rank r.
        streams: the order in which queued work runs: eager, late or early.
        timeout: seconds for one test or call.
        dies: ranks that kill themselves, so that the job is right only if they do.
        env: variables on top of this process's.
    """

    ranks: int = 1
    devices: int = 2
    streams: str = "eager"
    timeout: float = 60.0
    dies: tuple[int, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


@dataclass
class Outcome:
    """How one test or call ended.

    Attributes:
        kind: ``passed``, ``failed`` or ``skipped``.
        text: the first failure's traceback and output, or why it was skipped.
        results: what a called function returned, by rank.
    """

    kind: str
    text: str = ""
    results: dict[int, Any] = field(default_factory=dict)


class Job:
    """Processes that run one list of tests, or one call, side by side.

    Args:
        shape: how.
        task: what, for :mod:`gpu_double.worker`.
    """

    def __init__(self, shape: Shape, task: Mapping[str, Any]) -> None:
        self.shape = shape
        self.folder = Path(tempfile.mkdtemp(prefix="distgrad-gpu-double-"))
        own = {
            "devices": max(shape.devices, shape.ranks),
            "streams": shape.streams,
            "wait_s": shape.timeout * 0.8,
        }
        (self.folder / "task.json").write_text(json.dumps({**own, **task}))
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "gpu_double.worker"],
                env=self._environment(rank, *self._common()),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            for rank in range(shape.ranks)
        ]

    def _common(self) -> tuple[int, str]:
        if not hasattr(self, "_port"):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self._port = free.getsockname()[1]
            self._secret = secrets.token_hex(16)
        return self._port, self._secret

    def _environment(self, rank: int, port: int, secret: str) -> dict[str, str]:
        size = str(self.shape.ranks)
        world = {
            "RANK": str(rank),
            "WORLD_SIZE": size,
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": size,
            "NODE_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "DISTGRAD_JOB_SECRET": secret,
        }
        paths = [str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            **world,
            FOLDER: str(self.folder),
            "PYTHONPATH": os.pathsep.join(paths),
            "CUPY_ACCELERATORS": "",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            **dict(self.shape.env),
        }

    def events(self) -> dict[int, list[dict[str, Any]]]:
        """What each rank has written down so far."""
        found = {}
        for rank in range(self.shape.ranks):
            file = self.folder / f"{rank}.events"
            lines = file.read_text().splitlines(keepends=True) if file.exists() else []
            found[rank] = [json.loads(line) for line in lines if line.endswith("\n")]
        return found

    def printed(self, rank: int) -> str:
        """The end of what the rank has printed."""
        file = self.folder / f"{rank}.txt"
        return file.read_text(errors="replace")[-_SHOWN_CHARS:] if file.exists() else ""

    def stacks(self) -> str:
        """Let the ranks that live print their stacks; return all that was printed."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        return "\n".join(f"----- rank {rank} -----\n{self.printed(rank)}" for rank in range(self.shape.ranks))

    def close(self) -> None:
        """End what runs, and remove the job's files and shared memory."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for left in Path("/dev/shm").glob(f"distgrad-nccl-{process.pid}-*"):
                left.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def call(target: str, shape: Shape = Shape(), **arguments: Any) -> Outcome:
    """Call ``module:function`` with ``arguments`` on every rank.

    Args:
        target: the function; its result must fit into JSON.
        shape: how the ranks run.
        **arguments: of the function.
    """
    job = Job(shape, {"call": target, "arguments": arguments})
    try:
        deadline_s = time.monotonic() + shape.timeout + _START_S
        while any(process.poll() is None for process in job.processes):
            if time.monotonic() > deadline_s:
                return Outcome("failed", f"no end after {shape.timeout} s\n{job.stacks()}")
            if _first_failure(job) is not None:
                deadline_s = min(deadline_s, time.monotonic() + _GRACE_S)
            time.sleep(0.02)
        if (failure := _first_failure(job)) is not None:
            return Outcome("failed", failure)
        ended = {rank: events[-1] for rank, events in job.events().items() if events}
        return Outcome("passed", results={rank: event["result"] for rank, event in ended.items()})
    finally:
        job.close()


def _first_failure(job: Job) -> str | None:
    """What the first failed rank says; None if none has failed."""
    for rank, events in job.events().items():
        for event in events:
            if event.get("outcome") == "failed":
                return f"rank {rank} of {job.shape.ranks} failed:\n{event['text']}\n{job.printed(rank)}"
    for rank, process in enumerate(job.processes):
        code = process.poll()
        if code not in (None, 0) and not (rank in job.shape.dies and code == -signal.SIGKILL):
            return f"rank {rank} of {job.shape.ranks} ended with {code}:\n{job.printed(rank)}"
    return None


def run_tests(tests: Sequence[str], shape: Shape, root: Path, options: Sequence[str]) -> dict[str, Outcome]:
    """Run tests on the double, and again those that a crash, a time-out or another rank's failure cut off.

    Args:
        tests: node ids.
        shape: how the ranks run.
        root: where the node ids start.
        options: of the inner pytest.
    """
    outcomes: dict[str, Outcome] = {}
    while left := [test for test in tests if test not in outcomes]:
        job = Job(shape, {"tests": left, "root": str(root), "options": list(options)})
        try:
            outcomes |= _watch(job, left)
        finally:
            job.close()
    return outcomes


def _watch(job: Job, tests: Sequence[str]) -> dict[str, Outcome]:
    """The outcomes until the job is over or must be stopped; at least one."""
    outcomes: dict[str, Outcome] = {}
    changed_s, count = time.monotonic(), 0
    while True:
        is_over = all(process.poll() is not None for process in job.processes)
        events = job.events()
        if (now := sum(map(len, events.values()))) != count:
            changed_s, count = time.monotonic(), now
        outcomes = _judge(job, tests, events)
        failed = any(outcome.kind == "failed" for outcome in outcomes.values())
        if is_over or (failed and job.shape.ranks > 1):
            break
        limit_s = job.shape.timeout + (_START_S if not any(events.values()) else 0)
        if time.monotonic() - changed_s > limit_s:
            current = _current(tests, outcomes, events)
            return {**outcomes, current: Outcome("failed", f"no end after {limit_s} s\n{job.stacks()}")}
        time.sleep(0.02)
    if len(outcomes) < len(tests) and not failed:  # cut off by a crash, in the test that was running
        text = _first_failure(job) or f"the tests were not run:\n{job.printed(0)}"
        outcomes[_current(tests, outcomes, job.events())] = Outcome("failed", text)
    return outcomes


def _judge(
    job: Job, tests: Sequence[str], events: Mapping[int, Sequence[Mapping[str, Any]]]
) -> dict[str, Outcome]:
    """The tests of which all ranks have said how they ended, or one that it failed."""
    ended = {rank: {e["ends"]: e for e in seen if "ends" in e} for rank, seen in events.items()}
    needed = [rank for rank in ended if rank not in job.shape.dies]
    outcomes = {}
    for test in tests:
        for rank in ended:
            if (event := ended[rank].get(test)) is not None and event["outcome"] == "failed":
                head = f"rank {rank} of {job.shape.ranks} failed:\n" if job.shape.ranks > 1 else ""
                outcomes[test] = Outcome("failed", f"{head}{event['text']}")
                break
        else:
            if all(test in ended[rank] for rank in needed):
                event = ended[needed[0]][test]
                outcomes[test] = Outcome(event["outcome"], event["text"])
    return outcomes


def _current(
    tests: Sequence[str],
    outcomes: Mapping[str, Outcome],
    events: Mapping[int, Sequence[Mapping[str, Any]]],
) -> str:
    """The test that has begun and not ended; the first one if none has."""
    begun = {event["begins"] for seen in events.values() for event in seen if "begins" in event}
    left = [test for test in tests if test not in outcomes]
    return next((test for test in left if test in begun), left[0])
