"""Ranks that issue different collectives are told so at that call, however many there were before it."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

import distgrad as dg
from distgrad.comm import ThreadWorld, init
from distgrad.errors import CommMismatchError

NUM_CALLS = 1100


def check_report(comm, call, texts, functions):
    """All ranks get one report, with every text and the line of every function in it."""
    with pytest.raises(CommMismatchError) as caught:
        call()
    message = str(caught.value)
    assert all(text in message for text in texts), message
    for function in functions:
        assert f" at {__file__}:{function.__code__.co_firstlineno}" in message, message
    assert len(set(comm.all_gather_object(message))) == 1


def differ(comm, odd, even, *texts):
    """The last rank does one thing and all others another."""
    check_report(comm, odd if comm.rank == comm.size - 1 else even, texts, (odd, even))


def find_late_mismatches(comm, num_calls=NUM_CALLS):
    x = np.ones(4, np.float32)

    def agree(num_calls):
        for _ in range(num_calls):
            comm.all_reduce(x, "max")

    agree(num_calls)
    usual = lambda: comm.all_reduce(x, "max")  # noqa: E731 (its line is what is looked for)
    first = f"collective #{num_calls}, group 'world': rank 0 called all_reduce(float32[4], op=max), "
    differ(comm, lambda: comm.all_reduce(x[:2], "max"), usual, first, "called all_reduce(float32[2], op=max)")
    agree(10)
    differ(comm, lambda: comm.all_reduce(x.astype("i4"), "max"), usual, "called all_reduce(int32[4], op=max)")
    works = [comm.all_reduce(x, "max", async_op=True) for _ in range(5)]
    differ(
        comm,
        lambda: comm.all_reduce(x, "min", async_op=True).wait(),
        lambda: comm.all_reduce(x, "max", async_op=True).wait(),
        "called all_reduce(float32[4], op=min)",
    )
    assert all(work.done() for work in works)
    assert (x == 1).all()


def find_a_skipped_call(comm):
    """Where all calls are alike it shows as soon as the program goes on to something else."""
    x = np.ones(4, np.float32)

    def skip():
        for i in range(NUM_CALLS):
            if (comm.rank, i) != (1, 700):
                comm.all_reduce(x, "max")
        comm.barrier()

    check_report(comm, skip, ["rank 0 called all_reduce(float32[4], op=max), rank 1 called barrier()"], [])


def find_what_moves_nothing_and_what_moves_much(comm):
    x, memory = np.ones(100_000), comm.allocate(8 * 100_000).view(np.float64)
    memory[:] = comm.rank
    differ(comm, lambda: comm.all_reduce(x[:0]), lambda: comm.all_reduce(x), "float64[0]", "float64[100000]")
    differ(comm, lambda: comm.broadcast(x[:0]), lambda: comm.broadcast(x), "called broadcast(float64[0])")
    differ(comm, lambda: comm.all_gather(x[:0]), lambda: comm.gather(x), "called gather(float64[100000])")
    differ(comm, lambda: comm.allocate(100), lambda: comm.allocate(200), "called allocate(nbytes=200)")
    differ(comm, lambda: comm.all_reduce(memory), lambda: comm.all_gather(memory), "called all_gather(")
    differ(comm, lambda: comm.split(0), lambda: comm.all_gather_object(0), "called split()")
    differ(
        comm, lambda: comm.submit(lambda: comm.all_reduce(x), "a").wait(), lambda: comm.all_reduce(x), "a)"
    )
    parts = np.ones((comm.size, 0)), np.ones((comm.size, 5))
    differ(comm, lambda: comm.all_to_all(parts[0]), lambda: comm.reduce_scatter(parts[1]), "all_to_all(")
    assert (memory == comm.rank).all()
    assert (x == 1).all()


def find_a_bucket_among_other_calls(comm):
    """The report has the line that called backward."""
    dg.manual_seed(0)
    net = dg.nn.Linear(100, 10)
    ddp = dg.parallel.DistributedDataParallel(net, comm)
    loss = ddp(np.ones((3, 100), np.float32)).sum()
    differ(
        comm,
        lambda: comm.all_reduce(np.ones(4, np.float32)),
        lambda: (loss.backward(),),
        "rank 0 called all_reduce(float32[10",
    )


def find_all(comm):
    find_late_mismatches(comm)
    find_a_skipped_call(comm)
    find_what_moves_nothing_and_what_moves_much(comm)
    find_a_bucket_among_other_calls(comm)


def test_threads():
    ThreadWorld(2, timeout_s=30).run(find_all)
    ThreadWorld(3, timeout_s=30).run(find_late_mismatches)


@pytest.mark.ranks(2, backend="shm")
def test_shm_without_compiled_code(monkeypatch):
    from distgrad.comm import meeting

    monkeypatch.setattr(meeting, "_MEETINGS_BEFORE_COMPILING", (10**9, 10**9))
    find_all(init("shm", timeout_s=30))


@pytest.mark.slow
@pytest.mark.ranks(3, backend="shm", timeout=240)
def test_shm_of_3_where_some_run_compiled_code():
    comm = init("shm", timeout_s=60)
    if comm.rank != 1:
        comm._host._compile()
    find_late_mismatches(comm, 100)
    find_what_moves_nothing_and_what_moves_much(comm)


@pytest.mark.ranks(2, timeout=90)
def test_mpi():
    find_all(init("mpi", timeout_s=60))


class Sending:
    """A send that is under way until the end; the first look at it takes until ``seen``."""

    def __init__(self):
        self.looking, self.seen, self.is_over = threading.Event(), threading.Event(), False

    def Test(self):
        if not self.looking.is_set():
            self.looking.set()
            self.seen.wait(20)
        return self.is_over


@pytest.mark.ranks(1, timeout=90)
def test_a_message_between_hosts_is_kept_while_another_thread_looks():
    from distgrad.comm import mpi

    requests = [Sending(), Sending()]
    requests[1].looking.set()
    coming = iter(requests)
    leaders = SimpleNamespace(
        Get_rank=lambda: 0, Get_size=lambda: 2, Isend=lambda message, host, kind: next(coming)
    )
    line = mpi._Line(leaders, SimpleNamespace(relay=None))
    message = np.zeros(1, np.uint8)
    line.send(message, 1, 0)
    looker = threading.Thread(target=line.is_idle)
    looker.start()
    requests[0].looking.wait(20)
    sender = threading.Thread(target=line.send, args=(message, 1, 0))
    sender.start()
    sender.join(0.5)  # as far as it comes
    requests[0].is_over = True
    requests[0].seen.set()
    looker.join(20)
    sender.join(20)
    assert not line.is_idle()  # the second is under way
    requests[1].is_over = True
    assert line.is_idle()


@pytest.mark.ranks(3, timeout=90)
@pytest.mark.parametrize("hosts", ["abb", "aab", "abc"])
def test_mpi_between_hosts(hosts, monkeypatch):
    """Both where the ranks that differ share a host and where they do not."""
    from distgrad.comm import mpi

    rank = mpi.MPI.COMM_WORLD.Get_rank()
    monkeypatch.setattr(mpi, "host_name", lambda: hosts[rank])
    comm = init("mpi", timeout_s=60)
    find_late_mismatches(comm, 100 if hosts != "abc" else NUM_CALLS)
    find_what_moves_nothing_and_what_moves_much(comm)
