"""The manager: checkpoints of a running job, and where it goes on."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import time
import weakref
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distgrad import env
from distgrad.checkpoint.collect import Collected, collect
from distgrad.checkpoint.ending import Ending, refuse_second
from distgrad.checkpoint.layout import draft, find_checkpoints, folder_name, read_manifest, step_of
from distgrad.checkpoint.mirror import Mirror
from distgrad.checkpoint.pieces import Reader
from distgrad.checkpoint.places import Name, Place, discard, place_of
from distgrad.checkpoint.restoring import restore
from distgrad.checkpoint.writer import Job, Writer, claim, retire, staged, unlock
from distgrad.comm.base import Communicator
from distgrad.comm.registry import get_world, is_initialized
from distgrad.errors import DataError, OptionError
from distgrad.launch.exit_codes import PREEMPTED
from distgrad.trace import span
from distgrad.tracebacks import warn_once

__all__ = ["CheckpointManager"]


class CheckpointManager:
    """Saves a job's state now and then, and finds where to go on.

    ::

        manager = dg.checkpoint.CheckpointManager("run", keep=3, every=500)
        manager.add(model=ddp, optimizer=optimizer, loader=loader)
        start = manager.restore_latest() or 0
        for batch in loader:
            ...
            manager.step()

    A checkpoint is written by a thread while training goes on, and exists whole or not at all, whatever is
    killed when. Beside what was added it holds the random generators of distgrad, NumPy and Python. It is
    read by any number of ranks. On SIGTERM, SIGUSR1 or near the job's end the ranks agree on a step, save,
    say so, and end with exit code 75. All methods but ``add`` are collective.

    Args:
        folder: where checkpoints lie, made if need be; on a file system that all ranks share, or an address
            in a store that fsspec knows (``s3://bucket/run``). One job at a time uses it. None: nothing is
            saved, so that a script can leave it to its command line.
        keep: how many are kept; the best one is kept beside them.
        every: steps between two saves; 0 saves only when :meth:`save` is called, or the job is to end.
        best: ``"max"`` or ``"min"``: which metric given to :meth:`save` or :meth:`step` is best; None: none.
        background: write in a thread from a copy of the state; False writes before ``step`` returns.
        on_error: what happens if a save fails: ``"raise"`` at the next call, or ``"warn"`` and train on.
        signals: whether SIGTERM, SIGUSR1 and the end of Slurm's job ask for a last save. One manager of a
            process can have that.
        time_limit_s: seconds from now at which the job will be ended; None means Slurm's own limit, if there
            is one and with ``signals``.
        margin_s: seconds before that limit at which the last save begins.
        memory: steps between two copies of the state into memory that outlives the ranks (True: each step),
            on their own host and a neighbour's; 0: none. Needs ``distgrad run --max-restarts``.
        comm: the ranks; None means the world, or this process alone where there is none.

    Raises:
        DataError: a folder that another job uses, or that cannot be made.
        OptionError: a number or word that is none of those above, an address without a package for it, or a
            second manager with ``signals``.
    """

    def __init__(
        self,
        folder: Name | None,
        *,
        keep: int = 3,
        every: int = 0,
        best: Literal["max", "min"] | None = None,
        background: bool = True,
        on_error: Literal["raise", "warn"] = "raise",
        signals: bool = True,
        time_limit_s: float | None = None,
        margin_s: float = 60.0,
        memory: int = 0,
        comm: Communicator | None = None,
    ) -> None:
        for name, value, least in (("keep", keep, 1), ("every", every, 0), ("memory", memory, 0)):
            if not isinstance(value, int | np.integer) or value < least:
                raise OptionError(
                    f"CheckpointManager: {name} must be a whole number from {least} on, got {value!r}"
                )
        if best not in (None, "max", "min") or on_error not in ("raise", "warn"):
            raise OptionError(
                "CheckpointManager: best must be 'max', 'min' or None and on_error 'raise' or 'warn', got "
                f"{best!r}, {on_error!r}"
            )
        self.folder = Path() if folder is None else place_of(folder)
        self.keep, self.every, self.best = keep, every, best
        self.finished = 0  #: steps of training that are done
        self._background, self._on_error = background, on_error
        self._comm = get_world() if comm is None and is_initialized() else comm
        self._rank, self._num_ranks = (0, 1) if self._comm is None else (self._comm.rank, self._comm.size)
        self._objects: dict[str, Any] = {}
        self._writer = Writer()
        self._staging = np.empty(0, np.uint8)
        self._saved: int | None = None
        self._closed = self._saves_nothing = folder is None
        self._lock: int | None = None
        self._compared = False  # whether what is to be equal on all ranks was
        if not self._saves_nothing:
            self._together(self._open)
        hears = signals and not self._saves_nothing
        if hears:
            refuse_second(lambda: unlock(self._lock))
        slurms_s = env.read().job_end_s if hears else None
        end_s = slurms_s if time_limit_s is None else time.time() + time_limit_s
        self._ending = Ending(self._comm, hears, end_s, margin_s)
        self._memory = int(memory)
        self._mirror = Mirror(self._comm) if memory and not self._saves_nothing else None
        self._let_go = weakref.finalize(self, _let_go, self._writer, self._ending, self._lock)

    # -- what is saved

    def add(self, **objects: Any) -> None:
        """Save these from now on, each under its name: anything with ``state_dict`` and ``load_state_dict``
        (a module, an optimizer, a scheduler, a loader, a scaler, an averaged model), or a dict.

        Raises:
            OptionError: a name that is taken, or an object that has no state.
        """
        for name, each in objects.items():
            if name in self._objects:
                raise OptionError(f"CheckpointManager.add: {name!r} was added before; choose another name")
            has_state = hasattr(each, "state_dict") and hasattr(each, "load_state_dict")
            if not (has_state or isinstance(each, dict)):
                raise OptionError(
                    f"CheckpointManager.add: {name!r} is a {type(each).__name__}; expected a dict, or an "
                    "object with state_dict() and load_state_dict()"
                )
            self._objects[name] = each

    def step(self, metric: float | None = None) -> None:
        """A step of training is done: call it last in the loop, on every rank.

        Collective: yes; blocks: no, except for a save before the last one is written, and at the job's end.

        Raises:
            DataError: the save before has failed.
            SystemExit: with code 75, once the last save is done that a signal or the time limit asked for; 1
                if it could not be done.
            OptionError: the manager is closed.
        """
        if self._closed and not self._saves_nothing:
            raise OptionError("CheckpointManager.step: it is closed; make another one")
        self.finished += 1
        if self._saves_nothing:
            return
        self._settle()
        ending = self._ending.agreed()
        if ending or (self.every and self.finished % self.every == 0):
            self.save(metric)
        if ending:
            saved = self._finish_last() and self._saved == self.finished
            if self._rank == 0:
                why = self._ending.why or "another rank was asked to end"
                what = "saved" if saved else "nothing could be saved"
                print(f"checkpoint: {what} at step {self.finished} ({why})", file=sys.stderr, flush=True)
            self._release(obeyed=True)
            raise SystemExit(PREEMPTED if saved else 1)
        if self._mirror is not None and self._mirror.works and self.finished % self._memory == 0:
            with span("checkpoint.mirror", step=self.finished):
                self._mirror.save(self.finished, collect(self._objects, self._rank, self._num_ranks))

    def save(self, metric: float | None = None) -> Place:
        """Save now; returns the folder that the checkpoint will have.

        Collective: yes; blocks: for as long as it takes to copy this rank's part, and to write the last one.

        Raises:
            DataError: this save, or the one before, cannot be written.
            OptionError: the manager has no folder, or is closed.
        """
        if self._saves_nothing:
            raise OptionError("CheckpointManager.save: there is no folder; give one to CheckpointManager")
        if self._closed:
            raise OptionError("CheckpointManager.save: it is closed; make another one")
        value = None if metric is None or metric != metric else float(metric)  # NaN is never best
        self._finish_last()
        started_s = time.perf_counter()
        final = self.folder / folder_name(self.finished)
        with span("checkpoint.snapshot", step=self.finished):
            state = collect(self._objects, self._rank, self._num_ranks)
            self._compare(state)
            try:
                self._together(self._make_part)
                self._check_shared()
            except DataError as error:
                self._complain(str(error), error)
                return final
            if self._background:
                slices, self._staging = staged(state.slices, self._staging)
                state = state._replace(slices=slices)
        notes = {**self._notes(), "metric": value, "snapshot_s": time.perf_counter() - started_s}
        job = Job(self.folder, self.finished, self._rank, self._num_ranks, state, notes, self._prune)
        self._writer.start(job)
        self._saved = self.finished
        if not self._background:
            self.wait()
        return final

    def wait(self) -> None:
        """Wait until the last save is on the disk, on all ranks.

        Collective: yes; blocks: yes.

        Raises:
            DataError: it has failed.
        """
        self._finish_last()

    def close(self) -> None:
        """Wait for the last save, and let go of the folder and the signals; a second call does nothing.

        Collective: yes, the first time; blocks: yes.

        Raises:
            DataError: the last save has failed.
        """
        if self._closed:
            return
        try:
            self._finish_last()
        finally:
            self._release(obeyed=False)

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self.close()
        elif not self._closed:  # other ranks may answer no more
            self._writer.give_up()
            self._writer.wait()
            self._release(obeyed=True, failed=True)

    # -- going on

    def restore_latest(self, *, strict: bool = True, only: Iterable[str] | None = None) -> int | None:
        """Take over the newest whole checkpoint; returns how many steps were finished, None if there is none.

        Collective: yes; blocks: yes.

        Raises:
            DataError: it is damaged; remove its folder to go on from the one before.
            StateDictError: it does not fit what was added.
        """
        self._finish_saved()
        found: list[Place] = []
        if not self._saves_nothing:
            self._together(lambda: found.extend(find_checkpoints(self.folder)))
        newest = self._rank0s(str(found[-1]) if found else None)
        if self._mirror is not None and self._mirror.works and only is None:
            kept = self._mirror.newest()
            if kept is not None and (newest is None or kept[0] >= step_of(place_of(newest))):
                return self._take_over(self._mirror.reader(kept), strict, None)
        return None if newest is None else self.restore(newest, strict=strict, only=only)

    def restore(self, path: Name, *, strict: bool = True, only: Iterable[str] | None = None) -> int:
        """Take over a checkpoint, written by any number of ranks; returns how many steps were finished.

        What ranks have alone (random generators, where a loader stands, what a hook remembers) comes back on
        the rank of the same number; a further one takes rank 0's place in the data, and its own of the rest.

        Collective: yes, as far as ``load_state_dict`` is; blocks: yes.

        Args:
            path: the checkpoint's folder.
            strict: whether modules' names must be exactly the saved ones, and everything added be in it.
            only: names of what is taken over, and nothing else then, random generators neither. A dotted name
                is a part of a module: ``model.encoder``, of a pretrained one say.

        Raises:
            DataError: no checkpoint, or a damaged one.
            StateDictError: it does not fit what was added.
        """
        self._finish_saved()
        folder = place_of(path)
        return self._take_over(Reader(folder, read_manifest(folder)), strict, only)

    # -- inside

    def _take_over(self, reader: Reader, strict: bool, only: Iterable[str] | None) -> int:
        with span("checkpoint.load", bytes=reader.manifest.nbytes, path=str(reader.folder)):
            restore(reader, self._objects, self._rank, strict, None if only is None else list(only))
        self.finished = reader.manifest.step
        return reader.manifest.step

    def _open(self) -> None:
        """On rank 0."""
        self._lock = claim(self.folder)

    def _make_part(self) -> None:
        """On rank 0: the folder that the ranks write into."""
        later = find_checkpoints(self.folder)[-1:]
        if later and step_of(later[0]) > self.finished:
            raise DataError(
                f"checkpoint: {later[0]} is of a run that was further than step {self.finished}; go on "
                "from it with restore_latest(), or remove it, or use another folder"
            )
        part = draft(self.folder, self.finished)
        discard(part)
        try:
            part.mkdir()
        except OSError as error:
            raise DataError(f"checkpoint: {part} cannot be made: {error.strerror}") from None

    def _together(self, on_rank0: Any) -> None:
        """Let rank 0 do something, and every rank raise what it raised."""
        error = None
        if self._rank == 0:
            try:
                on_rank0()
            except DataError as raised:
                error = str(raised)
            except OSError as raised:
                error = f"checkpoint: {self.folder} cannot be read or written: {raised}"
        error = self._rank0s(error)
        if error is not None:
            raise DataError(error)

    def _finish_saved(self) -> None:
        """What is read may be what is being written, or about to be removed."""
        if self._saved is not None and not self._closed:
            self._finish_last()

    def _finish_last(self) -> bool:
        """Wait for the last save on all ranks, none for one that could not write; whether it is whole."""
        if self._rank > 0:
            self._writer.wait()
        if any(self._everyones(self._rank > 0 and self._writer.why is not None)):
            self._writer.give_up()
        self._writer.wait()
        causes = self._everyones(self._writer.why)
        if not any(causes):
            return True
        if self._rank == 0 and self._saved is not None:  # a full disk should have its room back
            part = draft(self.folder, self._saved)
            with contextlib.suppress(DataError):  # or a file system that is gone
                if part not in find_checkpoints(self.folder):  # in a store it may be whole by now
                    discard(part)
        self._writer.why = None
        self._saved = None
        self._complain_all(causes)
        return False

    def _complain_all(self, causes: list[str | None]) -> None:
        """Raise on all ranks, or warn of, what one could not write; that rank 0 could not either follows."""
        error = self._writer.take_error()
        if self._num_ranks == 1:
            text = _said(error, causes[0])
        else:
            rank = next((rank for rank, why in enumerate(causes) if rank and why), 0)
            text = f"checkpoint: rank {rank} could not write its part of the last save: {causes[rank]}"
        if self._on_error == "raise":
            raise DataError(text) from error
        if error is not None:
            self._complain(text, error)

    def _release(self, obeyed: bool, failed: bool = False) -> None:
        """Let go of the folder and the signals."""
        self._closed = True
        if self._mirror is not None:
            self._mirror.close()
        if self._lock is not None:
            unlock(self._lock)
        self._let_go.detach()
        self._ending.close(obeyed, failed)

    def _compare(self, state: Collected) -> None:
        """Find out, once, that the ranks differ in what is taken for equal, as each writes a part of it."""
        if self._compared or self._num_ranks == 1:
            return
        sums = self._everyones({name: _checksum(array) for name, array in state.equal.items()})
        for name in sums[0]:
            differing = [rank for rank, each in enumerate(sums) if each.get(name) != sums[0][name]]
            if differing:
                raise DataError(
                    f"checkpoint: {name} differs between rank 0 and rank {differing[0]}, and a checkpoint "
                    "holds one state for all; average the parameters first, or give each rank a manager and "
                    "a folder of its own, with comm=comm.split(comm.rank)"
                )
        self._compared = True

    def _check_shared(self) -> None:
        """Find out that a rank does not see the folder which rank 0 has made."""
        part = draft(self.folder, self.finished)
        try:
            why = None if part.is_dir() else ""
        except OSError as error:
            why = error.strerror
        causes = self._everyones(why)
        blind = [rank for rank, why in enumerate(causes) if why is not None]
        if blind and causes[blind[0]]:
            raise DataError(f"checkpoint: {part} cannot be read on rank {blind[0]}: {causes[blind[0]]}")
        if blind:
            raise DataError(
                f"checkpoint: ranks {blind} do not see {part}, which rank 0 has made; put the folder on a "
                "file system that all hosts share"
            )

    def _everyones(self, value: Any) -> list[Any]:
        return [value] if self._comm is None or self._num_ranks == 1 else self._comm.all_gather_object(value)

    def _rank0s(self, value: Any) -> Any:
        return value if self._comm is None or self._num_ranks == 1 else self._comm.broadcast_object(value)

    def _settle(self) -> None:
        """Raise, or warn of, what went wrong in the last save."""
        error = self._writer.take_error()
        if error is not None:
            text = _said(error, self._writer.why)
            if self._num_ranks == 1:  # the others, where there are any, are yet to learn of it
                self._writer.why = None
            self._complain(text, error)

    def _complain(self, text: str, error: BaseException) -> None:
        if self._on_error == "warn":
            warn_once(f"{self.folder} {self.finished}", f"{text}; training goes on")
            return
        raise DataError(text) from error

    def _notes(self) -> dict[str, Any]:
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "distgrad": sys.modules["distgrad"].__version__,
            "numpy": np.__version__,
            "python": sys.version.split()[0],
            "command": [sys.executable, *sys.argv],
            "commit": _commit(),
        }

    def _prune(self, newest: Place) -> None:
        """Remove the checkpoints that are not to be kept; called on rank 0, in the thread that wrote."""
        found = find_checkpoints(self.folder)
        kept = {newest, *found[-self.keep :]}
        if self.best is not None:
            kept |= set(self.best_checkpoints(found)[:1])
        for path in found:
            if path not in kept:
                retire(path)

    def best_checkpoints(self, among: Iterable[Place] | None = None) -> list[Place]:
        """Checkpoints that have a metric, the best first. Collective: no; blocks: no."""
        scored: list[tuple[float, Place]] = []
        for path in find_checkpoints(self.folder) if among is None else among:
            with contextlib.suppress(DataError):
                metric = read_manifest(path).notes.get("metric")
                if isinstance(metric, int | float):
                    scored.append((float(metric), path))
        scored.sort(key=lambda each: each[0], reverse=self.best == "max")
        return [path for _, path in scored]


def _said(error: BaseException | None, why: str | None) -> str:
    return str(why) if isinstance(error, DataError) else f"checkpoint: the last save failed: {why}"


def _let_go(writer: Writer, ending: Ending, lock: int | None) -> None:
    """Of a manager that nobody has closed, and that is gone, or about to go with the process."""
    ending.abandon()
    if getattr(sys, "last_value", None) is not None:  # other ranks may write no more
        writer.give_up()
    writer.wait()
    if lock is not None:
        unlock(lock)


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)


@functools.cache
def _commit() -> str | None:
    """The commit of the git repository that this process works in; None outside of one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=2, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
