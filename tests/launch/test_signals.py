"""Signals from outside: passed on, obeyed, and no process left, whoever was killed."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENT = """
    import os, signal, sys, time
    {prepare}
    print("ready")
    time.sleep(1000)
"""
READY = ("[0] ready", "[1] ready")


def patient(prepare: str = "pass") -> str:
    return PATIENT.format(prepare=prepare)


def test_ctrl_c_asks(start):
    job = start("-n 2", patient())
    job.await_lines(*READY)
    job.process.send_signal(signal.SIGINT)
    ended = job.end()
    assert job.processes() == []
    assert ended.code == 130
    assert ended.stderr.splitlines()[0].startswith("launch: SIGINT passed on to 2 ranks; they have 10 s")
    assert ended.summary[0].startswith("launch: stopped by SIGINT after ")
    assert "Traceback" not in ended.stderr


def test_ctrl_c_twice_kills(start):
    ignore = "[signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]"
    job = start("-n 2", patient(ignore))
    job.await_lines(*READY)
    job.process.send_signal(signal.SIGINT)
    assert job.process.stderr.readline().startswith("launch: SIGINT passed on")
    time.sleep(0.2)
    assert job.process.poll() is None
    asked_s = time.monotonic()
    job.process.send_signal(signal.SIGINT)
    ended = job.end()
    assert time.monotonic() - asked_s < 5  # well before the first one's grace is over
    assert job.processes() == []
    assert ended.code == 130
    assert ended.summary[0].startswith("launch: killed by the second Ctrl-C after ")


def test_sigterm_leaves_time_for_a_checkpoint(start):
    save = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), print('saved'), sys.exit()))"
    job = start("-n 2", patient(save))
    job.await_lines(*READY)
    job.process.terminate()
    job.await_lines("[0] saved", "[1] saved")
    ended = job.end()
    assert job.processes() == []
    assert ended.code == 143
    assert ended.summary[0].startswith("launch: stopped by SIGTERM after ")


def test_user_signals_are_passed_on_and_end_nothing(start):
    job = start("-n 2", patient("signal.signal(signal.SIGUSR1, lambda *_: print('heard'))"))
    job.await_lines(*READY)
    for _ in range(2):
        job.process.send_signal(signal.SIGUSR1)
        job.await_lines("[0] heard", "[1] heard")
    job.process.terminate()
    assert job.end().code == 143


def test_a_killed_launcher_leaves_no_process(start):
    detached = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    job = start("-n 2", patient(f"{ignore}; {detached}"))
    job.await_lines(*READY)
    assert len(job.processes()) > 2
    job.process.kill()
    job.process.wait()
    job.await_no_process()


def test_a_killed_launcher_leaves_no_segment_of_mpi(start, room):
    """Of ranks that have joined by mpi4py alone, which takes no name away."""
    job = start(
        "-n 2 --backend mpi",
        "import time\nfrom mpi4py import MPI\nprint('ready')\ntime.sleep(1000)",
        room=room,
    )
    job.await_lines("[0] ready", "[1] ready")
    for folder in Path("/proc").glob("[0-9]*"):  # the launcher itself, whatever stands before it
        with contextlib.suppress(OSError):
            if (
                job.mark.encode() in (folder / "environ").read_bytes().split(b"\0")
                and b"distgrad.launch" in (folder / "cmdline").read_bytes()
            ):
                os.kill(int(folder.name), signal.SIGKILL)
    job.process.wait()
    job.await_no_process()


def test_a_killed_starter_ends_the_job(start):
    job = start("-n 2", patient())
    job.await_lines(*READY)
    subprocess.run(["pkill", "-KILL", "-P", str(job.process.pid)], check=True)
    ended = job.end()
    assert job.processes() == []
    assert ended.code == 137
    assert ended.summary[0] == "launch: the starter exited 137 while rank 0, 1 was running; stopped it"


def test_a_terminal_shows_a_live_bar_and_its_ctrl_c_ends_the_job(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, time, tqdm\n"
        "if os.environ['RANK'] == '0':\n"
        "    for step in tqdm.tqdm(range(20), desc='steps', mininterval=0): time.sleep(0.01)\n"
        "print('ready')\n"
        "time.sleep(1000)\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "distgrad.launch", "-n", "2", "script.py"])
    seen = b""
    try:
        expected = (b"[0] \x1b[0mready", b"[1] \x1b[0mready", b"\x1b[0msteps: 100%")  # two streams of rank 0
        while not all(each in seen for each in expected):
            seen += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        _, status = os.waitpid(child, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    bars = [piece for piece in seen.split(b"\r\x1b[2K") if piece.startswith(b"[0] steps: ")]
    assert len(bars) > 5
    assert b"100%" in seen
    assert b"\x1b[0msteps: 100%" in seen  # its last state, as a line of rank 0


@pytest.mark.parametrize("grace_s", [0.5, 3.0])
def test_the_grace_before_the_kill_is_an_option(start, grace_s):
    job = start(
        f"-n 1 --grace {grace_s}",
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("up")
        time.sleep(60)
        """,
    )
    job.await_lines("[0] up")
    asked_s = time.monotonic()
    job.process.send_signal(signal.SIGTERM)
    ended = job.end()
    assert ended.code == 143
    assert f"they have {grace_s:g} s" in ended.stderr
    assert grace_s <= ended.at_s - asked_s < grace_s + 5.0
