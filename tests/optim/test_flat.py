"""Flat storage: values stay, memory moves, gradients arrive in place."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError
from distgrad.optim import AdamW, FlatBuffer, flatten


def parameters(*shapes, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [dg.Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]


def test_values_stay_and_memory_moves():
    params = parameters((3, 4), (), (5,), (0, 2))
    before = [p.detach().numpy().copy() for p in params]
    buffer = FlatBuffer(params)
    for p, value, where in zip(params, before, buffer.slices, strict=True):
        assert np.array_equal(p.detach().numpy(), value)
        assert p.size == 0 or np.shares_memory(p.detach().numpy(), buffer.data[where])
        assert where.start * buffer.dtype.itemsize % 64 == 0


def test_gradients_are_written_into_the_buffer_and_add_up_there():
    (p,) = parameters((4,))
    buffer = FlatBuffer([p])
    for count in (1, 2):
        (p * dg.asarray([1.0, 2.0, 3.0, 4.0])).sum().backward()
        assert np.shares_memory(p.grad.numpy(), buffer.grad)
        np.testing.assert_array_equal(buffer.grad[:4], np.array([1, 2, 3, 4]) * count)
    p.grad = None
    p.sum().backward()
    np.testing.assert_array_equal(buffer.grad[:4], 1)  # a first write, not an addition


def test_assigning_data_and_grad_writes_into_the_buffer():
    (p,) = parameters((3,))
    buffer = FlatBuffer([p])
    p.data = dg.asarray([1.0, 2.0, 3.0])
    p.grad = dg.asarray([4.0, 5.0, 6.0])
    np.testing.assert_array_equal(buffer.data[:3], [1, 2, 3])
    np.testing.assert_array_equal(buffer.grad[:3], [4, 5, 6])


def test_a_gradient_at_hand_moves_along():
    (p,) = parameters((3,))
    (p * 2.0).sum().backward()
    buffer = FlatBuffer([p])
    np.testing.assert_array_equal(buffer.grad[:3], 2)
    assert np.shares_memory(p.grad.numpy(), buffer.grad)


def test_one_buffer_a_dtype_last_parameter_first():
    single, double = parameters((2,), (3,)), parameters((4,), dtype=np.float64)
    buffers = flatten([*single, *double])
    assert [b.dtype for b in buffers] == [np.float64, np.float32]
    assert buffers[1].parameters == single[::-1]
    assert flatten(single) == [buffers[1]]  # nothing moves twice


def test_mixed_dtypes_are_refused():
    with pytest.raises(DTypeError, match="one dtype"):
        FlatBuffer([*parameters((2,)), *parameters((2,), dtype=np.float64)])


def test_optimizer_state_follows_a_parameter_to_another_buffer():
    moved, still = parameters((3,)), parameters((3,))
    optimizers = [AdamW(moved, lr=0.1), AdamW(still, lr=0.1)]
    for step in range(4):
        if step == 2:
            FlatBuffer(moved)
        for params, optimizer in zip((moved, still), optimizers, strict=True):
            optimizer.zero_grad()
            (params[0] * params[0]).sum().backward()
            optimizer.step()
    np.testing.assert_array_equal(moved[0].detach().numpy(), still[0].detach().numpy())
