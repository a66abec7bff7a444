"""What runs in a loader's worker process.

A worker is a fresh interpreter, not a fork: a fork would inherit the state of MPI and of locks that other
threads hold. It gets the dataset once, whose arrays all workers of a pool map from the same memory, and then
tasks: (number of the batch, slot of shared memory, indices). Its random numbers are keyed by the number, so
that a batch is the same whichever worker makes it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from multiprocessing import process, spawn
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from distgrad.backend.rng import default_generator
from distgrad.data.collate import fetch, fetch_next
from distgrad.data.place import Reader
from distgrad.data.shared import Segment
from distgrad.errors import WorkerError

__all__ = [
    "Payload",
    "Start",
    "WorkerInfo",
    "choose_dumps",
    "describe_main",
    "get_worker_info",
    "iterate_as",
    "main",
    "unsendable",
]

_FILES = {"init_main_from_name", "init_main_from_path"}  # of describe_main
_IN_NO_FILE = (
    "DataLoader: the dataset or a function of the loader stands in a notebook's cell or at a prompt, "
    "where workers, interpreters of their own, cannot find it; pip install cloudpickle, or write it to a "
    "file that is imported (%%writefile data.py), or pass num_workers=0"
)
_GRACE_S = 5.0  # for a worker that is still busy when its loader is gone
_info: WorkerInfo | None = None
_played: ContextVar[WorkerInfo | None] = ContextVar("worker", default=None)  # while another's part is read


@dataclass(frozen=True)
class WorkerInfo:
    """Which worker this is.

    Attributes:
        id: its place among the workers, from 0.
        num_workers: how many there are.
        seed: differs from worker to worker.
        dataset: the worker's copy.
    """

    id: int
    num_workers: int
    seed: int
    dataset: Any


@dataclass(frozen=True)
class Payload:
    """What a worker works with, the same for all workers of a pool; a stream if the dataset is iterated."""

    dataset: Any
    stream: Any
    collate_fn: Callable[[list[Any]], Any]
    worker_init_fn: Callable[[int], Any] | None
    drop_last: bool


@dataclass(frozen=True)
class Start:
    """The first message to a worker: who it is, where its payload and its slots lie."""

    id: int
    num_workers: int
    seed: int
    surroundings: dict[str, Any]
    payload: tuple[int, bytes, list[int]]
    slots: list[int]


def get_worker_info() -> WorkerInfo | None:
    """Which worker this process is; None outside a loader's worker."""
    return _played.get() or _info


def iterate_as(worker: int, num_workers: int, dataset: Any) -> Iterator[Any]:
    """Iterate over a dataset as one worker of so many would, whichever this process is."""
    info = get_worker_info()
    if (worker, num_workers) == ((0, 1) if info is None else (info.id, info.num_workers)):
        return iter(dataset)
    other = WorkerInfo(worker, num_workers, 0 if info is None else info.seed, dataset)
    return _iterate_as(other, _as(other, iter, dataset))


def _iterate_as(info: WorkerInfo, samples: Iterator[Any]) -> Iterator[Any]:
    end = object()
    while (sample := _as(info, next, samples, end)) is not end:
        yield sample


def _as(info: WorkerInfo, function: Callable[..., Any], *args: Any) -> Any:
    token = _played.set(info)
    try:
        return function(*args)
    finally:
        _played.reset(token)


def choose_dumps() -> Callable[..., bytes]:
    """What pickles for workers: cloudpickle where it is installed and the program is in no file.

    Workers cannot import what stands in a notebook's cells or was typed at a prompt; cloudpickle sends such
    classes and functions themselves.
    """
    if _is_in_no_file():
        with contextlib.suppress(ModuleNotFoundError):
            found: Callable[..., bytes] = importlib.import_module("cloudpickle").dumps
            return found
    return pickle.dumps


def _is_in_no_file() -> bool:
    """Whether the program is a notebook's, or typed at a prompt."""
    module = sys.modules["__main__"]
    return getattr(module, "__file__", None) is None and getattr(module.__spec__, "name", None) is None


def unsendable(error: Exception) -> WorkerError:
    """What to say where pickle cannot send the dataset or a function of the loader."""
    install = "pip install cloudpickle, which can; or " if _is_in_no_file() else ""
    return WorkerError(
        "DataLoader: the dataset or a function of the loader cannot be sent to the workers, interpreters of "
        f"their own ({type(error).__name__}: {error}); {install}write functions by def at the top of a file "
        "where they are lambdas or stand in other functions, open files and connections when the first "
        "sample is asked for, or pass num_workers=0"
    )


def describe_main(head: bytes) -> dict[str, Any]:
    """What a fresh interpreter needs to unpickle ``head``; the main module only if it occurs there."""
    surroundings: dict[str, Any] = {
        "sys_path": [path or os.getcwd() for path in sys.path],
        "sys_argv": sys.argv,
        "dir": os.getcwd(),
    }
    if b"__main__" in head:
        module = sys.modules["__main__"]
        name = getattr(module.__spec__, "name", None)
        path = getattr(module, "__file__", None)
        if name is not None:
            surroundings["init_main_from_name"] = name
        elif path is not None:
            surroundings["init_main_from_path"] = os.path.abspath(path)
    return surroundings


def main(descriptor: int) -> None:
    """Serve a loader until it closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the loader decides
    connection = Connection(descriptor)
    messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, messages), daemon=True).start()
    try:
        first = messages.get()
        if first is None:
            return
        try:
            worker = _Worker(pickle.loads(first))
        except Exception as error:
            connection.send(_failure(error))
            messages.get()
            return
        while (message := messages.get()) is not None:
            try:
                reply = worker.run(*pickle.loads(message))
            except Exception as error:
                reply = _failure(error)
            if reply is not None:
                connection.send(reply)
    except BrokenPipeError:  # the loader is gone
        return


def _listen(connection: Connection, messages: queue.SimpleQueue[bytes | None]) -> None:
    """Take messages in as they come, so that a loader that is gone is noticed in the middle of a sample."""
    try:
        while True:
            messages.put(connection.recv_bytes())
    except (EOFError, OSError):
        messages.put(None)
    time.sleep(_GRACE_S)
    os._exit(1)


def _failure(error: Exception) -> tuple[str, bytes | None, str]:
    text = "".join(traceback.format_exception(error))
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # whatever a class makes of its arguments: the text is what can be carried over
        return "error", None, text
    return "error", pickled, text


class _Worker:
    """The dataset, and the place in the epoch where it is iterated rather than indexed."""

    def __init__(self, start: Start) -> None:
        global _info
        current: Any = process.current_process()
        current._inheriting = (
            True  # a script without a main guard that comes here to start workers is told so
        )
        try:
            spawn.prepare(start.surroundings)
        finally:
            del current._inheriting
        descriptor, head, sizes = start.payload
        segment = Segment(descriptor)
        try:
            payload: Payload = segment.map(head, sizes)
        except AttributeError as error:
            if "__main__" in str(error) and not start.surroundings.keys() & _FILES:
                raise WorkerError(_IN_NO_FILE) from error
            raise
        segment.close()
        self._payload = payload
        self._slots = [Segment(slot) for slot in start.slots]
        self._seed = start.seed
        self._reader: Reader | None = None
        _info = WorkerInfo(start.id, start.num_workers, start.seed + start.id, payload.dataset)
        _seed_all(_info.seed, 0)
        if payload.worker_init_fn is not None:
            payload.worker_init_fn(start.id)

    def run(self, number: int, slot: int, task: Any) -> tuple[Any, ...] | None:
        """Make one batch, or with a negative number begin an epoch: ``task`` is its seed and place."""
        payload = self._payload
        if number < 0:
            self._seed, place = task
            if payload.stream is not None:
                self._reader = Reader(payload.stream, place, partial(_seed_all, self._seed))
            return None
        if self._reader is not None:
            samples = self._reader.seek(task)
            batch = fetch_next(samples, task.share, payload.drop_last, payload.collate_fn)
            if batch is None:
                return ("end",)
        else:
            _seed_all(self._seed, number)
            batch = fetch(payload.dataset, task, payload.collate_fn)
        return "batch", *self._slots[slot].dump(batch)


def _seed_all(seed: int, number: int) -> None:
    """Key the random numbers of distgrad, NumPy and Python by an epoch's seed and a batch's number."""
    default_generator.manual_seed(seed, stream=number)
    np.random.seed(np.random.SeedSequence([seed, number + 1]).generate_state(4))  # noqa: NPY002 (users' code)
    random.seed(f"{seed} {number}")
