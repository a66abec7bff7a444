"""Flat storage: values stay, memory moves, gradients arrive in place."""

import itertools

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.flat import FlatBuffer, Run, flatten, gradient_runs, join_runs
from distgrad.autograd.functional import ArrayArithmetic
from distgrad.errors import DTypeError
from distgrad.optim import AdamW


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


def weights_and_inputs(dtype):
    rng = np.random.default_rng(0)
    shapes = ((5, 4), (5,), (3, 5), (3, 1))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes], rng


#: By name: what is computed from two weights, a bias and a vector, and for how many the product writes home.
PROGRAMS = {
    "a batch": (lambda x, w, b, v, u: dg.linear(dg.linear(x, w, b).tanh(), v) @ u, 4),
    "one row": (lambda x, w, b, v, u: dg.linear(dg.linear(x[:1], w, b).tanh(), v) @ u, 4),
    "a vector": (lambda x, w, b, v, u: dg.linear(dg.linear(x[0], w, b).tanh(), v) @ u, 3),
    "no rows": (lambda x, w, b, v, u: dg.linear(dg.linear(x[:0], w, b).tanh(), v) @ u, 4),
    "a stack": (lambda x, w, b, v, u: dg.linear(dg.linear(dg.stack([x, 2 * x]), w, b), v) @ u, 4),
    "used twice": (lambda x, w, b, v, u: (dg.linear(dg.linear(x, w, b), v) + dg.linear(b, v)) @ u, 2),
    "by itself": (lambda x, w, b, v, u: (w @ w.T + b).sum() + (v * u.sum()).sum(), 0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("name", PROGRAMS)
def test_what_writes_into_the_buffer_itself_is_what_would_be_copied_there(name, dtype, monkeypatch):
    program, count = PROGRAMS[name]
    (values, rng), direct, results = weights_and_inputs(dtype), [], []
    x = dg.tensor(rng.standard_normal((6, 4)).astype(dtype))
    accumulate = ArrayArithmetic.accumulate

    def noted(self, leaf, g):
        direct.append(g is leaf.buffer)
        accumulate(self, leaf, g)

    monkeypatch.setattr(ArrayArithmetic, "accumulate", noted)
    for flat in (False, True):
        params = [dg.tensor(value, requires_grad=True) for value in values]
        if flat:
            flatten(params)
        direct.clear()
        for _ in range(2):  # the second pass adds to the first
            program(x, *params).sum().backward()
        assert sum(direct) == (count if flat else 0)
        results.append([p.grad.numpy().copy() for p in params])
        for p, g in zip(params, dg.autograd.grad(program(x, *params).sum(), params), strict=True):
            assert not flat or not np.shares_memory(g.numpy(), p.grad.numpy())
            results[-1].append(g.numpy())
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_hook_may_keep_a_gradient_that_the_next_pass_does_not_change():
    (p,) = parameters((3, 4))
    flatten([p])
    kept = []
    p.register_hook(kept.append)
    for factor in (1.0, 2.0):
        p.grad = None
        (dg.ones((2, 3)) * factor @ p).sum().backward()
    assert [g.numpy()[0, 0] for g in kept] == [2.0, 4.0]


def test_a_pass_inside_a_pass_adds_to_what_the_outer_one_writes():
    (p,) = parameters((3, 4))
    flatten([p])

    class Nested(dg.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, g):
            with dg.enable_grad():
                (dg.ones((2, 3)) @ p).sum().backward()
            return g

    Nested.apply(dg.ones((2, 3)) @ p).sum().backward()
    np.testing.assert_array_equal(p.grad.numpy(), 4.0)


def test_neighbours_are_one_run_and_what_a_parameter_without_gradient_parts_is_two():
    a, b, c = params = parameters((5,), (3, 2), (4,))
    buffer = FlatBuffer(params)
    for p in params:
        p.grad = dg.ones(p.shape)
    assert gradient_runs([c, a, b, a]) == ([Run(buffer, 0, buffer.slices[2].stop)], [])
    b.grad = None
    assert gradient_runs(params) == ([Run(buffer, 0, 5), Run(buffer, *buffer.slices[2].indices(99)[:2])], [])


def test_pieces_of_another_key_or_buffer_are_another_run():
    first, second = FlatBuffer(parameters((16,), (16,))), FlatBuffer(parameters((16,)))
    pieces = [Run(first, 16, 32, 2), Run(second, 0, 16, 1), Run(first, 0, 16, 1)]
    assert sorted(join_runs(pieces), key=pieces.index) == pieces
    assert join_runs([Run(first, 16, 32, 1), Run(first, 0, 16, 1)]) == [Run(first, 0, 32, 1)]


def test_a_run_is_cut_at_places_of_its_buffer():
    (p,) = parameters((100,))
    buffer = FlatBuffer([p])
    assert list(Run(buffer, 5, 40).blocks(16)) == [slice(5, 16), slice(16, 32), slice(32, 40)]
    assert list(Run(buffer, 32, 48).blocks(16)) == [slice(32, 48)]
    assert list(Run(buffer, 7, 7).blocks(16)) == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name",
    [
        name
        for name, kind in vars(dg.optim).items()
        if isinstance(kind, type) and kind.elementwise and kind not in (dg.optim.Optimizer, dg.optim.LBFGS)
    ],
)
def test_an_elements_update_does_not_depend_on_its_place_in_the_array(name, dtype):
    rng = np.random.default_rng(0)
    start, *steps = rng.standard_normal((4, 5003)).astype(dtype)

    def train(*edges):
        parts = [slice(*edge) for edge in itertools.pairwise(edges)]
        params = [dg.Tensor(start[part].copy(), requires_grad=True) for part in parts]
        optimizers = [getattr(dg.optim, name)([p], lr=0.01) for p in params]
        for g in steps:
            for p, part, optimizer in zip(params, parts, optimizers, strict=True):
                p.grad = dg.asarray(g[part].copy())
                optimizer.step()
        return np.concatenate([p.detach().numpy() for p in params])

    np.testing.assert_array_equal(train(0, 7, 2050, 2051, 5000, 5003), train(0, 5003))
