"""The double of NCCL: collectives between processes, through CuPy's binding and through plain ctypes."""

import ctypes
import os
import signal
import time

import numpy as np
import pytest
from gpu_double.worlds import nccl_world, share, world

TYPES = {"i1": 0, "u1": 1, "i4": 2, "u4": 3, "i8": 4, "u8": 5, "f2": 6, "f4": 7, "f8": 8}
SUM, PROD, MAX, MIN, AVG = range(5)
three = pytest.mark.gpu_double(ranks=3)
two = pytest.mark.gpu_double(ranks=2)


def values(rank, dtype, count):
    return np.random.default_rng(rank).integers(1, 5, count).astype(dtype)


def on_stream():
    import cupy

    return cupy.cuda.Stream(non_blocking=True)


@three
@pytest.mark.parametrize("dtype", TYPES)
def test_all_reduce(dtype):
    import cupy

    comm, (rank, size) = nccl_world(f"all reduce {dtype}"), world()
    for count in (1, 7, 300_000 if dtype == "f4" else 1000):
        every = [values(r, dtype, count) for r in range(size)]
        for operator, expected in (
            (SUM, sum(every)),
            (PROD, np.prod(every, axis=0)),
            (MAX, np.max(every, axis=0)),
            (MIN, np.min(every, axis=0)),
        ):
            x = cupy.asarray(every[rank])
            comm.allReduce(x.data.ptr, x.data.ptr, count, TYPES[dtype], operator, 0)
            np.testing.assert_array_equal(x.get(), expected.astype(dtype))


@three
def test_average_of_floats():
    import cupy

    comm, (rank, _) = nccl_world("average"), world()
    x = cupy.full(10, rank + 1, "f4")
    comm.allReduce(x.data.ptr, x.data.ptr, 10, TYPES["f4"], AVG, 0)
    np.testing.assert_array_equal(x.get(), np.full(10, 2.0))


@three
def test_bfloat16_all_reduce():
    import cupy
    import ml_dtypes

    comm, (rank, size) = nccl_world("bfloat16"), world()
    every = [np.random.default_rng(r).standard_normal(500).astype(ml_dtypes.bfloat16) for r in range(size)]
    x = cupy.asarray(every[rank].view("u2"))
    comm.allReduce(x.data.ptr, x.data.ptr, 500, 9, SUM, 0)
    expected = sum(e.astype("f4") for e in every).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(x.get(), expected.view("u2"))


@three
def test_the_other_collectives():
    import cupy

    comm, (rank, size) = nccl_world("others"), world()
    every = [np.random.default_rng(r).standard_normal(3 * 40_000).astype("f4") for r in range(size)]
    mine, f4 = cupy.asarray(every[rank]), TYPES["f4"]
    n = mine.size
    for root in range(size):
        x = mine.copy()
        comm.bcast(x.data.ptr, n, f4, root, 0)
        np.testing.assert_array_equal(x.get(), every[root])
        out = cupy.zeros_like(mine)
        comm.reduce(mine.data.ptr, out.data.ptr, n, f4, SUM, root, 0)
        expected = every[0] + every[1] + every[2] if rank == root else np.zeros(n)
        np.testing.assert_array_equal(out.get(), expected)
    gathered = cupy.empty(size * n, "f4")
    comm.allGather(mine.data.ptr, gathered.data.ptr, n, f4, 0)
    np.testing.assert_array_equal(gathered.get(), np.concatenate(every))
    scattered = cupy.empty(n // size, "f4")
    comm.reduceScatter(mine.data.ptr, scattered.data.ptr, n // size, f4, SUM, 0)
    expected = (every[0] + every[1] + every[2]).reshape(size, -1)[rank]
    np.testing.assert_array_equal(scattered.get(), expected)


@three
def test_sends_and_receives_in_a_group():
    import cupy
    from cupy.cuda import nccl

    comm, (rank, size) = nccl_world("ring"), world()
    mine = cupy.full(20_000, rank, "i8")
    taken = cupy.empty_like(mine)
    nccl.groupStart()
    comm.send(mine.data.ptr, mine.size, TYPES["i8"], (rank + 1) % size, 0)
    comm.recv(taken.data.ptr, taken.size, TYPES["i8"], (rank - 1) % size, 0)
    nccl.groupEnd()
    assert (taken.get() == (rank - 1) % size).all()


@three
def test_a_split_communicator():
    import cupy

    comm, (rank, _) = nccl_world("split"), world()
    part = comm.commSplit(rank % 2, -rank)
    members = [2, 0] if rank % 2 == 0 else [1]
    assert (part.size(), part.rank_id()) == (len(members), members.index(rank))
    x = cupy.full(5, 10.0**rank)
    part.allReduce(x.data.ptr, x.data.ptr, 5, TYPES["f8"], SUM, 0)
    np.testing.assert_array_equal(x.get(), np.full(5, sum(10.0**r for r in members)))


@two
@pytest.mark.parametrize("mistake", ["count", "type", "operator", "call"])
def test_mismatched_calls_are_reported_on_every_rank(mistake):
    import cupy
    from cupy.cuda import nccl

    comm, (rank, _) = nccl_world(f"mismatch {mistake}"), world()
    x, f8 = cupy.ones(100), TYPES["f8"]
    is_odd = rank == 1
    if mistake == "call" and is_odd:
        comm.broadcast(x.data.ptr, x.data.ptr, 100, f8, 0, 0)
    else:
        count = 90 if mistake == "count" and is_odd else 100
        dtype = TYPES["i8"] if mistake == "type" and is_odd else f8
        comm.allReduce(
            x.data.ptr, x.data.ptr, count, dtype, MAX if mistake == "operator" and is_odd else SUM, 0
        )
    with pytest.raises(RuntimeError, match=r"rank \d makes .*, and rank \d makes"):
        cupy.cuda.Device().synchronize()
    with pytest.raises(nccl.NcclError, match="INVALID_USAGE"):
        comm.check_async_error()


@two
def test_host_memory_is_refused():
    import cupy

    comm, h = nccl_world("host memory"), np.ones(4)
    comm.allReduce(h.ctypes.data, h.ctypes.data, 4, TYPES["f8"], SUM, 0)
    with pytest.raises(RuntimeError, match="no device memory"):
        cupy.cuda.Device().synchronize()


def watch(comm, event, limit_s=20):
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        assert not event.done
        comm.check_async_error()
        time.sleep(0.01)


@pytest.mark.gpu_double(ranks=2, dies=(1,))
def test_ranks_that_wait_for_a_killed_one_are_told_and_can_abort():
    import cupy
    from cupy.cuda import nccl

    comm, (rank, _) = nccl_world("killed"), world()
    stream = on_stream()
    x = cupy.ones(1000)
    comm.allReduce(x.data.ptr, x.data.ptr, 1000, TYPES["f8"], SUM, stream.ptr)
    stream.synchronize()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.allReduce(x.data.ptr, x.data.ptr, 1000, TYPES["f8"], SUM, stream.ptr)
    event = stream.record()
    with pytest.raises(nccl.NcclError, match="REMOTE"):
        watch(comm, event)
    comm.abort()
    stream.synchronize()
    assert np.isnan(x.get()).all()  # what an aborted collective leaves behind


@two
def test_two_ranks_on_one_device_are_refused():
    import cupy
    from cupy.cuda import nccl

    rank, size = world()
    unique = share("same device", nccl.get_unique_id() if rank == 0 else None)
    cupy.cuda.Device(0).use()
    with pytest.raises(nccl.NcclError, match=r"INVALID_USAGE|invalid usage"):
        nccl.NcclCommunicator(size, unique, rank)


class UniqueId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_char * 128)]


@two
def test_plain_ctypes_reaches_it_too():
    import cupy

    library = ctypes.CDLL("libnccl.so.2")
    rank, size = world()
    cupy.cuda.Device(rank).use()
    unique = UniqueId()
    if rank == 0:
        assert library.ncclGetUniqueId(ctypes.byref(unique)) == 0
    unique = UniqueId.from_buffer_copy(share("ctypes", bytes(unique) if rank == 0 else None))
    comm, stream = ctypes.c_void_p(), on_stream()
    assert library.ncclCommInitRank(ctypes.byref(comm), size, unique, rank) == 0
    x = cupy.full(1000, rank + 1, "f4")
    stream.wait_event(cupy.cuda.get_current_stream().record())
    pointer = ctypes.c_void_p(x.data.ptr)
    count = ctypes.c_size_t(1000)
    assert (
        library.ncclAllReduce(pointer, pointer, count, TYPES["f4"], SUM, comm, ctypes.c_void_p(stream.ptr))
        == 0
    )
    stream.synchronize()
    assert (x.get() == 3).all()
    library.ncclGetErrorString.restype = ctypes.c_char_p
    assert library.ncclGetErrorString(5) == b"invalid usage"
