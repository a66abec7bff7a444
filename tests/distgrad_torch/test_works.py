"""Futures and works of ``torch.distributed``: they end, call back and give up when they should."""

import threading
import time

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import CommError, CommTimeoutError
from distgrad.torch import distributed as dist
from distgrad.torch.distributed.works import Future, collect_all


def filled(value, count=2):
    return dg.tensor(np.full(count, value, np.float32))


def until(condition):
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(1e-3)


@pytest.fixture
def world():
    dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()


def check_futures():
    """They are done, and have called back, without a wait."""
    rank, size = dist.get_rank(), dist.get_world_size()
    total = size * (size + 1) / 2
    x = filled(rank + 1.0)
    work = dist.all_reduce(x, async_op=True)
    future, seen = work.get_future(), []
    future.add_done_callback(lambda found: seen.append(found.value()[0].tolist()))
    twice = future.then(lambda found: found.value()[0] * 2.0)
    until(twice.done)
    assert seen == [[total] * 2]
    assert twice.wait().tolist() == [2 * total] * 2
    assert work.get_future() is future
    y = filled(rank + 1.0)
    work = dist.all_reduce(y, async_op=True)
    until(work.is_completed)
    assert y.tolist() == [total] * 2  # asked for, so filled
    z = filled(rank + 1.0)
    dist.all_reduce(z, async_op=True).get_future().then(lambda found: seen.append("behind the barrier"))
    dist.barrier()
    assert seen[1:] == ["behind the barrier"]
    futures = [dist.all_reduce(filled(i), async_op=True).get_future() for i in range(3)]
    together = collect_all(futures).then(lambda found: len(found.value()))
    until(together.done)
    assert together.value() == 3


def check_messages():
    """Polled before the send on both ranks, in order, and with a timeout that is heeded."""
    rank, size = dist.get_rank(), dist.get_world_size()
    before, behind = (rank - 1) % size, (rank + 1) % size
    first, second = filled(-1.0), filled(-1.0)
    works = [dist.irecv(first, src=before), dist.irecv(second, src=before)]
    assert [each.is_completed() for each in works] == [False, False]
    start_s = time.monotonic()
    with pytest.raises(CommTimeoutError, match=r"no message came within 0\.2 s"):
        works[0].wait(0.2)
    assert 0.2 <= time.monotonic() - start_s < 5
    dist.barrier()
    for i in range(2):
        dist.send(filled(10.0 * rank + i), dst=behind)
    until(works[1].is_completed)  # which receives the first one, too
    assert works[0].is_completed()
    assert first.tolist() == [10.0 * before] * 2
    assert second.tolist() == [10.0 * before + 1] * 2
    work = dist.irecv(first, src=before, tag=3)
    assert work.exception() is None
    dist.send(filled(1.0), dst=behind, tag=3)
    assert work.wait(20)
    assert first.tolist() == [1.0] * 2


@pytest.mark.ranks(2, backend="shm")
def test_on_two_ranks(world):
    check_futures()
    check_messages()


@pytest.mark.ranks(3, backend="mpi")
def test_on_three_ranks_with_mpi(world):
    check_futures()
    check_messages()


def test_a_future_calls_back_when_it_is_set(monkeypatch):
    monkeypatch.setenv("DISTGRAD_TIMEOUT", "0.2")  # any other thread, which might set it, is waited for
    future, seen = Future(), []
    child = future.then(lambda found: found.value() + 1)
    child.add_done_callback(lambda found: seen.append(found.value()))
    with pytest.raises(CommError, match="nothing sets"):
        child.wait()
    assert not child.done()
    future.set_result(1)
    assert seen == [2]
    assert child.done()
    assert future.then(lambda found: found.value() + 2).done()
    with pytest.raises(CommError, match="over already"):
        future.set_result(2)


def test_a_future_that_no_thread_ends_is_given_up(monkeypatch):
    monkeypatch.setenv("DISTGRAD_TIMEOUT", "0.2")
    may_go = threading.Event()
    thread = threading.Thread(target=may_go.wait, args=(60,))
    thread.start()
    with pytest.raises(CommError, match="nothing sets"):
        Future().then(lambda found: found.value()).wait()
    assert thread.is_alive()
    may_go.set()
    thread.join()


def test_an_error_goes_on_to_what_waits():
    future, seen = Future(), []
    child = future.then(lambda found: found.value())
    child.add_done_callback(lambda found: seen.append(found.done()))
    future.set_exception(ValueError("planted"))
    assert seen == [True]
    with pytest.raises(ValueError, match="planted"):
        child.wait()


def test_a_future_that_another_thread_ends_is_waited_for():
    future, may_go = Future(), threading.Event()

    def end():
        assert may_go.wait(60)
        future.set_result(7)

    thread = threading.Thread(target=end)
    thread.start()
    may_go.set()
    assert future.wait() == 7
    thread.join()
