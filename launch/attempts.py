"""A job from its first attempt to its last: planned anew and started anew, as often as that is allowed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distgrad.errors import LaunchError

from . import exit_codes, plan
from .job import Options
from .logs import Console
from .loop import STOPPING, Loop
from .memory import Agents
from .placing import Job
from .restarts import RestartPolicy
from .roster import POLL_S, HostWatch, Roster, Usable, names_of
from .supervise import Supervisor

__all__ = ["Attempts", "Elastic", "Fixed", "Outcome"]


@dataclass
class Outcome:
    """What became of a job.

    Attributes:
        code: its exit code.
        causes: why it was started anew, each time.
        stopped: whether somebody wanted it to end.
        left_s: how much of its time is left.
    """

    code: int
    causes: list[str] = field(default_factory=list)
    stopped: bool = False
    left_s: float = 0.0


class Fixed:
    """The plan of a job that has one size.

    Args:
        job: where its ranks run.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def next(self, console: Console, first: bool) -> Job:
        """Where the ranks of the next attempt run."""
        return self._job

    def watch(self, job: Job, supervisor: Supervisor) -> Callable[[], None]:
        """Have a running job planned anew when that is of use; returns what ends the watch."""
        return lambda: None

    def blame(self, hosts: tuple[str, ...]) -> None:
        """Note on whose hosts an attempt has failed."""


class Elastic(Fixed):
    """The plan of a job that goes on with the hosts that there are.

    Args:
        roster: what knows them.
        place: puts a number of ranks on hosts.
        wait_s: how long to wait for hosts when too few are left.
    """

    def __init__(self, roster: Roster, place: Callable[[list[plan.Host], int], Job], wait_s: float) -> None:
        self._roster, self._place, self._wait_s = roster, place, wait_s
        self._left_out: dict[str, str] = {}
        self._number = 0  # of ranks, of the last attempt

    def next(self, console: Console, first: bool) -> Job:
        """Where the ranks of the next attempt run; says what is left out, and what is back.

        Raises:
            LaunchError: too few hosts are left.
        """
        sizes = self._roster.sizes
        needed = sizes.start if first else sizes.fewest
        usable = self._await(needed, console)
        number = min(usable.slots, sizes.most)
        if number < needed:
            option = "--min-ranks" if needed == sizes.fewest else "-n"
            room = f"there is room for {usable.slots} of them on {names_of(usable.hosts)}"
            raise LaunchError(
                f"launch: {option} asks for {needed} ranks, but "
                f"{room if usable.hosts else 'no host can be used'}"
            )
        job = self._place(usable.hosts, number)
        if first or number != self._number:
            before = "" if first else f" ({self._number} before)"
            console.say(f"launch: {number} ranks on {names_of(plan.count(job.specs))}{before}")
        self._number = number
        return job

    def _await(self, needed: int, console: Console) -> Usable:
        deadline_s = time.monotonic() + self._wait_s
        waiting = False
        while True:
            try:
                usable = self._roster.look()
            except LaunchError as error:
                if time.monotonic() >= deadline_s:
                    raise
                usable = Usable([], {"--hosts-from": str(error).removeprefix("launch: ")})
            self._tell(usable, console)
            if usable.slots >= needed or time.monotonic() >= deadline_s:
                return usable
            if not waiting:
                console.say(f"launch: waiting {self._wait_s:g} s for room for {needed} ranks")
            waiting = True
            time.sleep(min(POLL_S, max(0.0, deadline_s - time.monotonic())))

    def _tell(self, usable: Usable, console: Console) -> None:
        """Say which hosts are left out now, and which are back."""
        answered = {host.name for host in usable.hosts}
        for name, why in usable.left_out.items():
            if self._left_out.get(name) != why:
                console.say(f"launch: host {name}: {why}{'' if name in answered else '; left out'}")
        for host in usable.hosts:
            if host.name in self._left_out and host.name not in usable.left_out:
                console.say(f"launch: host {host.name} can be used again")
        self._left_out = usable.left_out

    def watch(self, job: Job, supervisor: Supervisor) -> Callable[[], None]:
        """Look while the job runs whether it could have more ranks, or must leave a host."""
        watch = HostWatch(
            self._roster,
            plan.count(job.specs),
            lambda why: supervisor.post(lambda: supervisor.ask_to_save(why, replan=True)),
            lambda why: supervisor.post(lambda: supervisor.console.say(f"{why}; going on as it is")),
        )
        watch.start()
        return watch.end

    def blame(self, hosts: tuple[str, ...]) -> None:
        """Note on whose hosts an attempt has failed."""
        self._roster.blame(hosts)


class Attempts:
    """Runs a job as often as is allowed.

    Args:
        plans: where the ranks of each attempt run.
        policy: whether a job that failed is started anew.
        given: the variables for the ranks, of each plan.
        console: where output goes.
        limits: what the job may take.
        log_dir: where the first attempt's logs go, and those of further ones in folders; None: nowhere.
        agents: what holds the ranks' memory from one attempt to the next; None: nothing does.
    """

    def __init__(
        self,
        plans: Fixed,
        policy: RestartPolicy,
        given: Callable[[Job], Mapping[str, str]],
        console: Console,
        limits: Callable[[Job], Options],
        log_dir: Path | None,
        agents: Agents | None = None,
    ) -> None:
        self._agents = agents
        self._plans, self._policy, self._given, self._console = plans, policy, given, console
        self._limits, self._log_dir = limits, log_dir
        self._causes: list[str] = []  # of failures
        self._signal = 0  # the exit code, when one came between two attempts
        self._number, self._last_cause = 0, ""  # of the attempt, and why the last one ended
        self._began_s = time.monotonic()

    def run(self) -> Outcome:
        """Run the job to its end.

        Raises:
            LaunchError: it cannot be started.
        """
        supervisor: Supervisor | None = None
        while True:
            try:
                job = self._next(first=supervisor is None)
            except LaunchError as error:
                if supervisor is None:
                    raise
                self._console.say(str(error))
                return self._outcome(supervisor)
            if job is None:  # a signal came meanwhile
                return Outcome(self._signal, self._causes, stopped=True)
            supervisor = self._supervise(job)
            if not self._goes_on(supervisor):
                return self._outcome(supervisor)
            self._number += 1

    def _next(self, first: bool) -> Job | None:
        """The next attempt's plan, with the console ready for it; None if a signal came meanwhile."""
        found: list[Job | BaseException] = []
        with Loop() as loop, loop.catching(STOPPING):

            def look() -> None:
                try:
                    found.append(self._plans.next(self._console, first))
                except BaseException as error:
                    found.append(error)
                loop.post(end)

            def end() -> None:
                loop.over = True

            def stop(number: signal.Signals) -> None:
                self._signal = 128 + number
                self._console.say(f"launch: stopped by {number.name}")
                loop.over = True

            threading.Thread(target=look, name="launch plan", daemon=True).start()
            loop.run(stop)
        if not found:
            return None
        if isinstance(found[0], BaseException):
            raise found[0]
        folder = self._log_dir
        if folder is not None and not first:
            folder = folder / f"attempt{self._number}"
        try:
            self._console.begin(len(found[0].specs), folder)
        except (OSError, ValueError) as error:
            what = error.strerror or error if isinstance(error, OSError) else error
            raise LaunchError(
                f"launch: log files cannot be written in {folder}: {what}; name another folder with --log-dir"
            ) from error
        return found[0]

    def _supervise(self, job: Job) -> Supervisor:
        """Run one attempt."""
        attempt = {"DISTGRAD_ATTEMPT": str(self._number), "DISTGRAD_ATTEMPT_CAUSE": self._last_cause}
        given = {**self._given(job), **attempt}
        if self._agents is not None:
            self._agents.start([host.name for host in plan.count(job.specs)])
            given |= self._agents.variables
        supervisor = Supervisor(
            job.specs, job.start, given, self._console, self._limits(job), job_began_s=self._began_s
        )
        end_watch = self._plans.watch(job, supervisor)
        try:
            supervisor.run(self._policy.pause_s)
        except OSError as error:
            raise LaunchError(f"launch: the ranks could not be started: {error}") from error
        finally:
            end_watch()
        return supervisor

    def _goes_on(self, supervisor: Supervisor) -> bool:
        """Whether there is another attempt."""
        verdict = supervisor.verdict
        if verdict is None or supervisor.stopped:
            return False
        if _saved(supervisor):
            self._last_cause = "planned anew"
            return supervisor.replan
        steps = max(rank.track.step for rank in supervisor.ranks)
        refusal = self._policy.refusal(verdict, steps)
        if refusal:
            self._console.say(f"launch: not started anew: {refusal}")
        if refusal is not None:
            return False
        self._last_cause = verdict.text.removeprefix("launch: ")
        self._causes.append(self._last_cause)
        self._plans.blame(verdict.hosts)
        self._console.say(f"launch: {self._policy.restart(bool(steps))}")
        return True

    def _outcome(self, supervisor: Supervisor) -> Outcome:
        code = 0 if supervisor.verdict is None else supervisor.verdict.code
        if _saved(supervisor):
            code = exit_codes.PREEMPTED
        return Outcome(code, self._causes, supervisor.stopped, supervisor.left_s)


def _saved(supervisor: Supervisor) -> bool:
    """Whether the ranks were asked to end, and have saved where they stand."""
    return any(rank.track.code == exit_codes.PREEMPTED for rank in supervisor.ranks)
