"""distgrad's own work in the orders in which a GPU may run it: late, and early.

A wait, a record or a held buffer that is missing is a wrong number here, every time. The mutants
(:mod:`gpu_double.mutants`) show that it is.
"""

import time

import numpy as np
import pytest
from contracts import device as contract
from gpu_double.worlds import num_host_waits
from real_gpus import on_real_gpus

import distgrad as dg
from distgrad.backend.device import activated

ORDERS = ("late", "early")
SIZE = 3


def orders(ranks):
    return pytest.mark.parametrize(
        "order",
        [
            pytest.param(order, marks=pytest.mark.gpu_double(ranks=ranks, devices=3, streams=order))
            for order in ORDERS
        ],
    )


def world():
    return dg.comm.init(device="cuda")


def numbers(rank, shape=(SIZE, 4)):
    return np.random.default_rng([rank, 3]).integers(1, 9, shape).astype("f4")


EVERY = [numbers(rank) for rank in range(SIZE)]
SUM = np.sum(EVERY, axis=0)
WEIGHTED = np.average(EVERY, axis=0, weights=range(SIZE))


def uneven(comm, x):
    return comm.all_gather_v(x[: comm.rank + 1])[comm.rank]


def growing(x):
    return [x[: rank + 1] for rank in range(SIZE)]


def gathered(comm, x):
    found = comm.gather_v(x[: comm.rank + 1], root=2)
    return None if found is None else found[0]


def scattered(comm, x):
    return comm.scatter(x[0].copy(), x if comm.rank == 0 else None)


def passed_on(comm, x):
    if comm.rank == 0:
        return comm.send(x, dest=1) or x
    return comm.recv(x, source=0) if comm.rank == 1 else x


#: A verb, and what it gives on a rank for twice the numbers above.
VERBS = {
    "all_reduce": (lambda comm, x: comm.all_reduce(x), lambda r: SUM),
    "mean": (lambda comm, x: comm.all_reduce(x, "mean"), lambda r: SUM / SIZE),
    "weighted mean": (
        lambda comm, x: comm.all_reduce(x, "mean", weight=float(comm.rank)),
        lambda r: WEIGHTED,
    ),
    "reduce_scatter": (lambda comm, x: comm.reduce_scatter(x), lambda r: SUM[r]),
    "mean of parts": (lambda comm, x: comm.reduce_scatter(x, "mean"), lambda r: SUM[r] / SIZE),
    "broadcast": (lambda comm, x: comm.broadcast(x, root=1), lambda r: EVERY[1]),
    "all_gather": (lambda comm, x: comm.all_gather(x), lambda r: np.stack(EVERY)),
    "all_gather_v": (uneven, lambda r: EVERY[r][: r + 1]),
    "all_to_all": (lambda comm, x: comm.all_to_all(x), lambda r: np.stack([e[r] for e in EVERY])),
    "gather": (lambda comm, x: comm.gather(x, root=2), lambda r: np.stack(EVERY) if r == 2 else None),
    "scatter": (scattered, lambda r: EVERY[0][r]),
    "gather_v": (gathered, lambda r: EVERY[0][:1] if r == 2 else None),
    "scatter_v": (
        lambda comm, x: comm.scatter_v(growing(x) if comm.rank == 0 else None, like=x),
        lambda r: EVERY[0][: r + 1],
    ),
    "all_to_all_v": (lambda comm, x: comm.all_to_all_v(growing(x))[0], lambda r: EVERY[0][: r + 1]),
    "scan": (lambda comm, x: comm.scan(x), lambda r: np.sum(EVERY[: r + 1], axis=0)),
    "send": (passed_on, lambda r: EVERY[2 if r == 2 else 0]),
    "submit": (lambda comm, x: comm.submit(lambda: comm.all_reduce(x * 2)).wait(), lambda r: 2 * SUM),
}


@orders(SIZE)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_stands_between_what_was_before_and_what_comes_after(verb, order):
    import cupy

    comm = world()
    call, expected = VERBS[verb]
    with activated(comm.device), dg.cuda.stream(dg.cuda.Stream()):
        start = cupy.asarray(numbers(comm.rank))
        out = call(comm, start * 2)
        found = None if out is None else (out + 0).get()
    want = expected(comm.rank)
    assert (found is None) == (want is None)
    if want is not None:
        np.testing.assert_allclose(found, 2 * want, rtol=1e-6)


@orders(SIZE)
@pytest.mark.parametrize("verb", ["reduce_scatter", "all_gather", "all_to_all"])
def test_what_is_under_way_may_be_dropped(verb, order):
    """A buffer that the program lets go of is not handed out again before the collective has read it."""
    import cupy

    comm = world()
    with activated(comm.device), dg.cuda.stream(dg.cuda.Stream()):
        x = cupy.asarray(numbers(comm.rank)) * 2
        work = getattr(comm, verb)(x, async_op=True)
        del x
        time.sleep(0.25)  # the watchdog looks
        taken = [cupy.full((SIZE, 4), -1, "f4") for _ in range(4)]
        found = (work.wait() + 0).get()
        del taken
    np.testing.assert_array_equal(found, 2 * VERBS[verb][1](comm.rank))


@orders(SIZE)
def test_a_view_a_foreign_device_and_a_second_group(order):
    import cupy

    comm = world()
    with activated(comm.device):
        x = cupy.ones((4, SIZE, 4), "f4")
        x[2] = cupy.asarray(numbers(comm.rank))
    with cupy.cuda.Device((comm.device.index + 1) % 3):  # the caller's own, which is not the array's
        comm.all_reduce(x[2])
    part = comm.split(comm.rank % 2)
    with activated(comm.device):
        part.all_reduce(x[3])
        ones = np.ones_like(SUM)
        np.testing.assert_array_equal(x.get(), [ones, ones, SUM, ones * part.size])


@orders(SIZE)
def test_the_host_waits_for_nothing_in_a_verb(order):
    import cupy

    comm = world()
    with activated(comm.device), dg.cuda.stream(dg.cuda.Stream()):
        x = cupy.asarray(numbers(comm.rank))
        before = num_host_waits()
        works = [call(comm, x * 2) for name, (call, _) in VERBS.items() if name != "all_gather_v"]
        assert num_host_waits() == before
        del works


@orders(SIZE)
def test_a_barrier_ends_when_the_device_has_finished(order):
    import cupy

    comm = world()
    with activated(comm.device):
        x = comm.all_reduce(cupy.asarray(numbers(comm.rank)))
        comm.barrier()
        np.testing.assert_array_equal(x.get(stream=cupy.cuda.Stream(non_blocking=True)), SUM)


@orders(SIZE)
def test_the_communication_stream_waits_for_nobody_but_where_told(order):
    from gpu_double.runtime import installed

    if on_real_gpus():
        pytest.skip("a real GPU does not tell what its streams wait for")
    comm = world()
    found = installed().scheduler.find(comm.stream.handle, comm.device.index)
    assert found.handle not in (0, 1, 2)
    assert not found.is_blocking
    assert found.device == comm.device.index


# -- one process


@pytest.mark.gpu_double(streams="late")
def test_a_pinned_tensor_is_sent_from_where_it_lies_and_kept_until_then():
    x = dg.arange(8.0).pin_memory()
    assert x.is_pinned()
    assert x[2:].is_pinned()
    assert x.pin_memory() is x
    assert not dg.arange(8.0).is_pinned()
    sent, copied = x.to("cuda", non_blocking=True), x.to("cuda")
    x._data[0] = 99  # read when the copy runs, unless it was copied at once
    assert (sent.tolist()[0], copied.tolist()[0]) == (99.0, 0.0)
    kept = dg.full(8, 7.0).pin_memory().to("cuda", non_blocking=True)
    other = dg.full(8, 1.0).pin_memory()  # in other memory, as long as the first is under way
    assert kept.tolist() == [7.0] * 8
    assert other.tolist() == [1.0] * 8
    strided = dg.arange(8.0).pin_memory()[::2].to("cuda", non_blocking=True)
    assert strided.tolist() == [0.0, 2.0, 4.0, 6.0]
    assert dg.zeros(0).pin_memory().to("cuda", non_blocking=True).shape == (0,)


@orders(1)
def test_a_tensor_lies_where_it_was_asked_for(order):
    for device in ("cuda:2", "cuda:0", "cuda:1"):
        x = dg.tensor([1.0, 2.0], device=device)
        assert x.device == device
        assert (x * 2).tolist() == [2.0, 4.0]


@orders(1)
def test_copies_to_the_host(order):
    contract.CHECKS["copies_to_the_host_need_not_wait"]()


@orders(1)
@pytest.mark.parametrize(
    "name", ["a_copy_that_was_dropped_is_in_nobody_s_way", "copies_between_devices_follow_both_streams"]
)
def test_copies(name, order):
    contract.CHECKS[name]()


@orders(1)
@pytest.mark.parametrize("name", contract.PARAMETERS["steps"])
def test_steps_on_two_streams(name, order):
    with dg.cuda.stream(dg.cuda.Stream()):
        contract.steps(name)


@orders(1)
def test_a_stream_waits_for_another_and_for_an_event(order):
    first, second = dg.cuda.Stream(), dg.cuda.Stream()
    with dg.cuda.stream(first):
        x = dg.ones(64, device="cuda") * 3
    second.wait_stream(first)
    with dg.cuda.stream(second):
        y = x * 2
        event = dg.cuda.Event()
        event.record()
    first.wait_event(event)
    with dg.cuda.stream(first):
        assert (y + x).tolist() == [9.0] * 64


def start_and_drop(reader, records):
    """What a stream reads of a tensor that is gone by then, and what is made in its place."""
    x = dg.ones(64, device="cuda") * 3
    view = x[:32]
    reader.wait_stream(dg.cuda.current_stream())
    with dg.cuda.stream(reader):
        y = x * 2
    if records:
        view.record_stream(reader)
    del x, view
    if records:
        dg.cuda.empty_cache()  # where it looks which tensors are gone, as in every copy to a device
    other = dg.ones(64, device="cuda") * 7
    return y, other


@orders(1)
def test_memory_that_another_stream_reads_is_kept_until_it_has(order):
    reader = dg.cuda.Stream()
    with dg.cuda.stream(dg.cuda.Stream()):
        held = dg.cuda.memory_allocated()
        y, other = start_and_drop(reader, True)
        dg.cuda.current_stream().synchronize()
        reader.synchronize()
        assert (y.tolist(), other.tolist()) == ([6.0] * 64, [7.0] * 64)
        del y, other
        dg.cuda.empty_cache()
        assert dg.cuda.memory_allocated() == held
        if order == "late" and not on_real_gpus():  # there it may go well, once
            y, _other = start_and_drop(reader, False)
            dg.cuda.current_stream().synchronize()
            reader.synchronize()
            assert y.tolist() != [6.0] * 64
    dg.ones(3).record_stream(reader)  # of the host: nothing is under way


@orders(1)
def test_a_captured_step_runs_at_each_launch_and_not_before(order):
    x = dg.tensor([1.0, 2.0], device="cuda")
    y = dg.zeros(2, device="cuda")
    dg.cuda.synchronize()
    stream = dg.cuda.Stream()
    with dg.cuda.stream(stream):
        stream.begin_capture()
        y += x * 3 + 1
        if not on_real_gpus():  # there it would end the capture too
            with pytest.raises(RuntimeError, match=r"is being captured, and cannot take a wait of the host"):
                stream.synchronize()
        graph = stream.end_capture()
        assert y.tolist() == [0.0, 0.0]
        for launches in (1, 2):
            graph.launch()
            assert y.tolist() == [launches * 4.0, launches * 7.0]
        x *= 2
        graph.launch()
        assert y.tolist() == [8.0 + 7.0, 14.0 + 13.0]


@orders(1)
def test_the_default_stream_is_not_captured(order):
    with pytest.raises(dg.DeviceError, match=r"only a stream of its own on a GPU.*dg\.cuda\.Stream"):
        dg.cuda.current_stream().begin_capture()
