"""MPI libraries that take calls from one thread: everything works there, and no other thread calls them."""

import re
import sys
from pathlib import Path

import pytest
from ranks_plugin import run_ranks

TESTS = str(Path(__file__).parents[1])
PROGRAM = """
import hashlib, os, sys, threading
sys.path.insert(0, {tests!r})
import mpi4py
mpi4py.rc.thread_level = {level!r}
from mpi4py import MPI
import numpy as np
import distgrad as dg
from contracts import communicator
from distgrad.comm import mpi, mpifamily
assert MPI.Query_thread() == getattr(MPI, "THREAD_" + {level!r}.upper()), MPI.Query_thread()
rank = MPI.COMM_WORLD.rank
if {several_hosts}:
    mpi.host_name = lambda: f"host {{rank // 2}}"
elsewhere = []
def watch(name):
    method = getattr(MPI.Intracomm, name)
    def call(*arguments, **options):
        if threading.current_thread() is not threading.main_thread():
            elsewhere.append(name)
        return method(*arguments, **options)
    return call
verbs = [name for name in dir(MPI.Comm) if name[0].isupper() and callable(getattr(MPI.Comm, name))]
Watched = type("Watched", (MPI.Intracomm,), {{name: watch(name) for name in (*verbs, "recv", "isend")}})
relayed = mpifamily.relayed
def watched(target, relay):
    return relayed(Watched(target) if isinstance(target, MPI.Comm) else target, {relay})
mpifamily.relayed = watched
comm = dg.comm.init("mpi", timeout_s=30)
assert (comm.family.relay is None) == ({level!r} == "multiple")

def train():
    dg.manual_seed(0)
    net = dg.nn.Sequential(
        dg.nn.Linear(20, 300), dg.nn.ReLU(), dg.nn.Linear(300, 30), dg.nn.ReLU(), dg.nn.Linear(30, 1)
    )
    ddp = dg.parallel.DistributedDataParallel(net, comm, bucket_cap_mb=0.005)
    optimizer = dg.optim.SGD(net.parameters(), lr=0.1)
    for step in range(4):
        x = np.random.default_rng([rank, step]).standard_normal((8, 20)).astype(np.float32)
        optimizer.zero_grad()
        (ddp(dg.tensor(x)) ** 2).mean().backward()
        optimizer.step()
    assert len(ddp.reducer.buckets) > 1
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in net.parameters())).hexdigest()

sys.stdout.write("digest " + train() + chr(10))  # at once, or others' lines come between
{further}
comm.close()
sys.stdout.write("elsewhere " + str(sorted(set(elsewhere))) + chr(10))
"""
CONTRACTS = "ran = communicator.run_all(comm)\nassert sum(ran.values()) > 20"
OTHER_THREAD = """
def refused():
    try:
        comm.barrier()
    except dg.errors.CommError as error:
        print("refused:", error)
thread = threading.Thread(target=refused)
thread.start(); thread.join()
"""


def run(
    level: str, tmp_path, *, several_hosts: bool, relay: str = "relay", further: str = ""
) -> tuple[str, set[str]]:
    """Digest of the parameters, and the calls that other threads made."""
    program = tmp_path / "program.py"
    program.write_text(
        PROGRAM.format(tests=TESTS, level=level, several_hosts=several_hosts, relay=relay, further=further)
    )
    job = run_ranks(3, [sys.executable, str(program)], timeout=100)
    assert job.returncode == 0, job.output
    digests = set(re.findall(r"digest (\w{64})", job.output))
    assert len(digests) == 1, job.output
    elsewhere = set(re.findall(r"'(\w+)'", " ".join(re.findall(r"elsewhere (\[.*?\])", job.output))))
    return digests.pop(), elsewhere


@pytest.mark.parametrize("several_hosts", [pytest.param(False, marks=pytest.mark.slow), True])
def test_training_gives_the_bits_of_several_threads_by_the_calls_of_one(tmp_path, several_hosts):
    expected, elsewhere = run("multiple", tmp_path, several_hosts=several_hosts)
    assert elsewhere or not several_hosts  # the audit sees them; on one host there may be nothing to call
    assert run("funneled", tmp_path, several_hosts=several_hosts) == (expected, set())
    if not several_hosts:  # the quicker one
        for level in ("serialized", "single"):
            assert run(level, tmp_path, several_hosts=several_hosts) == (expected, set())


@pytest.mark.slow
@pytest.mark.parametrize("several_hosts", [False, True])
def test_all_that_a_communicator_does(tmp_path, several_hosts):
    _, elsewhere = run("funneled", tmp_path, several_hosts=several_hosts, further=CONTRACTS)
    assert elsewhere == set()


def test_a_call_of_another_thread_is_found(tmp_path):
    _, elsewhere = run("funneled", tmp_path, several_hosts=True, relay="None")
    assert "Iallreduce" in elsewhere


def test_another_thread_of_the_program_is_refused(tmp_path):
    program = tmp_path / "program.py"
    body = PROGRAM.partition("def train")[0] + OTHER_THREAD
    program.write_text(body.format(tests=TESTS, level="funneled", several_hosts=False, relay="relay"))
    job = run_ranks(1, [sys.executable, str(program)], timeout=50)
    assert job.returncode == 0, job.output
    assert "refused: barrier, group 'world': called in another thread than comm.init()" in job.output
