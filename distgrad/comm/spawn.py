"""Ranks started from a notebook or an interactive program: copies of this process that call one function."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from distgrad.backend.threads import set_num_threads
from distgrad.comm import registry
from distgrad.errors import CommError, LaunchError
from distgrad.launch.exit_codes import explain
from distgrad.launch.rank import die_with_parent

__all__ = ["spawn"]

_GRACE_S = 2.0  # between SIGTERM and SIGKILL
_LOOK_S = 0.2
_FAILED = 1


def spawn(
    function: Callable[..., Any], *args: Any, ranks: int = 2, timeout_s: float | None = None
) -> list[Any]:
    """Call a function on several ranks of this host, and return what each of them returns.

    The ranks are forks of this process, so that functions, datasets and variables of a notebook's cells, or
    of the prompt, are there as they stand; what they change is theirs. In each of them ``dg.comm.init()``
    gives the world of all. What they print comes out here, behind ``[rank r]``. An interrupt ends all of
    them, and so does the end of this process.

    ::

        def train(lr):
            comm = dg.comm.init()
            ...
            return float(loss)

        dg.spawn(train, 1e-3, ranks=2)      # [0.31, 0.31]

    Collective: no; blocks: until all ranks have ended.

    Args:
        function: returns what can be pickled.
        *args: its arguments.
        ranks: how many; they share the processor's cores as threads.
        timeout_s: seconds after which all are ended; None waits for ever.

    Returns:
        Each rank's result, rank 0's first.

    Raises:
        CommError: this process is itself a rank of several, or holds GPUs, which a fork cannot use.
        LaunchError: a rank raised (the message is its traceback) or ended otherwise, or ``timeout_s`` passed.
    """
    if ranks < 1:
        raise CommError(f"spawn: ranks must be 1 or more, got {ranks}")
    world = registry.get_world() if registry.is_initialized() else None
    if world is not None and world.size > 1:
        raise CommError(
            f"spawn: this process is rank {world.rank} of {world.size} already; call it in a program that "
            "was started alone"
        )
    if "cupy" in sys.modules:
        raise CommError(
            "spawn: this process has loaded CuPy, and a fork cannot use its GPUs; start a script with "
            "distgrad run, or spawn before anything is on a GPU"
        )
    folder = tempfile.mkdtemp(prefix="distgrad-spawn-")
    running: list[_Rank] = []
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        for rank in range(ranks):
            running.append(_Rank(rank, ranks, folder, function, args))
        _attend(running, None if timeout_s is None else time.monotonic() + timeout_s)
        return [pickle.loads(rank.result) for rank in running]
    finally:
        _end(running)
        shutil.rmtree(folder, ignore_errors=True)


class _Rank:
    """One rank, as the process that started it sees it."""

    def __init__(self, rank: int, size: int, folder: str, function: Callable[..., Any], args: Any) -> None:
        self.rank = rank
        self.result, self.rest = b"", b""
        self.code: int | None = None
        outputs, results = os.pipe(), os.pipe()
        parent = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            self.pid = os.fork()
        if self.pid == 0:
            _run(rank, size, folder, function, args, outputs[1], results[1], parent)
        os.close(outputs[1])
        os.close(results[1])
        self.output, self.results = outputs[0], results[0]

    def show(self, data: bytes) -> None:
        """Print whole lines; what is left of one waits for its end, or for the rank's."""
        *lines, self.rest = (self.rest + data).split(b"\n") if data else (self.rest, b"")
        for line in lines:
            if data or line:
                print(f"[rank {self.rank}] {line.decode(errors='replace')}", flush=True)

    def reap(self) -> None:
        """Note how it has ended, if it has."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)


def _run(
    rank: int, size: int, folder: str, function: Callable[..., Any], args: Any, output: int, results: int,
    parent: int,
) -> NoReturn:  # fmt: skip
    """The rank itself, which ends here."""
    code, found = _FAILED, b""
    try:
        os.setpgid(0, 0)  # Ctrl-C is the parent's to tell
        die_with_parent(parent)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), line_buffering=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), line_buffering=True)
        registry.forget()
        set_num_threads(max(1, len(os.sched_getaffinity(0)) // size))
        registry.init(address=f"{folder}/meeting", rank=rank, size=size)
        found = pickle.dumps(function(*args))
        registry.finalize()
        code = 0
    except BaseException as error:
        found = pickle.dumps("".join(traceback.format_exception(error)))
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            with os.fdopen(results, "wb") as file:
                file.write(found)
        os._exit(code)


def _attend(ranks: list[_Rank], deadline_s: float | None) -> None:
    """Relay what the ranks print and take their results, until all have ended or one has failed."""
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            selector.register(rank.output, selectors.EVENT_READ, (rank, True))
            selector.register(rank.results, selectors.EVENT_READ, (rank, False))
        while selector.get_map():
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise LaunchError("spawn: the ranks have not ended in time; all were ended")
            for key, _ in selector.select(_LOOK_S):
                rank, is_output = key.data
                data = os.read(key.fd, 1 << 16)
                if is_output:
                    rank.show(data)
                else:
                    rank.result += data
                if not data:
                    selector.unregister(key.fd)
                    if not is_output:
                        _check(rank)


def _check(rank: _Rank) -> None:
    """Wait for the end of a rank that has told its result; raise if it has failed."""
    while rank.code is None:
        rank.reap()
        time.sleep(1e-3)
    if rank.code == _FAILED and rank.result:
        raise LaunchError(f"spawn: rank {rank.rank} failed:\n{pickle.loads(rank.result)}")
    if rank.code != 0:
        code = rank.code if rank.code > 0 else 128 - rank.code
        raise LaunchError(f"spawn: rank {rank.rank} ended with exit code {code} {explain(code)}".rstrip())


def _end(ranks: list[_Rank]) -> None:
    """Let none of them outlive the call."""
    deadline_s = time.monotonic() + _GRACE_S
    for rank in ranks:
        rank.reap()
        if rank.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank.pid, signal.SIGTERM)
    for rank in ranks:
        while rank.code is None:
            rank.reap()
            if rank.code is None and time.monotonic() > deadline_s:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(rank.pid, signal.SIGKILL)
            time.sleep(1e-3)
        os.close(rank.output)
        os.close(rank.results)
