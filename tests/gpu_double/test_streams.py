"""The orders of queued work: a missing wait is a wrong result every time, in one of them."""

import threading

import numpy as np
import pytest
from gpu_double.worlds import nccl_world, world

pytestmark = pytest.mark.gpu_double(streams="late")


def stream():
    import cupy

    return cupy.cuda.Stream(non_blocking=True)


def fill(target, value, on):
    """Queue ``target[:] = value`` on a stream."""
    with on:
        target.fill(value)


def test_nothing_runs_until_the_host_waits():
    import cupy

    x, s = cupy.zeros(8), stream()
    cupy.cuda.Device().synchronize()
    fill(x, 7, s)
    t = stream()
    assert (x.get(stream=t) == 0).all()  # another stream, which waits for nothing
    s.synchronize()
    assert (x.get(stream=t) == 7).all()


def test_a_thread_that_looks_makes_nothing_run():
    import cupy

    x, s = cupy.zeros(8), stream()
    cupy.cuda.Device().synchronize()
    fill(x, 7, s)
    event, found = s.record(), []
    watchdog = threading.Thread(target=lambda: found.extend(event.done for _ in range(9)))
    watchdog.start()
    watchdog.join()
    assert found == [False] * 9
    while not event.done:  # the program waits, in its own way
        pass
    assert (x.get(stream=stream()) == 7).all()


def test_an_event_orders_two_streams():
    import cupy

    for waits in (True, False):
        x, y = cupy.zeros(8), cupy.zeros(8)
        cupy.cuda.Device().synchronize()
        first, second = stream(), stream()
        fill(x, 7, first)
        event = first.record()
        if waits:
            second.wait_event(event)
        with second:
            y[:] = x * 2
        assert (y.get(stream=second) == (14 if waits else 0)).all()


def test_an_event_stands_for_what_was_queued_before_it():
    import cupy

    x = cupy.zeros(8)
    cupy.cuda.Device().synchronize()
    first, second = stream(), stream()
    event = first.record()
    fill(x, 7, first)
    second.wait_event(event)
    assert (x.get(stream=second) == 0).all()


def test_the_default_stream_and_blocking_streams_wait_for_each_other():
    import cupy

    for is_blocking in (True, False):
        x = cupy.zeros(8)
        cupy.cuda.Device().synchronize()
        other = cupy.cuda.Stream(non_blocking=not is_blocking)
        fill(x, 7, other)
        assert (x.get() == (7 if is_blocking else 0)).all()  # on the default stream
        fill(x, 8, cupy.cuda.Stream.null)
        assert (x.get(stream=other) == (8 if is_blocking else 7)).all()


def test_asking_an_event_once_runs_nothing_and_asking_until_it_is_done_ends():
    import cupy

    x, s = cupy.zeros(8), stream()
    cupy.cuda.Device().synchronize()
    fill(x, 7, s)
    event = s.record()
    assert not event.done
    assert (x.get(stream=stream()) == 0).all()
    for _ in range(100):
        if event.done:
            break
    assert event.done
    assert (x.get(stream=stream()) == 7).all()


def test_a_pinned_buffer_that_is_changed_before_its_copy_has_run():
    import cupy

    h = np.frombuffer(cupy.cuda.alloc_pinned_memory(32), "f8", 4)
    x, s = cupy.zeros(4), stream()
    cupy.cuda.Device().synchronize()
    h[:] = 1
    x.set(h, stream=s)
    h[:] = 99
    assert (x.get(stream=s) == 99).all()  # as a GPU may do too: the copy reads when it runs


def test_pageable_memory_may_change_when_the_call_returns():
    import cupy

    h, x, s = np.ones(4), cupy.zeros(4), stream()
    cupy.cuda.Device().synchronize()
    x.set(h, stream=s)
    h[:] = 99
    assert (x.get(stream=s) == 1).all()


def test_a_block_given_back_while_another_stream_reads_it_is_poison():
    import cupy

    for is_held in (True, False):
        compute, other = stream(), stream()
        with compute:
            x = cupy.full(128, 7.0)
            out = cupy.zeros(128)
        other.wait_event(compute.record())
        with other:
            out.data.copy_from_device_async(x.data, x.nbytes)
        done = other.record()
        if is_held:
            compute.wait_event(done)
        del x
        compute.synchronize()
        result = out.get(stream=other)
        assert (result == 7).all() if is_held else np.isnan(result).all()


def gradient_step(waits_before, waits_after):
    """One all-reduce of a gradient on a stream of its own, as DDP does it."""
    import cupy

    rank, _ = world()
    nccl = nccl_world(f"step {waits_before} {waits_after}")
    compute, comm = stream(), stream()
    with compute:
        gradient = cupy.full(100, rank + 1.0) * 10
        if waits_before:
            comm.wait_event(compute.record())
        nccl.allReduce(gradient.data.ptr, gradient.data.ptr, 100, 8, 0, comm.ptr)
        if waits_after:
            compute.wait_event(comm.record())
        return (gradient * 1).get()


@pytest.mark.gpu_double(ranks=2, streams="late")
def test_a_missing_wait_after_a_collective_is_a_wrong_result_in_the_late_order():
    assert (gradient_step(True, True) == 30).all()
    assert not (gradient_step(True, False) == 30).all()


@pytest.mark.gpu_double(ranks=2, streams="early")
def test_a_missing_wait_before_a_collective_is_a_wrong_result_in_the_early_order():
    assert (gradient_step(True, True) == 30).all()
    assert not (gradient_step(False, True) == 30).all()
