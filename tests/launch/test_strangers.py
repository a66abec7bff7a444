"""Whoever calls a job's launcher without its secret: nothing that it says or leaves unsaid does anything."""

import contextlib
import json
import math
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distgrad.launch.frames import CALL, MARK, NONCE_BYTES, PROOF_BYTES, Frame, pack
from distgrad.launch.loop import Loop

from distgrad.launch import frames, lines, rank

SECRET = "5ecre7" * 5
NUM_FRAMES = 10_000
LIMIT_S = 60.0
PATIENCE_S = 5.0
EVIL_BODIES = [
    b"[" * 4000,
    b'{"rank": Infinity, "secret": "guessed", "host": "h", "cores": []}',
    b'{"rank": 1e999, "secret": NaN}',
    b'{"rank": -1, "host": "h", "cores": [0]}',
    b'{"rank": ' + b"9" * 5000 + b"}",
    b"[]",
    b"null",
    b"no json",
    b"\xff\xfe\x00",
    b"",
]


class Launcher:
    """The launcher's end of the lines, in a thread of its own.

    Attributes:
        greeted: the ranks that were let in.
        error: what ended its loop, if anything has.
    """

    def __init__(self, num_ranks: int) -> None:
        self.greeted: list[int] = []
        self.handled: list[tuple[int, Frame]] = []
        self.error: BaseException | None = None
        self.loop = Loop()
        awake, self._wake = socket.socketpair()
        self.loop.watch(awake, self._end)
        self.lines = lines.Lines(
            self.loop, "127.0.0.1", num_ranks, SECRET,
            greet=self._greet, handle=lambda rank, kind, body: self.handled.append((rank, kind)),
            hung_up=lambda rank: None,
        )  # fmt: skip
        self.port = int(self.lines.address.rpartition(":")[2])
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self.loop:
                self.loop.run(lambda number: None)
        except BaseException as error:
            self.error = error

    def _end(self) -> None:
        self.loop.over = True

    def _greet(self, number: int, hello: dict[str, object]) -> dict[str, object]:
        self.greeted.append(number)
        return {"environment": {}, "cores": [], "patience_s": 1.0}

    def call(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def join(self) -> None:
        self._thread.join(PATIENCE_S)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        self.join()
        self._wake.close()


@pytest.fixture
def launch() -> Iterator[Callable[[int], Launcher]]:
    launchers: list[Launcher] = []

    def start(num_ranks: int) -> Launcher:
        launchers.append(Launcher(num_ranks))
        return launchers[-1]

    yield start
    for launcher in launchers:
        launcher.close()


def come(launcher: Launcher, number: int, monkeypatch: pytest.MonkeyPatch) -> tuple[socket.socket, dict]:
    """Be an honest rank; return its line and what it is told to start with."""
    monkeypatch.setenv("DISTGRAD_SUPERVISOR", f"127.0.0.1:{launcher.port}")
    monkeypatch.setenv("DISTGRAD_JOB_SECRET", SECRET)
    line, _, start = rank._connect(number)
    return line, start


# -- the fuzz


def say(line: socket.socket, data: bytes) -> int:
    """Send a frame; return how many went out: none once the launcher has closed the line."""
    try:
        line.sendall(data)
    except OSError:
        return 0
    return 1


def hear(line: socket.socket) -> bytes:
    """The launcher's nonce and proof, as far as they come."""
    answer = b""
    with contextlib.suppress(OSError):
        while len(answer) < NONCE_BYTES + PROOF_BYTES and (data := line.recv(64)):
            answer += data
    return answer


def noise(line: socket.socket, dice: random.Random, heard: list[bytes]) -> int:
    return say(line, dice.randbytes(dice.randrange(1, 200)))


def old_greetings(line: socket.socket, dice: random.Random, heard: list[bytes]) -> int:
    """JSON where a proof is due, whole or cut off."""
    message = pack(Frame.HELLO, dice.choice(EVIL_BODIES))
    return say(line, message[: dice.choice((len(message), 6))]) + say(line, b"GET / HTTP/1.1\r\n\r\n")


def huge_length(line: socket.socket, dice: random.Random, heard: list[bytes]) -> int:
    return say(line, struct.pack("!BI", dice.randrange(256), dice.randrange(1 << 20, 1 << 32)))


def cut_off(line: socket.socket, dice: random.Random, heard: list[bytes]) -> int:
    """Part of a call, then the end of what it says, or a reset."""
    sent = say(line, CALL.pack(MARK, 0, dice.randbytes(NONCE_BYTES))[: dice.randrange(1, CALL.size)])
    with contextlib.suppress(OSError):
        if dice.random() < 0.5:
            line.shutdown(socket.SHUT_WR)
        else:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return sent


def false_proof(line: socket.socket, dice: random.Random, heard: list[bytes]) -> int:
    """A right call, then a proof that is guessed, reflected, replayed, or nearly right, then frames."""
    call = CALL.pack(MARK, dice.choice((0, 1, 2, 3, 1 << 31)), heard[0][:NONCE_BYTES])
    sent = say(line, call)
    answer = hear(line)
    nonce, proof = answer[:NONCE_BYTES], answer[NONCE_BYTES:]
    near = bytearray(frames.prove(SECRET, "rank", call, nonce))
    near[dice.randrange(PROOF_BYTES)] ^= 1 << dice.randrange(8)
    sent += say(line, dice.choice((dice.randbytes(PROOF_BYTES), proof, heard[1], bytes(near), b"")))
    return sent + say(line, pack(Frame.HELLO, dice.choice([*EVIL_BODIES, b'{"host": "h", "cores": [0]}'])))


kept_open: list[int] = []
KINDS = (noise, old_greetings, huge_length, cut_off, false_proof)


def overhear(launcher: Launcher) -> list[bytes]:
    """The rank's nonce and its proof from an honest line, which a stranger may say again."""
    first = CALL.pack(MARK, 0, os.urandom(NONCE_BYTES))
    with launcher.call() as line:
        line.sendall(first)
        return [first[-NONCE_BYTES:], frames.prove(SECRET, "rank", first, hear(line)[:NONCE_BYTES])]


def fuzz(launcher: Launcher, num_frames: int, seed: int) -> list[str]:
    """Say ``num_frames`` things that no rank says; return what they did."""
    dice = random.Random(seed)
    heard = overhear(launcher)
    descriptors = len(os.listdir("/proc/self/fd"))
    limit_s = time.monotonic() + LIMIT_S
    sent = 0
    while sent < num_frames and launcher.error is None and not launcher.greeted:
        if time.monotonic() > limit_s:
            return [f"{sent} frames took {LIMIT_S:g} s"]
        try:
            line = launcher.call()
        except ConnectionError as error:  # nobody listens any more
            launcher.join()
            return [*inspect(launcher, descriptors), f"a call after {sent} frames: {error!r}"]
        with line:
            sent += dice.choice(KINDS)(line, dice, heard)
    return list(inspect(launcher, descriptors))


def inspect(launcher: Launcher, descriptors: int) -> Iterator[str]:
    limit_s = time.monotonic() + 2.0
    while launcher.lines._strangers and launcher.error is None and time.monotonic() < limit_s:
        time.sleep(0.01)  # the last ones' ends are on their way
    if launcher.error is not None:
        yield f"the loop ended by {launcher.error!r}"
    if launcher.greeted or launcher.handled:
        yield f"a stranger was taken for rank {launcher.greeted}"
    left = len(os.listdir("/proc/self/fd")) - descriptors
    if left > 0:
        yield f"{left} descriptors are left"


def test_ten_thousand_frames_of_strangers_do_nothing(launch, monkeypatch):
    launcher = launch(3)
    assert fuzz(launcher, NUM_FRAMES, seed=1) == []
    honest = [come(launcher, number, monkeypatch)[0] for number in (2, 0, 1)]
    assert launcher.greeted == [2, 0, 1]
    for line in honest:
        line.close()


def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines.hmac, "compare_digest", lambda a, b: True)


def ignore_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    prove = frames.prove
    for module in (frames, lines):
        monkeypatch.setattr(module, "prove", lambda secret, who, call, nonce: prove(secret, who, b"", b""))


def one_proof_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    prove = frames.prove
    for module in (frames, lines):
        monkeypatch.setattr(module, "prove", lambda secret, who, *said: prove(secret, "", *said))


def read_before_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    def admit(self: lines.Lines, caller: lines._Caller) -> None:
        for _, body in frames.FrameReader().feed(caller.line.recv(1 << 16)):
            json.loads(body)

    monkeypatch.setattr(lines.Lines, "_hear", admit)


def keep_open(monkeypatch: pytest.MonkeyPatch) -> None:
    drop = lines.Lines._drop

    def keep(self: lines.Lines, line: socket.socket) -> None:
        kept_open.append(os.dup(line.fileno()))
        drop(self, line)

    monkeypatch.setattr(lines.Lines, "_drop", keep)


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (accept_all, "taken for rank"),
        (ignore_nonce, "taken for rank"),
        (one_proof_for_both, "taken for rank"),
        (read_before_the_proof, "the loop ended by"),
        (keep_open, "descriptors are left"),
    ],
)
def test_the_fuzz_finds_what_is_planted(launch, plant, found, monkeypatch):
    plant(monkeypatch)
    assert any(found in finding for finding in fuzz(launch(4), 600, seed=2))
    while kept_open:
        os.close(kept_open.pop())


# -- limits


def test_a_stranger_has_a_deadline(launch, monkeypatch):
    monkeypatch.setattr(lines, "STRANGER_S", 0.2)
    monkeypatch.setattr(lines, "_SWEEP_S", 0.1)
    launcher = launch(1)
    for said in (b"", CALL.pack(MARK, 0, bytes(NONCE_BYTES))):
        with launcher.call() as line:
            line.sendall(said)
            assert len(hear(line)) == (48 if said else 0)
            assert line.recv(1) == b""


def test_the_oldest_stranger_makes_room(launch):
    launcher = launch(2)
    idle = [launcher.call() for _ in range(lines.MAX_STRANGERS + 3)]
    assert idle[0].recv(1) == b""
    idle[-1].setblocking(False)
    with pytest.raises(BlockingIOError):
        idle[-1].recv(1)
    for line in idle:
        line.close()


def test_nobody_is_let_in_once_every_rank_has_come(launch, monkeypatch):
    launcher = launch(2)
    stranger = launcher.call()
    first, _ = come(launcher, 1, monkeypatch)
    with pytest.raises(PermissionError, match="has that rank already"):
        come(launcher, 1, monkeypatch)
    with pytest.raises(PermissionError, match="has that rank already"):
        come(launcher, 7, monkeypatch)
    second, start = come(launcher, 0, monkeypatch)
    assert start == {"environment": {}, "cores": [], "patience_s": 1.0}
    assert stranger.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        launcher.call()
    second.sendall(pack(Frame.STDOUT, b"hello"))
    limit_s = time.monotonic() + PATIENCE_S
    while not launcher.handled and time.monotonic() < limit_s:
        time.sleep(0.01)
    assert launcher.handled == [(0, Frame.STDOUT)]
    for line in (stranger, first, second):
        line.close()


CROWD = """
    import contextlib, os, resource, socket, subprocess, sys
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))
    host, port = os.environ["DISTGRAD_SUPERVISOR"].split(":")
    crowd = [socket.create_connection((host, int(port)), timeout=20) for _ in range(1140)]
    for line, said in zip(reversed(crowd), {said!r}):
        with contextlib.suppress(ConnectionError):
            line.sendall(said)
    print(len(os.listdir(f"/proc/{{os.getppid()}}/fd")), file=open("descriptors", "w"))
    sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""
CROWDED = """
    import sys
    from distgrad.launch import __main__ as launcher, start
    without_mpi = start.without_mpi
    def crowded(*arguments):
        ours = without_mpi(*arguments)
        return start.Starter((sys.executable, "crowd.py", *ours.command), ours.environment)
    start.without_mpi = crowded
    sys.exit(launcher.main(["-n", "2", "script.py"]))
"""


def test_1140_idle_connections_before_the_ranks_come(tmp_path):
    said = [pack(Frame.HELLO, body) for body in EVIL_BODIES]
    (tmp_path / "crowd.py").write_text(textwrap.dedent(CROWD.format(said=said)))
    (tmp_path / "script.py").write_text("import os; print('rank', os.environ['RANK'])")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CROWDED)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 2048)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["[0] rank 0", "[1] rank 1"]
    assert int((tmp_path / "descriptors").read_text()) < lines.MAX_STRANGERS + 30


def test_a_job_that_runs_has_no_open_port(run):
    ended = run(
        "-n 2",
        """
        import os, socket, time
        host, port = os.environ["DISTGRAD_SUPERVISOR"].split(":")
        assert host == "127.0.0.1"
        while True:  # the other rank may still be on its way
            try:
                with socket.create_connection((host, int(port)), timeout=5) as line:
                    line.sendall(b"GET / HTTP/1.1\\r\\n" + bytes(50))
                    line.recv(100)
            except ConnectionRefusedError:
                break
            except ConnectionError:
                pass
        print("kept out")
        """,
    )
    assert (ended.code, ended.stderr) == (0, "")
    assert sorted(ended.stdout.splitlines()) == ["[0] kept out", "[1] kept out"]


# -- the rank's side


@pytest.fixture
def false_launcher(monkeypatch) -> Iterator[Callable[[bytes], list[bytes]]]:
    """Listen where a rank calls, and answer with fixed bytes; gives what the ranks have said."""
    opened = []

    def listen(answer: bytes, *, stay: bool = False, calls: float = math.inf) -> list[bytes]:
        server = socket.create_server(("127.0.0.1", 0))
        opened.append(server)
        monkeypatch.setenv("DISTGRAD_SUPERVISOR", f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("DISTGRAD_JOB_SECRET", SECRET)
        said: list[bytes] = []

        def serve() -> None:
            with contextlib.suppress(OSError), server:
                while len(said) < calls:
                    line, _ = server.accept()
                    said.append(line.recv(1 << 16))
                    if len(said) == calls:
                        server.close()  # before the rank can call again
                    line.sendall(answer)
                    if stay:
                        opened.append(line)
                    else:
                        line.close()

        threading.Thread(target=serve, daemon=True).start()
        return said

    yield listen
    for each in opened:
        with contextlib.suppress(OSError):  # the rank has hung up
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def test_a_rank_tells_a_false_launcher_nothing(false_launcher):
    said = false_launcher(bytes(NONCE_BYTES + PROOF_BYTES))
    with pytest.raises(PermissionError, match="does not know the job's secret"):
        rank._connect(0)
    assert [len(each) for each in said] == [CALL.size]
    assert SECRET.encode() not in said[0]


def test_a_rank_that_was_dropped_calls_again(false_launcher):
    said = false_launcher(bytes(8), calls=4)
    with pytest.raises(ConnectionRefusedError):  # once nobody listens any more
        rank._connect(0)
    assert len(said) == 4
    assert len(set(said)) == len(said)  # a new nonce each time


def test_a_call_that_was_dropped_says_so(false_launcher):
    false_launcher(bytes(8))
    with pytest.raises(ConnectionError, match="before it had proved itself"):
        rank._call_once(0, time.monotonic() + 60)


def test_a_rank_waits_for_an_answer_until_its_deadline(false_launcher, monkeypatch):
    monkeypatch.setattr(rank, "CONNECT_TIMEOUT_S", 0.3)
    false_launcher(bytes(8), stay=True)
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        rank._connect(0)
    assert 0.2 < time.monotonic() - began_s < 3.0


def test_nobody_listens(monkeypatch, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("DISTGRAD_SUPERVISOR", f"127.0.0.1:{port}")
    with pytest.raises(ConnectionRefusedError):
        rank._connect(0)
