"""A scaling study: a program on several numbers of ranks in turn, and what comes of it.

A study is a folder. ``study.json`` says what is measured, ``runs/`` holds a folder for each run, which
appears under its name once the run is over, so that an interrupted study goes on where it was. From the runs
alone come ``results.json``, ``results.csv`` and ``index.html``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distgrad import env
from distgrad.errors import LaunchError, OptionError
from distgrad.profiler.whole import whole
from distgrad.scale.bench.surroundings import UNSET
from distgrad.scale.bench.workloads import WORKLOADS
from distgrad.scale.mirror import mirror
from distgrad.scale.workload import PEERS

__all__ = ["Run", "Settings", "measure", "runs_of"]

LEAST_STEPS = 5  # that count
WORK = "work"  # of a run's folder: where its ranks work
STOPPING_S = 60.0  # that a job has to end when it is told to
OURS, COPIES = "distgrad", "copies"  # kinds of runs; the others are peers


@dataclass(frozen=True)
class Settings:
    """What a study measures.

    Args:
        name: of the study; its folder is ``scale-NAME``.
        script: with its arguments; none for a built-in workload.
        workload: a built-in workload.
        ranks: how many ranks the runs have.
        strong: the ranks share one batch; else each has as many samples as one rank alone.
        repeat: how often each run is made.
        steps: of each run at most.
        seconds: that they take at most on one rank, where that leaves some steps behind those that warm up;
            the other runs have as many.
        warm_up: of these, the first that do not count.
        threads: of each rank.
        peers: what else runs the workload.
        where: options of ``distgrad run`` that name the hosts.
        ddp: options of DistributedDataParallel for a built-in workload.
    """

    name: str
    script: tuple[str, ...] = ()
    workload: str | None = None
    ranks: tuple[int, ...] = (1, 2)
    strong: bool = False
    repeat: int = 3
    steps: int = 60
    seconds: float = 5.0
    warm_up: int = 5
    threads: int = 1
    peers: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    ddp: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.script) == (self.workload is not None):
            raise OptionError("scale: expected a script or --workload, one of them")
        if self.workload is not None and self.workload not in WORKLOADS:
            raise OptionError(f"scale: no workload {self.workload!r}; there are {', '.join(WORKLOADS)}")
        if not self.ranks or min(self.ranks) < 1 or len(set(self.ranks)) != len(self.ranks):
            raise OptionError(f"scale: --ranks must be different numbers from 1 up, got {self.ranks}")
        if self.repeat < 1 or not 2 <= self.warm_up <= self.steps - LEAST_STEPS:
            raise OptionError(
                "scale: expected --repeat from 1 up and --warm-up from 2 up to 5 below --steps, got "
                f"{self.repeat}, {self.warm_up} and {self.steps}"
            )
        if self.threads < 1 or not self.seconds > 0:
            raise OptionError(
                f"scale: --threads must be from 1 up and --seconds above 0, got {self.threads} and "
                f"{self.seconds}"
            )
        unknown = [peer for peer in self.peers if peer not in PEERS]
        if unknown or (self.peers and self.workload is None):
            raise OptionError(
                f"scale: --peers goes with --workload and takes {', '.join(PEERS)}, got "
                f"{', '.join(self.peers)}"
            )


@dataclass(frozen=True)
class Run:
    """One start of the program.

    Args:
        kind: ``"distgrad"``, ``"copies"`` (as many processes that know nothing of each other), or a peer.
        ranks: how many.
        turn: which of the repetitions, from 0.
    """

    kind: str
    ranks: int
    turn: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.kind}-{self.ranks}-{self.turn}"


def runs_of(settings: Settings) -> Iterator[Run]:
    """The runs in the order in which they are made: all sizes, then all again, so that drifts hit all."""
    for turn in range(settings.repeat):
        for ranks in sorted(settings.ranks):
            yield Run(OURS, ranks, turn)
            if ranks > 1:
                yield Run(COPIES, ranks, turn)
            for peer in settings.peers:
                yield Run(peer, ranks, turn)


def measure(settings: Settings, folder: Path) -> Iterator[str]:
    """Make the runs that the folder does not hold yet, and say what is done.

    Args:
        settings: what to measure.
        folder: of the study; made if it is not there.

    Raises:
        OptionError: the folder holds another study.
        LaunchError: a run has failed, with the end of what it printed.
        DataError: the folder's file cannot be written.
    """
    runs, about = folder / "runs", folder / "study.json"
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"scale: {folder} must be a folder that can be written to ({error}); start from another"
        ) from error
    description = json.dumps(asdict(settings), indent=1)
    if not about.exists() or about.read_text() != description:
        if any(path.name[0] != "." for path in runs.iterdir()):  # those with a dot never ended
            raise OptionError(
                f"scale: {folder} holds a study with other settings ({about}); pass --name, or remove the "
                "folder"
            )
        with whole(about, "scale") as part:
            part.write_text(description)
    planned = list(runs_of(settings))
    try:
        for number, run in enumerate(planned, 1):
            if (runs / run.name).exists():
                continue
            yield f"{number}/{len(planned)} {run.kind} on {run.ranks} rank{'s' if run.ranks > 1 else ''}"
            _make(run, settings, runs)
    finally:
        with suppress(OSError):  # a study of no run at all leaves nothing
            runs.rmdir()
            about.unlink()
            folder.rmdir()


def _num_steps(settings: Settings, folder: Path) -> int:
    """Of a run: as many as one rank took in the seconds that were given."""
    first = folder / Run(OURS, 1, 0).name / "rank0.json"
    return len(json.loads(first.read_text())["steps"]) if first.exists() else settings.steps


def _make(run: Run, settings: Settings, folder: Path) -> None:
    part = folder / f".{run.name}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        task = {
            "folder": str(part.resolve()),
            "steps": _num_steps(settings, folder),
            "least": settings.warm_up + LEAST_STEPS,
            "seconds": settings.seconds if run == Run(OURS, 1, 0) else None,
            "alone": run.kind == COPIES,
            "workload": settings.workload,
            "strong": settings.strong,
            "peer": None if run.kind in (OURS, COPIES) else run.kind,
            "ddp": settings.ddp,
            "store": str((part / "store").resolve()),
            "work": _working_folders(run, part) if settings.script else [],
        }
        command = [sys.executable, "-m", "distgrad", "run", "-n", str(run.ranks), *settings.where]
        command += ["-m", "distgrad.scale.recorded", json.dumps(task), *settings.script]
        _check(run, settings, part, _perform(command, settings.threads))
        shutil.rmtree(part / WORK, ignore_errors=True)
        part.rename(folder / run.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _working_folders(run: Run, part: Path) -> list[str]:
    """Where a script works: all ranks of a run in one folder, copies in one each, none in another run's."""
    count = run.ranks if run.kind == COPIES else 1
    study = part.parent.parent
    places = [(part / WORK / str(number)).resolve() for number in range(count)]
    try:
        return [str(mirror(Path.cwd(), place, study)) for place in places]
    except OSError as error:
        raise OptionError(
            f"scale: {study} must be a folder that can be written to ({error}); start from another"
        ) from error


def _perform(command: list[str], threads: int) -> subprocess.CompletedProcess[str]:
    """Run a job to its end; whatever ends this first ends the job too."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    given = kept | dict.fromkeys(env.THREAD_VARIABLES, str(threads))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=given, stdout=pipe, stderr=pipe, text=True) as job:
        try:
            printed = job.communicate()
        except BaseException:
            job.terminate()  # the launcher, which ends its ranks
            try:
                job.communicate(timeout=STOPPING_S)
            except subprocess.TimeoutExpired:
                job.kill()
            raise
    return subprocess.CompletedProcess(command, job.returncode, *printed)


def _check(run: Run, settings: Settings, part: Path, done: subprocess.CompletedProcess[str]) -> None:
    """Whether all ranks have written enough steps.

    Raises:
        LaunchError: they have not.
    """
    results = list(part.glob("rank*.json"))
    if done.returncode or len(results) != run.ranks:
        raise LaunchError(
            f"scale: {run.name} ended with {done.returncode} and {len(results)} of {run.ranks} results; it "
            f"printed\n{(done.stdout + done.stderr)[-3000:]}"
        )
    short = [path for path in results if len(json.loads(path.read_text())["steps"]) <= settings.warm_up]
    if short:
        raise LaunchError(
            f"scale: {run.name} took {settings.warm_up} steps or fewer that could be seen; a step ends with "
            "dg.profiler.step(), an optimizer's step or a backward pass under DistributedDataParallel; train "
            "for longer, or pass a smaller --warm-up"
        )
