"""A job watched while it runs."""

import io
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading

import pytest
from distgrad.launch.logs import Console

from distgrad.profiler.status import Status, StatusWriter, prometheus, read_status, status_lines

LIMIT_S = 90.0


def test_a_status_holds_rates_of_late(tmp_path):
    writer = StatusWriter(tmp_path / "a.status")
    writer.update([], 10.0, 0, {}, rank=3)
    batch = [("forward", 0.0, 1.0, 1, {"samples": 8.0})] * 4 + [
        ("all_reduce", 0.0, 1.0, 1, {"waited_s": 0.9, "blocks": False}),  # behind the backward pass
        ("bucket.wait", 0.6, 1.0, 1, {}),
        ("barrier", 1.1, 1.2, 1, {"waited_s": 0.1, "blocks": True}),
    ]
    writer.update(batch, 12.0, 4, {"resident_bytes": 5e6}, told={"loss": 0.25})
    (status,) = read_status(tmp_path)
    assert (status.rank, status.step, status.steps_per_s, status.samples_per_s) == (3, 4, 2.0, 16.0)
    assert status_lines([status]) == ["rank 3: step 4, 2.0/s, 16 samples/s, loss 0.25, waiting 25%, 5 MB"]
    writer.update([], 14.0, 4, {}, ended=True)
    (status,) = read_status(tmp_path)
    assert status.steps_per_s == 1.0  # half of what it was
    assert status_lines([status])[0].endswith(", ended")


def test_of_several_attempts_the_last_counts_and_torn_files_none(tmp_path):
    for number, name in enumerate(("new", "old")):
        StatusWriter(tmp_path / f"{name}.status").update([], 1.0, number, {})
        os.utime(tmp_path / f"{name}.status", (100 - number, 100 - number))
    (tmp_path / "torn.status").write_text("{")
    assert [status.step for status in read_status(tmp_path)] == [0]


def test_a_status_is_read_whole_while_it_is_written(tmp_path):
    writer, stop = StatusWriter(tmp_path / "a.status"), threading.Event()
    writer.update([], 0.0, 0, {})

    def write():
        number = 0
        while not stop.is_set():  # of changing length, as numbers grow and what was told is told no more
            number += 1
            told = {"same": float(number)} if number % 3 else {}
            writer.update([], 0.0, number, {}, told=told, rank=number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        read = [read_status(tmp_path) for _ in range(500)]
    finally:
        stop.set()
        thread.join()
    assert all(len(found) == 1 and found[0].step == found[0].rank for found in read)
    assert all(found[0].told in ({}, {"same": float(found[0].step)}) for found in read)


METRIC = re.compile(r'[a-z_]+\{rank="\d+"(,[a-z]+="(\\.|[^"\\\n])*")?\} [-+0-9.e]+(inf|nan)?')


def test_prometheus_reads_it():
    told = {'a "b"\n': 1.0}
    text = prometheus([Status(0, 7, told=told, owners={"state": 64}), Status(1, 8)])
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or METRIC.fullmatch(line), line
    assert 'distgrad_step_total{rank="1"} 8' in text
    assert r'distgrad_told{rank="0",name="a \"b\"\n"} 1' in text
    assert 'distgrad_memory_bytes{rank="0",owner="state"} 64' in text


class Screen(io.BytesIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("live", [True, False])
def test_lines_are_drawn_below_the_output_and_taken_off(live):
    out, err = io.BytesIO(), Screen() if live else io.BytesIO()
    console = Console(out, err, 2, plain=True)
    for status in (["one", "two"], ["three", "four"]):
        console.status, console.draws = status, True
        console.settle()
    console.write(0, 1, b"words\n")
    console.clear()
    assert console.flush(60.0)
    console.close()
    shown = err.getvalue().decode()
    if live:
        erased = "\r\x1b[2K\x1b[1A\x1b[2K"
        assert shown == f"one\ntwo{erased}three\nfour{erased}[0] words\nthree\nfour{erased}"
    else:
        assert shown == "one\ntwo\nthree\nfour\n[0] words\n"


SCRIPT = """
    import sys, time, urllib.request
    import distgrad as dg

    comm = dg.comm.init()
    for step in range(3):
        dg.profiler.step(loss=0.5, samples=16)
    comm.barrier()
    end_s = time.monotonic() + 60
    seen = ""
    while comm.rank == 0 and seen.count("_total{") != 2 and time.monotonic() < end_s:
        with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        seen = "\\n".join(line for line in lines if line.endswith("} 3") or "told" in line)
    if comm.rank == 0:
        print(seen)
    comm.barrier()
"""


def test_a_job_is_watched_and_leaves_nothing(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    options = ["--watch", "--metrics-port", port, "-n", "2", "script.py", port]
    done = subprocess.run(
        [sys.executable, "-m", "distgrad.launch", *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '[0] distgrad_step_total{rank="0"} 3' in done.stdout
    assert '[0] distgrad_step_total{rank="1"} 3' in done.stdout
    assert 'distgrad_told{rank="1",name="loss"} 0.5' in done.stdout
    last = done.stderr.splitlines()[-2:]
    assert [re.match(r"rank \d: step 3, ", line) is not None for line in last] == [True, True]
    assert all("loss 0.5" in line and line.endswith(", ended") for line in last)
    assert os.listdir(tmp_path) == ["script.py"]
    done = subprocess.run(
        [sys.executable, "-m", "distgrad.launch", "--metrics-port", "80000", "script.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "must be a port from 1 to 65535, got '80000'" in done.stderr


def test_a_port_that_is_taken_is_said(tmp_path):
    (tmp_path / "script.py").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "distgrad.launch", "--metrics-port", port, "script.py"],
            cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert f"--metrics-port {port}: Address already in use" in done.stderr
    assert os.listdir(tmp_path) == ["script.py"]
