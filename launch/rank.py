"""One rank on its host: the watcher between the launcher and the user's script.

The launcher has ``entry.py`` run, which loads this file without the package around it: the script then finds
an interpreter into which nothing of distgrad has been imported, and a rank costs no more than the start of
Python. For the same reason what is loaded with it needs the standard library alone.

Three processes make a rank. They are forks of one interpreter, so that each costs a millisecond::

    stub      what the starter started; waits, and passes the exit status on. If mpiexec kills what it started
              (MPI_Abort makes it do so), the two others stay, and the launcher still learns what happened.
              Without mpiexec, one stub serves all ranks of the host.
    watcher   holds the line to the launcher, relays the output, delivers signals, tells every second how far
              the script is, kills the rank's whole process group when the script ends or when the launcher
              is gone.
    script    the user's script as ``__main__``, at the head of a process group of its own.

Usage: ``python entry.py WHICH script.py ARGS...`` or ``python entry.py WHICH -m module ARGS...``, where WHICH
is ``0:4`` for the ranks 0 to 3, or the name of the environment variable that holds this process's rank.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

from .frames import CHUNK_BYTES, Frame, FrameReader, call, pack
from .rank_script import run

STACKS_SIGNAL = signal.SIGRTMAX - 2  # a rank answers with the Python stacks of all its threads, and goes on
OUTPUT_BYTES = 1 << 15  # of each stream, that may be on their way; then the script waits
CONNECT_TIMEOUT_S = 30.0
_CALL_AGAIN_S = 0.1
BEAT_S = 1.0  # how often a watcher tells how far its script is
# How many calls began or ended; the last one's number, whether it lasts, its text's bytes; steps done;
# whether the rank compiles.
PROGRESS = struct.Struct("=QqQQQQ")
PROGRESS_BYTES = 4096  # those numbers, then the text of the last call in UTF-8
#: What MPI libraries call the files in shared memory that the ranks of a host meet in.
SEGMENT_PREFIXES = ("mpich_shm_", "mpich_vci_", "sm_segment.")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def kill_marked(secret: str) -> int:
    """Kill every process of this machine that carries ``secret`` in its environment; return how many.

    A process that left its rank's process group still has the environment it was started with. The pid file
    descriptor is opened before the look, so the signal reaches the process that was looked at and no other.
    """
    marker = b"DISTGRAD_JOB_SECRET=" + secret.encode()
    killed = 0
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            descriptor = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if marker not in file.read().split(b"\0"):
                    continue
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            killed += 1
        except OSError:  # another user's, or it has just ended
            continue
        finally:
            os.close(descriptor)
    return killed


def _segments(process: int) -> set[str]:
    """The files of an MPI library in shared memory that a process has mapped; the name of one may be gone."""
    try:
        with open(f"/proc/{process}/maps", errors="replace") as file:
            names = {line.split(maxsplit=5)[-1].strip() for line in file if " /dev/shm/" in line}
    except OSError:  # it has ended
        return set()
    return {name for name in names if name.removeprefix("/dev/shm/").startswith(SEGMENT_PREFIXES)}


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when ``parent`` dies, also by SIGKILL."""
    import ctypes

    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)


def _script(arguments: list[str], start: dict[str, Any], watcher: int, pipes: tuple[int, ...]) -> None:
    """Turn this fork into the user's script."""
    os.setpgid(0, 0)
    die_with_parent(watcher)
    null = os.open(os.devnull, os.O_RDONLY)
    stdout, stderr, failures, stacks = pipes
    for source, target in ((null, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target)
        os.close(source)
    os.environ.update(start["environment"])
    if start["cores"]:
        os.sched_setaffinity(0, start["cores"])
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL, file=stacks, all_threads=True)

    def report(code: int, traceback: str) -> None:
        with open(failures, "wb") as pipe:
            pipe.write(pack(Frame.FAILED, {"code": code, "traceback": traceback[-CHUNK_BYTES:]}))

    run(arguments, report)


def usable_cores(quota_file: str = "/sys/fs/cgroup/cpu.max") -> list[int]:
    """The processor cores that this process may use; fewer where a container's share of time is smaller."""
    cores = sorted(os.sched_getaffinity(0))
    try:
        with open(quota_file) as file:
            quota_us, period_us = file.read().split()
    except (OSError, ValueError):  # no second-generation control groups here
        return cores
    return cores if quota_us == "max" else cores[: max(1, int(quota_us) // int(period_us))]


def _usage(process: int) -> tuple[float, int, str]:
    """What a process and its descendants have used, and the process's state as ps(1) shows it.

    Returns:
        Processor seconds, bytes read and written, state.
    """
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    seconds = sum(map(int, fields[11:15])) * _TICK_S  # user and system, own and of children that have ended
    moved_bytes = 0
    with contextlib.suppress(OSError), open(f"/proc/{process}/io") as file:  # some kernels do not tell
        moved_bytes = sum(int(line.split()[1]) for line in list(file)[:2])  # of files and pipes
    for task in os.listdir(f"/proc/{process}/task"):
        try:
            with open(f"/proc/{process}/task/{task}/children") as file:
                children = file.read().split()
        except OSError:  # the thread has ended, or the kernel does not tell
            continue
        for child in children:
            try:
                used = _usage(int(child))
            except OSError:  # it has ended
                continue
            seconds, moved_bytes = seconds + used[0], moved_bytes + used[1]
    return seconds, moved_bytes, fields[0]


class _Page:
    """Memory that a script and its watcher share: the script writes how far it is, and nobody waits."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("distgrad-progress")
        os.ftruncate(self.descriptor, PROGRESS_BYTES)
        self.memory = mmap.mmap(self.descriptor, PROGRESS_BYTES)

    @property
    def variable(self) -> dict[str, str]:
        """How the script finds it; a process that merely inherits the variable sees another inode."""
        inode = os.fstat(self.descriptor).st_ino
        return {"DISTGRAD_PROGRESS": f"{self.descriptor}:{inode}"}

    def read(self) -> dict[str, Any]:
        sequence, number, waiting, length, step, compiling = PROGRESS.unpack_from(self.memory)
        text = self.memory[PROGRESS.size : PROGRESS.size + length].decode(errors="replace")
        return {
            "sequence": sequence, "number": number, "waiting": bool(waiting), "text": text, "step": step,
            "compiling": bool(compiling),
        }  # fmt: skip


class _Watcher:
    """Relays between one running script and the launcher until either ends.

    Nothing here waits for the launcher: what it does not take yet is kept. Of each of the script's streams no
    more than ``OUTPUT_BYTES`` are on their way at a time, so that a launcher whose own reader pauses is still
    told how far the script is, and its signals arrive; and that the other stream goes on.
    """

    def __init__(
        self, line: socket.socket, reader: FrameReader, script: int, pipes: tuple[int, ...], page: _Page
    ) -> None:
        self.line = line
        self.reader = reader
        self.script = script
        self.script_ended = os.pidfd_open(script)
        self.pipes = dict(zip(pipes, (Frame.STDOUT, Frame.STDERR, Frame.FAILED, Frame.STACKS), strict=True))
        self.failures = FrameReader()
        self.page = page
        self.unsent = bytearray()
        self.told_bytes = {Frame.STDOUT: 0, Frame.STDERR: 0}
        self.taken_bytes = {Frame.STDOUT: 0, Frame.STDERR: 0}
        self.answered = True  # whether the launcher has heard where the script was last
        self.ended = False

    def watch(self) -> int:
        """Relay until the script has ended; return its status.

        Raises:
            OSError: the launcher is gone.
        """
        for pipe in self.pipes:
            os.set_blocking(pipe, False)
        self._obey(b"")  # what may have come together with the start
        beat_s = time.monotonic()
        while True:
            ready = self._wait(beat_s)
            if time.monotonic() >= beat_s:
                beat_s = time.monotonic() + BEAT_S
                if self.answered:
                    self._beat()
            if self.line.fileno() in ready:
                data = self.line.recv(CHUNK_BYTES)
                if not data:
                    raise ConnectionError("the launcher is gone")
                self._obey(data)
            if self.script_ended in ready:
                self._beat()
                self.ended = True
                os.killpg(self.script, signal.SIGKILL)  # a zombie leads it: no other group has its number
            for pipe in [pipe for pipe in self.pipes if pipe in ready]:
                self._relay(pipe)
            if self.ended and self._drain():
                return self._end()

    def _wait(self, until_s: float) -> set[int]:
        """Wait for something to do; return the descriptors that can be read."""
        poll = select.poll()
        poll.register(self.line, select.POLLIN | select.POLLOUT * bool(self.unsent))
        for pipe in self.pipes:
            if self._room(pipe):
                poll.register(pipe, select.POLLIN)
        if not self.ended:
            poll.register(self.script_ended, select.POLLIN)
        found = poll.poll(max(0.0, until_s - time.monotonic()) * 1e3)
        self._send()
        return {source for source, event in found if event & ~select.POLLOUT}

    def _tell(self, kind: Frame, payload: bytes | dict[str, Any]) -> None:
        self.unsent += pack(kind, payload)
        self._send()

    def _send(self) -> None:
        """Send as much as the line takes."""
        try:
            while self.unsent:
                del self.unsent[: self.line.send(self.unsent[:CHUNK_BYTES], socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return

    def _beat(self) -> None:
        """Tell how far the script is."""
        cpu_s, io_bytes, state = _usage(self.script)
        heeds = self._catches(signal.SIGUSR1)
        usage = {"cpu_s": cpu_s, "io_bytes": io_bytes, "state": state, "heeds": heeds}
        self._tell(Frame.PROGRESS, self.page.read() | usage)
        self.answered = False

    def _obey(self, data: bytes) -> None:
        """Deliver the signals that the launcher sends, after telling where they meet the script."""
        for kind, body in self.reader.feed(data):
            message = json.loads(body)
            if kind is Frame.TAKEN:
                self.taken_bytes.update(zip(self.taken_bytes, message["bytes"], strict=True))
                self.answered = True
                continue
            self._beat()
            number = message["number"]
            if number != STACKS_SIGNAL:
                os.killpg(self.script, number)
            elif self._catches(number):
                os.kill(self.script, number)
            else:
                self._tell(Frame.STACKS, b"")

    def _catches(self, number: int) -> bool:
        """Whether the script has come as far as answering a signal: else it would end by it."""
        with open(f"/proc/{self.script}/status") as file:
            caught = next((int(line.split()[1], 16) for line in file if line.startswith("SigCgt:")), 0)
        return bool(caught >> (number - 1) & 1)

    def _room(self, pipe: int) -> int:
        """How many bytes out of ``pipe`` may be sent now."""
        kind = self.pipes[pipe]
        if kind not in self.told_bytes:
            return CHUNK_BYTES
        return OUTPUT_BYTES - (self.told_bytes[kind] - self.taken_bytes[kind])

    def _relay(self, pipe: int) -> bool:
        """Pass on what lies in ``pipe``; False if nothing does, or nothing may be sent now."""
        room = self._room(pipe)
        try:
            data = os.read(pipe, room) if room else b""
        except BlockingIOError:
            return False
        kind = self.pipes[pipe]
        if not data:
            if room:  # its end
                del self.pipes[pipe]
                os.close(pipe)
            return False
        if kind is Frame.FAILED:
            for _, body in self.failures.feed(data):
                self._beat()
                self._tell(kind, body)
        else:
            if kind in self.told_bytes:
                self.told_bytes[kind] += len(data)
            self._tell(kind, data)
        return True

    def _drain(self) -> bool:
        """Pass on what the script left in the pipes, as far as it may be; whether that was all."""
        for pipe in list(self.pipes):
            while self._relay(pipe):
                continue
        return all(self._room(pipe) for pipe in self.pipes)

    def _end(self) -> int:
        _, status = os.waitpid(self.script, 0)
        self._tell(Frame.ENDED, {"status": status})
        self.line.sendall(self.unsent)
        return status


def _connect(rank: int) -> tuple[socket.socket, FrameReader, dict[str, Any]]:
    """Call the launcher; return the line, its reader, and what the launcher says about the start.

    A launcher that many strangers call may have dropped this call for theirs; it is made again.

    Raises:
        OSError: nobody answers, or not the launcher, or it has nothing to do for this rank.
    """
    deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            return _call_once(rank, deadline_s)
        except ConnectionRefusedError:
            raise
        except ConnectionError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_CALL_AGAIN_S)


def _call_once(rank: int, deadline_s: float) -> tuple[socket.socket, FrameReader, dict[str, Any]]:
    host, _, port = os.environ["DISTGRAD_SUPERVISOR"].rpartition(":")
    line = socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S)
    try:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        proof = call(line, os.environ["DISTGRAD_JOB_SECRET"], rank, deadline_s)
        line.sendall(proof + pack(Frame.HELLO, {"host": socket.gethostname(), "cores": usable_cores()}))
        reader = FrameReader()
        while data := line.recv(CHUNK_BYTES):
            for kind, body in reader.feed(data):
                start = json.loads(body)
                if kind is Frame.REFUSED:
                    raise PermissionError(start["why"])
                line.settimeout(None)
                # A launcher that was cut off says nothing; what is sent to it stays unacknowledged.
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * start["patience_s"]))
                return line, reader, start
        raise ConnectionError(f"the launcher at {host}:{port} closed the line before the start")
    except BaseException:
        line.close()
        raise


def _watch(rank: int, arguments: list[str]) -> int | None:
    """Start the script and watch it; return its status, or None in the script's own process at its end."""
    try:
        line, reader, start = _connect(rank)
    except OSError as error:
        sys.stderr.write(f"launch: rank {rank} could not reach the launcher: {error}\n")
        return 1 << 8
    watcher = os.getpid()
    page = _Page()
    start["environment"] |= page.variable
    pairs = [os.pipe() for _ in range(4)]
    script = os.fork()
    readers, writers = zip(*pairs, strict=True)
    if script == 0:
        line.close()
        for descriptor in readers:
            os.close(descriptor)
        _script(arguments, start, watcher, writers)
        return None
    os.setpgid(script, script)  # also here: a signal may have to be delivered before the fork gets that far
    for descriptor in writers:
        os.close(descriptor)
    try:
        return _Watcher(line, reader, script, readers, page).watch()
    except OSError:  # the launcher cannot clear up
        for name in _segments(script):  # first, since the watchers kill each other too
            try:
                os.unlink(name)
            except OSError:  # another rank's watcher was here, or it is not ours
                continue
        kill_marked(os.environ["DISTGRAD_JOB_SECRET"])
        return 1 << 8


def main(arguments: list[str]) -> None:
    """Be the stub: fork a watcher a rank, wait for them, pass the first exit code on that is not 0."""
    which, *target = arguments
    ranks = range(*map(int, which.split(":"))) if ":" in which else [int(os.environ[which])]
    watchers = []
    for rank in ranks:
        watchers.append(os.fork())
        if watchers[-1] == 0:
            os.setsid()
            status = _watch(rank, target)
            if status is None:
                return
            break
    else:
        status = next(filter(None, [os.waitpid(watcher, 0)[1] for watcher in watchers]), 0)
    sys.stderr.flush()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)
