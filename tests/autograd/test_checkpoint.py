"""Checkpointing: the same gradients from less memory."""

import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd import Function, checkpoint, gradcheck, gradgradcheck
from distgrad.autograd.tensor import Tensor
from distgrad.errors import GraphError, InPlaceError


def leaf(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


W = leaf(3, 3, seed=7)


def layer(x, scale=1.0):
    return dg.tanh(dg.matmul(x, W) * scale)


def two_results(x):
    h = layer(x)
    return {"sum": h.sum(), "parts": (dg.exp(h), h * x)}


def nested(x):
    h = checkpoint(layer, x, scale=0.5)
    return checkpoint(layer, dg.exp(h)) * h


def with_in_place(x):
    h = layer(x) + x
    h *= x
    h[0] += 1.0
    return dg.exp(h)


class Square(Function):
    @staticmethod
    def forward(ctx, x):
        y = x * x
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return 2.0 * x * g + 0.0 * y


PROGRAMS = {
    "one result": (lambda run, x: run(layer, x)),
    "keywords": (lambda run, x: run(layer, x, scale=2.0)),
    "several results": (lambda run, x: sum_of(run(two_results, x))),
    "nested": (lambda run, x: run(nested, x)),
    "two in a row": (lambda run, x: run(layer, run(layer, x))),
    "in place": (lambda run, x: run(with_in_place, x * 1.0)),
    "users' function": (lambda run, x: run(lambda x: Square.apply(layer(x)), x)),
    "parameter inside and outside": (lambda run, x: dg.matmul(run(layer, x), W)),
}


def sum_of(results):
    return results["sum"] * results["parts"][0] + results["parts"][1]


def plainly(function, *args, **kwargs):
    return function(*args, **kwargs)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_gradients(name):
    program = PROGRAMS[name]
    x = leaf(3, 3)
    expected = dg.autograd.grad(program(plainly, x).sum(), [x, W])
    got = dg.autograd.grad(program(checkpoint, x).sum(), [x, W])
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(g.numpy(), e.numpy())
    assert gradcheck(lambda x: program(checkpoint, x), [x])
    assert gradgradcheck(lambda x: program(checkpoint, x), [x])


def test_what_was_saved_is_forgotten_and_computed_again():
    made = []

    def function(x):
        h = dg.exp(x)
        made.append(weakref.ref(h._data))
        return dg.exp(h) * h

    x = leaf(4)
    y = checkpoint(function, x)
    assert len(made) == 1
    assert made[0]() is None
    y.sum().backward()
    assert len(made) == 2
    assert made[1]() is None


def test_the_graph_is_walked_twice_where_it_is_retained():
    x = leaf(3, 3)
    y = checkpoint(layer, x).sum()
    y.backward(retain_graph=True)
    first = x.grad.numpy().copy()
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * first)
    with pytest.raises(GraphError, match="freed by an earlier backward"):
        y.backward()


def test_random_numbers_are_the_same_again():
    masks = []

    def function(x):
        mask = dg.rand(3, 3)
        masks.append(mask.numpy())
        return dg.exp(x * mask) + dg.exp(dg.dropout(x))

    x = leaf(3, 3)
    dg.manual_seed(5)
    y = checkpoint(function, x)
    after = dg.rand(2).tolist()
    dg.rand(7)
    state = dg.default_generator.get_state()
    y.sum().backward()
    assert dg.default_generator.get_state() == state
    np.testing.assert_array_equal(masks[0], masks[1])
    dg.manual_seed(5)
    expected = dg.autograd.grad(function(x).sum(), x)[0]
    np.testing.assert_array_equal(x.grad.numpy(), expected.numpy())
    assert dg.rand(2).tolist() == after


class Watcher:
    """Notes which gradients are ready, and that they are complete then."""

    number = 0
    has_data = True

    def __init__(self, *parameters):
        self.ready = []
        for parameter in parameters:
            parameter.leaf_state().observer = self
            self.leaves = {p.leaf_state(): p for p in parameters}

    def backward_started(self, leaves, order):
        assert leaves == set(self.leaves)

    def gradient_ready(self, leaf):
        self.ready.append((self.leaves[leaf], leaf.grad.numpy().copy()))

    def backward_ended(self):
        self.ready.append("ended")

    def backward_failed(self):
        self.ready.append("failed")


def test_gradients_are_ready_once_and_complete():
    w, v = leaf(3, 3, seed=1), leaf(3, 3, seed=2)
    watcher = Watcher(w, v)
    h = checkpoint(lambda x: dg.tanh(x @ w) @ v, leaf(3, 3))
    (checkpoint(lambda h: dg.exp(h @ w), h) @ w).sum().backward()
    ready = {id(each[0]): each[1] for each in watcher.ready[:-1]}
    assert len(watcher.ready) == 3
    assert watcher.ready[-1] == "ended"
    for parameter in (w, v):
        np.testing.assert_array_equal(ready[id(parameter)], parameter.grad.numpy())


def test_nothing_is_kept_where_nothing_is_recorded():
    with dg.no_grad():
        assert not checkpoint(layer, leaf(3, 3)).requires_grad


def test_a_function_that_does_other_things_the_second_time():
    calls = []

    def function(x):
        calls.append(1)
        return dg.exp(x) if len(calls) == 1 else dg.sin(x)

    y = checkpoint(function, leaf(3))
    with pytest.raises(GraphError, match=r"first \['exp'\], then \['sin'\]"):
        y.sum().backward()


def test_changes_since_the_forward_pass():
    x, w = leaf(3), leaf(3, seed=1)
    h = x * 1.0
    y = checkpoint(lambda h: dg.exp(h + w), h)
    h += 1.0
    with pytest.raises(InPlaceError, match=rf"checkpoint: an argument .* at {__file__}:\d+ after"):
        y.sum().backward()
    y = checkpoint(lambda x: dg.exp(x + w), x)
    with dg.no_grad():
        w += 1.0
    with pytest.raises(InPlaceError, match="checkpoint: an argument or parameter"):
        y.sum().backward()


def test_reentrant_walks_are_refused():
    with pytest.raises(ValueError, match="use_reentrant=True is not offered"):
        checkpoint(layer, leaf(3, 3), use_reentrant=True)
