"""The manager: checkpoints of a running job, and where it goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distgrad import env
from distgrad.checkpoint.collect import collect, give_back, restore_random_state
from distgrad.checkpoint.layout import find_checkpoints, folder_name, part_name, read_manifest
from distgrad.checkpoint.pieces import Reader
from distgrad.checkpoint.writer import Job, Writer, remove_parts, staged
from distgrad.comm.base import Communicator
from distgrad.comm.registry import get_world, is_initialized
from distgrad.errors import DataError, OptionError, StateDictError
from distgrad.launch.exit_codes import PREEMPTED
from distgrad.trace import span
from distgrad.tracebacks import warn_once

__all__ = ["CheckpointManager"]

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


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
        folder: where checkpoints lie, made if need be; on a file system that all ranks share. One job at a
            time uses it.
        keep: how many are kept; the best one is kept beside them.
        every: steps between two saves; 0 saves only when :meth:`save` is called, or the job is to end.
        best: ``"max"`` or ``"min"``: which metric given to :meth:`save` or :meth:`step` is best; None: none.
        background: write in a thread from a copy of the state; False writes before ``step`` returns.
        on_error: what happens if a save fails: ``"raise"`` at the next call, or ``"warn"`` and train on.
        signals: whether SIGTERM and SIGUSR1 ask for a last save.
        time_limit_s: seconds from now at which the job will be ended; None means Slurm's own limit, if there
            is one.
        margin_s: seconds before that limit at which the last save begins.
        comm: the ranks; None means the world, or this process alone where there is none.

    Raises:
        DataError: a folder that another job uses, or that cannot be made.
        OptionError: a number or word that is none of those above.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 3,
        every: int = 0,
        best: Literal["max", "min"] | None = None,
        background: bool = True,
        on_error: Literal["raise", "warn"] = "raise",
        signals: bool = True,
        time_limit_s: float | None = None,
        margin_s: float = 60.0,
        comm: Communicator | None = None,
    ) -> None:
        if keep < 1 or every < 0:
            raise OptionError(
                f"CheckpointManager: keep must be 1 or more and every 0 or more, got {keep}, {every}"
            )
        if best not in (None, "max", "min") or on_error not in ("raise", "warn"):
            raise OptionError(
                "CheckpointManager: best must be 'max', 'min' or None and on_error 'raise' or 'warn', got "
                f"{best!r}, {on_error!r}"
            )
        self.folder = Path(folder)
        self.keep, self.every, self.best = keep, every, best
        self.finished = 0  #: steps of training that are done
        self._background, self._on_error, self._margin_s = background, on_error, margin_s
        self._comm = get_world() if comm is None and is_initialized() else comm
        self._rank, self._num_ranks = (0, 1) if self._comm is None else (self._comm.rank, self._comm.size)
        self._objects: dict[str, Any] = {}
        self._writer = Writer()
        self._staging = np.empty(0, np.uint8)
        self._saved: int | None = None
        self._lock: int | None = None
        self._asked: str | None = None  # why the job is to end
        self._agreeing: Any = None
        self._end_s = self._deadline(time_limit_s)
        self._before: dict[int, Any] = {}
        self._together(self._open)
        if signals and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}

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
            SystemExit: with code 75, once the last save is done that a signal or the time limit asked for.
        """
        self.finished += 1
        self._settle()
        ending = self._agreed_end()
        if ending or (self.every and self.finished % self.every == 0):
            self.save(metric)
        if ending:
            self.wait()
            if self._rank == 0:
                why = self._asked or "another rank was asked to end"
                print(f"checkpoint: saved at step {self.finished} ({why})", file=sys.stderr, flush=True)
            self.close()
            raise SystemExit(PREEMPTED)

    def save(self, metric: float | None = None) -> Path:
        """Save now; returns the folder that the checkpoint will have.

        Collective: yes; blocks: for as long as it takes to copy this rank's part, and to write the last one.

        Raises:
            DataError: this save, or the one before, cannot be written.
        """
        if self.best is not None and metric is not None and metric != metric:
            metric = None  # NaN is never best
        self._finish_last()
        started_s = time.perf_counter()
        with span("checkpoint.snapshot", step=self.finished):
            state = collect(self._objects, self._rank, self._num_ranks)
            self._together(self._make_part)
            self._check_shared()
            if self._background:
                slices, self._staging = staged(state.slices, self._staging)
                state = state._replace(slices=slices)
        notes = {**self._notes(), "metric": metric, "snapshot_s": time.perf_counter() - started_s}
        job = Job(self.folder, self.finished, self._rank, self._num_ranks, state, notes, self._prune)
        self._writer.start(job)
        self._saved = self.finished
        if not self._background:
            self.wait()
        return self.folder / folder_name(self.finished)

    def wait(self) -> None:
        """Wait until the last save is on the disk, on all ranks.

        Collective: yes; blocks: yes.

        Raises:
            DataError: it has failed.
        """
        self._finish_last()

    def close(self) -> None:
        """Wait for the last save, and let go of the folder and the signals; a second call does nothing."""
        self._writer.wait()
        if self._agreeing is not None:
            self._agreeing[0].wait()
            self._agreeing = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is not None:
            self._writer.give_up()
        self.close()

    # -- going on

    def restore_latest(self, *, strict: bool = True, only: Iterable[str] | None = None) -> int | None:
        """Take over the newest whole checkpoint; returns how many steps were finished, None if there is none.

        Collective: yes; blocks: yes.

        Raises:
            DataError: it is damaged; remove its folder to go on from the one before.
            StateDictError: it does not fit what was added.
        """
        found = find_checkpoints(self.folder)
        newest = self._rank0s(str(found[-1]) if found else None)
        return None if newest is None else self.restore(newest, strict=strict, only=only)

    def restore(
        self, path: str | os.PathLike[str], *, strict: bool = True, only: Iterable[str] | None = None
    ) -> int:
        """Take over a checkpoint, written by any number of ranks; returns how many steps were finished.

        Random generators go on where they stood; a rank that was not there when it was saved keeps its own.

        Collective: yes, as far as ``load_state_dict`` is; blocks: yes.

        Args:
            path: the checkpoint's folder.
            strict: whether modules' names must be exactly the saved ones, and everything added be in it.
            only: names of what is taken over, and nothing else then, random generators neither.

        Raises:
            DataError: no checkpoint, or a damaged one.
            StateDictError: it does not fit what was added.
        """
        reader = Reader(Path(path), read_manifest(Path(path)))
        manifest = reader.manifest
        wanted = list(self._objects if only is None else only)
        missing = [name for name in wanted if name not in self._objects or name not in manifest.tree]
        if missing and (strict or only is not None):
            raise StateDictError(
                f"checkpoint: {path} holds {sorted(manifest.tree)}, and added were {sorted(self._objects)}: "
                f"{missing[0]!r} is not in both; restore with only=[…] what is"
            )
        own = manifest.ranks[self._rank] if self._rank < manifest.world_size else {}
        with span("checkpoint.load", bytes=manifest.nbytes, path=str(path)):
            for name in wanted:
                if name in manifest.tree:
                    state = reader.decoded(manifest.tree[name])
                    state.update(reader.decoded(own[name]) if name in own else {})
                    give_back(name, self._objects[name], state, strict)
            if only is None and "$random" in own:
                restore_random_state(reader.decoded(own["$random"]))
        self.finished = manifest.step
        return manifest.step

    # -- inside

    def _open(self) -> None:
        """On rank 0: make the folder this job's own, and remove what a killed one has left."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock or 0)
            self._lock = None
            raise DataError(
                f"checkpoint: another job uses {self.folder}; give each job a folder of its own"
            ) from None
        except OSError as error:
            if self._lock is None:
                raise DataError(
                    f"checkpoint: {self.folder} cannot be made or written: {error.strerror}"
                ) from None
        remove_parts(self.folder)

    def _make_part(self) -> None:
        """On rank 0: the folder that the ranks write into."""
        part = self.folder / part_name(self.finished)
        shutil.rmtree(part, ignore_errors=True)
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
        error = self._rank0s(error)
        if error is not None:
            raise DataError(error)

    def _finish_last(self) -> None:
        """Wait for the last save on all ranks; if one could not write, none waits for it."""
        if self._rank > 0:
            self._writer.wait()
        if any(self._everyones(self._rank > 0 and self._writer.has_failed)):
            self._writer.give_up()
        self._writer.wait()
        if any(self._everyones(self._writer.has_failed)):
            self._settle()
            if self._on_error == "raise":
                raise DataError("checkpoint: another rank could not write its part of the last save")

    def _check_shared(self) -> None:
        """Find out that a rank does not see the folder which rank 0 has made."""
        part = self.folder / part_name(self.finished)
        blind = [rank for rank, sees in enumerate(self._everyones(part.is_dir())) if not sees]
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
        if error is None:
            return
        text = str(error) if isinstance(error, DataError) else f"checkpoint: the last save failed: {error}"
        if self._on_error == "warn":
            warn_once(f"checkpoint {self._saved}", f"{text}; training goes on")
            return
        raise DataError(text) from error

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._asked is not None and callable(self._before.get(number)):
            self._before[number](number, frame)  # asked twice: as it was before
        self._asked = signal.Signals(number).name

    def _deadline(self, time_limit_s: float | None) -> float | None:
        if time_limit_s is not None:
            return time.time() + time_limit_s
        return env.read().job_end_s

    def _agreed_end(self) -> bool:
        """Whether any rank was asked to end, as all ranks knew it a step ago."""
        if self._asked is None and self._end_s is not None and time.time() > self._end_s - self._margin_s:
            self._asked = "the time limit is near"
        asked = self._asked is not None
        if self._comm is None or self._num_ranks == 1:
            return asked
        host = self._comm.host
        agreed = False
        if self._agreeing is not None:
            work, flag = self._agreeing
            work.wait()
            agreed = bool(flag[0])
        flag = np.array([asked], np.int32)
        self._agreeing = host.all_reduce(flag, "max", async_op=True), flag
        return agreed

    def _notes(self) -> dict[str, Any]:
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "distgrad": sys.modules["distgrad"].__version__,
            "numpy": np.__version__,
            "python": sys.version.split()[0],
            "command": [sys.executable, *sys.argv],
            "commit": _commit(),
        }

    def _prune(self, newest: Path) -> None:
        """Remove the checkpoints that are not to be kept; called on rank 0, in the thread that wrote."""
        found = find_checkpoints(self.folder)
        kept = set(found[-self.keep :])
        if self.best is not None:
            kept |= set(self.best_checkpoints(found)[:1])
        for path in found:
            if path not in kept:
                doomed = path.with_name(
                    f".{path.name}.distgrad-part"
                )  # not half a checkpoint, if it ends here
                with contextlib.suppress(OSError):
                    path.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def best_checkpoints(self, among: Iterable[Path] | None = None) -> list[Path]:
        """Checkpoints that have a metric, the best first. Collective: no; blocks: no."""
        scored: list[tuple[float, Path]] = []
        for path in find_checkpoints(self.folder) if among is None else among:
            with contextlib.suppress(DataError):
                metric = read_manifest(path).notes.get("metric")
                if isinstance(metric, int | float):
                    scored.append((float(metric), path))
        scored.sort(key=lambda each: each[0], reverse=self.best == "max")
        return [path for _, path in scored]


def _commit() -> str | None:
    """The commit of the git repository that this process works in; None outside of one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=2, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
