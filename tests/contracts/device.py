"""What CuPy on a GPU does: the same checks on a test double of its runtime, and on a real one."""

import contextlib
from collections.abc import Callable

import device_programs as programs
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.device import CPU, to_device
from distgrad.comm import nccl
from distgrad.comm.single import SingleCommunicator
from distgrad.parallel import DistributedDataParallel

CHECKS: dict[str, Callable[[], None]] = {}

#: How near to the CPU's a number is: sums run in another order, and cancel.
NEAR = {"rtol": 1e-5, "atol": 5e-6}
NEAR_AFTER_STEPS = {"rtol": 1e-4, "atol": 1e-5}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


def module(name: str) -> None:
    """A module's output, gradients and buffers are the CPU's."""
    programs.assert_same(programs.run_module(name, "cuda"), programs.run_module(name, "cpu"), **NEAR)


def loss(name: str) -> None:
    """A loss and its gradient are the CPU's."""
    programs.assert_same(programs.run_loss(name, "cuda"), programs.run_loss(name, "cpu"), **NEAR)


def optimizer(place: int) -> None:
    """Parameters and state after some steps of a rule are the CPU's."""
    rule, options = programs.RULES[place]
    found, expected = (programs.run_optimizer(rule, options, device) for device in ("cuda", "cpu"))
    programs.assert_same(found, expected, **NEAR)


def steps(name: str) -> None:
    """Losses, parameters and buffers after whole training steps are the CPU's."""
    programs.assert_same(programs.train(name, "cuda"), programs.train(name, "cpu"), **NEAR_AFTER_STEPS)


#: name of a test: what it is called with, one after another
PARAMETERS = {
    "module": list(programs.MODULES),
    "loss": list(programs.LOSSES),
    "optimizer": list(range(len(programs.RULES))),
    "steps": list(programs.STEPS),
}


@check
def a_step_on_the_last_device_and_a_stream_of_its_own():
    """Work goes where it is sent, and afterwards to the first device again."""
    last = dg.cuda.device_count() - 1
    with dg.cuda.device(last), dg.cuda.stream(dg.cuda.Stream()) as stream:
        assert dg.cuda.current_device() == last
        assert dg.cuda.current_stream() == stream
        found = programs.train("mlp", "cuda")
    assert dg.cuda.current_device() == 0
    programs.assert_same(found, programs.train("mlp", "cpu"), **NEAR_AFTER_STEPS)


@contextlib.contextmanager
def no_waiting():
    """CuPy raises where the host would wait."""
    import cupyx

    with pytest.warns(UserWarning, match="allow_synchronize"), cupyx.allow_synchronize(False):
        yield


@check
def a_step_waits_for_nothing():
    """CuPy's own detector of what makes the host wait raises inside the step, and is not asleep."""
    import cupyx

    for name in programs.STEPS:
        programs.train(name, "cuda", around_step=no_waiting)
    x = dg.ones(1, device="cuda")
    with pytest.raises(cupyx.DeviceSynchronized), no_waiting():
        float(x)


@check
def data_parallel_steps_over_nccl():
    """One rank's steps, whose all-reduces NCCL carries out on a stream of its own; nothing waits for them."""
    with nccl.connect(SingleCommunicator(), "cuda") as comm:
        for name in programs.STEPS:
            found = programs.train(
                name,
                "cuda",
                around_step=no_waiting,
                wrap=lambda module: DistributedDataParallel(module, comm, bucket_cap_mb=0.0005),
            )
            programs.assert_same(found, programs.train(name, "cpu"), **NEAR_AFTER_STEPS)


@check
def mixing_is_refused():
    """Host and device in one operation: the error names both, and the way out."""
    x = dg.ones(3, device="cuda")
    for other in (np.ones(3, np.float32), dg.ones(3), np.ones(())):
        with pytest.raises(dg.DeviceError, match=r"add: .*cuda:0.*cpu.*\.to\("):
            x + other
        with pytest.raises(dg.DeviceError, match=r"add: .*cpu.*cuda:0.*\.to\("):
            other + x
    assert ((x + 1) * np.float64(2.0)).tolist() == [4.0] * 3
    with pytest.raises(dg.DeviceError, match=r"call \.cpu\(\) first"):
        np.asarray(x)


@check
def dlpack_both_ways():
    """The same memory under both names."""
    import cupy

    x = dg.arange(6, device="cuda").reshape(2, 3)
    assert x.__dlpack_device__() == (2, 0)
    there = cupy.from_dlpack(x)
    there *= 2
    assert x.tolist() == [[0, 2, 4], [6, 8, 10]]
    back = dg.from_dlpack(there)
    assert back.device == "cuda:0"
    back[0, 0] = 7
    assert int(there[0, 0]) == 7
    assert dg.asarray(there).device == "cuda:0"
    assert dg.from_dlpack(there, device="cpu").device == "cpu"


@check
def memory_and_what_the_device_is():
    """The pool's statistics, and what the driver says."""
    dg.cuda.reset_peak_memory_stats()
    before = dg.cuda.memory_allocated()
    x = dg.zeros(1 << 16, device="cuda")
    assert dg.cuda.memory_allocated() - before == 1 << 18
    del x
    assert dg.cuda.memory_allocated() == before
    assert dg.cuda.max_memory_allocated() - before == 1 << 18
    assert dg.cuda.memory_reserved() >= 1 << 18
    dg.cuda.empty_cache()
    free, total = dg.cuda.mem_get_info()
    assert 0 < free <= total
    assert dg.cuda.is_available()
    assert dg.cuda.get_device_capability()[0] >= 7
    assert dg.cuda.get_device_name()


@check
def copies_to_the_host_need_not_wait():
    """A copy that was asked for without waiting is there once an event says so."""
    x = dg.arange(5, device="cuda")
    event = dg.cuda.Event()
    y = x.to("cpu", non_blocking=True)
    event.record()
    event.synchronize()
    assert y.tolist() == [0, 1, 2, 3, 4]
    host = np.arange(4.0)
    sent = dg.tensor(host, device="cuda")
    host[:] = 0  # what is sent is a copy
    assert to_device(sent._data, CPU).tolist() == [0.0, 1.0, 2.0, 3.0]


@check
def a_copy_that_was_dropped_is_in_nobody_s_way():
    """The pinned memory of a copy on its way to the host is not handed out before it has arrived."""
    old, host = dg.zeros(1000, device="cuda"), np.arange(1000, dtype=np.float32)
    old.to("cpu", non_blocking=True)  # dropped at once
    new = dg.tensor(host, device="cuda")  # which goes by pinned memory too
    assert to_device(new._data, CPU).tolist() == host.tolist()


@check
def copies_between_devices_follow_both_streams():
    """A copy to another device waits for what computes its source, whose memory is kept until it is sent."""
    there = f"cuda:{dg.cuda.device_count() - 1}"
    streams = [dg.cuda.Stream(device=device) for device in ("cuda:0", there)]
    with streams[0], streams[1]:
        for number in range(3):
            x = dg.full((1 << 12,), number, device="cuda:0") * 2
            y = x.to(there)
            del x
            others = dg.full((1 << 12,), -1, device="cuda:0")  # in the same memory
            assert (y + 1).tolist() == [2 * number + 1] * (1 << 12)
            del others


@check
def means_and_norms_of_float16_do_not_overflow_between():
    """They are summed up in float32."""
    x = dg.ones(70_000, dtype=dg.float16, device="cuda")  # whose sum is infinite
    assert float(x.mean()) == 1.0
    assert float(dg.linalg.vector_norm(x)) == pytest.approx(70_000**0.5, rel=1e-3)
