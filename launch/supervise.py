"""Watch a job from its first process to its last: relay output, pass signals on, end it when a rank fails."""

from __future__ import annotations

import contextlib
import heapq
import hmac
import itertools
import json
import os
import re
import secrets
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

from . import plan, process
from .logs import Console, OutputClosedError
from .mpirun import Starter, remove_segments
from .plan import RankSpec
from .rank import CHUNK_BYTES, STACKS_SIGNAL, Frame, FrameReader, kill_marked, pack

__all__ = ["Supervisor"]

START_TIMEOUT_S = 120.0  # a loaded machine with a cold disk takes tens of seconds to start many ranks
FAILURE_GRACE_S = 3.0  # between SIGTERM and SIGKILL once a rank has failed
SIGNAL_GRACE_S = 10.0  # between a signal from outside and SIGKILL: time to write a checkpoint
LAST_WORDS_S = 1.0  # for what is still on its way once the end is certain
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
STRANGER_LIMIT_BYTES = 4096  # the longest message that is read before the secret was shown
TIMEOUT_CODE = 124  # as of timeout(1)
_ABORT = re.compile(
    rb"^Abort\((-?\d+)\) on node \d+ \(rank \d+ in comm", re.MULTILINE
)  # MPICH's and Intel's words


@dataclass
class _Rank:
    """A rank as the supervisor sees it.

    Attributes:
        spec: its place.
        line: the connection to its watcher; None until it has called, and again when it has ended.
        host: the name that its host gives itself.
        code: its exit code; None while it runs.
        abort_code: what it gave to MPI_Abort, if its standard error shows that it called it.
    """

    spec: RankSpec
    line: socket.socket | None = None
    host: str = ""
    code: int | None = None
    abort_code: int | None = None


@dataclass
class _Caller:
    """A connection, and the rank that it turned out to be."""

    line: socket.socket
    reader: FrameReader = field(default_factory=lambda: FrameReader(STRANGER_LIMIT_BYTES))
    rank: _Rank | None = None


@dataclass(frozen=True)
class _Verdict:
    """Why the job ended: the exit code, the sentence, and the traceback that goes with it."""

    code: int
    text: str
    traceback: str = ""


class _SecondInterruptError(Exception):
    """Ctrl-C for the second time; an exception, because it must break off a write that blocks."""


class Supervisor:
    """Starts a job's ranks and stays until none of their processes is left.

    Args:
        specs: the ranks.
        start: makes the starter from the environment that the ranks are to find.
        given: the user's environment for the ranks.
        console: where output goes.
        timeout_s: how long the job may take; None for any time.
    """

    def __init__(
        self,
        specs: Sequence[RankSpec],
        start: Callable[[Mapping[str, str]], Starter],
        given: Mapping[str, str],
        console: Console,
        timeout_s: float | None = None,
    ) -> None:
        self.ranks = [_Rank(spec) for spec in specs]
        self.start = start
        self.given = given
        self.console = console
        self.timeout_s = timeout_s
        self.secret = secrets.token_hex(16)
        self.verdict: _Verdict | None = None
        self._open = contextlib.ExitStack()
        self._selector = self._open.enter_context(selectors.DefaultSelector())
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._agenda_count = itertools.count()  # keeps the order of entries of the same time
        self._signals: list[signal.Signals] = []
        self._interrupted = False
        self._starter: subprocess.Popen[bytes] | None = None
        self._starter_said = b""
        self._over = False

    def run(self) -> int:
        """Run the job; return its exit code, which is 0 only if every rank's was.

        Raises:
            OSError: the starter could not be run.
        """
        self._began_s = time.monotonic()
        began_at_s = time.time()
        with self._signals_caught(), self._open:
            try:
                self._loop()
            except _SecondInterruptError:
                text = f"launch: killed by the second Ctrl-C after {self._elapsed_s():.1f} s"
                self.verdict = _Verdict(128 + signal.SIGINT, text)
            except OutputClosedError:
                self._output_closed()
            finally:
                self._clean_up(began_at_s)
        self._conclude()
        return 0 if self.verdict is None else self.verdict.code

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        """Queue signals for the loop, and wake it."""
        # A signal that was ignored when we were started (nohup, a shell's background job) stays ignored.
        caught = [number for number in STOPPING + PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]
        awake, wake = socket.socketpair()
        wake.setblocking(False)
        self._watch(awake, lambda: awake.recv(CHUNK_BYTES))
        handlers = {number: signal.signal(number, self._on_signal) for number in caught}
        previous_wake = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous_wake)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            wake.close()

    # The loop

    def _loop(self) -> None:
        server = socket.create_server(("127.0.0.1", 0), backlog=max(128, len(self.ranks)))
        self._watch(server, lambda: self._accept(server))
        self._begin(server.getsockname()[1])
        while not self._over:
            wait_s = max(0.0, self._agenda[0][0] - time.monotonic()) if self._agenda else None
            for key, _ in self._selector.select(wait_s):
                key.data()
            while self._signals:
                self._obey(self._signals.pop(0))
            while self._agenda and self._agenda[0][0] <= time.monotonic():
                heapq.heappop(self._agenda)[2]()

    def _begin(self, port: int) -> None:
        """Run the starter, and put down on the agenda what is to be looked at later."""
        line = {"DISTGRAD_SUPERVISOR": f"127.0.0.1:{port}", "DISTGRAD_JOB_SECRET": self.secret}
        starter = self.start({**self.given, **line})
        if starter.note:
            self.console.say(starter.note)
        self._starter = subprocess.Popen(
            starter.command,
            env=dict(starter.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
        )
        said = self._starter.stdout
        if said is not None:
            self._watch(said, lambda: self._hear_starter(said))
        ended = open(os.pidfd_open(self._starter.pid), "rb", buffering=0)  # noqa: SIM115
        self._watch(ended, lambda: self._starter_ended(ended))
        self._at(START_TIMEOUT_S, self._check_start)
        if self.timeout_s is not None:
            self._at(self.timeout_s, self._time_out)

    def _watch(self, source: socket.socket | IO[bytes], action: Callable[[], object]) -> None:
        """Call ``action`` whenever ``source`` has something to read; it is closed at the end."""
        self._open.enter_context(source)
        self._selector.register(source, selectors.EVENT_READ, action)

    def _at(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time.monotonic() + delay_s, next(self._agenda_count), action))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise _SecondInterruptError
        self._interrupted |= number == signal.SIGINT
        self._signals.append(signal.Signals(number))

    def _obey(self, number: signal.Signals) -> None:
        """Pass a signal on to the ranks; one that stops us gives them time to end by themselves."""
        if number in PASSED_ON:
            self._send(number)
        elif self.verdict is not None:
            self._kill()
        else:
            running = self._running()
            self.console.say(
                f"launch: {number.name} passed on to {_count(len(running), 'rank')}; "
                f"they have {SIGNAL_GRACE_S:g} s, the same signal again kills them"
            )
            text = f"launch: stopped by {number.name} after {self._elapsed_s():.1f} s"
            self.verdict = _Verdict(128 + number, text)
            self._stop(number, SIGNAL_GRACE_S)

    # The lines to the ranks

    def _accept(self, server: socket.socket) -> None:
        line, _ = server.accept()
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller = _Caller(line)
        self._watch(line, lambda: self._receive(caller))

    def _receive(self, caller: _Caller) -> None:
        try:
            data = caller.line.recv(CHUNK_BYTES)
            for kind, body in caller.reader.feed(data):
                if caller.rank is None:
                    self._greet(caller, kind, json.loads(body))
                else:
                    self._handle(caller.rank, kind, body)
        except (ConnectionError, ValueError, KeyError, TypeError):  # gone, or not one of ours
            data = b""
        if not data:
            self._selector.unregister(caller.line)
            caller.line.close()
            if caller.rank is not None:
                self._hung_up(caller.rank)

    def _greet(self, caller: _Caller, kind: Frame, hello: dict[str, str | int]) -> None:
        """Let a rank in that knows the secret, and give it its place.

        Raises:
            ConnectionError: it does not, or it has nothing to do here.
        """
        known = kind is Frame.HELLO and hmac.compare_digest(str(hello["secret"]), self.secret)
        number = int(hello["rank"])
        if not known or not 0 <= number < len(self.ranks) or self.ranks[number].line or self.verdict:
            raise ConnectionRefusedError
        rank = caller.rank = self.ranks[number]
        rank.line, rank.host = caller.line, str(hello["host"])
        caller.reader.limit_bytes = FrameReader().limit_bytes
        variables = plan.environment(rank.spec, self.given) | self.console.environment(number)
        caller.line.sendall(pack(Frame.START, variables))

    def _handle(self, rank: _Rank, kind: Frame, body: bytes) -> None:
        number = rank.spec.rank
        if kind in (Frame.STDOUT, Frame.STDERR):
            if kind is Frame.STDERR and (found := _ABORT.search(body)):
                rank.abort_code = int(found[1])
            self.console.write(number, kind - Frame.STDOUT, body)
        elif kind is Frame.FAILED:
            failure = json.loads(body)
            self._fail(rank, failure["code"], failure["traceback"], leaving=True)
        elif kind is Frame.ENDED:
            rank.code = process.exit_code(json.loads(body)["status"])
            self.console.close_rank(number)
            if rank.code:
                self._fail(rank, rank.code)

    def _hung_up(self, rank: _Rank) -> None:
        rank.line = None
        if rank.code is None:  # the watcher was killed, and the kernel has killed the script with it
            rank.code = 128 + signal.SIGKILL
            self.console.close_rank(rank.spec.rank)
            self._fail(rank, rank.code)
        self._check_end()

    def _send(self, number: int, spared: _Rank | None = None) -> None:
        for rank in self._running():
            if rank.line is not None and rank is not spared:
                with contextlib.suppress(ConnectionError):  # its end is about to be noticed
                    rank.line.sendall(pack(Frame.SIGNAL, {"number": number}))

    # Ways to end

    def _fail(
        self, rank: _Rank, code: int, traceback: str = "", how: str = "", leaving: bool = False
    ) -> None:
        """Note how a rank failed; the first failure ends the job.

        Args:
            rank: the rank.
            code: its exit code.
            traceback: of the exception, if there was one.
            how: what it did, if not just exit.
            leaving: whether it is on its way out, with things of its own to finish.
        """
        number = rank.spec.rank
        self.console.log(number, traceback)
        if self.verdict is None:
            others = [other for other in self._running() if other is not rank]
            reason = process.explain(code)
            how = how or f"exited {code}"
            text = f"launch: rank {number} on {rank.host} {how} after {self._elapsed_s():.1f} s"
            text += f" ({reason})" if reason else ""
            text += f"; stopped {_count(len(others), 'other rank')}"
            text += f". See {self.console.log_path(number)}" if self.console.log_dir is not None else ""
            self.verdict = _Verdict(code, text, traceback)
            self._stop(signal.SIGTERM, FAILURE_GRACE_S, spared=rank if leaving else None)
        elif traceback not in ("", self.verdict.traceback) and not self._interrupted:
            self.console.show(number, traceback)

    def _stop(self, number: int, grace_s: float, spared: _Rank | None = None) -> None:
        """Ask the ranks to end, but for the one that already does; kill them after ``grace_s``."""
        self._send(number, spared)
        self._at(grace_s, self._kill)
        self._check_end()

    def _kill(self) -> None:
        self._send(signal.SIGKILL)
        self._at(LAST_WORDS_S, self._give_up)

    def _give_up(self) -> None:
        self._over = True

    def _check_end(self) -> None:
        """Leave the loop once nothing but the starter is left; it has a moment to end by itself."""
        connected = any(rank.line is not None for rank in self.ranks)
        if not connected and (self.verdict is not None or not self._running()):
            if self._starter is None or self._starter.poll() is not None:
                self._over = True
            else:
                self._at(LAST_WORDS_S, self._give_up)

    def _time_out(self) -> None:
        """End a job that takes too long, with the Python stacks of the ranks that are still running."""
        if self.verdict is not None:
            return
        running = ", ".join(str(rank.spec.rank) for rank in self._running())
        done = ", ".join(str(rank.spec.rank) for rank in self.ranks if rank.code is not None)
        text = f"launch: stopped after --timeout {self.timeout_s:g} s; still running: rank {running}"
        text += f"; ended before: rank {done}" if done else ""
        self.verdict = _Verdict(TIMEOUT_CODE, f"{text}. The stacks of the running ranks stand above")
        self.console.quiet = False
        self._send(STACKS_SIGNAL)
        self._at(LAST_WORDS_S, lambda: self._stop(signal.SIGTERM, FAILURE_GRACE_S))

    def _check_start(self) -> None:
        missing = [str(rank.spec.rank) for rank in self._running() if rank.line is None]
        if missing and self.verdict is None:
            text = f"launch: rank {', '.join(missing)} did not start within {START_TIMEOUT_S:g} s"
            self.verdict = _Verdict(1, text, self._starter_said.decode(errors="replace"))
            self._stop(signal.SIGTERM, FAILURE_GRACE_S)

    # The starter

    def _hear_starter(self, said: IO[bytes]) -> None:
        """Keep what the starter writes; it is shown only if ranks could not be started."""
        data = os.read(said.fileno(), CHUNK_BYTES)
        if not data:
            self._selector.unregister(said)
        self._starter_said = (self._starter_said + data)[-CHUNK_BYTES:]

    def _starter_ended(self, ended: IO[bytes]) -> None:
        self._selector.unregister(ended)
        # What the ranks said last may still be on its way.
        self._at(0.0 if self.verdict or not self._running() else LAST_WORDS_S / 2, self._judge_starter)

    def _judge_starter(self) -> None:
        """The starter has ended: no loss if the ranks have, but a failure if any is still there."""
        running = self._running()
        if self.verdict is None and running and self._starter is not None:
            code = self._starter.wait()
            code = code if code >= 0 else 128 - code
            names = ", ".join(str(rank.spec.rank) for rank in running)
            aborted = [rank for rank in running if rank.abort_code is not None]
            if aborted:
                abort_code = aborted[0].abort_code or 0
                self._fail(aborted[0], abort_code & 0xFF or 1, how=f"called MPI_Abort({abort_code})")
            elif any(rank.line is None for rank in running):
                text = f"launch: the starter exited {code} before rank {names} had started. It said:"
                self.verdict = _Verdict(code or 1, text, self._starter_said.decode(errors="replace"))
                self._stop(signal.SIGTERM, FAILURE_GRACE_S)
            else:
                text = f"launch: the starter exited {code} while rank {names} was running; stopped it"
                self.verdict = _Verdict(code or 1, text, self._starter_said.decode(errors="replace"))
                self._stop(signal.SIGTERM, FAILURE_GRACE_S)
        self._check_end()

    # The end

    def _clean_up(self, began_at_s: float) -> None:
        """Leave no process and no segment."""
        for number in STOPPING:  # it is a matter of milliseconds now
            signal.signal(number, signal.SIG_IGN)
        deadline_s = time.monotonic() + LAST_WORDS_S
        while kill_marked(self.secret) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        if self._starter is not None:
            self._starter.wait()
        if self.verdict is not None:
            remove_segments(began_at_s)

    def _conclude(self) -> None:
        """Show what ranks wrote last, then the verdict with the first failure's traceback."""
        try:
            for rank in self.ranks:
                self.console.close_rank(rank.spec.rank)
            self.console.close()
            if self.verdict is not None and self.verdict.text:
                self.console.say(f"{self.verdict.text}\n{self.verdict.traceback}".rstrip())
        except OutputClosedError:
            self._output_closed()

    def _output_closed(self) -> None:
        self.console.mute()
        self.verdict = self.verdict or _Verdict(128 + signal.SIGPIPE, "")

    def _running(self) -> list[_Rank]:
        return [rank for rank in self.ranks if rank.code is None]

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
