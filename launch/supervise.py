"""Watch a job from its first process to its last: relay output, pass signals on, end it when a rank fails."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

from . import exit_codes, hangs, plan
from .frames import CHUNK_BYTES, Frame
from .hangwatch import HangWatch
from .job import Options, Rank, Verdict, timed_out
from .lines import Lines
from .logs import Console
from .loop import STOPPING, Loop
from .mpirun import remove_segments
from .rank import BEAT_S, OUTPUT_BYTES, STACKS_SIGNAL, kill_marked
from .stacks import Stacks
from .start import Starter

__all__ = ["Supervisor"]

START_TIMEOUT_S = 120.0  # a loaded machine with a cold disk takes tens of seconds to start many ranks
FAILURE_GRACE_S = 2.0  # between SIGTERM and SIGKILL once a rank has failed
LAST_WORDS_S = 1.0  # for what is still on its way once the end is certain
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
LINE_PATIENCE = 2.0  # a rank ends when the launcher has been cut off from it this many times hang_after_s
# For a failure's cause to come, when its consequence on another rank has come first; while nothing does.
CONSEQUENCE_S, LONGEST_CONSEQUENCE_S = 1.0, 5.0
_CONSEQUENCE = re.compile(r"^distgrad\.errors\.RankFailedError: ", re.MULTILINE)
_ABORT = re.compile(
    rb"^Abort\((-?\d+)\) on node \d+ \(rank \d+ in comm", re.MULTILINE
)  # MPICH's and Intel's words


class Supervisor:
    """Starts a job's ranks and stays until none of their processes is left.

    Args:
        specs: the ranks.
        start: makes the starter from the environment that the ranks are to find.
        given: the user's environment for the ranks.
        console: where output goes.
        options: what the job may take.
        job_began_s: when the job's first attempt began, in ``time.monotonic()``; None: now.

    Attributes:
        asked_to_save: whether the ranks were asked to save and end, see :meth:`ask_to_save`.
        replan: whether that was so that the job goes on, planned anew.
    """

    def __init__(
        self,
        specs: Sequence[plan.RankSpec],
        start: Callable[[Mapping[str, str]], Starter],
        given: Mapping[str, str],
        console: Console,
        options: Options,
        job_began_s: float | None = None,
    ) -> None:
        self._loop = Loop()
        self._clock = self._loop.clock
        now_s = self._clock.now_s()
        self.ranks = [Rank(spec, hangs.Track(spec.rank, spec.host, now_s)) for spec in specs]
        self.start = start
        self.given = given
        self.console = console
        self.options = options
        self.secret = secrets.token_hex(16)
        self.verdict: Verdict | None = None
        self.asked_to_save = self.replan = False
        self._began_s = time.monotonic()
        self.job_began_s = self._began_s if job_began_s is None else job_began_s
        self._blocked: set[int] = set()  # ranks that may write no more before their output is read
        self._interrupted = False
        self._crowded = False  # whether it was said that there are more ranks than cores
        self._starter: subprocess.Popen[bytes] | None = None
        self._starter_said = b""
        self._stacks = Stacks(self._loop)
        # Failures of ranks that another one is likely to have caused, in the order in which they came.
        self._held: dict[int, Callable[[], None]] = {}
        self._held_s = math.inf  # since when, until they are taken for what they are

    def run(self, pause_s: float = 0.0) -> int:
        """Run the job, ``pause_s`` seconds from now; return its exit code, 0 only if every rank's was.

        Raises:
            OSError: the starter could not be run.
        """
        began_at_s = time.time()
        self.console.tell = lambda: self._loop.post(self._settle)
        with self._loop, self._loop.catching(STOPPING + PASSED_ON):
            try:
                self._loop.at(pause_s, self._begin)
                self._loop.run(self._obey)
            finally:
                self._clean_up(began_at_s)
            if set(STOPPING) & set(self._loop.take_signals()):
                self._make_final()
        self._conclude()
        return 0 if self.verdict is None else self.verdict.code

    @property
    def stopped(self) -> bool:
        """Whether somebody wanted the job to end, so that it is not to be started anew."""
        return self.verdict is not None and self.verdict.final

    def _make_final(self) -> None:
        """Note that somebody wanted a job to end that was ending: it is not to be started anew."""
        if self.verdict is not None:
            self.verdict = replace(self.verdict, final=True)

    @property
    def left_s(self) -> float:
        """How much of the time for the whole job is left."""
        limits_s = [each for each in (self.options.timeout_s, self.options.time_limit_s) if each is not None]
        return max(0.0, min(limits_s, default=math.inf) - (time.monotonic() - self.job_began_s))

    def _begin(self) -> None:
        """Listen, run the starter, and put down on the agenda what is to be looked at later."""
        options = self.options
        self._began_s = time.monotonic()
        self._lines = Lines(
            self._loop,
            options.address,
            len(self.ranks),
            self.secret,
            greet=self._greet,
            handle=lambda rank, kind, body: self._handle(self.ranks[rank], kind, body),
            hung_up=lambda rank: self._hung_up(self.ranks[rank]),
        )
        line = {"DISTGRAD_SUPERVISOR": self._lines.address, "DISTGRAD_JOB_SECRET": self.secret}
        starter = self.start({**self.given, **line})
        if starter.note:
            self.console.say(starter.note)
        self._starter = starter.run()
        said = self._starter.stdout
        if said is not None:
            self._loop.watch(said, lambda: self._hear_starter(said))
        ended = open(os.pidfd_open(self._starter.pid), "rb", buffering=0)  # noqa: SIM115
        self._loop.watch(ended, lambda: self._starter_ended(ended))
        self._loop.at(START_TIMEOUT_S, self._check_start)
        self._set_limits()
        if options.hang_after_s < math.inf:
            watch = HangWatch(
                self._loop,
                self.ranks,
                options,
                self.console,
                is_over=lambda: self.verdict is not None,
                note=self._note,
                stop=lambda: self._stop(signal.SIGTERM, FAILURE_GRACE_S),
                ask_stacks=self._ask_stacks,
            )
            self._loop.at(BEAT_S, watch.look)

    def _note(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def _set_limits(self) -> None:
        """Put down when the job's time is over, of which attempts before have used some."""
        options, used_s = self.options, self._began_s - self.job_began_s
        if options.timeout_s is not None:
            self._loop.at(options.timeout_s - used_s, lambda: self._time_out("--timeout"))
        if options.time_limit_s is not None:
            left_s = options.time_limit_s - used_s
            self._loop.at(left_s - options.grace_s, lambda: self.ask_to_save("the time limit is near"))
            self._loop.at(left_s, lambda: self._time_out("--time-limit"))

    def post(self, action: Callable[[], None]) -> None:
        """Call ``action`` soon, in the thread that watches; from any thread."""
        self._loop.post(action)

    def ask_to_save(self, why: str, replan: bool = False) -> None:
        """Have the ranks save and end, by SIGUSR1, as soon as all of them heed it.

        Args:
            why: what is said then.
            replan: whether the job then goes on, planned anew.
        """
        if self.verdict is not None or self.asked_to_save:
            return
        running = self._running()
        if not all(rank.track.heeds for rank in running):
            self._loop.at(BEAT_S, lambda: self.ask_to_save(why, replan))
            return
        self.asked_to_save, self.replan = True, replan
        self.console.say(f"launch: {why}; asked {hangs.counted(len(running), 'rank')} to save and end")
        self._send(signal.SIGUSR1)

    def _obey(self, number: signal.Signals) -> None:
        """Pass a signal on to the ranks; one that stops us gives them time to end by themselves."""
        if number in PASSED_ON:
            self._send(number)
        elif number == signal.SIGINT and self._interrupted:
            text = f"launch: killed by the second Ctrl-C after {self._elapsed_s():.1f} s"
            self.verdict = Verdict(128 + number, text, final=True)
            self._loop.over = True
        elif self._starter is None:  # in the pause before a restart
            self.verdict = Verdict(128 + number, f"launch: stopped by {number.name}", final=True)
            self._loop.over = True
        elif self.verdict is not None:
            self._make_final()
            self._kill()
        else:
            running = self._running()
            self._interrupted = number == signal.SIGINT
            self.console.say(
                f"launch: {number.name} passed on to {hangs.counted(len(running), 'rank')}; "
                f"they have {self.options.grace_s:g} s, the same signal again kills them"
            )
            text = f"launch: stopped by {number.name} after {self._elapsed_s():.1f} s"
            self.verdict = Verdict(128 + number, text, final=True)
            self._stop(number, self.options.grace_s)

    # The lines to the ranks

    def _greet(self, number: int, hello: dict[str, Any]) -> dict[str, Any] | None:
        """What a rank is told to start with; None if it comes too late."""
        if self.verdict or self.ranks[number].track.code is not None:
            return None
        rank = self.ranks[number]
        rank.track.host, rank.track.heard_s = str(hello["host"]), self._clock.now_s()
        cores = [int(core) for core in hello["cores"]]
        self._compare(rank, len(cores))
        return {
            "environment": plan.environment(rank.spec, cores, self.given) | self.console.environment(number),
            "cores": plan.share(rank.spec, cores) if self.options.bind else [],
            "patience_s": LINE_PATIENCE * min(self.options.hang_after_s, START_TIMEOUT_S),
        }

    def _compare(self, rank: Rank, num_cores: int) -> None:
        """Say once a job that a host has fewer cores than ranks."""
        num_ranks = rank.spec.local_world_size
        if num_ranks > num_cores and not self._crowded:
            self._crowded = True
            cores = f"{hangs.counted(num_cores, 'core')} of {rank.track.host}"
            self.console.say(f"launch: {num_ranks} ranks share {cores}, and take turns")

    def _handle(self, rank: Rank, kind: Frame, body: bytes) -> None:
        number = rank.spec.rank
        if kind in (Frame.STDOUT, Frame.STDERR):
            found = _ABORT.search(body) if kind is Frame.STDERR else None
            if found is not None:
                rank.abort_code = int(found[1])
            rank.output_bytes[kind - Frame.STDOUT] += len(body)
            self.console.write(number, kind - Frame.STDOUT, body)
            self._allow(rank)
            if found is not None:  # at once: some starters end the others before this one, some nobody
                self._abort(rank)
        elif kind is Frame.FAILED:
            failure = json.loads(body)
            self._fail(rank, failure["code"], failure["traceback"], leaving=True)
        elif kind is Frame.PROGRESS:
            rank.track.take(json.loads(body), self._clock.now_s())
            self._allow(rank, answer=True)
            if self.stopped and self._blocked and all(other.track.state == "Z" for other in self._running()):
                self._loop.over = True  # nobody waits for a reader that pauses, once the job was to end
        elif kind is Frame.STACKS:
            self._stacks.take(number, body.decode(errors="replace"))
        elif kind is Frame.ENDED:
            rank.track.code = exit_codes.exit_code(json.loads(body)["status"])
            self.console.close_rank(number)
            if rank.track.code and number not in self._held:
                self._fail(rank, rank.track.code)

    def _allow(self, rank: Rank, answer: bool = False) -> None:
        """Tell a rank how much of its output is disposed of, if that makes a difference or ``answer``s it."""
        number = rank.spec.rank
        unwritten = self.console.unwritten(number)
        now = [written - rest for written, rest in zip(rank.output_bytes, unwritten, strict=True)]
        news = max(a - b for a, b in zip(now, rank.taken_bytes, strict=True))
        if answer or news >= OUTPUT_BYTES // 4:
            rank.taken_bytes = now
            self._lines.send(number, Frame.TAKEN, {"bytes": now})
        # As the rank sees it, who may know less than was taken; nobody can be blamed for waiting for it.
        told = zip(rank.output_bytes, rank.taken_bytes, strict=True)
        is_full = any(written - taken >= OUTPUT_BYTES for written, taken in told)
        (self._blocked.add if is_full else self._blocked.discard)(number)
        self._clock.stand(bool(self._blocked))

    def _settle(self) -> None:
        """Let ranks write as much as was written to the console, or end the job if nothing can be."""
        for number in self.console.settle():
            self._allow(self.ranks[number])
        if self.console.failures and self.verdict is None:
            self.verdict = self.console.verdict()
            if self.verdict.code == 128 + signal.SIGPIPE:  # as a program does whose reader has gone
                self._loop.over = True
            else:
                self._stop(signal.SIGTERM, FAILURE_GRACE_S)

    def _hung_up(self, rank: Rank) -> None:
        if rank.track.code is None:  # the watcher was killed, and the kernel has killed the script with it
            rank.track.code = 128 + signal.SIGKILL
            self.console.close_rank(rank.spec.rank)
            self._fail(rank, rank.track.code)
        self._blocked.discard(rank.spec.rank)
        self._clock.stand(bool(self._blocked))
        self._check_end()

    def _send(self, number: int, spared: Rank | None = None) -> None:
        for rank in self._running():
            if rank is not spared:
                self._lines.send(rank.spec.rank, Frame.SIGNAL, {"number": number})

    def _fail(self, rank: Rank, code: int, traceback: str = "", how: str = "", leaving: bool = False) -> None:
        """Note how a rank failed; the first failure ends the job.

        Args:
            rank: the rank.
            code: its exit code.
            traceback: of the exception, if there was one.
            how: what it did, if not just exit.
            leaving: whether it is on its way out, with things of its own to finish.
        """
        number = rank.spec.rank
        if leaving and self.verdict is None and self._held_s >= 0 and _CONSEQUENCE.search(traceback):
            if not self._held:
                self._held_s = self._clock.now_s()
                self._loop.at(CONSEQUENCE_S, self._look_for_cause)
            self._held[number] = lambda: self._fail(rank, code, traceback, leaving=True)
            return
        self.console.log(number, traceback)
        if self.verdict is None:
            stopped = self._held.keys() | {each.spec.rank for each in self._running()}  # by it, or seeing it
            others = tuple(each.track for each in self.ranks if each.spec.rank in stopped - {number})
            how = f"rank {number} on {rank.track.host} {how or f'exited {code}'}"
            text = f"launch: {how} after {self._elapsed_s():.1f} s"
            text += f" and {hangs.counted(rank.track.step, 'step')}" if rank.track.step else ""
            text += f" ({reason})" if (reason := exit_codes.explain(code)) else ""
            text += f"; stopped {hangs.counted(len(others), 'other rank')}"
            done = [other.track for other in self.ranks if other.track.code == 0]
            if done and _CONSEQUENCE.search(traceback):
                text += hangs.ended_before(done, rank.track)
            text += f". See {self.console.log_path(number)}" if self.console.log_dir is not None else ""
            self.verdict = Verdict(code, text, traceback, others, hosts=(rank.spec.host,))
            saved = code == exit_codes.PREEMPTED  # so have all, and leave by themselves
            ask = (0, self.options.grace_s) if saved else (signal.SIGTERM, FAILURE_GRACE_S)
            self._stop(*ask, spared=rank if leaving else None)
        elif traceback not in ("", self.verdict.traceback) and not self._interrupted:
            self.console.show(number, traceback)

    def _abort(self, rank: Rank) -> None:
        """A rank has called MPI_Abort, and may stay until somebody ends it."""
        if rank.track.code is None and self.verdict is None:
            code = rank.abort_code or 0
            self._fail(rank, code & 0xFF or 1, how=f"called MPI_Abort({code})")

    def _release(self) -> None:
        """Take the first failure that was held back for its cause: there is none."""
        if self._held and self.verdict is None:
            self._held_s = -1.0
            next(iter(self._held.values()))()

    def _look_for_cause(self) -> None:
        """Go on without the cause, once whoever might be it was heard of since, or has been silent long.

        A rank whose program is over is waited for: its end tells the same, and Python takes its time.
        """
        waited_s = self._clock.now_s() - self._held_s
        others = [rank.track for rank in self._running() if rank.spec.rank not in self._held]
        is_open = any(track.heard_s < self._held_s or hangs.is_over(track) for track in others)
        if waited_s < LONGEST_CONSEQUENCE_S and is_open:
            self._loop.at(CONSEQUENCE_S, self._look_for_cause)
        else:
            self._release()

    def _stop(self, number: int, grace_s: float, spared: Rank | None = None) -> None:
        """Ask the ranks to end, but for the one that already does; kill them after ``grace_s``."""
        self._send(number, spared)
        self._loop.at(grace_s, self._kill)
        self._check_end()

    def _kill(self) -> None:
        self._send(signal.SIGKILL)
        self._loop.at(LAST_WORDS_S, self._give_up)

    def _give_up(self) -> None:
        """Leave the loop; but not what failed ranks wrote last, while the reader of it pauses."""
        if self._blocked and not self.stopped:
            self._loop.at(LAST_WORDS_S, self._give_up)
        else:
            self._loop.over = True

    def _check_end(self) -> None:
        """Leave the loop once nothing but the starter is left; it has a moment to end by itself."""
        if not self._running():
            self._release()
        if self._stacks.asking:
            return
        connected = any(rank.spec.rank in self._lines for rank in self.ranks)
        if not connected and (self.verdict is not None or not self._running()):
            if self._starter is None or self._starter.poll() is not None:
                self._loop.over = True
            else:
                self._loop.at(LAST_WORDS_S, self._give_up)

    def _time_out(self, option: str) -> None:
        """End a job that takes too long, with the Python stacks of the ranks that are still running."""
        if self.verdict is not None:
            return
        limit_s = self.options.timeout_s if option == "--timeout" else self.options.time_limit_s
        self.verdict = timed_out(self.ranks, f"{option} {limit_s:g} s")

        def stop(stacks: dict[int, str]) -> None:
            self.console.say(hangs.merge_stacks(stacks))
            self._stop(signal.SIGTERM, FAILURE_GRACE_S)

        self._ask_stacks(stop)

    def _check_start(self) -> None:
        missing = [rank.spec for rank in self._running() if rank.spec.rank not in self._lines]
        if missing and self.verdict is None:
            names = ", ".join(str(spec.rank) for spec in missing)
            text = f"launch: rank {names} did not start within {START_TIMEOUT_S:g} s"
            hosts = tuple(sorted({spec.host for spec in missing}))
            self.verdict = Verdict(1, text, self._starter_said.decode(errors="replace"), hosts=hosts)
            self._stop(signal.SIGTERM, FAILURE_GRACE_S)

    # Stacks

    def _ask_stacks(self, then: Callable[[dict[int, str]], None]) -> None:
        """Call ``then`` when every rank's Python stacks have come, or after a moment."""
        asked = [rank.spec.rank for rank in self._running() if rank.spec.rank in self._lines]
        self._send(STACKS_SIGNAL)
        if self.verdict is not None:
            self._send(signal.SIGCONT)  # a process that was stopped answers when it goes on
        self._stacks.collect(asked, self._lines.__contains__, then)

    # The starter

    def _hear_starter(self, said: IO[bytes]) -> None:
        """Keep what the starter writes; it is shown only if ranks could not be started."""
        data = os.read(said.fileno(), CHUNK_BYTES)
        if not data:
            self._loop.unwatch(said)
        self._starter_said = (self._starter_said + data)[-CHUNK_BYTES:]

    def _starter_ended(self, ended: IO[bytes]) -> None:
        self._loop.unwatch(ended)
        # What the ranks said last may still be on its way.
        self._loop.at(0.0 if self.verdict or not self._running() else LAST_WORDS_S / 2, self._judge_starter)

    def _judge_starter(self) -> None:
        """The starter has ended: no loss if the ranks have, but a failure if any is still there."""
        self._release()
        running = self._running()
        if self.verdict is None and running and self._starter is not None:
            code = exit_codes.shell_code(self._starter.wait())
            names = ", ".join(str(rank.spec.rank) for rank in running)
            aborted = [rank for rank in running if rank.abort_code is not None]
            if aborted:
                self._abort(aborted[0])
            else:
                text = f"launch: the starter exited {code} while rank {names} was running; stopped it"
                if any(rank.spec.rank not in self._lines for rank in running):
                    text = f"launch: the starter exited {code} before rank {names} had started. It said:"
                self.verdict = Verdict(code or 1, text, self._starter_said.decode(errors="replace"))
                self._stop(signal.SIGTERM, FAILURE_GRACE_S)
        self._check_end()

    # The end

    def _clean_up(self, began_at_s: float) -> None:
        """Leave no process and no segment."""
        deadline_s = time.monotonic() + LAST_WORDS_S
        while kill_marked(self.secret) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        if self._starter is not None:
            self._starter.wait()
        if self.verdict is not None:
            remove_segments(began_at_s)

    def _conclude(self) -> None:
        """Show what ranks wrote last, then the verdict with the first failure's traceback."""
        for rank in self.ranks:
            self.console.close_rank(rank.spec.rank)
        self.console.clear()
        as_asked = self.replan and self.verdict is not None and self.verdict.code == exit_codes.PREEMPTED
        if self.verdict is not None and self.verdict.text and not as_asked:
            others = hangs.meanwhile(self.verdict.others)
            note = f"Meanwhile: {others}" if others else ""
            parts = (self.verdict.text, note, self.verdict.traceback.rstrip())
            self.console.say("\n".join(filter(None, parts)))

    def _running(self) -> list[Rank]:
        return [rank for rank in self.ranks if rank.track.code is None]

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s
