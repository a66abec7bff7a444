"""Checkpoints in a store behind a network: one that speaks Amazon S3's protocol, in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time

import failures_guide
import pytest

pytest.importorskip("s3fs", reason="stores behind a network need s3fs and moto (make machine)")
pytest.importorskip("moto", reason="stores behind a network need s3fs and moto (make machine)")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LIMIT_S = 120

#: Goes on where it stood, and saves the next step, killed before the given change of the store's.
JOB = """
import os, signal, sys
import numpy as np
import distgrad as dg
from distgrad.checkpoint.places import StorePath

count, fatal = 0, int(sys.argv[2])

def counted(done):
    def change(self, *arguments):
        global count
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        count += not arguments or arguments[0] != "rb"
        return done(self, *arguments)
    return change

for name in ("mkdir", "write_text", "unlink", "open", "remove"):
    setattr(StorePath, name, counted(getattr(StorePath, name)))

comm = dg.comm.init()
state = {}
manager = dg.checkpoint.CheckpointManager(sys.argv[1], keep=1)
manager.add(state=state)
start = manager.restore_latest() or 0
assert not start or set(state["x"]) == {float(start)} and state["x"].size == 1_000_003
if comm.rank == 0:
    print("resumed at", start, flush=True)
state["x"] = np.full(1_000_003, start + 1.0)
manager.step()
manager.save()
manager.close()
if comm.rank == 0:
    print("changes", count, flush=True)
"""


def answers(port):
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


class Store:
    """A server, and what its clients need to know."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        limit_s = time.monotonic() + LIMIT_S
        while not answers(port):
            assert self.process.poll() is None
            assert time.monotonic() < limit_s
            time.sleep(0.1)
        self.run("-c", "import fsspec; fsspec.filesystem('s3').mkdir('bucket')")

    def run(self, *arguments):
        """A Python program that uses the store."""
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=self.environment, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip


@pytest.fixture
def store():
    found = Store()
    yield found
    found.process.kill()
    found.process.wait()


@pytest.fixture
def script(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    return tmp_path / "job.py"


def resumed(ended):
    return int(ended.stdout.split("resumed at ")[1].split()[0])


def test_a_job_that_is_killed_at_any_change_of_the_store_goes_on(store, script):
    for _ in range(2):  # the second has one to remove
        whole = store.run(script, "s3://bucket/run", -1)
        assert whole.returncode == 0, whole.stderr
    num_changes = int(whole.stdout.split("changes ")[1])
    assert num_changes > 5
    step = 2
    for fatal in range(num_changes):
        ended = store.run(script, "s3://bucket/run", fatal)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        if "resumed" in ended.stdout:
            assert resumed(ended) in (step, step + 1)
            step = resumed(ended)
    ended = store.run(script, "s3://bucket/run", -1)
    assert ended.returncode == 0, ended.stderr
    assert resumed(ended) in (step, step + 1)
    listed = store.run("-m", "distgrad", "checkpoint", "verify", "s3://bucket/run")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("whole") == 1


def test_several_ranks_save_and_others_read(store, script):
    for num_ranks, start in ((3, 0), (2, 1), (1, 2)):
        ended = store.run("-m", "distgrad", "run", "-n", num_ranks, script, "s3://bucket/run", -1)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert resumed(ended) == start


def test_a_store_that_has_gone_is_said(store, script):
    assert store.run(script, "s3://bucket/run", -1).returncode == 0
    store.process.kill()
    store.process.wait()
    ended = store.run(script, "s3://bucket/run", -1)
    assert ended.returncode == 1
    failures_guide.check("Checkpoints", "a store that does not answer", ended.stderr)
