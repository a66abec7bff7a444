"""The communicator of GPUs on the doubles of CuPy and NCCL: its verbs, both bindings, what goes wrong."""

import os
import re
import signal
import threading
import time

import numpy as np
import pytest
from gpu_double.runtime import installed
from gpu_double.worlds import share

import distgrad as dg
from distgrad.backend.device import activated
from distgrad.comm.calls import Call
from distgrad.comm.libnccl import OPS
from distgrad.comm.streamwork import LOOK_S, StreamWork
from distgrad.errors import CommError, CommMismatchError, DeviceError, DTypeError, RankFailedError, ShapeError

PROVIDERS = ("cupy", "pynccl")
pytestmark = pytest.mark.gpu_double(ranks=3, devices=3, timeout=90)


def world(provider="cupy", **options):
    if provider == "pynccl":
        pytest.importorskip("pynccl", reason="the second binding is not installed")
    return dg.comm.init(device="cuda", nccl_provider=provider, **options)


def on_device(comm, array):
    import cupy

    with cupy.cuda.Device(comm.device.index):
        return cupy.asarray(array)


def data(rank, shape=(7, 3), dtype="float32"):
    return np.random.default_rng([rank, 5]).integers(1, 6, shape).astype(dtype)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_reductions(provider):
    comm = world(provider)
    assert comm.provider.name == provider
    assert comm.device == f"cuda:{comm.rank}"
    for dtype in ("float16", "float32", "float64", "int32", "int64", "uint8"):
        every = [data(rank, dtype=dtype) for rank in range(comm.size)]
        for op, expected in (("sum", sum(every)), ("max", np.max(every, 0)), ("min", np.min(every, 0))):
            x = on_device(comm, every[comm.rank])
            assert comm.all_reduce(x, op) is x
            np.testing.assert_array_equal(x.get(), expected.astype(dtype))
    every = [data(rank) for rank in range(comm.size)]
    x = on_device(comm, every[comm.rank])
    np.testing.assert_allclose(comm.all_reduce(x, "mean").get(), np.mean(every, 0), rtol=1e-6)
    x = on_device(comm, every[comm.rank])
    weighted = np.average(every, axis=0, weights=range(comm.size))
    np.testing.assert_allclose(comm.all_reduce(x, "mean", weight=float(comm.rank)).get(), weighted, rtol=1e-6)
    flags = on_device(comm, np.array([True, comm.rank == 1, False]))
    np.testing.assert_array_equal(comm.all_reduce(flags, "max").get(), [True, True, False])
    for weight in (None, 4096.0 if comm.rank else 1.0):
        x = on_device(comm, np.full(3, 40_000, np.float16))
        np.testing.assert_array_equal(
            comm.all_reduce(x, "mean", weight=weight).get(), np.full(3, 40_000, "f2")
        )
    x = on_device(comm, np.full((comm.size, 2), 40_000, np.float16))
    np.testing.assert_array_equal(comm.reduce_scatter(x, "mean").get(), np.full(2, 40_000, "f2"))
    parts = [data(rank, (comm.size, 4)) for rank in range(comm.size)]
    part = comm.reduce_scatter(on_device(comm, parts[comm.rank]))
    np.testing.assert_array_equal(part.get(), sum(parts)[comm.rank])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_movements(provider):
    comm = world(provider)
    rank, size = comm.rank, comm.size
    every = [data(r) for r in range(size)]
    x = on_device(comm, every[rank])
    np.testing.assert_array_equal(comm.all_gather(x).get(), every)
    uneven = comm.all_gather_v(on_device(comm, every[rank][:rank]))
    for r, part in enumerate(uneven):
        np.testing.assert_array_equal(part.get(), every[r][:r])
    np.testing.assert_array_equal(comm.broadcast(x, root=size - 1).get(), every[-1])
    rows = [data(r, (size, 2)) for r in range(size)]
    exchanged = comm.all_to_all(on_device(comm, rows[rank]))
    np.testing.assert_array_equal(exchanged.get(), [rows[r][rank] for r in range(size)])
    gathered = comm.gather(on_device(comm, every[rank]), root=1)
    assert (gathered is None) == (rank != 1)
    if rank == 1:
        np.testing.assert_array_equal(gathered.get(), every)
    out = on_device(comm, np.zeros(2, np.float32))
    comm.scatter(out, on_device(comm, rows[0]) if rank == 0 else None)
    np.testing.assert_array_equal(out.get(), rows[0][rank])
    if rank == 0:
        comm.send(on_device(comm, every[0]), dest=1)
    elif rank == 1:
        np.testing.assert_array_equal(comm.recv(on_device(comm, every[1]), source=0).get(), every[0])
    comm.barrier()
    assert comm.all_gather_object(rank) == list(range(size))


@pytest.mark.parametrize("counts", [None, [3, 0, 5]])
def test_parts_lie_where_they_are_told_to(counts):
    comm = world()
    every = [data(rank, (9 if counts is None else 8, 2)) for rank in range(comm.size)]
    edges = np.cumsum([0, *(counts or [3] * comm.size)])
    start, stop = edges[comm.rank : comm.rank + 2]
    x = on_device(comm, every[comm.rank])
    other = on_device(comm, np.zeros((stop - start, 2), "f4"))
    for part in (other, x[start:stop]):
        assert comm.reduce_scatter(x, out=part, counts=counts) is part
        np.testing.assert_array_equal(part.get(), sum(every)[start:stop])
    for part in (other, x[start:stop]):
        x[:start], x[stop:] = -1, -1
        assert comm.all_gather(part, out=x, counts=counts) is x
        np.testing.assert_array_equal(x.get(), sum(every))


def test_parts_that_no_buffer_holds_are_exchanged():
    """Whoever sends waits for the receiver, so that all must start together."""
    comm = world(timeout_s=20)
    rows = [data(rank, (comm.size, 50_000)) for rank in range(comm.size)]
    exchanged = comm.all_to_all(on_device(comm, rows[comm.rank]))
    np.testing.assert_array_equal(exchanged.get(), [each[comm.rank] for each in rows])


def test_work_runs_on_a_stream_of_its_own_and_groups_split():
    comm = world()
    x = on_device(comm, data(comm.rank))
    work = comm.all_reduce(x, async_op=True)
    work.wait()
    with activated(comm.device):
        np.testing.assert_array_equal((x * 2).get(), 2 * sum(data(r) for r in range(comm.size)))
    assert work.done()

    def body():
        return comm.all_reduce(on_device(comm, data(comm.rank)) * 2)

    doubled = comm.submit(body, "double").wait()
    np.testing.assert_array_equal(doubled.get(), 2 * sum(data(r) for r in range(comm.size)))
    part = comm.split(comm.rank % 2)
    ranks = [r for r in range(comm.size) if r % 2 == comm.rank % 2]
    x = on_device(comm, data(comm.rank))
    np.testing.assert_array_equal(part.all_reduce(x).get(), sum(data(r) for r in ranks))


def test_what_it_does_not_take():
    comm = world()
    with pytest.raises(DeviceError, match=r"must be an array on cuda:\d, got numpy.ndarray; .*comm.host"):
        comm.all_reduce(np.ones(3))
    with pytest.raises(DTypeError, match="no int16 in reductions"):
        comm.all_reduce(on_device(comm, np.ones(3, "i2")))
    with pytest.raises(ShapeError, match="must be C-contiguous"):
        comm.all_reduce(on_device(comm, np.ones((3, 4), "f4")).T)
    assert comm.host.all_reduce(np.ones(1))[0] == comm.size


@pytest.mark.parametrize(
    ("odd", "number"),
    [
        *[(odd, 5) for odd in ("shape", "dtype", "op", "verb", "skip")],
        pytest.param("shape", 1100, marks=pytest.mark.slow),
    ],
)
def test_a_call_that_differs_is_reported_with_both_lines(odd, number):
    """The hosts do not wait for each other: the report comes with one of the next calls, or the next wait."""
    comm = world(timeout_s=20)
    x = on_device(comm, np.ones(4, "f4"))
    is_odd = comm.rank == 2

    def differ():
        for _ in range(number):  # a rank that is behind is told here
            comm.all_reduce(x, "max")
        if not is_odd:
            comm.all_reduce(x, "max")
        elif odd == "verb":
            comm.broadcast(x)
        elif odd != "skip":
            y = {"shape": x[:2], "dtype": x.astype("i4")}.get(odd, x)
            comm.all_reduce(y, "min" if odd == "op" else "max")
        comm.barrier() if odd == "skip" and is_odd else comm.all_reduce(x, "max")
        comm.barrier()

    with pytest.raises(CommMismatchError) as caught:
        differ()
    message, line = str(caught.value), differ.__code__.co_firstlineno
    for expected in (  # rank 0 may not have come so far
        rf"#{number}, group 'world': rank [01] called all_reduce\(float32\[4\], op=max\), rank 2 called",
        rf"  rank [01] at {__file__}:{line + 4}\n  rank 2 at {__file__}:",
    ):
        assert re.search(expected, message), message


def test_a_rank_that_is_far_ahead_waits(monkeypatch):
    """What the others have not compared is not overwritten."""
    from distgrad.comm import ledger

    monkeypatch.setattr(ledger, "PERIOD", 4)
    monkeypatch.setattr(ledger, "_KEPT", 16)
    comm = world(timeout_s=30)
    x = on_device(comm, np.ones(4, "f4"))
    for i in range(50):
        if comm.rank == 1 and i % 10 == 0:
            time.sleep(0.1)
        comm.all_reduce(x, "max")
    ahead = comm._ledger._count - comm._ledger._numbers[:, ledger._COMPARED]
    assert (ahead <= 16).all()
    comm.barrier()
    assert comm.find_mismatch() is None
    dg.comm.finalize()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_nccl_refuses_ends_the_group(provider, monkeypatch):
    comm = world(provider)
    monkeypatch.setitem(OPS, "sum", 99)
    x = on_device(comm, np.ones(3, "f4"))
    with pytest.raises(CommError, match=rf"all_reduce, group 'world': rank {comm.rank}: .*invalid argument"):
        comm.all_reduce(x)
    with pytest.raises(CommError, match=r"nothing can be sent after an earlier call failed .*invalid"):
        comm.all_reduce(x, "max")


def test_a_gpu_that_fails_under_the_watchdog_is_reported(monkeypatch):
    comm = world()

    def fail(work):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(StreamWork, "done", fail)
    x = comm.all_reduce(on_device(comm, np.ones(3, "f4")))
    time.sleep(50 * LOOK_S)
    with pytest.raises(CommError, match=r"rank \d on cuda:\d failed: an illegal memory access"):
        comm.all_reduce(x)


def test_a_failure_that_program_and_watchdog_see_at_once_is_told_once(monkeypatch):
    comm = world()
    looking, may_end = threading.Event(), threading.Event()

    def look_long():
        if threading.current_thread() is watchdog:
            looking.set()
            may_end.wait()

    watchdog = threading.Thread(target=comm.fail, args=(CommError("as the watchdog sees it"),))
    monkeypatch.setattr(comm, "_find_cause", look_long)
    watchdog.start()
    looking.wait()
    comm.fail(CommError("as the program sees it"))
    with pytest.raises(CommError, match=r"^as the program sees it$"):
        comm.check_failure(Call("all_reduce"))
    may_end.set()
    watchdog.join()
    dg.comm.finalize()  # raises what nobody was told


@pytest.mark.gpu_double(ranks=2, devices=2, timeout=90)
def test_a_start_may_end_after_others_have_come_and_gone(monkeypatch):
    from distgrad.comm import libnccl

    connect = libnccl.CupyProvider.connect

    def connect_slowly(provider, size, unique_id, rank):
        link = connect(provider, size, unique_id, rank)
        time.sleep(0.0 if rank else 0.7)
        return link

    monkeypatch.setattr(libnccl.CupyProvider, "connect", connect_slowly)
    with world(timeout_s=20) as comm:
        assert comm.size == 2


@pytest.mark.gpu_double(ranks=3, devices=3, timeout=90, dies=(1,))
@pytest.mark.parametrize("seen_by", ["the next call", "a wait", "the watchdog"])
def test_a_rank_whose_gpu_falls_off_the_bus_is_named(seen_by):
    comm = world(timeout_s=40)
    x, y = (on_device(comm, np.ones(3, "f4")) for _ in range(2))
    comm.all_reduce(x)
    comm.barrier()
    if comm.rank == 1:
        work = comm.all_reduce(x, async_op=True) if seen_by == "a wait" else None
        installed().lost.add(1)
        limit_s = time.monotonic() + 60
        while seen_by == "the watchdog" and comm.family.failure is None and time.monotonic() < limit_s:
            time.sleep(0.01)
        with pytest.raises(
            CommError, match=r"rank 1 on cuda:1 failed: cudaErrorUnknown.* \(GPU 0000:01:00\.0 of .*Xid"
        ):
            comm.all_reduce(y) if work is None else work.wait()
        share("lost", b"")
        os.kill(os.getpid(), signal.SIGKILL)
    works = [comm.all_reduce(each, async_op=True) for each in (x, y)]
    limit_s = time.monotonic() + 60
    while not works[1].done():  # it ends when the watchdog has given up
        assert time.monotonic() < limit_s, "what waits for the rank that has ended goes on waiting"
        time.sleep(0.01)
    with pytest.raises(RankFailedError, match=r"all_reduce.*rank 1,? .*ended"):
        comm.all_reduce(x)
    share("lost")
    share(f"told {comm.rank}", b"")  # or the other one might be told of this rank's end too
    share(f"told {2 - comm.rank}")


@pytest.mark.gpu_double(ranks=3, devices=3, timeout=90, dies=(2,))
def test_a_killed_rank_is_named():
    comm = world(timeout_s=20)
    comm.all_reduce(on_device(comm, np.ones(3, "f4")))
    comm.barrier()
    if comm.rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    x = on_device(comm, np.ones(3, "f4"))
    work = comm.all_reduce(x, async_op=True)
    limit_s = time.monotonic() + 30
    while not work.done():  # it ends when the watchdog has given up
        assert time.monotonic() < limit_s, "what waits for the rank that has ended goes on waiting"
        time.sleep(0.01)
    with pytest.raises(RankFailedError, match=r"#2 all_reduce.*rank 2,? .*ended") as caught:
        comm.all_reduce(x)
    assert __file__ in str(caught.value)
    share(f"told {comm.rank}", b"")  # or the other one might be told of this rank's end too
    share(f"told {1 - comm.rank}")


def test_calls_are_seen_when_the_device_has_finished():
    from distgrad import trace

    class Recorder:
        def __init__(self):
            self.spans = []

        def span(self, name, start_s, end_s, fields):
            self.spans.append((name, start_s, end_s, fields))

        def event(self, name, time_s, fields):
            pass

    comm = world()
    x = on_device(comm, data(comm.rank))
    comm.barrier()
    time.sleep(50 * LOOK_S)
    recorder, first = Recorder(), comm.log.count
    trace.subscribe(recorder)
    start_s = time.perf_counter()
    for _ in range(3):
        comm.all_reduce(x)
    comm.broadcast(x)
    time.sleep(50 * LOOK_S)
    trace.unsubscribe(recorder)
    seen = [
        (name, fields["number"], fields["bytes"])
        for name, *_, fields in recorder.spans
        if fields["group"] == "world" and name != "submit"
    ]
    assert seen == [
        *[("all_reduce", first + i, x.nbytes) for i in range(3)],
        ("broadcast", first + 3, x.nbytes),
    ]
    for _, begin_s, end_s, _ in recorder.spans:
        assert start_s - 0.1 < begin_s <= end_s < time.perf_counter()
