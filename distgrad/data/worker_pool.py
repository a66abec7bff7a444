"""A loader's worker processes, as the loader sees them."""

from __future__ import annotations

import ast
import linecache
import pickle
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Iterator
from multiprocessing import Pipe, process
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from distgrad import env
from distgrad.data.shared import Segment
from distgrad.data.worker import Payload, Start, choose_dumps, describe_main, unsendable
from distgrad.errors import WorkerError
from distgrad.launch.exit_codes import explain

__all__ = ["END", "WorkerPool", "runs_unguarded"]

END = object()  # in place of a batch for which a stream has no samples left
_EXIT_S = 1.0  # for a worker to end by itself once its connection is closed
_COMMAND = "import sys; sys.path[:] = {path!r}; from distgrad.data.worker import main; main({descriptor})"


def runs_unguarded() -> bool:
    """Whether the program's own module is being run outside of ``if __name__ == "__main__":``.

    Workers import that module, and would come to the same line.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__":
            break
        frame = frame.f_back
    if frame is None:
        return False
    line, text = frame.f_lineno, "".join(linecache.getlines(frame.f_code.co_filename))
    guards = [
        each
        for each in ast.parse(text).body
        if isinstance(each, ast.If) and "__name__" in ast.unparse(each.test)
    ]
    return bool(text) and not any(each.lineno <= line <= (each.end_lineno or 0) for each in guards)


class WorkerPool:
    """Workers that make batches ahead of their use, each into slots of shared memory.

    Worker k mod ``num_workers`` makes batch k; the batches come in their order.

    Args:
        payload: dataset, functions and settings for the workers.
        num_workers: how many processes.
        prefetch_factor: batches that each worker has under way.
        timeout_s: how long to wait for a batch; 0 waits as long as the worker lives.
        seed: what the workers' seeds are counted from.
    """

    def __init__(
        self, payload: Payload, num_workers: int, prefetch_factor: int, timeout_s: float, seed: int
    ) -> None:
        if getattr(process.current_process(), "_inheriting", False):
            raise WorkerError(
                "DataLoader: the script starts workers again while a worker imports it; put what the script "
                "does under `if __name__ == '__main__':`"
            )
        self.num_workers = num_workers
        self.timeout_s = timeout_s
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        self._slots = [[Segment() for _ in range(prefetch_factor)] for _ in range(num_workers)]
        segments = [slot for slots in self._slots for slot in slots]
        self._close = weakref.finalize(self, _stop, self._processes, self._connections, segments)
        try:
            self._start(payload, seed)
        except BaseException:
            self.close()
            raise

    def _start(self, payload: Payload, seed: int) -> None:
        segment = Segment()
        try:
            try:
                head, sizes = segment.dump(payload, choose_dumps())
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise unsendable(error) from error
            surroundings = describe_main(head)
            variables = {**env.without_world(), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            for worker, slots in enumerate(self._slots):
                ours, theirs = Pipe()
                self._connections.append(ours)
                descriptors = [slot.descriptor for slot in slots]
                with theirs:
                    code = _COMMAND.format(path=surroundings["sys_path"], descriptor=theirs.fileno())
                    self._processes.append(
                        subprocess.Popen(
                            [sys.executable, "-c", code],
                            stdin=subprocess.DEVNULL,
                            env=variables,
                            pass_fds=[theirs.fileno(), segment.descriptor, *descriptors],
                        )
                    )
                home = (segment.descriptor, head, sizes)
                start = Start(worker, self.num_workers, seed, surroundings, home, descriptors)
                self._send(worker, start)
        finally:
            segment.close()

    def run(
        self, tasks: Iterator[tuple[int, Any]], seed: int, place: Any = None
    ) -> Iterator[tuple[Any, Any]]:
        """The batches of one epoch, in order, each with its task; in its place :data:`END` where none is.

        Args:
            tasks: the number of a batch, and lists of indices or pieces of a stream.
            seed: of the epoch.
            place: where the epoch of a stream goes on.

        Raises:
            WorkerError: a worker died or passed the timeout.
            Exception: whatever the dataset raised in a worker, its traceback there in a note.
        """
        for worker in range(self.num_workers):
            self._send(worker, (-1, 0, (seed, place)))
        free = [list(range(len(slots))) for slots in self._slots]
        pending: deque[tuple[int, int, Any]] = deque()
        following = next(tasks, None)

        def issue() -> None:
            nonlocal following
            while following is not None and free[following[0] % self.num_workers]:
                number, task = following
                worker = number % self.num_workers
                slot = free[worker].pop()
                self._send(worker, (number, slot, task))
                pending.append((number, slot, task))
                following = next(tasks, None)

        issue()
        while pending:
            number, slot, task = pending.popleft()
            worker = number % self.num_workers
            kind, *content = self._receive(worker, number)
            batch = self._slots[worker][slot].load(*content) if kind == "batch" else END
            free[worker].append(slot)
            if batch is not END:
                issue()
            yield task, batch
            issue()

    def close(self) -> None:
        """End the workers, and wait until they have ended."""
        self._close()

    def _send(self, worker: int, message: Any) -> None:
        try:
            self._connections[worker].send_bytes(pickle.dumps(message))
        except BrokenPipeError:  # it is dead: what it said last, or how it died, comes out in _receive
            return

    def _receive(self, worker: int, number: int) -> Any:
        connection = self._connections[worker]
        where = f"DataLoader: worker {worker} of {self.num_workers}, at batch {number}"
        try:
            if not connection.poll(self.timeout_s or None):
                raise WorkerError(
                    f"{where}, gave nothing for timeout={self.timeout_s:g} s; raise the timeout, or look at "
                    "what the dataset waits for"
                )
            reply = connection.recv()
        except (EOFError, ConnectionError):
            raise WorkerError(f"{where}, {self._death(worker)}") from None
        if reply[0] == "error":
            _, pickled, text = reply
            if pickled is None:
                raise WorkerError(f"{where}, raised\n{text}")
            error = pickle.loads(pickled)
            error.add_note(f"{where}:\n{text}")
            raise error
        return reply

    def _death(self, worker: int) -> str:
        try:
            code = self._processes[worker].wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        code = code if code >= 0 else 128 - code
        reason = explain(code)
        return f"died with exit code {code}{f' ({reason})' if reason else ''}; see what it wrote before"


def _stop(
    processes: list[subprocess.Popen[bytes]], connections: list[Connection], segments: list[Segment]
) -> None:
    for connection in connections:
        connection.close()
    for worker in processes:
        try:
            worker.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
    for segment in segments:
        segment.close()
