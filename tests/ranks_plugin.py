"""Tests on several ranks inside one pytest command: the ``ranks`` marker, and abort on a first failure.

``@pytest.mark.ranks(n, timeout=60)`` runs a test in n processes under the ``mpiexec`` beside this Python, and
with ``backend="shm"`` in n processes that know of no MPI. The outer pytest starts this file as the program of
every rank; each of them runs pytest on that one test. The first rank that fails ends the job, and what it
printed is the failure that the outer pytest shows.

Under ``mpirun python -m pytest --with-mpi`` (pytest-mpi) the ranks run the same tests side by side; there,
too, the first failure on any rank ends all of them, since the others would wait for it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from distgrad.launch.mpirun import remove_segments

FOLDER = "DISTGRAD_TEST_RANKS"  # set in the ranks that the marker starts: where they leave what they print
_SHOWN_CHARS = 6000
_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "HWLOC_XMLFILE": os.devnull,  # or mpiexec leaves a copy of the machine's topology in /tmp at every abort
}


@dataclass
class Job:
    """How a program ended that was started on several ranks.

    Attributes:
        returncode: of mpiexec; None if it was stopped at its time limit.
        output: what all ranks printed, both streams.
        seconds: from start to end.
    """

    returncode: int | None
    output: str
    seconds: float


def run_ranks(
    n: int,
    command: Sequence[str],
    timeout: float,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    backend: str = "mpi",
) -> Job:
    """Run ``command`` on ``n`` ranks and leave nothing running.

    Args:
        n: number of ranks.
        command: the program that every rank runs.
        timeout: seconds; then every rank of ``folder`` writes its stacks, and the job is stopped.
        env: variables on top of this process's.
        folder: where ranks that run :func:`_be_a_rank` leave their process ids.
        backend: ``mpi`` starts them by the mpiexec beside this Python, ``shm`` by this file.
    """
    starter = [str(Path(sys.executable).parent / "mpiexec"), "-n"]
    if backend == "shm":
        starter = [sys.executable, __file__, "start"]
    elif not Path(starter[0]).exists():
        pytest.fail(
            f"{starter[0]} was expected, and is not there; run: pip install 'distgrad[mpi]'", pytrace=False
        )
    began_s, start_s = time.time(), time.monotonic()
    process = subprocess.Popen(
        [*starter, str(n), *command],
        env={**os.environ, **_SETTINGS, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        return Job(process.returncode, output, time.monotonic() - start_s)
    except subprocess.TimeoutExpired:
        _signal_ranks(folder, signal.SIGUSR1)
        time.sleep(0.5)  # lets the stacks be written
        return Job(None, _stop(process), time.monotonic() - start_s)
    finally:
        if process.poll() is None:  # an interrupt, or the outer test's own time limit
            _stop(process)
        _signal_ranks(folder, signal.SIGKILL)
        if process.returncode != 0:  # else MPI has removed its own
            _remove_segments(began_s)


def _start_ranks(n: int, command: Sequence[str]) -> int:
    """Be to ``shm`` what mpiexec is to MPI, except that a rank's failure ends no other; return the exit code.

    All processes are of one group, which SIGTERM ends. What a rank prints is shown whole, after the end: two
    that write to one pipe would mix their lines.
    """
    job = {"WORLD_SIZE": str(n), "DISTGRAD_BACKEND": "shm", "DISTGRAD_JOB_SECRET": secrets.token_hex(16)}
    files = [tempfile.TemporaryFile() for _ in range(n)]  # noqa: SIM115 (open until the ranks have ended)

    def show() -> None:
        for file in files:
            file.seek(0)
            sys.stdout.buffer.write(file.read())
        sys.stdout.flush()

    def stop(*_: object) -> None:
        show()
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, stop)
    ranks = [
        subprocess.Popen(
            command, env={**os.environ, **job, "RANK": str(rank)}, stdout=file, stderr=subprocess.STDOUT
        )
        for rank, file in enumerate(files)
    ]
    code = max(abs(rank.wait()) for rank in ranks)
    show()
    return code


def _stop(process: subprocess.Popen[str]) -> str:
    """End the starter, which ends its ranks, and return what they had printed."""
    process.terminate()
    try:
        return process.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]


def _remove_segments(began_s: float) -> None:
    """Remove what MPICH leaves of an aborted job, whose ranks may end a moment after mpiexec."""
    for _ in range(20):
        with contextlib.suppress(FileNotFoundError):  # another job's, just removed
            if all(file.stat().st_ctime < began_s for file in Path("/dev/shm").glob("mpich_shm_*")):
                return
        remove_segments(began_s)
        time.sleep(0.05)


def _signal_ranks(folder: Path | None, number: signal.Signals) -> None:
    for file in folder.glob("*.pid") if folder is not None else ():
        pid = int(file.read_text())
        with contextlib.suppress(OSError):
            if FOLDER.encode() + b"=" + bytes(folder) in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, number)


# The outer pytest ------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if FOLDER in os.environ:
        return
    for item in items:
        marker = item.get_closest_marker("ranks")
        if marker is None:
            continue
        if _with_mpi(config):
            item.add_marker(pytest.mark.skip(reason="starts its own mpiexec: run it without mpirun"))
        item.fixturenames = []  # the ranks set them up, not this process
        item.add_marker(pytest.mark.timeout(_time_limit(marker) + 30))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    marker = pyfuncitem.get_closest_marker("ranks")
    if marker is None or FOLDER in os.environ:
        return None
    n, timeout = marker.args[0], _time_limit(marker)
    folder = Path(tempfile.mkdtemp(prefix="distgrad-ranks-"))
    try:
        config = pyfuncitem.config
        arguments = [
            f"--rootdir={config.rootpath}",
            f"{pyfuncitem.path}::{pyfuncitem.nodeid.split('::', 1)[1]}",
        ]
        if config.inipath is not None:
            arguments.insert(0, f"--config-file={config.inipath}")
        (folder / "arguments").write_text("\0".join(arguments))
        backend = marker.kwargs.get("backend", "mpi")
        job = run_ranks(n, [sys.executable, __file__], timeout, {FOLDER: str(folder)}, folder, backend)
        _judge(n, timeout, job, folder)
    finally:
        shutil.rmtree(folder)
    return True


def _time_limit(marker: pytest.Mark) -> float:
    return marker.kwargs.get("timeout", 60)


def _judge(n: int, timeout: float, job: Job, folder: Path) -> None:
    """Fail, skip or pass as the ranks did."""
    printed = {rank: folder / f"{rank}.txt" for rank in range(n)}
    text = {rank: file.read_text(errors="replace") for rank, file in printed.items() if file.exists()}
    failed = sorted(folder.glob("*.failed"), key=lambda file: int(file.read_text()))
    if failed:
        rank = int(failed[0].stem)
        pytest.fail(f"rank {rank} of {n} failed first:\n{text[rank][-_SHOWN_CHARS:]}", pytrace=False)
    if job.returncode != 0:
        why = (
            f"timed out after {timeout} s"
            if job.returncode is None
            else f"the starter ended with {job.returncode}"
        )
        parts = [f"----- rank {rank} -----\n{part[-_SHOWN_CHARS:]}" for rank, part in sorted(text.items())]
        parts.append(f"----- starter -----\n{job.output[-_SHOWN_CHARS:]}")
        pytest.fail(f"{n} ranks: {why}\n" + "\n".join(parts), pytrace=False)
    if skipped := sorted(folder.glob("*.skipped")):
        pytest.skip(f"rank {skipped[0].stem}: {skipped[0].read_text()}")


# A rank, of either kind ------------------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed and _config is not None:
        _end_job(
            f"{report.nodeid} ({report.when})\n{report.longreprtext}\n{report.capstdout}{report.capstderr}"
        )
    if report.skipped and FOLDER in os.environ:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        _leave("skipped", reason.removeprefix("Skipped: "))


@pytest.hookimpl(trylast=True)
def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed and _config is not None:
        _end_job(f"{report.nodeid}\n{report.longreprtext}")


_config: pytest.Config | None = None  # of a rank, where a failure must end the other ranks


def pytest_configure(config: pytest.Config) -> None:
    global _config
    if FOLDER in os.environ or _with_mpi(config):
        _config = config


def _with_mpi(config: pytest.Config) -> bool:
    return config.getoption("--with-mpi", False) or config.getoption("--only-mpi", False)


def _end_job(text: str) -> None:
    """Print why, then end every rank: the others would wait for this one for ever."""
    if FOLDER in os.environ:
        _leave("failed", str(time.time_ns()))
    capture = _config.pluginmanager.getplugin("capturemanager") if _config is not None else None
    with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
        print(f"\nrank {_rank()} failed: {text}", file=sys.stderr, flush=True)
    if "RANK" not in os.environ:
        from mpi4py import MPI

        time.sleep(0.2)  # mpiexec drops output that it has not forwarded when the job is aborted
        MPI.COMM_WORLD.Abort(1)
    os._exit(1)


def _rank() -> int:
    """This process's, by the variable of :func:`_start_ranks` or else by MPI."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.Get_rank())


def _leave(kind: str, text: str) -> None:
    (Path(os.environ[FOLDER]) / f"{_rank()}.{kind}").write_text(text)


def _be_a_rank() -> int:
    """Run the test that the outer pytest has written down, with this rank's own file for what it prints."""
    folder = Path(os.environ[FOLDER])
    rank = _rank()
    out = os.open(folder / f"{rank}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    os.chdir(Path(__file__).parent.parent)
    options = [
        "-q",
        "-s",
        "--no-header",
        "--timeout=0",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",  # a second of imports in every rank
        f"--basetemp={folder / str(rank)}",
    ]
    code = pytest.main([*options, *(folder / "arguments").read_text().split("\0")])
    if code:
        _end_job(f"pytest ended with {code!r}")
    return int(code)


if __name__ == "__main__":
    sys.exit(_start_ranks(int(sys.argv[2]), sys.argv[3:]) if "start" in sys.argv[1:2] else _be_a_rank())
