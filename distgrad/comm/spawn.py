"""Ranks started from a notebook or an interactive program: copies of this process that call one function."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import select
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
    them, and so does the end of this process; processes that they have started end with them.

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
    if type(ranks) is not int or ranks < 1:
        raise CommError(f"spawn: ranks must be a whole number from 1, got {ranks!r}")
    world = registry.get_world() if registry.is_initialized() else None
    if world is not None and world.size > 1:
        raise CommError(
            f"spawn: this process is rank {world.rank} of {world.size} already; call it in a program that "
            "was started alone"
        )
    if _is_on_gpus():
        raise CommError(
            "spawn: this process has arrays on a GPU, which a fork cannot use; start a script with "
            "distgrad run, or spawn before anything is on a GPU"
        )
    folder = tempfile.mkdtemp(prefix="distgrad-spawn-")
    running: list[_Rank] = []
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        for rank in range(ranks):
            running.append(_Rank(rank, ranks, folder, function, args))
        return _attend(running, None if timeout_s is None else time.monotonic() + timeout_s)
    finally:
        _end(running)
        shutil.rmtree(folder, ignore_errors=True)


def _is_on_gpus() -> bool:
    """Whether this process has arrays on a GPU."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return False
    try:
        return bool(cupy.get_default_memory_pool().total_bytes())
    except cupy.cuda.runtime.CUDARuntimeError:  # there is none
        return False


class _Rank:
    """One rank, as the process that started it sees it."""

    def __init__(self, rank: int, size: int, folder: str, function: Callable[..., Any], args: Any) -> None:
        self.rank = rank
        self.result, self.rest = bytearray(), bytearray()
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
        self.ending = os.pidfd_open(self.pid)
        self.reads = {outputs[0]: self.show, results[0]: self.result.extend}
        for end in self.reads:
            os.set_blocking(end, False)

    def show(self, data: bytes) -> None:
        """Print whole lines; what is left of one waits for its end, or for the rank's."""
        self.rest += data
        if b"\n" in data:
            *lines, rest = self.rest.split(b"\n")
            self.rest = rest
            for line in lines:
                self._print(line)

    def _print(self, line: bytearray) -> None:
        line = line.rstrip(b"\r").rpartition(b"\r")[2]  # as a terminal would show what a bar has drawn
        print(f"[rank {self.rank}] {line.decode(errors='replace')}", flush=True)

    def end(self, number: int) -> None:
        """Send a signal to the rank and whatever it has started; they end before it is waited for."""
        for kill in (os.killpg, os.kill):  # in its first moment it has no group of its own yet
            with contextlib.suppress(ProcessLookupError):
                kill(self.pid, number)

    def reap(self) -> None:
        """Take what an ended rank has left in its pipes, end what it has started, and note its code.

        Its children may hold the pipes open as long as they please: the rank's end counts, not the pipes'.
        """
        self.end(signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self.code = os.waitstatus_to_exitcode(status)
        for end, take in self.reads.items():
            while data := _read(end):
                take(data)
            os.close(end)
        os.close(self.ending)
        if self.rest:
            self._print(self.rest)

    def value(self) -> Any:
        """What the function returned.

        Raises:
            LaunchError: it raised, the rank ended otherwise, or its result cannot be read here.
        """
        try:
            kind, found = pickle.loads(self.result) if self.result else ("", None)
        except Exception as error:
            raise LaunchError(
                f"spawn: what rank {self.rank} returned cannot be unpickled here "
                f"({type(error).__name__}: {error}); return arrays, tensors or plain values"
            ) from error
        if kind == "raised":
            raise LaunchError(f"spawn: rank {self.rank} failed:\n{found}")
        if self.code != 0 or kind != "returned":
            code = int(self.code or 0)
            code = code if code >= 0 else 128 - code
            raise LaunchError(
                f"spawn: rank {self.rank} ended with exit code {code} {explain(code)}".rstrip()
                + ("" if code else " before its function had returned")
            )
        return found


def _read(end: int) -> bytes:
    """What is in a pipe now; nothing also where it is at its end."""
    try:
        return os.read(end, 1 << 20)
    except BlockingIOError:
        return b""


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
        found = pickle.dumps(("returned", function(*args)))
        registry.finalize()
        code = 0
    except BaseException as error:
        found = pickle.dumps(("raised", "".join(traceback.format_exception(error))))
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            with os.fdopen(results, "wb") as file:
                file.write(found)
        os._exit(code)


def _attend(ranks: list[_Rank], deadline_s: float | None) -> list[Any]:
    """Relay what the ranks print and take their results, until all have ended or one has failed."""
    found: dict[int, Any] = {}
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            selector.register(rank.ending, selectors.EVENT_READ, rank)
            for end in rank.reads:
                selector.register(end, selectors.EVENT_READ, rank)
        while len(found) < len(ranks):
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise LaunchError("spawn: the ranks have not ended in time; all were ended")
            for key, _ in selector.select(_LOOK_S):
                rank = key.data
                if key.fd != rank.ending and rank.code is None:
                    data = _read(key.fd)
                    rank.reads[key.fd](data)
                    if not data:
                        selector.unregister(key.fd)
                elif rank.code is None:
                    for end in (rank.ending, *rank.reads):
                        if end in selector.get_map():
                            selector.unregister(end)
                    rank.reap()
                    found[rank.rank] = rank.value()
    return [found[rank.rank] for rank in ranks]


def _end(ranks: list[_Rank]) -> None:
    """Let none of them outlive the call, nor what they have started."""
    deadline_s = time.monotonic() + _GRACE_S
    left = [rank for rank in ranks if rank.code is None]
    for rank in left:
        rank.end(signal.SIGTERM)
    for rank in left:
        ended = select.poll()
        ended.register(rank.ending, select.POLLIN)
        ended.poll(1e3 * max(0.0, deadline_s - time.monotonic()))
        rank.reap()
