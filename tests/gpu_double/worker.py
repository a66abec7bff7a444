"""A process on the double: it puts the double under CuPy, then runs tests, or calls one function.

:mod:`gpu_double.job` starts it, with what to do in a file. It writes down what it begins and how that ended,
a line of JSON each.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from real_gpus import on_real_gpus

FOLDER = "DISTGRAD_GPU_DOUBLE_JOB"  # set in the processes on the double: where their job keeps its files
_SHOWN_CHARS = 8000


def folder() -> Path:
    """Of this job; its processes may share files there."""
    return Path(os.environ[FOLDER])


def _write(**event: Any) -> None:
    with (folder() / f"{os.environ['RANK']}.events").open("a") as file:
        file.write(json.dumps(event) + "\n")


class _Reporter:
    """A pytest plugin that writes down each test's beginning and end, and empties the streams after each."""

    def __init__(self, double: Any) -> None:
        self.double = double

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        _write(begins=nodeid)
        self.outcome, self.text = "passed", ""

    def pytest_runtest_teardown(self) -> None:
        import cupy

        cupy.cuda.Stream.null.use()
        if self.double is not None:
            self.double.set_device(0)
            self.double.scheduler.wait_for_device()
        cupy.get_default_memory_pool().free_all_blocks()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.outcome != "failed":
            printed = f"{report.capstdout}{report.capstderr}"[-_SHOWN_CHARS:]
            self.outcome, self.text = "failed", f"{report.longreprtext}\n{printed}"
        elif report.skipped and self.outcome == "passed":
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            self.outcome, self.text = "skipped", reason.removeprefix("Skipped: ")

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        _write(ends=nodeid, outcome=self.outcome, text=self.text)


def _run_tests(task: dict[str, Any], double: Any) -> int:
    import pytest

    os.chdir(task["root"])
    options = ["-q", "--no-header", "--timeout=0", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    base = folder() / f"tmp{os.environ['RANK']}"
    arguments = [*options, f"--basetemp={base}", *task["options"], *task["tests"]]
    code = pytest.main(arguments, plugins=[_Reporter(double)])
    return 0 if code in (0, 1) else int(code)


def _call(task: dict[str, Any]) -> int:
    module, name = task["call"].split(":")
    try:
        result = getattr(importlib.import_module(module), name)(**task["arguments"])
    except BaseException:
        _write(outcome="failed", text=traceback.format_exc()[-_SHOWN_CHARS:])
        return 1
    _write(outcome="passed", result=result)
    return 0


def _install(task: dict[str, Any]) -> Any:
    from gpu_double.runtime import install

    double = install(task["devices"], task["streams"], timeout_s=task["wait_s"])
    from gpu_double.pool import PoisonFreed

    PoisonFreed(double).__enter__()
    return double


def main() -> int:
    """Do what the job's file says."""
    task = json.loads((folder() / "task.json").read_text())
    printed = os.open(folder() / f"{os.environ['RANK']}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    double = None if on_real_gpus() else _install(task)
    code = _call(task) if "call" in task else _run_tests(task, double)
    sys.stdout.flush()
    sys.stderr.flush()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and not mpi.Is_finalized():
        mpi.Finalize()  # or its file in shared memory stays
    os._exit(code)  # CuPy's own clean-up asks a driver that is not there


if __name__ == "__main__":
    sys.exit(main())
