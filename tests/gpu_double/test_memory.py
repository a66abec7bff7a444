"""Memory of the double: poison, devices, and what must not mix."""

import numpy as np
import pytest

pytestmark = pytest.mark.gpu_double()


def test_new_memory_is_poison():
    import cupy

    assert np.isnan(cupy.empty(1000, "f4").get()).all()
    assert np.isnan(cupy.empty(10, "f2").get()).all()


def test_memory_that_went_back_to_the_pool_is_poison():
    import cupy

    x = cupy.ones(1000, "f4")
    pointer = x.data.ptr
    del x
    again = cupy.empty(1000, "f4")
    assert again.data.ptr == pointer
    assert np.isnan(again.get()).all()


def test_an_uninitialised_read_shows_in_a_sum():
    import cupy

    total = cupy.empty(4, "f4")
    total += 1
    assert np.isnan(total.get()).all()


def test_host_and_device_arrays_do_not_mix():
    import cupy

    x, h = cupy.ones(3), np.ones(3)
    for mix in (
        lambda: x + h,
        lambda: cupy.add(x, h),
        lambda: cupy.concatenate([x, h]),
        lambda: np.asarray(x),
    ):
        with pytest.raises(TypeError):
            mix()


def test_two_devices_have_their_own_memory():
    import cupy

    with cupy.cuda.Device(1):
        y = cupy.arange(3.0)
        assert (y * 2).device.id == 1
    x = cupy.arange(3.0)
    assert (x.device.id, y.device.id) == (0, 1)
    with pytest.raises(ValueError, match="Peer access is unavailable"):
        x + y
    np.testing.assert_array_equal((x + cupy.asarray(y)).get(), [0, 2, 4])


def test_a_kernel_on_another_device_than_its_memory_is_reported():
    import cupy

    kernel = cupy.RawKernel('extern "C" __global__ void one(double* x) { x[0] = 1; }', "one")
    x = cupy.zeros(1)
    with cupy.cuda.Device(1), pytest.raises(RuntimeError, match="memory of device 0"):
        kernel((1,), (1,), (x,))


def test_a_device_runs_out_of_memory():
    import cupy

    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(9 << 30, "u1")
    free, total = cupy.cuda.runtime.memGetInfo()
    assert free <= total == 8 << 30


def test_pointers_are_attributed():
    import cupy
    from cupy.cuda import runtime

    with cupy.cuda.Device(1):
        x = cupy.zeros(4)
    found = runtime.pointerGetAttributes(x.data.ptr + 8)
    assert (found.device, found.type) == (1, 2)
    pinned = cupy.cuda.alloc_pinned_memory(64)
    assert runtime.pointerGetAttributes(pinned.ptr).type == 1


def test_calls_that_are_not_carried_say_so():
    from cupy.cuda import runtime

    with pytest.raises(RuntimeError, match=r"does not carry runtime.mallocManaged"):
        runtime.mallocManaged(64)
