"""Writing a checkpoint while training goes on: a thread a rank, and files that the ranks meet by.

Each rank writes its file, and then says so in ``rankN.json``; rank 0 waits for all of those, writes the
manifest, and gives the folder its name. No message is sent, so nothing gets in the way of the collectives of
training, and a rank that is killed at any moment leaves no checkpoint, or a whole one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgrad.checkpoint.collect import Collected
from distgrad.checkpoint.layout import (
    MANIFEST,
    Entry,
    Manifest,
    Piece,
    check_pieces,
    draft,
    dtype_name,
    find_checkpoints,
    folder_name,
    is_folder_name,
    parse_dtype,
    part_name,
    rank_file,
    replaced_name,
    step_of,
)
from distgrad.checkpoint.pieces import Slice, copy_all, write_file
from distgrad.checkpoint.places import MARK, Place, StorePath, discard, write_text
from distgrad.errors import DataError
from distgrad.trace import span

__all__ = ["Job", "Writer", "claim", "merged", "part_of", "publish", "retire", "staged", "tidy", "unlock"]

_LOOK_S = 0.005
_locks: set[int] = set()  # that this process holds


class Job(NamedTuple):
    """One save.

    Attributes:
        root: the folder that holds the checkpoints.
        step: steps that were finished.
        rank, num_ranks: of this process.
        state: what this rank contributes.
        notes: for the manifest.
        done: called on rank 0 with the folder, once it has its name.
    """

    root: Place
    step: int
    rank: int
    num_ranks: int
    state: Collected
    notes: dict[str, Any]
    done: Callable[[Place], None]

    @property
    def part(self) -> Place:
        """The folder while it is written."""
        return draft(self.root, self.step)


def staged(slices: Sequence[Slice], buffer: np.ndarray) -> tuple[list[Slice], np.ndarray]:
    """Copies of slices in one buffer, which grows if it must and is used again; and the buffer."""
    total = sum(-(-part.data.nbytes // 64) * 64 for part in slices)
    if buffer.nbytes < total:
        buffer = np.empty(total, np.uint8)
    copies, place = [], 0
    for part in slices:
        copies.append(buffer[place : place + part.data.nbytes].view(part.data.dtype))
        place += -(-part.data.nbytes // 64) * 64
    copy_all(list(zip(copies, (part.data for part in slices), strict=True)))
    return [part._replace(data=copy) for part, copy in zip(slices, copies, strict=True)], buffer


class Writer:
    """Writes one checkpoint at a time in a thread of its own."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.why: str | None = None  #: What the last save failed of, until its end was waited for.
        self._given_up = threading.Event()

    def start(self, job: Job) -> None:
        """Write ``job`` from now on; the one before must be over."""
        self._given_up.clear()
        self.why = None
        self._thread = threading.Thread(
            target=self._run, args=(job,), name="distgrad-checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written; in the writing thread itself nothing is any longer."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def give_up(self) -> None:
        """Stop waiting for other ranks, one of which has failed."""
        self._given_up.set()

    def take_error(self) -> BaseException | None:
        """What went wrong since the last call; None if nothing did."""
        error, self._error = self._error, None
        return error

    def _run(self, job: Job) -> None:
        try:
            nbytes = sum(part.data.nbytes for part in job.state.slices)
            with span("checkpoint.save", bytes=nbytes, path=str(job.part), step=job.step):
                self._write(job)
        except BaseException as error:
            self._error, self.why = error, str(error) or repr(error)
            with contextlib.suppress(OSError):  # so that rank 0 does not wait for it
                write_text(job.part / f"rank{job.rank}.failed", self.why)

    def _write(self, job: Job) -> None:
        pieces = write_file(job.part / rank_file(job.rank), job.state.slices)
        write_text(job.part / f"rank{job.rank}.json", json.dumps(part_of(job.state, pieces)))
        if job.rank == 0:
            manifest = merged(job.step, job.num_ranks, job.state.tree, self._gather(job), job.notes)
            for rank in range(job.num_ranks):
                (job.part / f"rank{rank}.json").unlink()
            job.done(publish(job.root, manifest))

    def _gather(self, job: Job) -> list[dict[str, Any]]:
        """What the ranks said, once all have."""
        found: dict[int, dict[str, Any]] = {}
        while len(found) < job.num_ranks:
            for rank in set(range(job.num_ranks)) - set(found):
                with contextlib.suppress(FileNotFoundError):
                    found[rank] = json.loads((job.part / f"rank{rank}.json").read_text())
                with contextlib.suppress(FileNotFoundError):
                    why = (job.part / f"rank{rank}.failed").read_text()
                    raise DataError(f"checkpoint: rank {rank} could not write its part of {job.part}: {why}")
            if not job.part.is_dir():
                raise DataError(f"checkpoint: {job.part} has gone while it was written")
            if len(found) < job.num_ranks:
                if self._given_up.is_set():
                    raise DataError(f"checkpoint: {job.part} was given up, as another rank could not write")
                time.sleep(_LOOK_S)
        return [found[rank] for rank in range(job.num_ranks)]


def merged(
    step: int, num_ranks: int, tree: dict[str, Any], said: Sequence[Mapping[str, Any]], notes: dict[str, Any]
) -> Manifest:
    """The manifest of what all ranks wrote.

    Args:
        step: steps that were finished.
        num_ranks: how many have written.
        tree: of what all ranks have alike.
        said: what each rank says of its part, as :func:`part_of` puts it.
        notes: beside it.

    Raises:
        DataError: ranks that do not agree on an array, or one of which a part is missing.
    """
    pieces: dict[str, list[Piece]] = {}
    entries: dict[str, tuple[str, tuple[int, ...]]] = {}
    for each in said:
        for name, found in each["pieces"].items():
            pieces.setdefault(name, []).extend(Piece(*piece) for piece in found)
        for name, (dtype, shape) in each["entries"].items():
            if entries.setdefault(name, (dtype, tuple(shape))) != (dtype, tuple(shape)):
                raise DataError(
                    f"checkpoint: {name} is {entries[name]} on one rank and {(dtype, shape)} on another; "
                    "a checkpoint holds one state for all ranks"
                )
    arrays = {
        name: Entry(parse_dtype(dtype), shape, tuple(sorted(pieces.get(name, []), key=lambda p: p.start)))
        for name, (dtype, shape) in entries.items()
    }
    for name, entry in arrays.items():
        check_pieces(name, entry.size, entry.pieces)
    return Manifest(step, num_ranks, tree, tuple(each["own"] for each in said), arrays, notes)


def part_of(state: Collected, pieces: dict[str, list[Piece]]) -> dict[str, Any]:
    """What a rank says of its part of a checkpoint, in JSON's kinds."""
    entries = {name: [dtype_name(dtype), shape] for name, (dtype, shape) in state.entries.items()}
    return {"pieces": pieces, "entries": entries, "own": state.own}


def publish(root: Place, manifest: Manifest) -> Place:
    """Give a checkpoint whose files are written its manifest and its name; returns its folder."""
    part = draft(root, manifest.step)
    if isinstance(root, StorePath) or isinstance(part, StorePath):  # no renaming: the manifest is last
        (part / MARK).unlink()
        write_text(part / MANIFEST, manifest.to_json())
        return part
    final = root / folder_name(manifest.step)
    before = root / replaced_name(manifest.step)
    write_text(part / MANIFEST, manifest.to_json())
    _sync_folder(part)
    if final.exists():  # the step was saved before; that one stays until this one has its name
        final.rename(before)
    part.rename(final)
    _sync_folder(root)
    shutil.rmtree(before, ignore_errors=True)
    return final


def retire(checkpoint: Place) -> None:
    """Remove a whole checkpoint so that it is never half of one."""
    doomed = checkpoint
    if not isinstance(checkpoint, StorePath):
        doomed = checkpoint.with_name(part_name(step_of(checkpoint)))
        with contextlib.suppress(OSError):
            checkpoint.rename(doomed)
    discard(doomed)


def claim(folder: Place) -> int | None:
    """Make a folder this job's own, and put right what a killed one has left; returns its lock.

    A store knows no locks, so that None tells two jobs apart there.

    Raises:
        DataError: another job uses it, or it cannot be made or written.
    """
    if isinstance(folder, StorePath):
        _tidy_store(folder)
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise DataError(f"checkpoint: {folder} cannot be made or written: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DataError(f"checkpoint: another job uses {folder}; give each job a folder of its own") from None
    except OSError:  # this file system knows no locks
        pass
    try:
        tidy(folder)
    except OSError as error:
        os.close(lock)
        raise DataError(f"checkpoint: {folder} cannot be written: {error.strerror}") from None
    _locks.add(lock)
    return lock


def unlock(lock: int | None) -> None:
    """Let go of what :func:`claim` has locked; in a fork, and a second time, nothing."""
    if lock is not None and lock in _locks:
        _locks.remove(lock)
        os.close(lock)


def _tidy_store(root: StorePath) -> None:
    """Take half a checkpoint away, which has no manifest."""
    try:
        whole = find_checkpoints(root)
        for path in root.iterdir():
            if is_folder_name(path.name) and path not in whole:
                path.remove()
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"checkpoint: {root} cannot be used: {error.strerror}") from None


def _after_fork() -> None:
    """A fork holds no lock of its parent's, which it may outlive."""
    for lock in list(_locks):
        unlock(lock)


os.register_at_fork(after_in_child=_after_fork)


def tidy(root: Path) -> None:
    """Put right what a job that was killed while it wrote has left: take half a checkpoint away, and give one
    that was about to be replaced its name again, if nothing has replaced it.
    """
    for before in root.glob(replaced_name("*")):
        final = root / before.name.removeprefix(".").removesuffix(".distgrad-replaced")
        if final.exists():
            shutil.rmtree(before, ignore_errors=True)
        else:
            before.rename(final)
    for part in root.glob(".step-*.distgrad-part"):
        shutil.rmtree(part, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
