"""Traces of whole jobs: several ranks, hosts whose clocks differ, and ranks that are killed."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from distgrad.profiler import chrome, clocks, merge
from distgrad.profiler.recording import spool_folder
from distgrad.profiler.reporting import report
from distgrad.profiler.spool import encode, read_folder

LIMIT_S = 90.0
TRAIN = """
    import sys, time
    import numpy as np
    import distgrad as dg
    from distgrad import nn

    comm = dg.comm.init()
    dg.manual_seed(0)
    model = dg.parallel.DistributedDataParallel(nn.Linear(64, 64))
    optimizer = dg.optim.SGD(model.parameters(), lr=0.1)

    def train(num_steps, late=-1):
        for step in range(num_steps):
            x = dg.tensor(np.full((4, 64), comm.rank, np.float32))
            optimizer.zero_grad()
            loss = model(x).sum()
            if comm.rank == late:
                time.sleep(0.4)  # a straggler, also on a machine that is busy with others
            loss.backward()
            optimizer.step()
"""


def run(folder, options, script, **variables):
    """A job of the launcher; its code and what it said."""
    (folder / "script.py").write_text(textwrap.dedent(TRAIN) + textwrap.dedent(script))
    command = [sys.executable, "-m", "distgrad.launch", *options.split(), "script.py"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, timeout=LIMIT_S,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_the_launcher_makes_one_trace_of_all_ranks_that_names_a_straggler(tmp_path):
    code, said = run(tmp_path, "--trace out.json.gz -n 3", "train(6, late=1)")
    assert code == 0, said
    assert "out.json.gz: 3 ranks" in said
    found = chrome.read(tmp_path / "out.json.gz")
    assert found.ranks == [0, 1, 2]
    for rank in found.ranks:
        assert [span["args"]["step"] for span in found.spans("step", rank)] == list(range(6))
    for rank in (0, 2):
        waits = [span["args"].get("waited_for") for span in found.spans("all_reduce", rank)[-4:]]
        assert waits.count(1) >= 3  # a busy machine may hold up another one once
        blamed = [span["args"].get("waited_for") for span in found.spans("bucket.wait", rank)[-4:]]
        assert blamed.count(1) >= 3
    assert sorted(os.listdir(tmp_path)) == ["out.json.gz", "script.py"]


def test_a_script_records_steps_on_all_ranks(tmp_path):
    script = "with dg.profiler.record('mine.json', steps=range(1, 3)):\n        train(4)"
    code, said = run(tmp_path, "-n 2", script.replace("        ", "    "))
    assert code == 0, said
    found = chrome.read(tmp_path / "mine.json")
    assert found.ranks == [0, 1]
    assert [span["args"]["step"] for span in found.spans("step", 1)] == [1, 2]
    assert sorted(os.listdir(tmp_path)) == ["mine.json", "script.py"]


def test_mpirun_makes_a_trace_too(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(TRAIN) + "train(2)\n")
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if not mpiexec.exists():
        pytest.skip(f"no mpiexec beside {sys.executable}")
    variables = {**os.environ, "DISTGRAD_TRACE": "out.json.gz", "HWLOC_XMLFILE": os.devnull}
    done = subprocess.run(
        [mpiexec, "-n", "2", sys.executable, "script.py"],
        cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = chrome.read(tmp_path / "out.json.gz")
    assert [len(found.spans("step", rank)) for rank in (0, 1)] == [2, 2]
    assert sorted(os.listdir(tmp_path)) == ["out.json.gz", "script.py"]


KILLED = """
    import os, pathlib, signal
    from distgrad import trace
    from distgrad.profiler.spool import read_folder

    train(2)
    if comm.rank == 1:
        trace.event("last words")
        folder = pathlib.Path("out.json.gz.spool")
        def written():
            batches = [batch for file in read_folder(folder) for batch in file.batches()]
            return any(each[0] == "last words" for batch in batches for each in batch)

        while not written():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    train(1)
"""


def test_a_rank_that_is_killed_leaves_what_it_did_up_to_its_last_second(tmp_path):
    code, said = run(tmp_path, "--trace out.json.gz -n 2", KILLED)
    assert code == 128 + signal.SIGKILL, said
    found = chrome.read(tmp_path / "out.json.gz")
    assert len(found.spans("step", 1)) == 2
    assert [event["pid"] for event in found.events if event["name"] == "last words"] == [1]
    assert found.about["ended"]["1"] is False
    assert sorted(os.listdir(tmp_path)) == ["out.json.gz", "script.py"]


FULL = """
    import resource
    from distgrad.profiler.recording import _running

    (recorder,) = _running
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    train(2)
    recorder.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (recorder.path.stat().st_size + 100, hard))
    train(3)
    recorder.flush()
    recorder.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    train(1)
"""


def test_training_goes_on_where_the_trace_cannot_be_written_which_is_said_once(tmp_path):
    code, said = run(tmp_path, "--trace out.json.gz -n 2", FULL)
    assert code == 0, said
    assert "Traceback" not in said
    assert said.count("cannot be written to (File too large); the program goes on") == 2  # one of each rank
    assert said.count("which came too fast or could not be written") == 2
    found = chrome.read(tmp_path / "out.json.gz")
    for rank in (0, 1):
        assert [span["args"]["step"] for span in found.spans("step", rank)] == [0, 1, 5]
        assert found.about["ended"][str(rank)] is True


FAILING = """
    try:
        with dg.profiler.record("mine.json"):
            train(1)
            if comm.rank == 0:
                raise ZeroDivisionError("on purpose")
            time.sleep(600)
    except ZeroDivisionError:
        end_s = time.monotonic()
        raise
"""


def test_a_rank_that_fails_in_a_recording_does_not_wait_for_the_others(tmp_path):
    start_s = time.monotonic()
    code, said = run(tmp_path, "-n 2", FAILING)
    assert code == 1
    assert "on purpose" in said
    assert time.monotonic() - start_s < 45.0  # those that end well are waited for a minute
    assert len(chrome.read(tmp_path / "mine.json").spans("step", 0)) == 1


ANEW = """
    train(1, late=1 if dg.comm.attempt() else 0)
    if not dg.comm.attempt():
        sys.exit(1)
"""


def test_ranks_wait_for_those_of_their_own_attempt(tmp_path):
    code, said = run(tmp_path, "--max-restarts 1 --trace out.json -n 2", ANEW)
    assert code == 0, said
    found = chrome.read(tmp_path / "out.json")
    blamed = [
        {span["args"].get("waited_for") for span in found.spans("bucket.wait", rank)} - {None}
        for rank in (0, 1)
    ]
    assert blamed == [{1}, {0}]  # rank 1 was late in the second, rank 0 in the first


@pytest.mark.parametrize("name", [".", "/", "folder"])
def test_a_folder_is_no_trace(name, tmp_path):
    (tmp_path / "folder").mkdir()
    code, said = run(tmp_path, f"--trace {name} -n 1", "train(1)")
    assert code == 2
    assert "is a folder; name a file in it" in said
    assert sorted(os.listdir(tmp_path)) == ["folder", "script.py"]


def test_what_others_have_in_the_folder_stays(tmp_path):
    folder = tmp_path / "out.json.spool"
    folder.mkdir()
    for name in ("mine.txt", "old.jsonl"):
        (folder / name).write_text("mine")
    code, said = run(tmp_path, "--trace out.json -n 1", "train(1)")
    assert code == 0, said
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


LEFT = """
    import os

    manager = dg.profiler.record("a.json")
    recorder = manager.__enter__()
    train(1)
    recorder.flush()
    os._exit(0)
"""


def test_a_report_leaves_a_running_job_what_it_writes(tmp_path):
    code, said = run(tmp_path, "-n 1", LEFT)
    assert code == 0, said
    (path,) = spool_folder(tmp_path / "a.json").glob("*.jsonl")
    os.utime(path)
    report(tmp_path / "a.json")
    assert path.exists()
    (tmp_path / "a.json").unlink()
    os.utime(path, (1e9, 1e9))  # a job that was killed long ago
    report(tmp_path / "a.json")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.json.html", "script.py"]


def test_a_half_written_line_is_left_out(tmp_path):
    code, said = run(tmp_path, "-n 1", LEFT)
    assert code == 0, said
    folder = spool_folder(tmp_path / "a.json")
    (path,) = folder.glob("*.jsonl")
    path.write_bytes(path.read_bytes() + encode([("torn", 1.0, 2.0, 1, {})])[:-9])
    told = merge.merge(folder, tmp_path / "a.json")
    assert len(chrome.read(tmp_path / "a.json").spans("step")) == 1
    assert not chrome.read(tmp_path / "a.json").spans("torn")
    assert "1 rank" in told[0]


PLANT = """
    import os, time

    real = time.perf_counter
    planted = real
    if int(os.environ["RANK"]) >= 2:  # a host of its own, whose clock is ahead and fast
        readlink, origin_s = os.readlink, float(os.environ["ORIGIN_S"])
        planted = time.perf_counter = lambda: real() + 3.7 + 50e-6 * (real() - origin_s)
        os.readlink = lambda path, **named: "planted" if path.endswith("ns/time") else readlink(path, **named)
"""
MARKS = """
    import glob, json
    from distgrad import trace
    from distgrad.profiler.clocks import relate

    def known():
        pings = [
            ping
            for path in glob.glob("out.json.gz.spool/*.jsonl")
            for line in open(path)
            if line.startswith('{"pings"') and line.endswith("]}\\n")
            for ping in json.loads(line)["pings"]
        ]
        return bool(pings) and max(p[0] for p in pings) > min(p[0] for p in pings) + 3 and (
            relate(sorted(pings)).error_s < 90e-6
        )

    end_s = real() + 60
    ready = False
    while not ready and real() < end_s:
        true_s = real()
        at_s = true_s
        if comm.rank >= 2:
            at_s += 3.7 + 50e-6 * (true_s - origin_s)
        trace.report("mark", at_s, at_s, true_s=true_s)
        time.sleep(0.1)
        ready = comm.broadcast_object(known() if comm.rank == 0 else None)
"""


def test_clocks_that_are_apart_and_drift_are_brought_together(tmp_path):
    script = textwrap.dedent(PLANT) + textwrap.dedent(TRAIN) + textwrap.dedent(MARKS)
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-m", "distgrad.launch", "--trace", "out.json.gz", "-n", "4", "script.py"]
    variables = {**os.environ, "ORIGIN_S": str(time.perf_counter())}
    done = subprocess.run(
        command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    said = re.search(
        r"was \+3\.7\d+ s off, drifting \+(\d+\.\d) ppm; set right, with at most (\d+) µs", done.stderr
    )
    assert said, done.stderr
    found = chrome.read(tmp_path / "out.json.gz")
    shifts = {
        rank: [span["ts"] - span["args"]["true_s"] * 1e6 for span in found.spans("mark", rank)]
        for rank in found.ranks
    }
    reference = shifts[0][0]
    left_us = max(abs(shift - reference) for rank in (2, 3) for shift in shifts[rank])
    assert max(abs(shift - reference) for rank in (0, 1) for shift in shifts[rank]) < 0.01
    assert left_us <= 100.0
    assert left_us <= float(said[2]) + 0.5
    assert float(said[1]) == pytest.approx(50.0, abs=40.0)


def test_a_clock_that_nobody_can_ask_is_told_of(tmp_path):
    code, said = run(tmp_path, "-n 1", LEFT)
    assert code == 0, said
    folder = spool_folder(tmp_path / "a.json")
    (path,) = folder.glob("*.jsonl")
    other = path.read_text().replace(clocks.identity(), "elsewhere").replace('"rank":0', '"rank":1')
    path.with_name("other.jsonl").write_text(other.replace('"size":1', '"size":2'))
    assert [file.rank for file in read_folder(folder)] == [0, 1]
    told = "\n".join(merge.merge(folder, tmp_path / "a.json"))
    assert "taken from the time of day" in told
