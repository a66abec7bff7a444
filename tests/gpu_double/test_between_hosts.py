"""GPUs of several hosts, played by processes of this one: their calls are compared soon, and at the end."""

import re
import sys
import time
from pathlib import Path

import pytest
from ranks_plugin import run_ranks

import distgrad as dg
from distgrad.errors import CommMismatchError

NUM_CALLS = 1100
ODD = 2  # the rank that does something else: the last one, of the last host
FAULTS = ("dtype", "shape", "skip")
ENDS = ("soon", "barrier", "close")


def connect(monkeypatch, hosts):
    """A new world of ranks with a GPU of the double each, on hosts of these names."""
    from distgrad.comm import mpi

    comm = mpi.MPI.COMM_WORLD.Dup()
    rank = comm.Get_rank()
    monkeypatch.setattr(mpi, "host_name", lambda: hosts[rank])
    return dg.comm.init("nccl", comm=comm, device=f"cuda:{rank}", timeout_s=60)


def call(comm, x, fault):
    """One collective of all ranks, in which the odd one differs."""
    if comm.rank != ODD:
        comm.all_reduce(x, "max")
    elif fault != "skip":
        comm.all_reduce(x[:2] if fault == "shape" else x.astype("i4"), "max")


def go_on(comm, x, end, is_behind):
    """What the program does afterwards; returns when the report of a call that differed is due."""
    if end != "soon":
        getattr(comm, end)()
        return
    if is_behind:
        comm.broadcast(x)
    limit_s = time.monotonic() + 15  # the report may wait for what others write down
    while time.monotonic() < limit_s:
        comm.all_reduce(x, "max")
        time.sleep(1e-3)


def line_of(function, offset):
    return f"{__file__}:{function.__code__.co_firstlineno + offset}"


def find(monkeypatch, hosts, fault, end):
    import cupy

    comm = connect(monkeypatch, hosts)
    with cupy.cuda.Device(comm.device.index):
        x = cupy.ones(4, "f4")

    def train():
        for _ in range(NUM_CALLS):  # in which a rank may hear of the difference, if it is behind
            comm.all_reduce(x, "max")
        call(comm, x, fault)
        go_on(comm, x, end, fault == "skip" and comm.rank == ODD)

    with pytest.raises(CommMismatchError) as caught:
        train()
    message = str(caught.value)
    theirs = {
        "dtype": "all_reduce(int32[4], op=max)",
        "shape": "all_reduce(float32[2], op=max)",
        "skip": {"soon": "broadcast(float32[4])"}.get(end, f"{end}()"),
    }[fault]
    called = f"called all_reduce(float32[4], op=max), rank {ODD} called {theirs}; "
    assert re.match(rf"collective #{NUM_CALLS}, group 'world': rank [01] {re.escape(called)}", message)
    assert re.search(rf"\n  rank [01] at {re.escape(line_of(call, 3))}\n", message)
    place = line_of(call, 5) if fault != "skip" else line_of(go_on, 6 if end == "soon" else 3)
    assert message.endswith(f"  rank {ODD} at {place}")
    comm.close()
    comm.host.mpi.Barrier()


@pytest.mark.ranks(3, timeout=120)
@pytest.mark.parametrize(
    ("order", "every"),
    [
        ("eager", ["abc"]),
        pytest.param("eager", ["aab", "abb"], marks=pytest.mark.slow),
        pytest.param("late", ["abc", "abb"], marks=pytest.mark.slow),
    ],
)
def test_a_call_that_differs_is_found(order, every, monkeypatch):
    from gpu_double.runtime import install

    install(3, order, timeout_s=90)
    for hosts in every:
        for fault in FAULTS:
            for end in ENDS:
                find(monkeypatch, hosts, fault, end)


@pytest.mark.ranks(3, timeout=120)
def test_calls_that_agree_go_on_and_end(monkeypatch):
    """However far one host is ahead; what lies behind was compared everywhere at a barrier."""
    from gpu_double.runtime import install

    from distgrad.comm import ledger

    install(3, "eager", timeout_s=90)
    import cupy

    monkeypatch.setattr(ledger, "PERIOD", 16)
    monkeypatch.setattr(ledger, "_KEPT", 64)
    comm = connect(monkeypatch, "abb")
    with cupy.cuda.Device(comm.device.index):
        x = cupy.ones(4, "f4")
    for i in range(300):
        if i % 100 == 50 * comm.rank:
            time.sleep(0.2)
        comm.all_reduce(x, "max")
    part = comm.split(int(comm.rank == 1))
    part.all_reduce(x, "max")
    within, between = comm.split_by_host()
    assert (within.size, between.size) == ((1, 2), (2, 2), (2, 1))[comm.rank]
    assert (within.group, between.group) == (
        f"world/host/{min(comm.rank, 1)}",
        f"world/place/{max(comm.rank - 1, 0)}",
    )
    x[...] = comm.rank + 1.0
    between.all_reduce(within.all_reduce(x))
    assert x.tolist() == [(6.0, 6.0, 5.0)[comm.rank]] * 4  # the second host's second rank has no partner
    comm.barrier()
    assert (comm._ledger._numbers[:, ledger._COMPARED] == comm.log.count).all()
    assert comm.find_mismatch() is None
    comm.close()
    assert comm.family.failure is None


def test_a_program_without_a_last_call_fails_at_its_end(tmp_path):
    """Nobody waits for the device, and nobody calls close."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from mpi4py import MPI\n"
        "from distgrad.comm import mpi\n"
        "from gpu_double.runtime import install\n"
        "import distgrad as dg\n"
        "rank = MPI.COMM_WORLD.Get_rank()\n"
        "mpi.host_name = lambda: 'ab'[rank]\n"
        "install(2, 'late', timeout_s=60)\n"
        "import cupy\n"
        "comm = dg.comm.init('nccl', device=f'cuda:{rank}')\n"
        "cupy.cuda.Device(rank).use()\n"
        "x = cupy.ones(4, 'f4')\n"
        "for i in range(50 - rank):\n"
        "    comm.all_reduce(x, async_op=True)\n"
    )
    job = run_ranks(2, [sys.executable, str(script)], timeout=60)
    assert job.returncode not in (0, None), job.output
    assert f"rank 0 at {script}:15\n  rank 1 at the end of its program" in job.output, job.output
