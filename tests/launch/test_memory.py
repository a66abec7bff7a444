"""State that is kept in memory: what a rank's death costs, and that nothing of it outlives the job."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import failures_guide
import pytest

from distgrad.checkpoint.mirror import Mirror, _Line
from distgrad.launch import agent

from .conftest import LIMIT_S

SCRIPT = Path(__file__).with_name("memory_training.py").read_text()
STEPS = 12


@pytest.fixture
def train(start):
    """Run the training script; returns how it ended, its bits, and where its attempts began."""

    def run(options, *arguments):
        job = start(options, SCRIPT, *map(str, arguments))
        ended = job.end()
        job.await_no_process()
        attempts = re.findall(r"attempt (\d): (\d) ranks from step (\d+)", ended.stdout)
        bits = re.findall(r"bits (\w+)", ended.stdout)
        return ended, bits, [tuple(map(int, each)) for each in attempts]

    return run


def test_a_ranks_death_costs_a_step_and_no_disk(train, tmp_path):
    """At 4 ranks; the next attempt has as many, or one fewer, and ends with the bits of one rank alone."""
    whole, bits, _ = train("-n 1 --max-restarts 1", tmp_path / "whole", STEPS)
    assert whole.code == 0, whole.stderr
    assert "nothing is kept" not in whole.stderr
    ended, found, attempts = train("-n 4 --max-restarts 1", tmp_path / "same", STEPS, 8)
    assert ended.code == 0, ended.stderr
    assert attempts == [(0, 4, 0), (1, 4, 7)]  # it died in its eighth step
    first, _, second = ended.stdout.partition("[0] attempt 1")
    said = f"{first}{ended.stderr}[0] attempt 1{second}"
    failures_guide.check("Restarts", "a rank is killed at 4 ranks, `memory=True`", said)
    assert found == bits
    (tmp_path / "hosts").write_text("localhost:4\n")
    options = "--hosts-from hosts --min-ranks 3 --max-ranks 4"
    ended, found, attempts = train(options, tmp_path / "fewer", STEPS, 8)
    assert ended.code == 0, ended.stderr
    assert attempts == [(0, 4, 0), (1, 3, 7)]
    assert found == bits
    assert not list(tmp_path.glob("*/step-*"))


@pytest.mark.parametrize("shard", ["optimizer", pytest.param("gradients", marks=pytest.mark.slow)])
def test_each_rank_keeps_its_shard_and_fewer_ranks_go_on_from_all_of_them(train, tmp_path, shard):
    """Of four a rank dies; three, with other shards, end with the bits of one rank that holds all."""
    _, bits, _ = train("-n 1", tmp_path / "whole", STEPS)
    (tmp_path / "hosts").write_text("localhost:4\n")
    options = "--hosts-from hosts --min-ranks 3 --max-ranks 4"
    ended, found, attempts = train(options, tmp_path / "sharded", STEPS, 8, shard)
    assert ended.code == 0, ended.stderr
    assert attempts == [(0, 4, 0), (1, 3, 7)]
    assert found == bits
    assert not list(tmp_path.glob("*/step-*"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_is_kept_goes_with_the_launcher(start, tmp_path, number):
    job = start("-n 2 --max-restarts 1 --grace 1", SCRIPT, str(tmp_path / "run"), str(STEPS), "0")
    job.await_lines("[0] under way")
    assert [words for words in job.processes() if "agent.py" in words]
    launchers = [path for path in Path("/proc").glob("[0-9]*") if is_launcher(path, job.mark)]
    for path in launchers:
        os.kill(int(path.name), number)
    job.end()
    job.await_no_process(LIMIT_S)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_job_goes_on_without_its_agent(run, number):
    """Of three ranks that take themselves for hosts of their own, so that each sends its part to another."""
    script = f"""
        import os
        os.environ["NODE_RANK"] = os.environ["RANK"]
        import distgrad as dg
        comm = dg.comm.init()
        model = dg.parallel.DistributedDataParallel(dg.nn.Linear(4, 2))
        optimizer = dg.optim.SGD(model.parameters(), lr=0.1)
        manager = dg.checkpoint.CheckpointManager("run", memory=True)
        manager.add(model=model, optimizer=optimizer)
        for step in range(8):
            optimizer.zero_grad()
            model(dg.ones((2, 4)) * (comm.rank + 1)).sum().backward()
            optimizer.step()
            if step == 3:
                manager._mirror._line._line.settimeout(2.0)
                comm.rank == 1 and os.kill(int(manager._mirror._line.folder.parts[2]), {number})
            manager.step()
        assert not manager._mirror.works
        manager.close()
        print("attempt", dg.comm.attempt(), "over")
    """
    ended = run("-n 3 --max-restarts 1", script)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.count("attempt 0 over") == 3
    assert "checkpoint: nothing is kept in memory any more: " in ended.stderr


def is_launcher(path, mark):
    """Whether a process is a job's launcher."""
    try:
        marked = mark.encode() in (path / "environ").read_bytes().split(b"\0")
        return marked and b"-m\0distgrad.launch\0" in (path / "cmdline").read_bytes()
    except OSError:
        return False


def test_jobs_that_are_not_started_anew_have_no_agent(run):
    script = """
        import os
        assert "DISTGRAD_MEMORY" not in os.environ
        print("none")
    """
    ended = run("-n 2", script)
    assert ended.code == 0, ended.stderr


def test_without_an_agent_nothing_is_kept_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("DISTGRAD_MEMORY", raising=False)
    with pytest.warns(UserWarning, match="nothing is kept in memory: no launcher has started this process"):
        mirror = Mirror(None)
    assert not mirror.works


@pytest.fixture
def served():
    """An agent, and its name."""
    name = uuid.uuid4().hex
    with subprocess.Popen([sys.executable, agent.__file__, name], stdin=subprocess.PIPE) as process:
        try:
            yield name, process
        finally:
            process.kill()


@pytest.fixture
def lines(served):
    """Two ranks' lines to the agent."""
    found = _Line(served[0]), _Line(served[0])
    yield found
    for line in found:
        line.close()


def test_an_agent_lists_what_is_whole_and_lets_go_of_what_is_old(lines):
    line, other = lines
    first = line.ask(do="hold", key=[0, 0, 0])["file"]
    assert line.held() == []
    (line.folder / str(first)).write_bytes(b"part")
    line.ask(do="commit", key=[0, 0, 0], note={"step": 3})
    ((attempt, rank, slot, file, note),) = other.held()
    assert (attempt, rank, slot, file, note) == (0, 0, 0, first, {"step": 3})
    assert (other.folder / str(file)).read_bytes() == b"part"
    assert other.ask(do="hold", key=[0, 0, 0])["file"] == first  # it is written anew from here on
    assert line.held() == []
    line.ask(do="commit", key=[0, 0, 0], note={"step": 5})
    line.ask(do="hold", key=[1, 0, 0])
    line.ask(do="commit", key=[1, 0, 0], note={"step": 6})
    line.ask(do="drop", before=1)
    assert [held.note["step"] for held in line.held()] == [6]
    assert not (line.folder / str(first)).exists()


def test_an_agent_hangs_up_on_nonsense_and_goes_on(served, lines):
    for nonsense in (b"x\n", b"[]\n", b'{"do": "commit"}\n', b"\xff\xfe\n", b'{"do": "hold", "key": 3}\n'):
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(agent.address(served[0]))
            other.settimeout(LIMIT_S)
            other.sendall(nonsense)
            assert other.recv(1) == b"", nonsense
    assert lines[0].held() == []


def test_an_agent_ends_when_the_launcher_has_gone_or_is_silent(served, monkeypatch):
    name, process = served
    _Line(name).close()
    process.stdin.close()
    assert process.wait(LIMIT_S) == 0
    source = Path(agent.__file__).read_text()
    impatient = source.replace("PATIENCE_S = 120.0", "PATIENCE_S = 1.0").replace(
        "BEAT_S = 5.0", "BEAT_S = 0.1"
    )
    began_s = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", impatient, name], stdin=subprocess.PIPE) as silent:
        assert silent.wait(LIMIT_S) == 0
    assert time.monotonic() - began_s >= 0.5
